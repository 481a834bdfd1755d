"""`lcm results export`: what was measured, as a table for other programs."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from autotune.cli import console
from autotune.cli.output import write_file
from autotune.errors import ConfigError
from autotune.results.columns import Level
from autotune.results.export import csv_lines, jsonl_lines, llama_bench_lines, parquet_bytes
from autotune.results.stored import Stored

_PARQUET, _LLAMA_BENCH = "parquet", "llama-bench"
_RECORD: Level = "record"
_TEXTS: Mapping[str, Callable[[Stored, Level], Iterator[str]]] = {
    "csv": csv_lines,
    "jsonl": jsonl_lines,
    _LLAMA_BENCH: lambda stored, _: llama_bench_lines(stored),
}


def export(stored: Stored, *, fmt: str, level: str | None, output: Path | None) -> None:
    """Write a study as a table.

    Args:
        stored: the study.
        fmt: as `--format` has it.
        level: what a row is, as `--level` has it; None: a record.
        output: the file; None: stdout.

    Raises:
        ConfigError: the format has no such level, or cannot be printed.
        SurroundingsError: it cannot be written, or a package is missing.
    """
    wanted = cast("Level", level or _RECORD)
    if fmt == _LLAMA_BENCH and wanted != _RECORD:
        raise ConfigError(
            f"the llama-bench format has records alone, and --level {wanted} asks for others",
            hint="leave --level out, or take another --format",
        )
    if fmt == _PARQUET:
        if output is None:
            raise ConfigError("parquet is no text to print", hint="name a file with -o FILE")
        write_file(output, parquet_bytes(stored, wanted))
    elif output is None:
        console.utf8(_TEXTS[fmt](stored, wanted))
    else:
        write_file(output, _TEXTS[fmt](stored, wanted))
