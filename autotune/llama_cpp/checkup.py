"""What there is of llama.cpp on this machine, and whether it works: facts, never an exception."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.errors import AutotuneError, LlamaCppNotFound
from autotune.llama_cpp import capabilities as asking
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.devices import Device, backends_beside, list_devices
from autotune.llama_cpp.locate import BENCH, Program, find_program
from autotune.llama_cpp.preflight import Preflight, preflight, slow_build


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a program cannot be used."""

    what: str
    details: tuple[str, ...] = ()
    remedy: str = ""
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One of llama.cpp's programs, as far as it got."""

    name: str
    program: Program | None = None
    capabilities: Capabilities | None = None
    devices: tuple[Device, ...] | None = None  # None: it cannot tell.
    backends: tuple[str, ...] = ()
    flight: Preflight | None = None  # None: not tried.
    trouble: Trouble | None = None


def check(
    name: str,
    *,
    given: str | None = None,
    model: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Checked:
    """Look for a program, ask it what it can, and try it on `model` if it is llama-bench."""
    checked = Checked(name=name)
    try:
        program = find_program(name, given=given, environ=environ)
        checked = replace(checked, program=program, backends=backends_beside(program))
        can = asking.ask(program)
        checked = replace(checked, capabilities=can, devices=list_devices(program, can))
        return _checked_bench(checked, program, can, model) if name == BENCH else checked
    except AutotuneError as error:
        trouble = Trouble(
            what=error.message,
            details=error.details,
            remedy=error.hint,
            missing=isinstance(error, LlamaCppNotFound),
        )
        return replace(checked, trouble=trouble)


def _checked_bench(
    checked: Checked, program: Program, can: Capabilities, model: Path | None
) -> Checked:
    slow = slow_build(program)
    if slow:
        return replace(
            checked,
            trouble=Trouble(
                what=f"{program.path} is {slow}: what it measures is true of no other build",
                remedy="build it with -DCMAKE_BUILD_TYPE=Release",
            ),
        )
    if not can.streams_records:
        return replace(
            checked,
            trouble=Trouble(
                what=f"{program.path} has no `-o jsonl`: a crash would lose what was measured",
                remedy=asking.STREAMS_RECORDS_SINCE,
            ),
        )
    if model is None:
        return checked
    flight = preflight(program, can, model)
    backends = (*checked.backends, *filter(None, flight.backends.split(",")))
    checked = replace(checked, flight=flight, backends=tuple(dict.fromkeys(backends)))
    if flight.usable:
        return checked
    trouble = Trouble(what=f"{program.path} does not run: {flight.reason}", remedy=flight.remedy)
    return replace(checked, trouble=trouble)
