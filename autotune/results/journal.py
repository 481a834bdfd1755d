"""The record of a study: a line of JSON for each thing that happened, written once, at once.

`journal.jsonl` is only ever appended to, and each line is on the disk before the next test ends. So
whatever ends a night, all that had been measured is there. A last line that a crash has cut short
is passed over, and taken away by the session that goes on.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeAlias

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import Outcome, outcome_from_json, outcome_to_json
from autotune.params import Params, params_from_json, params_to_json

FORMAT_VERSION = 1
# A record with everything that llama-bench has said is a few kilobytes.
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A process has begun to measure, or to go on."""

    at: float  # Seconds since the epoch.
    lcm: str  # Its version.
    budget_s: float | None
    resumed: bool
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A test that llama-bench has finished, or a failure, as it came."""

    trial: int | None  # The trial's number; None: it only completed a grid.
    part: str | None  # "pp" or "tg", of the trial.
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration was visited; its records came before."""

    number: int  # Of Optuna's trial.
    kind: str  # What for: baseline, seed, race, ..., anchor, verify.
    source: str  # What it came from, in words: "n_threads", "round 3".
    params: Params
    parts: tuple[str, ...]  # What was to be measured; a part that had lost has no record.
    seconds: float | None  # Of a request, with what was known then; None: a part was not.
    disturbed: str  # What else the machine did meanwhile; "" if nothing.
    elapsed_s: float  # Of the study, at its end.


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A configuration took the lead; nothing was proven by that."""

    elapsed_s: float
    params: Params
    seconds: float  # Of a request.
    baseline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a session came to: the section of the same name in the JSON answer."""

    evidence: Mapping[str, Any]


Entry: TypeAlias = Session | Record | Trial | Incumbent | Evidence

_TYPES: Mapping[str, type[Entry]] = {
    kind.__name__.lower(): kind for kind in (Session, Record, Trial, Incumbent, Evidence)
}


class Journal:
    """Appends to the record of one study; by one process, which holds the study's lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("a+b", buffering=0)
            _end_the_last_line(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, entry: Entry) -> None:
        """Write one entry, and return when it is on the disk.

        Raises:
            SurroundingsError: it cannot be written; what was written before is kept.
        """
        line = (json.dumps(_to_json(entry), allow_nan=False) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SurroundingsError:
        return SurroundingsError(
            f"{self._path} cannot be written: {error.strerror}",
            hint="make room there; then --resume goes on with what was measured",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a journal says."""

    entries: tuple[Entry, ...]
    damaged: int  # Lines that could not be read; what they said is lost.


def read_journal(path: Path) -> Contents:
    """Read a journal, also while another process writes it.

    Raises:
        FileNotFoundError: there is none.
        SurroundingsError: it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SurroundingsError(
            f"{path} cannot be read: {error.strerror}", hint="see its permissions"
        ) from error
    *whole, last = lines
    found = [_read(line) for line in whole if line]
    entries = [entry for entry in found if entry]
    damaged = len(found) - len(entries)
    # After the last newline comes nothing, or what a crash or a writer has left unfinished.
    unfinished = _read(last)
    if unfinished:
        entries.append(unfinished)
    return Contents(entries=tuple(entries), damaged=damaged)


def _end_the_last_line(file: FileIO) -> None:
    """What a crash has cut short was never valid, and is taken away."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _LONGEST_LINE, 0))
    rest = file.read(_LONGEST_LINE).rpartition(b"\n")[2] if size else b""
    if rest and _read(rest):
        file.write(b"\n")
    elif rest:
        file.truncate(size - len(rest))


def _to_json(entry: Entry) -> dict[str, Any]:
    return {"type": type(entry).__name__.lower(), **dict(_fields(entry))}


def _fields(entry: Entry) -> Iterator[tuple[str, Any]]:
    for name in entry.__slots__:
        value = getattr(entry, name)
        if isinstance(value, Params):
            value = params_to_json(value)
        elif name == "outcome":
            value = outcome_to_json(value)
        yield name, value


def _read(line: bytes) -> Entry | None:
    try:
        kept = json.loads(line)
        kind = _TYPES[kept.pop("type")]
        for name, reader in _READERS.items():
            if name in kept:
                kept[name] = reader(kept[name])
        return kind(**kept)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


_READERS: Mapping[str, Callable[[Any], object]] = {
    "params": params_from_json,
    "outcome": outcome_from_json,
    "parts": tuple,
}
