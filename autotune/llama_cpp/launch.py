"""The command that starts llama-cli or llama-server, in the dialect of what is installed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.errors import LlamaCppNotFound, LlamaCppUnusable
from autotune.llama_cpp.capabilities import Capabilities, ask_once, cache_folder
from autotune.llama_cpp.dialect import DIALECT, render
from autotune.llama_cpp.locate import Program, find_program
from autotune.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """An argument list that needs no shell."""

    argv: tuple[str, ...]
    dialect: str  # Whose flags these are.
    unsupported: tuple[str, ...]  # What the program cannot be told, with why.


def launch(
    target: Literal["cli", "server"],
    model: Path,
    params: Params,
    *,
    environ: Mapping[str, str] | None = None,
) -> Launch:
    """How to start `target`; where it is not installed or does not answer, in today's dialect."""
    environ = os.environ if environ is None else environ
    name = f"llama-{target}"
    try:
        program = find_program(name, environ=environ)
        capabilities = ask_once(program, cache_folder(environ))
    except (LlamaCppNotFound, LlamaCppUnusable):
        return _launch(
            Program(name=name, command=(name,), found_by=""), None, target, model, params
        )
    return _launch(program, capabilities, target, model, params)


def _launch(
    program: Program,
    capabilities: Capabilities | None,
    target: Literal["cli", "server"],
    model: Path,
    params: Params,
) -> Launch:
    rendered = render(params, target, capabilities)
    argv = [*program.command, "--model", str(model), *rendered.arguments]
    if params.n_gpu_layers is not None and (capabilities is None or capabilities.has("--fit")):
        argv += ["--fit", "off"]  # What was planned is what is loaded.
    return Launch(
        argv=tuple(argv),
        dialect=capabilities.version or "the installed build" if capabilities else DIALECT,
        unsupported=rendered.unsupported,
    )
