"""Visits become trials, one after the other: written before they are measured, and when over."""

import contextlib
import json
import os
from bisect import insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import FailureKind
from autotune.params import params_from_json
from autotune.tuning.space import Space
from autotune.tuning.study import database, trials
from autotune.tuning.study.proposals import Known, propose
from autotune.tuning.study.rows import Row, nothing_is_garbage
from autotune.tuning.study.writing import Writer
from autotune.tuning.visits import Reading, Visit
from autotune.tuning.workload import Value

# So many trials in a row may have been interrupted before one that was not.
_MOST_UNKNOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A visit that was begun, for `tell` and `give_up`."""

    number: int
    trial_id: int  # Optuna's own, in the file.
    params: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Journalled:
    """What a journal has of a study: a power loss can take back what SQLite has written, not that.

    Attributes:
        over: what came of each visit, with what is minimised of a request, if known.
        n_begun: numbers of trials that it has something of; none of them is given again.
    """

    over: Sequence[tuple[Reading, float | None]] = ()
    n_begun: int = 0


class Study:
    """One study, in memory or in a SQLite file."""

    def __init__(
        self, storage: BaseStorage, space: Space, *, seed: int, path: Path | None = None
    ) -> None:
        self._storage = storage
        self._id = storage.get_study_id_from_name(database.NAME)
        self._space = space
        self._seed = seed
        self._path = path
        self._writer = Writer(storage, self._id, space)
        self._waiting: list[Row] = []
        self._known: list[Known] = []
        self._read: list[Reading] | None = []  # Until more is told; then the storage is asked.

    @staticmethod
    def create(path: Path | None, space: Space, facts: Mapping[str, Any], *, seed: int) -> "Study":
        """Begin a study; `facts` say what it belongs to. Without a path it is in memory.

        Raises:
            SurroundingsError: the file cannot be written.
        """
        # Under its own name only when it is whole: what a crash leaves of it is no study.
        part = None if path is None else path.with_name(f".{path.name}.{os.getpid()}")
        with database.writing(path):
            storage: BaseStorage = InMemoryStorage() if part is None else database.storage(part)
            study = optuna.create_study(
                storage=storage, study_name=database.NAME, direction="minimize"
            )
            study.set_user_attr("format_version", database.FORMAT_VERSION)
            study.set_user_attr("facts", json.loads(json.dumps(facts)))
            study.set_user_attr("seed", seed)
            if isinstance(storage, RDBStorage) and part and path:
                storage.remove_session()
                storage.engine.dispose()
                part.replace(path)
        if path:
            storage, _ = database.load(path)
        return Study(storage, space, seed=seed, path=path)

    @staticmethod
    def facts_of(path: Path) -> dict[str, Any]:
        """What the study in a file belongs to, with its seed.

        Raises:
            SurroundingsError: the file is no study.
        """
        _, kept = database.load(path)
        facts, seed = kept.get("facts"), kept.get("seed")
        if type(seed) is not int or not isinstance(facts, dict):
            raise database.unreadable(path, "it does not say what it is of")
        return {**facts, "seed": seed}

    @staticmethod
    def kept(path: Path) -> list[tuple[Reading, float | None]]:
        """What a study in a file has measured, each with the seconds of a request, if known.

        Raises:
            SurroundingsError: the file is no study.
        """
        _, kept = database.load(path)
        with database.as_kept(path), nothing_is_garbage():
            return [
                (trials.reading(row), row.value) for row in trials.over(database.rows(path), kept)
            ]

    @staticmethod
    def resume(path: Path, space: Space, known: Journalled | None = None) -> "Study":
        """Go on with a study; what was running when it ended is enqueued anew.

        What failed last, with nothing that worked after it, is measured anew as well: whatever has
        ended the session may have been at fault, such as a device that was gone.

        Args:
            path: of the file.
            space: as it was.
            known: what the journal has of it.

        Raises:
            SurroundingsError: the file is no study, or cannot be written.
        """
        storage, kept = database.load(path)
        study = Study(storage, space, seed=kept["seed"], path=path)
        with database.as_kept(path), database.writing(path), nothing_is_garbage():
            study._go_on(known or Journalled())
        return study

    def _go_on(self, known: Journalled) -> None:
        rows = self._rows()
        if self._complete(rows, known.over):
            rows = self._rows()
        self._let_pass(known.n_begun - len(rows))
        self._doubt(rows)
        kept = self._storage.get_study_user_attrs(self._id)
        over = trials.over(rows, kept)
        self._read = [trials.reading(row) for row in over]
        self._known = [
            self._writer.known(reading, row.value)
            for reading, row in zip(self._read, over, strict=True)
        ]
        waiting = [row for row in rows if row.state == TrialState.WAITING.name]
        # What only waits by the file, and has a record by the journal, was running as well.
        begun = [row for row in waiting if row.number < known.n_begun]
        running = [row for row in rows if row.state == TrialState.RUNNING.name]
        self._waiting = [row for row in waiting if row.number >= known.n_begun]
        self._waiting += [self._enqueue_anew(row) for row in (*begun, *running)]

    def readings(self) -> list[Reading]:
        """Everything that was finished, in the order in which it was."""
        if self._read is not None:
            return [*self._read]
        kept = self._storage.get_study_user_attrs(self._id)
        return [trials.reading(row) for row in trials.over(self._rows(), kept)]

    def _rows(self) -> list[Row]:
        if self._path:
            return database.rows(self._path)
        return [
            Row(
                trial_id=trial._trial_id,  # noqa: SLF001 - Optuna's storages know no other name
                number=trial.number,
                state=trial.state.name,
                value=trial.value,
                attributes=trial.user_attrs,
            )
            for trial in self._storage.get_all_trials(self._id, deepcopy=False)
        ]

    def begin(self, visit: Visit) -> Ticket:
        """Note that a visit is being measured."""
        why, point = trials.for_what(visit), self._space.point(visit.params)
        with database.writing(self._path):
            trial_id = self._taken_up(why)
            if trial_id is None:
                trial_id = self._writer.new(TrialState.RUNNING, why, point)
            number = self._storage.get_trial_number_from_id(trial_id)
        return Ticket(number=number, trial_id=trial_id, params=point)

    def _taken_up(self, why: Mapping[str, Any]) -> int | None:
        """What was interrupted is next in the queue; what is not wanted any more is let go."""
        while self._waiting:
            next_one = self._waiting.pop(0)
            self._start(next_one)
            if trials.why(next_one) == why:
                return next_one.trial_id
            self._storage.set_trial_state_values(next_one.trial_id, TrialState.FAIL)
        return None

    def _start(self, row: Row) -> None:
        """What waits has no parameters yet; only what it is for says them."""
        self._storage.set_trial_state_values(row.trial_id, TrialState.RUNNING)
        point = self._space.point(params_from_json(row.attributes["params"]))
        for name, distribution in self._writer.distributions.items():
            internal = distribution.to_internal_repr(point[name])
            self._storage.set_trial_param(row.trial_id, name, internal, distribution)

    def tell(self, ticket: Ticket, reading: Reading, seconds: float | None) -> None:
        """Keep what came of a visit; `seconds` of a request, where both parts are known."""
        with database.writing(self._path):
            self._writer.end(ticket.trial_id, reading, seconds)
        self._read = None
        insort(self._known, self._writer.known(reading, seconds))

    def give_up(self, ticket: Ticket, why: str) -> None:
        """A visit was begun and not finished."""
        # Where that cannot be written it stays running, and whoever resumes takes it for the same.
        with contextlib.suppress(SurroundingsError), database.writing(self._path):
            self._writer.fail(ticket.trial_id, why)

    def proposal(self, numbers: Collection[int], *, nth: int) -> dict[str, Value]:
        """What TPE would try next, given what came of some trials; it is not begun by this.

        A sampler of its own each time, and the trials in the order in which they were finished, so
        that a study that is worked through again proposes what it did.

        Args:
            numbers: of the trials that it may know: a resumed study holds later ones as well.
            nth: of the proposals from the same trials.
        """
        known = [one for one in self._known if one.number in numbers]
        seed = self._seed * 100_003 + 100 * len(numbers) + nth
        return propose(known, self._writer.distributions, seed=seed)

    # --- what a crash has left -------------------------------------------------------------------

    def _complete(self, rows: Sequence[Row], known: Iterable[tuple[Reading, float | None]]) -> bool:
        """Let the study have each trial that is known to be over, under its number."""
        n_trials = len(rows)
        over = {row.number for row in rows if row.state in trials.FINISHED}
        lost = [one for one in known if one[0].number not in over]
        for reading, seconds in sorted(lost, key=lambda one: one[0].number):
            if reading.number >= n_trials:
                self._add(reading, seconds, n_between=reading.number - n_trials)
                n_trials = reading.number + 1
                continue
            row = rows[reading.number]
            if row.state == TrialState.WAITING.name:
                self._start(row)
            self._writer.set(row.trial_id, trials.for_what(reading.visit))
            self._writer.end(row.trial_id, reading, seconds)
        return bool(lost)

    def _add(self, reading: Reading, seconds: float | None, *, n_between: int) -> None:
        """A trial of which the file knows nothing; of those before it nothing is known at all."""
        self._let_pass(n_between)
        why, point = trials.for_what(reading.visit), self._space.point(reading.visit.params)
        self._writer.end(self._writer.new(TrialState.RUNNING, why, point), reading, seconds)

    def _let_pass(self, n: int) -> None:
        """So many numbers were given, and nothing else is known of what was begun."""
        if n > _MOST_UNKNOWN:
            raise ValueError(f"there were no {n} trials more")
        for _ in range(n):
            self._writer.new(TrialState.FAIL, {"failure": "interrupted"}, {})

    def _doubt(self, rows: Sequence[Row]) -> None:
        """What failed last is not believed; that memory was too small is the configuration's."""
        kept = self._storage.get_study_user_attrs(self._id)
        numbers = [*trials.doubted(kept)]
        for row in reversed(trials.over(rows, kept)):
            if row.attributes.get("failure", FailureKind.OOM) == FailureKind.OOM:
                break
            numbers.append(row.number)
        self._storage.set_study_user_attr(self._id, "doubted", numbers)

    def _enqueue_anew(self, row: Row) -> Row:
        self._writer.fail(row.trial_id, "interrupted")
        why = trials.why(row)
        point = self._space.point(params_from_json(why["params"]))
        # As `enqueue_trial` does it, so that plain Optuna would ask for the same.
        trial_id = self._writer.new(TrialState.WAITING, why, {}, system={"fixed_params": point})
        number = self._storage.get_trial_number_from_id(trial_id)
        state = TrialState.WAITING.name
        return Row(trial_id=trial_id, number=number, state=state, value=None, attributes=why)
