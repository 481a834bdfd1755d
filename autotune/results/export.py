"""A study as CSV, JSON lines or Parquet, and its records as llama-bench printed them.

The only import of pandas.
"""

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from autotune import json_text
from autotune.errors import ConfigError, SurroundingsError
from autotune.llama_cpp.records import Measurement
from autotune.results.columns import Kind, Level, Value, columns
from autotune.results.rows import each_row
from autotune.results.stored import Stored
from autotune.results.table import lines

if TYPE_CHECKING:
    import pandas as pd

# What a table of Parquet may have: it is in memory whole, unlike the others.
MOST_CELLS = 12_000_000

# The types of pandas that have room for a missing value.
_TYPES: Mapping[Kind, str] = {
    "int": "Int64",
    "float": "Float64",
    "text": "string",
    "bool": "boolean",
    "list": "object",
}
# What pandas calls the values that it finds.
_FOUND: Mapping[str, Kind] = {
    "integer": "int",
    "floating": "float",
    "mixed-integer-float": "float",
    "boolean": "bool",
}


def csv_text(stored: Stored, level: Level) -> str:
    """A table as CSV: text is quoted, numbers are not, what is missing is empty."""
    return "".join(csv_lines(stored, level))


def csv_lines(stored: Stored, level: Level) -> Iterator[str]:
    """`csv_text` row by row."""
    names = list(columns(level, each_row(stored, level)))
    yield lines([names])
    for row in each_row(stored, level):
        yield lines([[row.get(name) for name in names]])


def jsonl_text(stored: Stored, level: Level) -> str:
    """A table as one JSON object a line, with the same columns in each."""
    return "".join(jsonl_lines(stored, level))


def jsonl_lines(stored: Stored, level: Level) -> Iterator[str]:
    """`jsonl_text` row by row."""
    names = list(columns(level, each_row(stored, level)))
    for row in each_row(stored, level):
        yield json_text.dumps({name: row.get(name) for name in names}) + "\n"


def parquet_bytes(stored: Stored, level: Level) -> bytes:
    """A table as Parquet, in which each column has its type also where it is empty.

    Raises:
        SurroundingsError: pyarrow is not installed.
        ConfigError: it would be larger than memory should hold.
    """
    frame, kinds = _frame(stored, level)
    typed = frame.astype({name: _TYPES[_kind(frame[name], kind)] for name, kind in kinds.items()})
    into = io.BytesIO()
    try:
        typed.to_parquet(into, index=False, engine="pyarrow")
    except ImportError as error:
        raise SurroundingsError(
            "parquet needs pyarrow, which is not installed",
            hint="pip install 'lcm-autotune[parquet]'",
        ) from error
    return into.getvalue()


def llama_bench_text(stored: Stored) -> str:
    """The records that llama-bench printed, as its own `-o json` has them; failures have none."""
    return "".join(llama_bench_lines(stored))


def llama_bench_lines(stored: Stored) -> Iterator[str]:
    """`llama_bench_text` record by record."""
    before = "[\n"
    for record in stored.records:
        if isinstance(record.outcome, Measurement):
            yield before + json_text.dumps(dict(record.outcome.record))
            before = ",\n"
    yield "\n]\n" if before == ",\n" else "[\n\n]\n"


def _frame(stored: Stored, level: Level) -> "tuple[pd.DataFrame, Mapping[str, Kind | None]]":
    """Every cell as it is: an integer stays one beside a missing one, which is None."""
    import pandas as pd  # noqa: PLC0415 - the other formats do without

    kinds = columns(level, each_row(stored, level))
    cells: list[list[Value]] = []
    for row in each_row(stored, level):
        if len(cells) * len(kinds) > MOST_CELLS:
            raise ConfigError(
                f"{stored.folder.name} has more than {MOST_CELLS:,} cells at this level, and "
                "parquet is made in memory",
                hint="take --format csv or jsonl",
            )
        cells.append([row.get(name) for name in kinds])
    return pd.DataFrame(cells, columns=list(kinds), dtype=object), kinds


def _kind(column: "pd.Series", stated: Kind | None) -> Kind:
    """What its values are; as it is stated where there is none. Fields change between builds."""
    import pandas as pd  # noqa: PLC0415

    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if stated == "list" or inferred == "empty":
        return stated or "text"
    found = _FOUND.get(inferred, "text")
    return "float" if (stated, found) == ("float", "int") else found
