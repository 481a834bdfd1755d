"""Writes down what a session tells, as it tells it: so that whatever ends a night loses nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, get_args

from autotune import __version__
from autotune.errors import SurroundingsError
from autotune.params import Params
from autotune.results.journal import (
    Entry,
    Evidence,
    Incumbent,
    Journal,
    Record,
    Trial,
    read_journal,
)
from autotune.results.journal import Session as Began
from autotune.results.profile import Profile, save
from autotune.results.stored import Visited, last_evidence, stored
from autotune.results.studies import Folder
from autotune.results.table import Table
from autotune.tuning import events
from autotune.tuning.objective import Part, Quantity
from autotune.tuning.study import Journalled, Study
from autotune.tuning.visits import Kind, Reading, Visit


class Keeper:
    """Keeps a study's journal, its table of records, and its best profile at any moment.

    A resumed session tells first what an earlier one has measured: what is known is passed over.

    Args:
        folder: of the study; its lock is held.
        budget_s: how long it may take.
        profile_of: a profile with these parameters, not verified.
        minimises: what the study's values are.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        budget_s: float | None,
        profile_of: Callable[[Params], Profile],
        minimises: Quantity = "seconds",
    ) -> None:
        self._folder = folder
        self._minimises = minimises
        self._profile_of = profile_of
        self._budget_s = budget_s
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        resumed, has_journal = self._folder.database.exists(), self._folder.journal.exists()
        known = _known(self._folder)
        self._know(known)
        self._journal = self._stack.enter_context(Journal(self._folder.journal))
        for entry in () if has_journal else known:
            self._journal.append(entry)
        self._stack.enter_context(self._table)
        self._append(
            Began(at=time.time(), lcm=__version__, budget_s=self._budget_s, resumed=resumed)
        )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(SurroundingsError):  # A full disk; the journal has it already.
            self._stack.close()

    def _know(self, entries: Sequence[Entry]) -> None:
        kept = stored(self._folder, entries)
        self._table = Table(kept)
        self._visited = kept.visited
        self._trials = {e.number for e in entries if isinstance(e, Trial)}
        self._recorded = {(e.trial, e.part) for e in entries if isinstance(e, Record)}
        self._incumbents = {_lead(e) for e in entries if isinstance(e, Incumbent)}
        self._is_proven = last_evidence(entries, proven=True) is not None

    def known(self) -> Journalled:
        """What the journal had when it was opened."""
        numbers = [*self._trials, *(n for n, _ in self._recorded if n is not None)]
        before, self._visited = self._visited, ()  # They are not held for a whole night.
        over = list(_over(before, self._minimises))
        return Journalled(over=over, n_begun=max(numbers, default=-1) + 1)

    def take(self, event: events.Event) -> None:
        """Keep what an event says.

        Raises:
            SurroundingsError: it cannot be written.
        """
        for entry in self._new(event):
            self._append(entry)
        best = _best_so_far(event)
        if best and not self._is_proven:  # A proven profile stays until the session's own verdict.
            save(self._folder.profile, self._profile_of(best))

    def conclude(self, evidence: Mapping[str, Any]) -> None:
        """Keep what the session came to."""
        self._append(Evidence(evidence=evidence))

    def _append(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._table.append(entry)

    def _new(self, event: events.Event) -> Iterator[Entry]:
        if isinstance(event, events.Recorded):
            self._recorded.add((event.number, event.part))
            yield Record(trial=event.number, part=event.part, outcome=event.outcome)
        elif isinstance(event, events.Measured) and event.reading.number not in self._trials:
            self._trials.add(event.reading.number)
            for entry in entries_of(event.reading, event.seconds, event.joules):
                if not isinstance(entry, Record) or (entry.trial, entry.part) not in self._recorded:
                    yield entry
        elif isinstance(event, events.NewIncumbent):
            entry = Incumbent(
                elapsed_s=event.elapsed_s,
                params=event.params,
                seconds=event.seconds,
                baseline_s=event.baseline_s,
                joules=event.joules,
                baseline_j=event.baseline_j,
            )
            if _lead(entry) not in self._incumbents:
                self._incumbents.add(_lead(entry))
                yield entry


def entries_of(reading: Reading, seconds: float | None, joules: float | None = None) -> list[Entry]:
    """A visit with its records, as the journal has them."""
    visit = reading.visit
    records: list[Entry] = [
        Record(trial=reading.number, part=part, outcome=outcome)
        for part, outcome in reading.outcomes.items()
    ]
    trial = Trial(
        number=reading.number,
        kind=visit.kind.value,
        source=visit.source,
        params=visit.params,
        parts=visit.parts,
        seconds=seconds,
        disturbed=reading.disturbed,
        elapsed_s=reading.elapsed_s,
        joules=joules,
    )
    return [*records, trial]


def _over(before: Sequence[Visited], minimises: Quantity) -> Iterator[tuple[Reading, float | None]]:
    for visited in before:
        trial = visited.trial
        with contextlib.suppress(ValueError):  # Of a later version, or changed by hand.
            yield _reading(visited), trial.joules if minimises == "joules" else trial.seconds


def _reading(visited: Visited) -> Reading:
    """The inverse of `entries_of`.

    Raises:
        ValueError: it is of no kind that is known here.
    """
    trial = visited.trial
    outcomes = {record.part: record.outcome for record in visited.records}
    visit = Visit(
        kind=Kind(trial.kind),
        source=trial.source,
        params=trial.params,
        parts=tuple(part for part in get_args(Part) if part in trial.parts),
    )
    return Reading(
        visit=visit,
        outcomes={part: outcomes[part] for part in visit.parts if part in outcomes},
        disturbed=trial.disturbed,
        elapsed_s=trial.elapsed_s,
        number=trial.number,
    )


def _lead(entry: Incumbent) -> tuple[Params, float, float]:
    """What a session that is worked through again says the same of."""
    return entry.params, entry.seconds, entry.baseline_s


def _known(folder: Folder) -> Sequence[Entry]:
    """What was measured before; in a study of format 1 the Optuna study has it."""
    with contextlib.suppress(FileNotFoundError):
        return read_journal(folder.journal).entries
    kept = Study.kept(folder.database) if folder.database.exists() else []
    return [entry for reading, seconds in kept for entry in entries_of(reading, seconds)]


def _best_so_far(event: events.Event) -> Params | None:
    """What is to be used if nothing more comes: first the defaults, then each new incumbent."""
    if isinstance(event, events.NewIncumbent):
        return event.params
    if isinstance(event, events.Measured) and event.reading.visit.kind is Kind.BASELINE:
        return None if event.reading.failure else event.reading.visit.params
    return None
