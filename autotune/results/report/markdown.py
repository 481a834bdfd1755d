"""A study in a few lines of Markdown, for a pull request or a forum."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from autotune.errors import printable
from autotune.results.report import facts
from autotune.results.report.facts import Table
from autotune.results.report.surroundings import environment
from autotune.results.report.verdict import verdict
from autotune.results.stored import Stored
from autotune.shell import quoted

_TICKS = re.compile("`+")
_SHOWN = ("Machine", "GPU", "llama.cpp", "Operating system", "lcm")


def markdown(stored: Stored, *, command: Sequence[str] = ()) -> str:
    """Write the short form; names stand in code spans, where nothing of them is markup."""
    return "\n\n".join(_blocks(stored, command)) + "\n"


def _blocks(stored: Stored, command: Sequence[str]) -> Iterator[str]:
    said = verdict(stored)
    yield f"**{said.claim}**{said.mark} {said.rest}".rstrip()
    model, workload = (facts.short(name) for name in (stored.folder.model, stored.folder.workload))
    yield f"Model {code(model)}, for {code(workload)}."
    if table := facts.sides(stored):
        yield _table(table)
    if machines := facts.machines(stored):
        rows = tuple(tuple(map(escaped, row)) for row in machines.rows)
        yield _table(replace(machines, rows=rows))
    if changes := facts.changes(stored):
        yield f"{facts.candidate_name(stored)}: {code(changes)}"
    if command:
        yield _fenced(quoted(command))
    if warnings := facts.warnings(stored):
        yield "\n".join(f"- {escaped(warning)}" for warning in warnings)
    known = [(name, value) for name, value in environment(stored) if name in _SHOWN]
    if known:
        yield "; ".join(f"{name}: {code(value)}" for name, value in known)
    yield f"{facts.course(stored)}."


def code(text: str) -> str:
    """A code span that holds any text: no mention, link or tag in it does anything."""
    text = printable(text)
    fence = "`" * (max(map(len, _TICKS.findall(text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def escaped(text: str) -> str:
    """Text in which no character is markup."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~@&-])", r"\\\1", printable(text))


def _fenced(text: str) -> str:
    fence = "`" * max(3, max(map(len, _TICKS.findall(text)), default=0) + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _table(table: Table) -> str:
    rules = ["--:" if side == ">" else "---" for side in table.alignment]
    rows = [table.columns, rules, *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
    )
