"""Become llama-cli or llama-server, under the best parameters that are known."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from autotune.cli import console
from autotune.cli.machine import as_llama_cpp_sees_it
from autotune.hardware import Hardware, detect_hardware, storage_of
from autotune.llama_cpp.capabilities import ask_once, cache_folder
from autotune.llama_cpp.environment import STORAGE
from autotune.llama_cpp.launch import launch_of
from autotune.llama_cpp.locate import Program, find_program
from autotune.model import Model, analyze_model
from autotune.params import Params
from autotune.results.profile import Profile
from autotune.words import THE_DEFAULTS, quality


class _Source(NamedTuple):
    params: Params
    name: str  # Completes "llama-server with ...".


def start(
    model: Path,
    target: Literal["cli", "server"],
    *,
    config: Path | None,
    ctx_size: int | None,
    dry_run: bool,
    given: Sequence[str],
) -> int:
    """Replace this process by llama.cpp's program, or only print the command.

    Returns:
        The exit code, where the command was only printed or the system cannot replace a process.
    """
    analyzed, hardware = analyze_model(model), detect_hardware()
    program = find_program(f"llama-{target}")
    capabilities = ask_once(program, cache_folder(os.environ))
    params, source = _parameters(analyzed, hardware, program, config, ctx_size)
    if ctx_size is not None:
        params = replace(params, n_ctx=ctx_size)
    launch = launch_of(program, capabilities, target, analyzed.path, params, given=given)
    for what in launch.unsupported:
        console.warning(what)
    console.note(f"{program.name} with {source}")
    if dry_run:
        console.command(launch.argv)
        return 0
    return _become(launch.argv)


def _parameters(
    model: Model, hardware: Hardware, program: Program, config: Path | None, ctx_size: int | None
) -> _Source:
    """A file that is named, else a profile that was measured, else the rules."""
    known = _saved(config, model, hardware) if config else _profile(model, hardware, program)
    # Only what is to be found out now needs llama.cpp's own word on the devices.
    usable = hardware if known else as_llama_cpp_sees_it(hardware, program)
    for note in usable.notes:
        console.warning(note)
    return known or _recommended(model, usable, ctx_size)


def _saved(config: Path, model: Model, hardware: Hardware) -> _Source:
    from autotune.cli.saved import read_saved  # noqa: PLC0415 - few starts have a file

    return _Source(read_saved(config, model, hardware), f"the parameters of {config}")


def _profile(model: Model, hardware: Hardware, program: Program) -> _Source | None:
    from autotune.cli.stored import profile_to_start  # noqa: PLC0415 - a file needs none

    kept = profile_to_start(model, hardware, program)
    if kept is None:
        return None
    profile, path = kept
    if profile.is_slower:
        return _defaults(profile)
    known = f"the profile of {profile.date}, measured with {profile.build}: {path}"
    return _Source(profile.params, known)


def _defaults(profile: Profile) -> _Source:
    """What has beaten a profile when it was verified, with what llama-bench does not measure."""
    known = profile.params
    params = Params(n_ctx=known.n_ctx, cache_ram=known.cache_ram, devices=known.devices)
    worse = quality(profile.objective).worse
    why = f"lcm verify has shown the profile to be {worse}, on {profile.date}"
    return _Source(params, f"{THE_DEFAULTS}: {why}")


def _recommended(model: Model, hardware: Hardware, ctx_size: int | None) -> _Source:
    from autotune.recommend import Request, generate_recommendations  # noqa: PLC0415
    from autotune.recommend.devices import device_advice  # noqa: PLC0415

    recommendation = generate_recommendations(
        hardware, model, storage=storage_of(model.path), request=Request(n_ctx=ctx_size)
    )
    if recommendation.verdict != "fits":
        console.warning(f"the model {_VERDICTS[recommendation.verdict]}{recommendation.next_step}")
    for advice in device_advice(hardware):
        console.warning(f"{advice.what}; {advice.remedy}")
    why = "there is no profile for this model, machine and build"
    return _Source(recommendation.params, f"the quick recommendation: {why}")


_VERDICTS = {
    "tight": "fits hardly into this machine's memory: ",
    "will page": "will be read from the disk again and again: ",
    "does not fit": "does not fit into this machine's memory: ",
}


def _become(argv: tuple[str, ...]) -> int:
    # What Python ignores would stay ignored: the program would not notice a reader that has left.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.environ.pop(STORAGE, None)
    try:
        if os.name == "posix":
            os.execv(argv[0], argv)  # noqa: S606 - an argument list, without a shell
        return subprocess.run(argv, check=False).returncode  # noqa: S603 - likewise
    except OSError as error:
        from autotune.llama_cpp.process import NotStarted  # noqa: PLC0415 - it has just failed

        raise NotStarted(argv, error.strerror) from error
