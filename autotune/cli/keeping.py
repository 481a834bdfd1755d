"""Writes down what a session tells, as it tells it: so that whatever ends a night loses nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Self

from autotune import __version__
from autotune.params import Params
from autotune.results.journal import (
    Contents,
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
from autotune.results.studies import Folder
from autotune.results.table import Table
from autotune.tuning import events
from autotune.tuning.visits import Kind, Reading


class Keeper:
    """Keeps a study's journal, its table of records, and its best profile at any moment.

    A resumed session tells first what an earlier one has measured: what is known is passed over.

    Args:
        folder: of the study; its lock is held.
        budget_s: how long it may take.
        profile_of: a profile with these parameters, not verified.
    """

    def __init__(
        self, folder: Folder, *, budget_s: float | None, profile_of: Callable[[Params], Profile]
    ) -> None:
        self._folder = folder
        self._profile_of = profile_of
        self._budget_s = budget_s
        known = _known(folder)
        self._table = Table(folder, known.entries)
        self._resumed = folder.database.exists()
        self._trials = {e.number for e in known.entries if isinstance(e, Trial)}
        self._recorded = {(e.trial, e.part) for e in known.entries if isinstance(e, Record)}
        self._incumbents = sum(isinstance(e, Incumbent) for e in known.entries)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._journal = self._stack.enter_context(Journal(self._folder.journal))
        self._stack.enter_context(self._table)
        self._append(
            Began(at=time.time(), lcm=__version__, budget_s=self._budget_s, resumed=self._resumed)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, event: events.Event) -> None:
        """Keep what an event says.

        Raises:
            SurroundingsError: it cannot be written.
        """
        for entry in self._new(event):
            self._append(entry)
        best = _best_so_far(event)
        if best:
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
            for entry in entries_of(event.reading, event.seconds):
                if not isinstance(entry, Record) or (entry.trial, entry.part) not in self._recorded:
                    yield entry
        elif isinstance(event, events.NewIncumbent):
            self._incumbents -= 1
            if self._incumbents < 0:
                yield Incumbent(
                    elapsed_s=event.elapsed_s,
                    params=event.params,
                    seconds=event.seconds,
                    baseline_s=event.baseline_s,
                )


def entries_of(reading: Reading, seconds: float | None) -> list[Entry]:
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
    )
    return [*records, trial]


def _known(folder: Folder) -> Contents:
    with contextlib.suppress(FileNotFoundError):
        return read_journal(folder.journal)
    return Contents(entries=(), damaged=0)


def _best_so_far(event: events.Event) -> Params | None:
    """What is to be used if nothing more comes: first the defaults, then each new incumbent."""
    if isinstance(event, events.NewIncumbent):
        return event.params
    if isinstance(event, events.Measured) and event.reading.visit.kind is Kind.BASELINE:
        return None if event.reading.failure else event.reading.visit.params
    return None
