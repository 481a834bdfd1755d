"""What docs/csv.md states of the columns, held against what pandas makes of a table."""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from pandas.api import types

_PAGE = Path(__file__).parent.parent / "docs" / "csv.md"
_ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| ([\w ]+) \|", re.MULTILINE)
_OF_A_GPU = re.compile(r"^gpu\d+_")


def stated(level: str) -> Mapping[str, str]:
    """The dtype of each column of a level."""
    rows = _ROW.findall(_PAGE.read_text(encoding="utf-8"))
    return {name: dtype for name, levels, dtype in rows if level in levels.split(", ")}


def wrong_columns(csv_text: str, level: str) -> list[str]:
    """Columns of a table that are not as they are stated, or not stated."""
    frame = pd.read_csv(io.StringIO(csv_text))
    return list(_wrong(frame, stated(level)))


def _wrong(frame: pd.DataFrame, known: Mapping[str, str]) -> Iterator[str]:
    for name in frame.columns:
        dtypes = known.get(_OF_A_GPU.sub("gpu0_", name))
        if dtypes is None:
            yield f"{name} is not documented"
        elif not any(_is(frame[name], dtype) for dtype in dtypes.split(" or ")):
            yield f"{name} is {frame[name].dtype}, not {dtypes}"


def _is(column: "pd.Series[str]", dtype: str) -> bool:
    """The rule for what is missing stands in the document."""
    if column.isna().all():
        return types.is_float_dtype(column)
    if column.isna().any():
        dtype = {"int64": "float64", "bool": "object"}.get(dtype, dtype)
    if dtype == "str":
        return types.is_string_dtype(column.dropna())
    return str(column.dtype) == dtype
