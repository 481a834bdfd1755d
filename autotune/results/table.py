"""Rows as CSV text, and a table that grows while a study is measured."""

import csv
import io
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from typing import Self

from autotune.errors import SurroundingsError
from autotune.results.columns import Row, Value, columns
from autotune.results.journal import Entry, Record, Trial
from autotune.results.profile import write_whole
from autotune.results.rows import record_row, rows
from autotune.results.stored import Stored

# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection").
# The last four are the same in full width, which some spreadsheets fold.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: Value) -> Value:
    """A value as it stands in a CSV: a list is quoted as for a shell, and no text is a formula."""
    text = shlex.join(value) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text


def lines(of_cells: Iterable[Sequence[Value]]) -> str:
    """Rows as CSV; all text is quoted, so that none is taken for something else."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerows([cell(value) for value in cells] for cells in of_cells)
    return text.getvalue()


class Table:
    """Keeps `records.csv` up to date: one row for each test, as soon as its trial is over.

    It is the record level of the export, and is made anew from the journal when a study goes on;
    so a row that a crash has torn or left out is there again.

    Args:
        known: the study by what its journal has already; its lock is held.
    """

    def __init__(self, known: Stored) -> None:
        self._folder = known.folder
        self._path = known.folder.path / "records.csv"
        self._known = rows(known, "record")
        self._n_records = len(self._known)
        self._waiting: list[tuple[int, Record]] = []
        self._names: list[str] = []
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        if self._known:
            self._begin(self._known)
            self._known = []
        return self

    def __exit__(self, *_: object) -> None:
        """Write also what was measured of a trial that is not over."""
        try:
            self._write([self._row(order, record, None) for order, record in self._waiting])
        finally:
            if self._file:
                self._file.close()

    def append(self, entry: Entry) -> None:
        """Take the next entry of the journal, and return when the rows it completes are on disk.

        Raises:
            SurroundingsError: they cannot be written.
        """
        if isinstance(entry, Record):
            self._waiting.append((self._n_records, entry))
            self._n_records += 1
            if entry.trial is None:
                self._complete(None, None)
        elif isinstance(entry, Trial):
            self._complete(entry.number, entry)

    def _complete(self, number: int | None, trial: Trial | None) -> None:
        ready = [waiting for waiting in self._waiting if waiting[1].trial == number]
        self._waiting = [waiting for waiting in self._waiting if waiting[1].trial != number]
        self._write([self._row(order, record, trial) for order, record in ready])

    def _row(self, order: int, record: Record, trial: Trial | None) -> Row:
        return record_row(self._folder, order, record, trial)

    def _write(self, found: Sequence[Row]) -> None:
        if not found:
            return
        if self._file is None:
            self._begin(found)
            return
        text = lines(self._cells(found)).encode()
        try:
            while text:
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _begin(self, found: Sequence[Row]) -> None:
        """The columns are known with the first rows: they name the fields of this build."""
        self._names = list(columns("record", found))
        try:
            write_whole(self._path, lines([self._names, *self._cells(found)]))
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def _cells(self, found: Sequence[Row]) -> Iterator[list[Value]]:
        return ([row.get(name) for name in self._names] for row in found)

    def _unwritable(self, error: OSError) -> SurroundingsError:
        return SurroundingsError(
            f"{self._path} cannot be written: {error.strerror}",
            hint="make room there",
        )
