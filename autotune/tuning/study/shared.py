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
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
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
from autotune.tuning.study.writing import Writer
from autotune.tuning.visits import Reading, Visit
from autotune.tuning.workload import Value

FORMAT_VERSION = 1
# Whoever has made a study says at once what it is of; after so long it has died over that.
_FACTS_WITHIN_S = 10.0
_LAST_BEAT_S = 5.0  # As long a heartbeat that is under way is waited for.
_WORKER = "worker:"
_WITHDRAWN = "withdrawn:"
_WINNER = "winner"
# Workers whose time is up in the same moment differ by a few readings, and are to verify the same.
_GOOD_DEAL = 1.25
_OVER = frozenset({TrialState.COMPLETE, TrialState.PRUNED})
_IN_ANOTHERS_WAY = "another was first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a machine's own verification showed of a winner."""

    params: Mapping[str, Any]
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process of one machine that works on a study, as it says it itself."""

    id: str
    host: str
    pid: int
    machine: str = ""  # In words.
    began_at: float = 0.0  # Seconds since the epoch, by its own clock.
    seen_at: float = 0.0
    state: str = "working"  # working, verifying, finished, interrupted, failed.
    holding: Holding | None = None

    @staticmethod
    def here(machine: str = "") -> "Worker":
        """This process."""
        host, pid, now = socket.gethostname(), os.getpid(), time.time()
        name = f"{host}-{pid}-{uuid.uuid4().hex[:6]}"
        return Worker(id=name, host=host, pid=pid, machine=machine, began_at=now, seen_at=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A visit, the how-manieth time it is asked for, and by whom, where each answers for itself."""

    visit: Visit
    nth: int
    key: str = field(default="")


def open_or_create(
    server: Server, name: str, facts: Mapping[str, Any], *, seed: int
) -> Mapping[str, Any]:
    """Begin a study unless there is one; gives the facts of the study that there is then.

    Raises:
        SurroundingsError: the database does not let it, or the study is of a later version.
    """
    storage = server.storage
    said = {"format_version": FORMAT_VERSION, "seed": seed}
    whole: dict[str, Any] = json.loads(json.dumps({**facts, **said}))

    def create() -> bool:
        try:
            optuna.create_study(storage=storage, study_name=name, direction="minimize")
        except DuplicatedStudyError:
            return False
        return True

    is_ours = server.do(create)
    study_id = server.do(lambda: storage.get_study_id_from_name(name))
    until = time.monotonic() + _FACTS_WITHIN_S
    while not is_ours:
        kept = server.do(lambda: storage.get_study_user_attrs(study_id)).get("facts")
        if kept is not None:
            return _checked(name, kept)
        if time.monotonic() > until:  # It has died before it could say so.
            break
        time.sleep(0.1)
    server.do(lambda: storage.set_study_user_attr(study_id, "facts", whole))
    return whole


def _checked(name: str, kept: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever stands there
    version = kept.get("format_version") if isinstance(kept, dict) else None
    if version != FORMAT_VERSION:
        raise SurroundingsError(
            f"the study {name} is of format {version!r}, and this lcm knows {FORMAT_VERSION}",
            hint="use the same lcm on every machine",
        )
    return dict(kept)


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
        self.me = me
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
        # What each worker said last of when it was seen, and since when it has said nothing else.
        self._seen: dict[str, tuple[float, float]] = {}
        self._judged_at_s = 0.0
        self._readings: dict[int, Reading] = {}
        self._proposed: dict[tuple[frozenset[int], int], dict[str, Value]] = {}
        self._attributes: Mapping[str, Any] = {}
        self.version: object = None  # Changes whenever there is something to be seen.
        self._saying = threading.Lock()
        self._ended = threading.Event()
        self._say_who_we_are()
        self._pulse = threading.Thread(target=self._beat, name="lcm's heartbeat", daemon=True)
        if server.has_heartbeats:
            self._pulse.start()
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
        self._answers, self._holders = {}, {}
        for trial in sorted(every, key=lambda trial: trial.number):
            slot = trial.user_attrs.get("slot")
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
            key = f"{key}@{self.me.id}"
        return Slot(visit=visit, nth=nth, key=key)

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

    def seconds_of(self, number: int) -> float | None:
        """Of a request, as it was told with a reading."""
        found = (trial.value for trial in self._answers.values() if trial.number == number)
        return next(found, None)

    def winner(self) -> tuple[Params, int] | None:
        """What a worker has come to, and of how many readings."""
        kept = self._attributes.get(_WINNER)
        return (params_from_json(kept["params"]), kept["readings"]) if kept else None

    def workers(self) -> list[Worker]:
        """Every worker that there was, as it said itself."""
        return workers_of(self._attributes)

    # --- measuring -------------------------------------------------------------------------------

    def readings(self) -> list[Reading]:
        """Nothing is replayed before the search asks for it."""
        return []

    def claim(self, slot: Slot) -> Ticket | None:
        """Begin to measure; None where another was first."""
        why = trials.for_what(slot.visit) | {"slot": slot.key, "worker": self.me.id}
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
            is_ours = first.user_attrs.get("worker") == self.me.id
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
        ticket = self.claim(Slot(visit=visit, nth=0, key=f"{uuid.uuid4().hex}@{self.me.id}"))
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
            key, numbers = _WITHDRAWN + self.me.id, list(self._failed)
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
        """What is verified on every machine: the winner of whoever knows most, by a good deal."""
        self.look()
        there = self.winner()
        if there is not None and readings <= _GOOD_DEAL * there[1]:
            return there[0]
        kept = {"params": params_to_json(winner), "readings": readings}
        self._server.do(lambda: self._storage.set_study_user_attr(self._id, _WINNER, kept))
        return winner

    def now(self, state: str, holding: Holding | None = None) -> None:
        """Say how far this worker is."""
        kept = {**asdict(self.me), "state": state}
        kept["holding"] = holding or self.me.holding
        self.me = Worker(**kept)
        self._say_who_we_are()

    def hurry(self, seconds: float) -> None:
        """Wait no longer for a database that is away. Safe in a signal handler."""
        self._server.hurry(seconds)

    def leave(self) -> None:
        """This worker does nothing more here."""
        self._ended.set()
        if self._pulse.is_alive():
            self._pulse.join(_LAST_BEAT_S)
        self._server.close()

    def _say_who_we_are(self) -> None:
        self._server.do(self._write_who_we_are)

    def _write_who_we_are(self) -> None:
        with self._saying:  # Or a heartbeat could say last what was so when it began.
            kept = {**asdict(self.me), "seen_at": time.time()}
            self._storage.set_study_user_attr(self._id, _WORKER + self.me.id, kept)

    def _beat(self) -> None:
        while not self._ended.wait(self._server.pulse.interval_s):
            for trial_id in list(self._held):
                self._heartbeat(trial_id)
            self._server.try_once(self._write_who_we_are)
        self._server.leave_thread()

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
        now = time.monotonic()
        for worker in workers_of(self._attributes):
            said, _ = self._seen.get(worker.id, (None, now))
            if said != worker.seen_at:
                self._seen[worker.id] = worker.seen_at, now
        grace_s = self._server.pulse.grace_s
        for slot, trial in list(self._holders.items()):
            _, since_s = self._seen.get(trial.user_attrs.get("worker", ""), (0.0, now))
            is_ours = trial._trial_id in self._held  # noqa: SLF001
            if not is_ours and min(now - since_s, self._server.steady_s) > grace_s + 1:
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


def workers_of(attributes: Mapping[str, Any]) -> list[Worker]:
    """Every worker that a study knows of, in the order in which they came."""
    found = []
    for key, kept in attributes.items():
        if key.startswith(_WORKER):
            holding = kept.get("holding")
            found.append(Worker(**{**kept, "holding": Holding(**holding) if holding else None}))
    return sorted(found, key=lambda worker: (worker.began_at, worker.id))
