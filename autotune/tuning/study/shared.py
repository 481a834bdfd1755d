"""A study that many machines work on: who measures what, and what came of it.

A trial answers for a slot: one visit, and the how-manieth time the search asks for it. Whoever
wants to measure a slot begins a trial for it, and looks whether another was first: Optuna's storage
numbers the trials of a study one by one, under a lock of the database, so of two that began at once
each sees the same one as first. The other lets its own go. What runs is kept alive by Optuna's
heartbeats; what has lost its worker is failed, and a failed trial answers for nothing, so that the
slot is free again.
"""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params, params_from_json, params_to_json
from autotune.tuning.space import Space
from autotune.tuning.study import trials
from autotune.tuning.study.proposals import Known, propose
from autotune.tuning.study.record import Journalled, Ticket
from autotune.tuning.study.rows import Row
from autotune.tuning.study.server import Server
from autotune.tuning.study.workers import Holding, Presence, Silence, Worker, workers_of
from autotune.tuning.study.writing import Writer
from autotune.tuning.visits import Reading, Visit
from autotune.tuning.workload import Value

_WITHDRAWN = "withdrawn:"
_WINNER = "winner"
# Workers whose time is up in the same moment differ by a few readings, and are to verify the same.
_GOOD_DEAL = 1.25
_OVER = frozenset({TrialState.COMPLETE, TrialState.PRUNED})
_IN_ANOTHERS_WAY = "another was first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A visit that is asked for: the same for every worker whose word answers for it."""

    visit: Visit
    key: str  # Of the visit, the how-manieth time, and by whom, where each answers for itself.


class SharedStudy:
    """One study in a storage that others use too, as one worker sees it."""

    def __init__(
        self,
        server: Server,
        name: str,
        space: Space,
        *,
        seed: int,
        me: Worker,
        known: Journalled | None = None,
    ) -> None:
        self.name = name
        self._me = me
        self._server = server
        self._storage = server.storage
        self._id = server.do(lambda: self._storage.get_study_id_from_name(name))
        self._space = space
        self._seed = seed
        self._writer = Writer(server.storage, self._id, space)
        self._held: set[int] = set()  # Ids of the trials that run here.
        self._answers: dict[str, FrozenTrial] = {}
        self._holders: dict[str, FrozenTrial] = {}
        self._failed: list[int] = []  # Numbers of those that failed here, since something worked.
        self._winners: list[tuple[Params, int]] = []  # In the order in which they were named.
        self._silence = Silence()
        self._judged_at_s = 0.0
        self._readings: dict[int, Reading] = {}
        self._proposed: dict[tuple[frozenset[int], int], dict[str, Value]] = {}
        self._attributes: Mapping[str, Any] = {}
        self.version: object = None  # Changes whenever there is something to be seen.
        self._presence = Presence(server, self._id, me, beat=self._beat)
        self.look()
        self._tell_again((known or Journalled()).over)

    # --- what is there ---------------------------------------------------------------------------

    def look(self) -> None:
        """See what the others have done since."""
        self._free_what_the_dead_held()
        self._attributes = self._server.do(lambda: self._storage.get_study_user_attrs(self._id))
        every = self._server.do(lambda: self._storage.get_all_trials(self._id, deepcopy=False))
        withdrawn = {
            number
            for key, numbers in self._attributes.items()
            if key.startswith(_WITHDRAWN)
            for number in numbers
        }
        self._answers, self._holders, self._winners = {}, {}, []
        for trial in sorted(every, key=lambda trial: trial.number):
            slot = trial.user_attrs.get("slot")
            if trial.user_attrs.get("kind") == _WINNER:
                self._winners.append(_winner(trial))
            if slot is None or trial.number in withdrawn:
                continue
            if is_over(trial):
                self._answers.setdefault(slot, trial)
            elif trial.state == TrialState.RUNNING:
                self._holders.setdefault(slot, trial)
        self._free_what_the_silent_hold()
        self.version = (len(self._answers), *sorted(t.number for t in self._holders.values()))

    def slot(self, visit: Visit, nth: int, *, own: bool = False) -> Slot:
        """What answers for a visit; where it is its `own`, only this worker does."""
        text = json.dumps(trials.for_what(visit), sort_keys=True)
        key = f"{hashlib.sha256(text.encode()).hexdigest()[:24]}-{nth}"
        if own:
            key = f"{key}@{self._me.id}"
        return Slot(visit=visit, key=key)

    def answer(self, slot: Slot) -> Reading | None:
        """What anybody has measured for it, when last looked."""
        trial = self._answers.get(slot.key)
        if trial is None:
            return None
        if trial.number not in self._readings:
            row = Row(
                trial_id=trial._trial_id,  # noqa: SLF001 - Optuna's storages know no other name
                number=trial.number,
                state=trial.state.name,
                value=trial.value,
                attributes=trial.user_attrs,
            )
            self._readings[trial.number] = trials.reading(row)
        return self._readings[trial.number]

    def is_free(self, slot: Slot) -> bool:
        """Nobody has measured it, and nobody is at it, when last looked."""
        return slot.key not in self._answers and slot.key not in self._holders

    def workers(self) -> list[Worker]:
        """Every worker that there was, as it said itself."""
        return workers_of(self._attributes)

    # --- measuring -------------------------------------------------------------------------------

    def readings(self) -> list[Reading]:
        """Nothing is replayed before the search asks for it."""
        return []

    def claim(self, slot: Slot) -> Ticket | None:
        """Begin to measure; None where another was first."""
        why = trials.for_what(slot.visit) | {"slot": slot.key, "worker": self._me.id}
        point = self._space.point(slot.visit.params)
        trial_id = self._server.do(lambda: self._writer.new(TrialState.RUNNING, why, point))
        self._held.add(trial_id)
        self._heartbeat(trial_id)
        self.look()
        first = self._answers.get(slot.key) or self._holders.get(slot.key)
        if first is None:  # Ours was failed already: the machine was asleep.
            self._held.discard(trial_id)
            return None
        if first._trial_id != trial_id:  # noqa: SLF001 - as above
            self._let_go(trial_id, _IN_ANOTHERS_WAY)
            is_ours = first.user_attrs.get("worker") == self._me.id
            # Written by a try of which we were told that it had failed.
            if not (is_ours and first.state == TrialState.RUNNING):
                return None
            trial_id = first._trial_id  # noqa: SLF001
            if trial_id in self._held:
                return None
            self._held.add(trial_id)
        return Ticket(number=first.number, trial_id=trial_id, params=point)

    def begin(self, visit: Visit) -> Ticket:
        """What is not shared between workers, such as whether llama-bench is well."""
        ticket = self.claim(Slot(visit=visit, key=f"{uuid.uuid4().hex}@{self._me.id}"))
        if ticket is None:
            raise SurroundingsError(
                f"{self._server.where} has lost what was begun", hint="start it again"
            )
        return ticket

    def tell(self, ticket: Ticket, reading: Reading, seconds: float | None) -> None:
        """Keep what came of a visit, also where this worker was taken for dead meanwhile."""
        try:
            self._server.do(lambda: self._writer.end(ticket.trial_id, reading, seconds))
        except UpdateFinishedTrialError:
            self._tell_beside(ticket.trial_id, reading, seconds)
        finally:
            self._held.discard(ticket.trial_id)
        self._notice(ticket.number, reading)

    def _tell_beside(self, trial_id: int, reading: Reading, seconds: float | None) -> None:
        """It is over in the record: by a try of ours that was not answered, or as a dead one's."""
        there = self._server.do(lambda: self._storage.get_trial(trial_id))
        if there.state != TrialState.FAIL:
            return
        point = self._space.point(reading.visit.params)
        whole = trials.for_what(reading.visit)
        whole |= {k: there.user_attrs[k] for k in ("slot", "worker") if k in there.user_attrs}
        anew = self._server.do(lambda: self._writer.new(TrialState.RUNNING, whole, point))
        with contextlib.suppress(UpdateFinishedTrialError):  # That too was a second try.
            self._server.do(lambda: self._writer.end(anew, reading, seconds))

    def give_up(self, ticket: Ticket, why: str) -> None:
        """A visit was begun and not finished; another may have it."""
        # Where that cannot be written its heartbeat ends, which comes to the same.
        with contextlib.suppress(SurroundingsError):
            self._let_go(ticket.trial_id, why)

    def _let_go(self, trial_id: int, why: str) -> None:
        self._held.discard(trial_id)
        with contextlib.suppress(UpdateFinishedTrialError):
            self._server.do(lambda: self._writer.fail(trial_id, why))

    def _notice(self, number: int, reading: Reading) -> None:
        if reading.failure is None:
            self._failed.clear()
        elif reading.failure.kind is not FailureKind.OOM:
            self._failed.append(number)

    def withdraw(self) -> None:
        """Nothing works here any more: what failed here last is no word on the configurations."""
        if self._failed:
            key, numbers = _WITHDRAWN + self._me.id, list(self._failed)
            self._server.do(lambda: self._storage.set_study_user_attr(self._id, key, numbers))

    def proposal(self, numbers: Collection[int], *, nth: int) -> dict[str, Value]:
        """What TPE would try next, given some trials: the same for every worker that knows them."""
        asked = frozenset(numbers), nth
        if asked not in self._proposed:
            known = [
                self._known(trial) for trial in self._answers.values() if trial.number in numbers
            ]
            seed = self._seed * 100_003 + 100 * len(numbers) + nth
            self._proposed[asked] = propose(
                sorted(known, key=lambda one: one.number), self._writer.distributions, seed=seed
            )
        return self._proposed[asked]

    def _known(self, trial: FrozenTrial) -> Known:
        params = params_from_json(trial.user_attrs["params"])
        # Seconds of different sessions have no order; the numbers have.
        return Known(0.0, trial.number, trial.value, self._space.point(params))

    # --- the others ------------------------------------------------------------------------------

    def agree_on(self, winner: Params, readings: int) -> Params:
        """What is verified on every machine: the first winner that was named.

        Only who knows a good deal more replaces it. Naming one is a trial too, since the storage
        numbers those one by one: of two that do so at once each sees the same one as first.
        """
        mine = {
            "kind": _WINNER,
            "params": params_to_json(winner),
            "readings": readings,
            "worker": self._me.id,
        }
        self._server.do(lambda: self._writer.new(TrialState.FAIL, mine, {}))
        self.look()
        agreed, known = self._winners[0]
        for params, theirs in self._winners[1:]:
            if theirs > _GOOD_DEAL * known:
                agreed, known = params, theirs
        return agreed

    def now(self, state: str, holding: Holding | None = None) -> None:
        """Say how far this worker is."""
        self._presence.now(state, holding)

    def hurry(self, seconds: float) -> None:
        """Wait no longer for a database that is away. Safe in a signal handler."""
        self._server.hurry(seconds)

    def leave(self) -> None:
        """This worker does nothing more here."""
        self._presence.end()
        self._server.close()

    def _beat(self) -> None:
        for trial_id in list(self._held):
            self._heartbeat(trial_id)

    def _heartbeat(self, trial_id: int) -> None:
        storage = self._storage
        if self._server.has_heartbeats:
            self._server.try_once(lambda: storage.record_heartbeat(trial_id))  # type: ignore[attr-defined]

    def _free_what_the_dead_held(self) -> None:
        """Whoever was itself cut off does not judge others: they may have been so too."""
        pulse, now = self._server.pulse, time.monotonic()
        if not self._server.has_heartbeats or self._server.steady_s < pulse.grace_s:
            return
        if now - self._judged_at_s >= pulse.interval_s:
            self._judged_at_s = now
            self._server.do(self._fail_stale)

    def _free_what_the_silent_hold(self) -> None:
        """Whoever died before its first heartbeat has none that could be old."""
        now, server = time.monotonic(), self._server
        if not server.has_heartbeats:  # Then all are silent.
            return
        self._silence.look(self._attributes, now)
        for slot, trial in list(self._holders.items()):
            silent_s = self._silence.of(trial.user_attrs.get("worker", ""), now)
            is_ours = trial._trial_id in self._held  # noqa: SLF001
            if not is_ours and min(silent_s, server.steady_s) > server.pulse.grace_s + 1:
                self._let_go(trial._trial_id, "its worker is silent")  # noqa: SLF001
                del self._holders[slot]

    def _fail_stale(self) -> None:
        study = optuna.load_study(study_name=self.name, storage=self._storage)
        optuna.storages.fail_stale_trials(study)

    def _tell_again(self, over: Sequence[tuple[Reading, float | None]]) -> None:
        """What a journal has that the database never heard of, or has lost."""
        if not over:
            return
        every = self._server.do(lambda: self._storage.get_all_trials(self._id, deepcopy=False))
        by_number = {trial.number: trial for trial in every}
        for reading, seconds in over:
            trial = by_number.get(reading.number)
            if trial is None or trial.state in _OVER:
                continue
            if trial.user_attrs.get("params") != params_to_json(reading.visit.params):
                continue
            ticket = Ticket(number=trial.number, trial_id=trial._trial_id, params={})  # noqa: SLF001
            self.tell(ticket, reading, seconds)
        self.look()


def is_over(trial: FrozenTrial) -> bool:
    """It was measured to its end."""
    return trial.state in _OVER and "outcomes" in trial.user_attrs


def _winner(trial: FrozenTrial) -> tuple[Params, int]:
    """What a worker has come to, and of how many readings."""
    return params_from_json(trial.user_attrs["params"]), trial.user_attrs["readings"]
