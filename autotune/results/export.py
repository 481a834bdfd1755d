"""A study as CSV, JSON lines or Parquet, and its records as llama-bench printed them.

The only import of pandas.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping

import pandas as pd

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import Measurement
from autotune.results.columns import Kind, Level, Value, columns
from autotune.results.rows import rows
from autotune.results.stored import Stored
from autotune.results.table import cell

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
    frame, _ = _frame(stored, level, cell)
    return str(
        frame.to_csv(
            index=False,
            header=[str(cell(name)) for name in frame.columns],
            quoting=csv.QUOTE_NONNUMERIC,
            lineterminator="\n",
        )
    )


def jsonl_text(stored: Stored, level: Level) -> str:
    """A table as one JSON object a line, with the same columns in each."""
    found = rows(stored, level)
    names = list(columns(level, found))
    lines = (json.dumps({name: row.get(name) for name in names}, allow_nan=False) for row in found)
    return "".join(f"{line}\n" for line in lines)


def parquet_bytes(stored: Stored, level: Level) -> bytes:
    """A table as Parquet, in which each column has its type also where it is empty.

    Raises:
        SurroundingsError: pyarrow is not installed.
    """
    frame, kinds = _frame(stored, level, _as_it_is)
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
    records = (
        json.dumps(dict(record.outcome.record))
        for record in stored.records
        if isinstance(record.outcome, Measurement)
    )
    return "[\n" + ",\n".join(records) + "\n]\n"


def _frame(
    stored: Stored, level: Level, spell: Callable[[Value], Value]
) -> tuple[pd.DataFrame, Mapping[str, Kind | None]]:
    """Every cell as it is: an integer stays one beside a missing one, which is None."""
    found = rows(stored, level)
    kinds = columns(level, found)
    cells = [[spell(row.get(name)) for name in kinds] for row in found]
    return pd.DataFrame(cells, columns=list(kinds), dtype=object), kinds


def _as_it_is(value: Value) -> Value:
    return value


def _kind(column: pd.Series, stated: Kind | None) -> Kind:
    """What its values are; as it is stated where there is none. Fields change between builds."""
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    if stated == "list" or inferred == "empty":
        return stated or "text"
    found = _FOUND.get(inferred, "text")
    return "float" if (stated, found) == ("float", "int") else found
