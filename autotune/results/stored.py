"""A study as it is kept, read whole: what every export, report and comparison is made of."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune import files, json_text
from autotune.errors import ConfigError, SurroundingsError
from autotune.llama_cpp.records import Measurement
from autotune.results.journal import (
    Entry,
    Evidence,
    Incumbent,
    Record,
    Session,
    Trial,
    read_journal,
)
from autotune.results.kept_shapes import checked_evidence, known_environment
from autotune.results.profile import Profile, load
from autotune.results.studies import Folder

MOST_BYTES = 1 << 20  # environment.json is a few thousand; a model has at most some hundred files.


@dataclass(frozen=True, slots=True, kw_only=True)
class Visited:
    """A trial with its records."""

    trial: Trial
    records: tuple[Record, ...]

    def measured(self, part: str) -> Measurement | None:
        """What llama-bench measured of a part, if it did."""
        outcomes = (record.outcome for record in self.records if record.part == part)
        return next((one for one in outcomes if isinstance(one, Measurement)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Everything that is kept of a study."""

    folder: Folder
    environment: Mapping[str, Any]  # As `environment.json` has it; empty in format 1.
    sessions: tuple[Session, ...]
    records: tuple[Record, ...]  # All of them, in the order in which they came.
    visited: tuple[Visited, ...]  # In the order in which they ended.
    incumbents: tuple[Incumbent, ...]
    evidence: Mapping[str, Any] | None  # The answer's section; None: no session came to an end.
    profile: Profile | None
    damaged: int = 0  # Lines of the journal that could not be read.

    @property
    def objective(self) -> str:
        """What was minimised: the seconds of a request or a part of it, or "efficiency"."""
        asked = (self.evidence or {}).get("workload") or self.environment.get("request") or {}
        return str(asked.get("objective", "request"))


def read_study(folder: Folder) -> Stored:
    """Read a study of format 2, finished or not.

    Raises:
        FileNotFoundError: it has no journal.
        SurroundingsError: a file of it cannot be read.
    """
    contents = read_journal(folder.journal)
    return stored(folder, contents.entries, damaged=contents.damaged)


def stored(folder: Folder, entries: Sequence[Entry], *, damaged: int = 0) -> Stored:
    """Put together what stands in a folder and what its journal says."""
    records = tuple(entry for entry in entries if isinstance(entry, Record))
    return Stored(
        folder=folder,
        environment=environment_of(folder),
        sessions=tuple(entry for entry in entries if isinstance(entry, Session)),
        records=records,
        visited=_visited(entries, records),
        incumbents=tuple(entry for entry in entries if isinstance(entry, Incumbent)),
        evidence=checked_evidence(last_evidence(entries)),
        profile=_profile(folder),
        damaged=damaged,
    )


def last_evidence(entries: Sequence[Entry], *, proven: bool = False) -> Mapping[str, Any] | None:
    """What the last session came to; one that was cut off leaves a gain that was shown before.

    Args:
        entries: of a journal.
        proven: only a gain that was shown.
    """
    last: Mapping[str, Any] | None = None
    for entry in entries:
        if isinstance(entry, Evidence):
            last = entry.evidence
        elif isinstance(entry, Session) and not _is_gain(last):
            last = None
    return last if not proven or _is_gain(last) else None


def _is_gain(evidence: Mapping[str, Any] | None) -> bool:
    return evidence is not None and evidence.get("verdict") == "better"


def _visited(entries: Sequence[Entry], records: Sequence[Record]) -> tuple[Visited, ...]:
    of_trial: dict[int | None, list[Record]] = {}
    for record in records:
        of_trial.setdefault(record.trial, []).append(record)
    return tuple(
        Visited(trial=entry, records=tuple(of_trial.get(entry.number, ())))
        for entry in entries
        if isinstance(entry, Trial)
    )


def environment_of(folder: Folder) -> Mapping[str, Any]:
    """Under which circumstances it was measured; empty where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return known_environment(json_text.loads(files.read(folder.environment, MOST_BYTES)))
    return {}


def _profile(folder: Folder) -> Profile | None:
    with contextlib.suppress(FileNotFoundError, ConfigError, SurroundingsError):
        return load(folder.profile)
    return None
