"""The record of a study: a line of JSON for each thing that happened, written once, at once.

`journal.jsonl` is only ever appended to, and each line is on the disk before the next test ends. So
whatever ends a night, all that had been measured is there. A last line that a crash has cut short
is passed over, and taken away by the session that goes on.
"""

import errno
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias, TypeVar, get_type_hints

from autotune import files, json_text
from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import Measurement, Outcome, outcome_from_json, outcome_to_json
from autotune.params import Params, params_from_json, params_to_json
from autotune.results.typed import typed

FORMAT_VERSION = 1
# A record with everything that llama-bench has said is a few kilobytes.
_LONGEST_LINE = 1 << 20
# Ten thousand trials take 50 MB in the file and 80 MB in memory, because most of what they say is
# the same. What takes more is no journal.
MOST_BYTES = 1 << 26
MOST_MEMORY_BYTES = 160 << 20
_MOST_NAMES = 2000  # Of fields, in all records; each is a column of a table.
_LONGEST_S = 1e10  # Some centuries.


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
    joules: float | None = None  # Of such a request; None: not told.


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A configuration took the lead; nothing was proven by that."""

    elapsed_s: float
    params: Params
    seconds: float  # Of a request.
    baseline_s: float
    joules: float | None = None  # Of a request; None: not told.
    baseline_j: float | None = None


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
        line = (json_text.dumps(_to_json(entry)) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SurroundingsError:
        return SurroundingsError(
            f"{self._path} cannot be written: {error.strerror}",
            hint="make room there",
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
        SurroundingsError: it cannot be read, or is larger than any.
    """
    entries: list[Entry] = []
    damaged, left, shared = 0, MOST_BYTES, _Shared()
    try:
        with files.open_regular(path) as file:
            for line in _lines(file):
                left -= len(line)
                if left < 0:
                    raise files.too_large(path, MOST_BYTES)
                entry = _read(line)
                if entry:
                    entries.append(shared.entry(entry))
                # After the last newline comes nothing, or what a crash or a writer has left.
                elif line.endswith(b"\n") and line != b"\n":
                    damaged += 1
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SurroundingsError(
            f"{path} cannot be read: {error.strerror}", hint="is it a journal of lcm?"
        ) from error
    return Contents(entries=tuple(entries), damaged=damaged)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Each line with its end; one that is longer than any comes in parts that nobody can read."""
    while line := file.readline(_LONGEST_LINE):
        yield line


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
        kept = json_text.loads(line)
        kind = _TYPES[kept.pop("type")]
        hints = _HINTS[kind]
        fields: dict[str, Any] = {n: _value(n, value, hints[n]) for n, value in kept.items()}
        return kind(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


_HINTS = {kind: get_type_hints(kind) for kind in _TYPES.values()}


def _value(name: str, value: Any, hint: object) -> object:  # noqa: ANN401 - out of JSON
    """A field's value, held against its type: files are changed by hand."""
    if name in _READERS:
        return _READERS[name](value)
    fitting = typed(value, hint)
    least = _LEAST_S.get(name)
    if least is not None and fitting is not None and not least <= fitting < _LONGEST_S:
        raise ValueError(f"{name} is {fitting}")
    return fitting


def _evidence(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("evidence is no object")
    return value


_READERS: Mapping[str, Callable[[Any], object]] = {
    "params": params_from_json,
    "outcome": outcome_from_json,
    "evidence": _evidence,
}
_LEAST_S = {"at": 0.0, "elapsed_s": 0.0, "seconds": 1e-12, "baseline_s": 1e-12}
_LEAST_S |= dict.fromkeys(("joules", "baseline_j"), 1e-12)

_One = TypeVar("_One", bound=Hashable)


class _Shared:
    """Keeps once what thousands of entries repeat: names of fields, words, configurations.

    Counts what is kept, about as CPython does, and raises an OSError where that is too much.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._names: set[str] = set()
        self._left = MOST_MEMORY_BYTES

    def entry(self, entry: Entry) -> Entry:
        self._left -= _ENTRY_BYTES
        if isinstance(entry, Record):
            entry = replace(entry, outcome=self._outcome(entry.outcome))
        elif isinstance(entry, Trial | Incumbent):
            entry = replace(entry, params=self._one(entry.params))
        elif isinstance(entry, Evidence):
            entry = Evidence(evidence=self._value(dict(entry.evidence)))
        if self._left < 0:
            limit = MOST_MEMORY_BYTES >> 20
            raise OSError(errno.EFBIG, f"what it says takes more than {limit} MiB of memory")
        if len(self._names) > _MOST_NAMES:
            raise OSError(errno.EFBIG, f"its records have more than {_MOST_NAMES:,} fields")
        return entry

    def _outcome(self, outcome: Outcome) -> Outcome:
        run = replace(
            outcome.run,
            argv=self._one(tuple(map(self._one, outcome.run.argv))),
            before=self._value(dict(outcome.run.before)),
            after=self._value(dict(outcome.run.after)),
        )
        params, test = self._one(outcome.params), self._one(outcome.test)
        if isinstance(outcome, Measurement):
            record = self._value(dict(outcome.record))
            self._left -= _VALUE_BYTES * len(outcome.samples_ns)
            self._names.update(record, run.before, run.after)
            return replace(outcome, run=run, params=params, test=test, record=record)
        tail = tuple(map(self._one, outcome.stderr_tail))
        return replace(outcome, run=run, params=params, test=test, stderr_tail=tail)

    def _value(self, value: Any) -> Any:  # noqa: ANN401 - out of JSON
        """The same, of shared parts."""
        if isinstance(value, str):
            return self._one(value)
        self._left -= _VALUE_BYTES
        if isinstance(value, dict):
            self._left -= _OBJECT_BYTES + _VALUE_BYTES * len(value)
            return {self._one(key): self._value(inner) for key, inner in value.items()}
        if isinstance(value, list):
            self._left -= _LIST_BYTES
            return [self._value(inner) for inner in value]
        return value

    def _one(self, value: _One) -> _One:
        known: _One | None = self._known.get(value)
        if known is not None:
            return known
        self._known[value] = value
        self._left -= _ENTRY_BYTES + (len(value) if isinstance(value, str | tuple) else 0)
        return value


_ENTRY_BYTES, _OBJECT_BYTES, _LIST_BYTES, _VALUE_BYTES = 200, 200, 64, 40
