"""The profile that was measured for a model, on this machine, under an installed build."""

import contextlib
import os
from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import MeasuredSection
from autotune.errors import AutotuneError, ConfigError, LlamaCppNotFound, SurroundingsError
from autotune.hardware import Hardware
from autotune.llama_cpp.capabilities import ask_once, build_identity, cache_folder
from autotune.llama_cpp.locate import Program, find_program
from autotune.model import Model
from autotune.params import params_to_json
from autotune.results.profile import Kept, Profile, load, newest_profile, profile_path, save
from autotune.shell import operand


def profile_to_start(model: Model, hardware: Hardware, program: Program) -> Kept | None:
    """What `program` is to be started with; None: nothing was measured, or it cannot be used.

    What another build was measured with is a better guess than the rules, and no more than one:
    that is said once.
    """
    build = build_identity(program)
    try:
        kept = newest_profile(model, hardware, build)
    except FileNotFoundError:
        return None
    except (ConfigError, SurroundingsError) as error:
        _without(error)
        return None
    if kept.path != profile_path(model, hardware, build):
        _warn_once(kept, model.path, program)
    return kept


def _warn_once(kept: Kept, model: Path, program: Program) -> None:
    cache = cache_folder(os.environ)
    if _was_told(cache.parent / "told" / f"{kept.path.stem}-{build_identity(program)}"):
        return
    version = ask_once(program, cache).version
    installed = version if version not in ("", kept.profile.build) else "another build"
    command = console.quoted(["lcm", "verify", operand(str(model))])
    console.warning(
        f"the profile of {kept.profile.date} was measured with {kept.profile.build}, and "
        f"{installed} is installed: `{command}` says whether it still holds"
    )


def _was_told(marker: Path) -> bool:
    """From now on it was; where that cannot be remembered, it is told again."""
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch(exist_ok=False)
    except FileExistsError:
        return True
    except OSError:
        return False
    return False


def _without(error: AutotuneError) -> None:
    """Whatever it is for goes on without a profile."""
    console.warning(f"{error.message}; {error.hint}")


def measured_section(model: Model, hardware: Hardware) -> MeasuredSection | None:
    """What was measured for the build that `lcm run --model M` would start, if anything was."""
    for name in ("llama-server", "llama-cli", "llama-bench"):
        try:
            program = find_program(name)
            path = profile_path(model, hardware, build_identity(program))
            return _section(load(path), path)
        except (LlamaCppNotFound, FileNotFoundError):
            continue
        except (ConfigError, SurroundingsError) as error:  # Or the user named what is no program.
            _without(error)
            return None
    return None


def _section(profile: Profile, path: Path) -> MeasuredSection:
    return {
        "date": profile.date,
        "build": profile.build,
        "verdict": profile.verdict,
        "ratio": profile.ratio,
        "low": profile.low,
        "high": profile.high,
        "workload": profile.workload,
        "params": params_to_json(profile.params),
        "profile": str(path),
    }


def store(path: Path, profile: Profile) -> None:
    """Keep what `lcm run` starts with; a gain that was shown gives way only to another.

    For the same workload it gives way to any verdict: it was tried again, as a seed.
    """
    with contextlib.suppress(FileNotFoundError, ConfigError):
        kept = load(path)
        proven = kept.verdict == "better" and profile.verdict != "better"
        if proven and (kept.workload != profile.workload or not profile.verdict):
            console.note(
                f"the profile of {kept.date} stays: its gain was shown, for {kept.workload}"
            )
            return
    save(path, profile)
