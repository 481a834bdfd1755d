"""The trials of an Optuna study in SQLite, read in one go.

Optuna reads a trial by a query for each of its tables and makes objects of every row: ten thousand
trials take it seven seconds and 500 MB, and it looks at all of them again for each new one. These
are its tables as every version since 3.0 makes them.
"""

import gc
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_TRIALS = """
    SELECT t.trial_id, t.number, t.state, v.value
    FROM trials AS t JOIN studies AS s ON s.study_id = t.study_id
    LEFT JOIN trial_values AS v ON v.trial_id = t.trial_id AND v.objective = 0
    WHERE s.study_name = ? ORDER BY t.number
"""
# Of the attributes, parameters are the longest that are repeated.
_LONGEST_REPEATED = 1000
_ATTRIBUTES = "SELECT trial_id, key, value_json FROM trial_user_attributes"


@dataclass(slots=True, kw_only=True)
class Row:
    """A trial as it is kept."""

    trial_id: int
    number: int
    state: str  # Optuna's name of it.
    value: float | None
    attributes: dict[str, Any] = field(default_factory=dict)


def read_rows(connection: sqlite3.Connection, study: str) -> list[Row]:
    """Every trial of a study, in the order of their numbers.

    Raises:
        sqlite3.Error, ValueError: it is not what Optuna writes.
    """
    rows = [
        Row(trial_id=trial_id, number=number, state=state, value=value)
        for trial_id, number, state, value in connection.execute(_TRIALS, (study,))
    ]
    by_id = {row.trial_id: row for row in rows}
    known: dict[str, Any] = {}
    for trial_id, key, text in connection.execute(_ATTRIBUTES):
        row = by_id.get(trial_id)
        if row:
            row.attributes[key] = _value(text, known)
    return rows


def _value(text: str, known: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever stands there
    """What a text says; trials repeat the short ones, and nobody changes what is read."""
    if len(text) > _LONGEST_REPEATED:
        return json.loads(text)
    if text not in known:
        known[text] = json.loads(text)
    return known[text]


@contextmanager
def nothing_is_garbage() -> Iterator[None]:
    """While all that is made is kept, Python's collector would look at it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
