"""`lcm doctor`: what is here, what is missing, and how to get it."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import console
from autotune.cli.answer import DoctorAnswer, FindingSection, HardwareSection, ProgramSection
from autotune.errors import EXIT_DONE, EXIT_NO, printable
from autotune.words import size

_WIDTH = 80
_LABELS = 21  # The longest is llama-batched-bench.


def doctor(
    *,
    model: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A GGUF file to really run llama-bench with."),
    ] = None,
    llama_bench: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The llama-bench to use, its folder, or a command."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say what is here, what is missing and how to get it; exit 1 if something is wrong.

    Example: lcm doctor --model gemma-3-270m.gguf
    """
    answer = _examine(model, llama_bench)
    if as_json:
        console.answer(answer)
    else:
        parts = [_machine_rows(answer), *map(_program_rows, answer["programs"])]
        blocks = [_aligned(rows) for rows in parts]
        blocks += ["", *_findings_lines(answer["findings"])]
        console.text("\n".join([*blocks, *(["No problems."] if answer["healthy"] else [])]))
    return EXIT_DONE if answer["healthy"] else EXIT_NO


def _examine(path: Path | None, llama_bench: str | None) -> DoctorAnswer:
    from autotune.cli.diagnosis import doctor_answer  # noqa: PLC0415 - others do not pay for it
    from autotune.hardware import detect_hardware, storage_of  # noqa: PLC0415
    from autotune.hardware.energy import metered  # noqa: PLC0415
    from autotune.hardware.governor import read_governor  # noqa: PLC0415
    from autotune.llama_cpp.checkup import check  # noqa: PLC0415
    from autotune.llama_cpp.locate import BENCH, PROGRAMS  # noqa: PLC0415
    from autotune.model import analyze_model  # noqa: PLC0415

    model = analyze_model(path) if path else None
    # As if the variable named it, for the programs that lie beside it.
    environ = os.environ | ({"LCM_LLAMA_BENCH": llama_bench} if llama_bench else {})
    given = {BENCH: llama_bench}
    programs = [
        check(name, given=given.get(name), model=model.path if model else None, environ=environ)
        for name in PROGRAMS
    ]
    storage = storage_of(model.path if model else Path.cwd())
    return doctor_answer(
        detect_hardware(), storage, read_governor(), programs, model, metered=metered()
    )


Row = tuple[str, str]


def _machine_rows(answer: DoctorAnswer) -> list[Row]:
    machine, limits = answer["hardware"], answer["limits"]
    quota, ram_limit = limits["cpu_quota"], limits["ram_limit_bytes"]
    memlock, swap = limits["memlock_bytes"], limits["swap_total_bytes"]
    cores = (
        f"{machine['cpu_cores_physical']} physical, {machine['cpu_cores_logical']} logical; "
        f"{machine['cpu_threads_usable']} threads can run at once"
    )
    memory = (
        f"{size(machine['ram_total_bytes'])}, "
        f"{size(machine['ram_available_bytes'])} of it available"
    )
    used = f"{size(limits['swap_used_bytes'])} of {size(swap)} in use"
    return [
        ("machine", f"{machine['cpu_name'] or 'unknown CPU'}, {machine['cpu_architecture']}"),
        ("system", machine["operating_system"] + (" (WSL)" if machine["wsl"] else "")),
        ("cores", cores),
        ("CPU quota", "none" if quota is None else f"{quota:g} CPUs"),
        ("CPU governor", limits["cpu_governor"] or "not shown by this system"),
        ("memory", memory),
        ("memory limit", "none" if ram_limit is None else size(ram_limit)),
        ("lockable memory", "unlimited" if memlock is None else size(memlock)),
        ("swap", used if swap else "none"),
        ("joules of", ", ".join(answer["energy"]["of"]) or "nothing that counts them"),
        *_gpu_rows(machine),
    ]


def _gpu_rows(machine: HardwareSection) -> Iterator[Row]:
    if not machine["gpus"]:
        yield "GPU", "none"
    for gpu in machine["gpus"]:
        free = f"{size(gpu['free_bytes'])} of {size(gpu['total_bytes'])} free"
        driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
        yield "GPU", f"{gpu['name']} ({gpu['device'] or gpu['backend']}), {free}{driver}"
        told = f"told by {' and '.join(gpu['sources'])}" if gpu["sources"] else ""
        use = {True: "", False: "llama.cpp does not list it", None: "llama.cpp was not asked"}
        yield "", "; ".join(filter(None, (told, use[gpu["usable"]])))


def _program_rows(program: ProgramSection) -> list[Row]:
    if program["path"] is None:
        return [(program["name"], "not found")]
    rows = [(program["name"], " ".join(program["command"])), ("", f"from {program['found_by']}")]
    dialect = program["dialect"]
    if dialect is None:
        return [*rows, ("", "does not answer")]
    other = f" ({program['flavor']})" if program["flavor"] != "llama.cpp" else ""
    rows.append(("", f"version {program['version'] or 'untold'}{other}"))
    if program["backends"]:
        rows.append(("", f"backends {', '.join(program['backends'])}"))
    devices = [f"{d['name']} ({d['description']})" for d in program["devices"]]
    rows.append(("", f"devices {', '.join(devices)}" if devices else "no devices beside the CPU"))
    words = [_FLASH_ATTN[dialect["flash_attn"]], dialect["load_mode"] or ""]
    words += [{True: "jsonl", False: "no jsonl", None: ""}[dialect["jsonl"]]]
    rows.append(("", f"speaks {'; '.join(filter(None, words))}"))
    if program["runs"] is not None:
        runs = "runs the model" if program["runs"] else "does not run the model"
        rows.append(("", runs + (", with --repack 0" if program["repack_off"] else "")))
    return rows


_FLASH_ATTN = {
    "words": "-fa on|off|auto",
    "numbers": "-fa 0|1",
    "switch": "-fa without a value",
    None: "",
}


def _aligned(rows: Sequence[Row]) -> str:
    """Labels to the left, texts in a column of their own."""
    return "\n".join(_wrapped(label.ljust(_LABELS), text, _LABELS) for label, text in rows)


def _findings_lines(findings: Sequence[FindingSection]) -> Iterator[str]:
    """One hint for all neighbours that it helps."""
    for remedy, neighbours in groupby(findings, key=itemgetter("remedy")):
        for finding in neighbours:
            yield _wrapped(f"{finding['kind']}: ", finding["what"], 2)
            yield from (_wrapped("  - ", place, 4) for place in finding["places"])
        if remedy:
            yield _wrapped("hint: ", remedy, 6)


def _wrapped(start: str, text: str, indent: int) -> str:
    """In 80 columns; only a word that is longer, such as a path, stays whole."""
    return textwrap.fill(
        printable(text),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
