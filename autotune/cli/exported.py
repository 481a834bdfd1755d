"""`lcm results export`: what was measured, as a table for other programs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from autotune.cli import console
from autotune.cli.output import write_file
from autotune.errors import ConfigError
from autotune.results.columns import Level
from autotune.results.export import csv_text, jsonl_text, llama_bench_text, parquet_bytes
from autotune.results.stored import Stored

_TEXTS: Mapping[str, Callable[[Stored, Level], str]] = {
    "csv": csv_text,
    "jsonl": jsonl_text,
    "llama-bench": lambda stored, _: llama_bench_text(stored),
}
_PARQUET = "parquet"
FORMATS = (*_TEXTS, _PARQUET)
LEVELS: tuple[Level, ...] = get_args(Level)


def export(stored: Stored, *, fmt: str, level: str, output: Path | None) -> None:
    """Write a study as a table.

    Args:
        stored: the study.
        fmt: one of `FORMATS`; llama-bench's has records alone.
        level: one of `LEVELS`: what a row is.
        output: the file; None: stdout.

    Raises:
        ConfigError: there is no such format or level, or it cannot be printed.
        SurroundingsError: it cannot be written, or a package is missing.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"there is no format {fmt!r}", hint=f"there are {', '.join(FORMATS)}")
    wanted = _level(level)
    if fmt == _PARQUET:
        if output is None:
            raise ConfigError("parquet is no text to print", hint="name a file with -o FILE")
        write_file(output, parquet_bytes(stored, wanted))
    elif output is None:
        console.text(_TEXTS[fmt](stored, wanted).removesuffix("\n"))
    else:
        write_file(output, _TEXTS[fmt](stored, wanted))


def _level(name: str) -> Level:
    for level in LEVELS:
        if level == name:
            return level
    raise ConfigError(f"there is no level {name!r}", hint=f"there are {', '.join(LEVELS)}")
