"""`lcm results apply`: a profile in the format of the tool that puts it to use."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autotune.cli import console
from autotune.cli.machine import as_llama_cpp_sees_it
from autotune.errors import ConfigError, LlamaCppNotFound, LlamaCppUnusable
from autotune.hardware import detect_hardware
from autotune.llama_cpp.capabilities import Capabilities, ask_once, cache_folder
from autotune.llama_cpp.dialect import DIALECT
from autotune.llama_cpp.locate import Program, find_program
from autotune.results.apply import TARGETS, Setup
from autotune.results.profile import Profile

if os.name == "posix":
    import pwd

_CONTAINER = "docker-compose"


def print_applied(
    profile: Profile,
    model: Path,
    target: str,
    *,
    memory_bytes: int | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Print a profile in a tool's own format, in the dialect of the llama-server that is here.

    Args:
        profile: what was measured.
        model: the file to load.
        target: one of `TARGETS`.
        memory_bytes: the RAM that weights, cache and buffers take; None: unknown.
        arguments: what llama-bench was given beside the profile's parameters.

    Raises:
        ConfigError: the format cannot say this configuration or path.
    """
    setup = replace(_setup(profile, model.absolute(), memory_bytes), arguments=tuple(arguments))
    if not os.access(setup.model, os.F_OK):
        console.warning(f"{setup.model} is not there; write where the model is now")
    if target == _CONTAINER:
        setup = replace(setup, mount=_mount(setup.model))
    applied = TARGETS[target](setup)
    for what in (*setup.unsaid, *applied.unsaid):
        console.warning(f"{target}: {what}")
    console.exactly(applied.text.rstrip("\n"))


def _setup(profile: Profile, model: Path, memory_bytes: int | None) -> Setup:
    program, capabilities = _server()
    gpus = as_llama_cpp_sees_it(detect_hardware()).gpus
    return Setup(
        profile=profile,
        model=model,
        program=program,
        capabilities=capabilities,
        gpu=gpus[0].backend if gpus else "",
        n_cpus=os.cpu_count(),
        memory_bytes=memory_bytes,
        user=_user(),
        is_shown=console.is_shown(),
    )


def _server() -> tuple[Program, Capabilities | None]:
    """The llama-server that is here; where there is none, its name and today's dialect."""
    name = "llama-server"
    try:
        program = find_program(name)
        capabilities = ask_once(program, cache_folder(os.environ))
    except (LlamaCppNotFound, LlamaCppUnusable) as error:
        why = f"{name} was not found" if isinstance(error, LlamaCppNotFound) else error.message
        console.warning(f"{why}; what follows is for {DIALECT}")
        return Program(name=name, command=(name,), found_by=""), None
    first, *rest = program.command
    return replace(program, command=(str(Path(first).absolute()), *rest)), capabilities


def _mount(model: Path) -> Path:
    """The folder in which a container finds the model's file, also where that is a link.

    The Hugging Face cache links each file to another folder of the same repository.
    """
    if not model.is_symlink():
        return model.parent
    link = model.readlink()
    target = Path(os.path.normpath(model.parent / link))
    folder = Path(os.path.commonpath([model.parent, target]))
    if link.is_absolute() or folder == Path(folder.anchor):
        raise ConfigError(
            f"{model} is a link that a container cannot follow", hint=f"give the file: {target}"
        )
    return folder


def _user() -> str:
    if os.name != "posix" or os.getuid() == 0:
        return ""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
