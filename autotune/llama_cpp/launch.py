"""The command that starts llama-cli or llama-server, in the dialect of what is installed."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autotune.errors import LlamaCppNotFound, LlamaCppUnusable
from autotune.llama_cpp import numactl
from autotune.llama_cpp.capabilities import Capabilities, ask_once, cache_folder
from autotune.llama_cpp.dialect import DIALECT, render
from autotune.llama_cpp.locate import Program, find_program
from autotune.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """An argument list that needs no shell."""

    argv: tuple[str, ...]
    prefix: tuple[str, ...]  # What it begins with, before the program: what binds that to nodes.
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
        return launch_of(
            Program(name=name, command=(name,), found_by=""), None, target, model, params
        )
    return launch_of(program, capabilities, target, model, params)


def launch_of(
    program: Program,
    capabilities: Capabilities | None,
    target: Literal["cli", "server"],
    model: Path,
    params: Params,
    *,
    given: Sequence[str] = (),
) -> Launch:
    """How to start a program that was found.

    Args:
        program: the program.
        capabilities: what it can; None: today's dialect.
        target: which of the two it is.
        model: the file to load.
        params: the parameters.
        given: the user's own arguments, which win over ours.
    """
    binds = None if params.numactl is None else numactl.found()
    lacking = numactl.lacking(params.numactl)
    if lacking:  # Without it, llama.cpp's mode would keep the threads to what they have anyway.
        params = replace(params, numa=None)
    prefix = numactl.prefix(params.numactl, binds) if binds else ()
    rendered = render(params, target, capabilities)
    arguments = list(rendered.arguments)
    if params.n_gpu_layers is not None and (capabilities is None or capabilities.has("--fit")):
        arguments += ["--fit", "off"]  # What was planned is what is loaded.
    loads = ["--model", str(model)]
    if capabilities is not None and given:
        set_by_user = _settings(given, capabilities)
        arguments = _without(arguments, set_by_user, capabilities)
        loads = [] if "--model" in set_by_user else loads
    return Launch(
        argv=(*prefix, *program.command, *loads, *arguments, *given),
        prefix=prefix,
        dialect=capabilities.version or "the installed build" if capabilities else DIALECT,
        unsupported=(*rendered.unsupported, *lacking),
    )


def _settings(given: Sequence[str], capabilities: Capabilities) -> frozenset[str]:
    """The flags that the user's arguments speak of, by all of their names."""
    # llama.cpp reads an underscore in a long flag as a dash.
    flags = (word.replace("_", "-") if word.startswith("--") else word for word in given)
    return frozenset(name for flag in flags for name in capabilities.same_setting(flag))


def _without(
    arguments: Sequence[str], settings: frozenset[str], capabilities: Capabilities
) -> list[str]:
    """Our arguments less those of `settings`, each flag with its values."""
    kept, leaving_out = [], False
    for word in arguments:
        if capabilities.has(word):
            leaving_out = word in settings
        if not leaving_out:
            kept.append(word)
    return kept
