"""`lcm results apply`: a profile in the format of the tool that puts it to use."""

import os
from dataclasses import replace
from pathlib import Path

from autotune.cli import console
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
    profile: Profile, model: Path, target: str, *, memory_bytes: int | None = None
) -> None:
    """Print a profile in a tool's own format, in the dialect of the llama-server that is here.

    Args:
        profile: what was measured.
        model: the file to load.
        target: one of `TARGETS`.
        memory_bytes: the RAM that weights, cache and buffers take; None: unknown.

    Raises:
        ConfigError: there is no such format, or it cannot say this configuration or path.
    """
    if target not in TARGETS:
        raise ConfigError(
            f"there is no format {target!r}", hint=f"--for takes {', '.join(TARGETS)}"
        )
    setup = _setup(profile, model.absolute(), memory_bytes)
    if target == _CONTAINER:
        setup = replace(setup, mount=_mount(setup.model))
    applied = TARGETS[target](setup)
    for what in applied.unsaid:
        console.warning(f"{target}: {what}")
    console.exactly(applied.text.rstrip("\n"))


def _setup(profile: Profile, model: Path, memory_bytes: int | None) -> Setup:
    program, capabilities = _server()
    gpus = detect_hardware().gpus
    return Setup(
        profile=profile,
        model=model,
        program=program,
        capabilities=capabilities,
        gpu=gpus[0].backend if gpus else "",
        n_cpus=os.cpu_count(),
        memory_bytes=memory_bytes,
        user=_user(),
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
