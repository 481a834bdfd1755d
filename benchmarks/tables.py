"""What the benchmarks share: tables in Markdown, written with the circumstances of their making."""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from autotune import __version__
from autotune.hardware import detect_hardware

_FOLDERS = ("--out", "--work")
TABLES = Path(__file__).parent / "tables"

Cell = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Some rows under a header; numbers are already words, or whole."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def markdown(self) -> str:
        """As Markdown; every column after the first is aligned to the right."""
        lines = [f"### {self.title}", ""] if self.title else []
        lines.append(_line(self.header))
        lines.append(_line(["---", *["--:"] * (len(self.header) - 1)]))
        lines += [_line(row) for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that was to be reached, and what was measured; smaller is better."""

    name: str
    aim: float
    measured: float
    unit: str = ""
    at_least: bool = False  # Larger is better.

    @property
    def is_reached(self) -> bool:
        """Whether the measured number is as good as the aim."""
        return self.measured >= self.aim if self.at_least else self.measured <= self.aim

    def row(self) -> tuple[str, str, str, str]:
        """As a line of a table."""
        sign = "≥" if self.at_least else "≤"
        shown = [f"{number:.3g}{self.unit}" for number in (self.aim, self.measured)]
        return self.name, f"{sign} {shown[0]}", shown[1], "yes" if self.is_reached else "**no**"


def figures_table(figures: Sequence[Figure]) -> Table:
    """What was to be reached, and whether it was."""
    return Table(
        title="Figures to reach",
        header=("figure", "aim", "measured", "reached"),
        rows=[figure.row() for figure in figures],
    )


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Make a benchmark's parser, with `--out` for where its table goes."""
    made = argparse.ArgumentParser(prog=f"nox -s bench -- {name}", description=description)
    made.add_argument(
        "--out", type=Path, default=TABLES, help="the folder for what it writes (%(default)s)"
    )
    return made


def environment(
    *, llama_cpp: Path | None = None, model: Path | None = None, **more: str
) -> dict[str, str]:
    """Say where and with what is measured.

    Args:
        llama_cpp: the folder of llama.cpp's programs, where they take part.
        model: the GGUF, where there is one.
        more: further facts, in words.
    """
    cpu, memory = detect_hardware().cpu, detect_hardware().memory
    facts = {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu.name}, {cpu.usable_cores} cores, {len(cpu.usable_cpus)} CPUs, "
        f"{memory.total_bytes / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": f"lcm {__version__}, Python {platform.python_version()}, "
        f"optuna {metadata.version('optuna')}",
        "load": f"{os.getloadavg()[0]:.1f} at the start"
        if hasattr(os, "getloadavg")
        else "unknown",
    }
    if llama_cpp:
        facts["llama.cpp"] = version_of(llama_cpp)
    if model:
        facts["model"] = f"{model.name}, {model.stat().st_size / 1e6:.0f} MB"
    return facts | more


def version_of(llama_cpp: Path) -> str:
    """What llama.cpp's programs say of their build."""
    command = [str(llama_cpp / "llama-bench"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return (said.stdout + said.stderr).partition("\n")[0]


def write(
    out: Path,
    name: str,
    *,
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[Table],
    notes: Sequence[str] = (),
) -> Path:
    """Print the tables, and keep them in `<out>/<name>.md` with the command that made them."""
    text = "\n".join(_document(name, title, facts, tables, notes))
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.md"
    file.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten to {file}", file=sys.stderr)
    return file


def _document(
    name: str,
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[Table],
    notes: Sequence[str],
) -> Iterator[str]:
    yield f"# {title}"
    yield ""
    yield f"Made by `{shlex.join(['nox', '-s', 'bench', '--', name, *_arguments()])}`."
    for table in tables:
        yield ""
        yield table.markdown()
    for note in notes:
        yield ""
        yield note
    yield ""
    yield Table(title="Environment", header=("", ""), rows=[*facts.items()]).markdown()


def _arguments() -> list[str]:
    """What the benchmark was called with, but for the folders it writes to: they change nothing."""
    kept, skip = [], False
    for word in sys.argv[1:]:
        if skip or word in _FOLDERS:
            skip = not skip
        elif not word.startswith(tuple(f"{option}=" for option in _FOLDERS)):
            kept.append(word)
    return kept


def _line(cells: Sequence[Cell]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
