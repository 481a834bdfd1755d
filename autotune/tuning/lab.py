"""Where visits are measured: one after the other, in the open, within the time there is.

Every visit is a trial of the study before it starts, and is kept there when it ends. A resumed
study is worked through again from its beginning: what it has measured is answered from the record,
until the record ends and llama-bench takes over. So nothing is measured twice, and there is no
other state that could be lost.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from autotune.llama_cpp.failures import full_place
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Progress
from autotune.llama_cpp.records import FailureKind, Outcome, State
from autotune.tuning import events
from autotune.tuning.breaker import Breaker
from autotune.tuning.clock import Clock
from autotune.tuning.costs import Costs
from autotune.tuning.job import Bench, Job, Lost
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Part
from autotune.tuning.study import Ticket
from autotune.tuning.visits import DECIDING, Kind, Reading, Visit
from autotune.tuning.watch import Watch

# A disturbed visit is measured again at most so often; then what there is has to do. What decides
# is not given up that soon.
MOST_AGAIN, MOST_AGAIN_DECIDING = 2, 5
# How far a run may go beyond the time that it was predicted to end in: the budget is kept to 5 %.
_GRACE_S, _GRACE_SHARE = 5.0, 0.02


class TimeIsUp(Exception):
    """There is no time for what was asked, or the user has had enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be measured. None: no limit."""

    budget_s: float | None = None
    from_now: bool = False  # It does not count what earlier sessions took: until a time of day.
    trials: int | None = None  # Visits of the search; the verification comes on top.


class Record(Protocol):
    """Where every visit is kept: `Study`, or one that is shared."""

    def readings(self) -> list[Reading]:
        """What a session that is resumed has measured."""
        ...

    def begin(self, visit: Visit) -> Ticket:
        """A visit is being measured."""
        ...

    def tell(self, ticket: Ticket, reading: Reading, seconds: float | None) -> None:
        """What came of it, with the seconds of a request, if known."""
        ...

    def give_up(self, ticket: Ticket, why: str) -> None:
        """It will not be finished."""
        ...


class Lab:
    """Measures visits, and remembers."""

    # So many of Optuna's proposals in a row are of the same knowledge.
    proposals_at_once: ClassVar[int] = 1

    def __init__(
        self,
        *,
        bench: Bench,
        study: Record,
        knowledge: Knowledge,
        memory: Memory,
        clock: Clock,
        limits: Limits,
        n_cpus: int,
        observe: Callable[[], State],
        tell: Callable[[events.Event], None],
        may_stop_tests: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        kept = study.readings()
        spent_s = max((reading.elapsed_s for reading in kept), default=0.0)
        if limits.from_now and limits.budget_s is not None:
            limits = replace(limits, budget_s=limits.budget_s + spent_s)
        self.knowledge = knowledge
        self.memory = memory
        self.costs = Costs(knowledge)
        self.limits = limits
        self.tell = tell
        self.reserved_s = 0.0  # Seconds that are kept for what comes after the search.
        self.kept_s: Callable[[], float] = lambda: 0.0  # And for what comes after all measuring.
        self.patient = False  # What is measured now is measured however long it takes.
        self.failures: dict[FailureKind, int] = {}
        self.watch = Watch(
            observe=observe, clock=clock, n_cpus=n_cpus, budget_s=limits.budget_s, tell=tell
        )
        self._bench = bench
        self._study = study
        self._clock = clock
        self._may_stop_tests = may_stop_tests
        self._check = check  # Raises where what is measured is not what it was.
        passing = (INTERRUPTED, STILL_WELL)  # True of the session that it was in.
        self._kept = [reading for reading in kept if reading.visit.source not in passing]
        self._began = clock.now() - spent_s
        self._replayed_s = 0.0
        self._breaker = Breaker()
        self._job: Job | None = None
        self._hurried = False
        self._hurry_ends_s = math.inf

    @property
    def elapsed_s(self) -> float:
        """Seconds that the study has taken, all its sessions together."""
        return self._replayed_s if self._kept else self._clock.now() - self._began

    @property
    def hurried(self) -> bool:
        """The user has asked for an end."""
        return self._hurried

    def hurry(self, seconds: float) -> None:
        """End what is running; what follows has so many seconds. Safe in a signal handler."""
        self._hurry_ends_s = self.elapsed_s + seconds
        self._hurried = True
        if self._job:
            self._job.stop()

    def left_s(self) -> float:
        """Seconds for measuring, less what is reserved."""
        if self._hurried:
            return self._hurry_ends_s - self.elapsed_s
        if self.limits.budget_s is None or self.patient:
            return math.inf
        return self.limits.budget_s - self.reserved_s - self.kept_s() - self.elapsed_s

    def least_repetitions(self) -> int:
        """So many that a meter can tell, and where the first one does not count, others.

        That is so of a test on a GPU that is over at once.
        """
        objective = self.knowledge.objective
        known = [
            m for r in self.knowledge.readings[:1] for p in objective.parts if (m := r.measured(p))
        ]
        warmed = 3 if any(objective.wants_warm(m.samples_ns) for m in known) else 1
        return max(warmed, objective.repetitions)

    def cost_s(self, visits: Sequence[Visit], *, repetitions: int = 1) -> float:
        """Seconds that some visits will take, in as few loads as they take."""
        objective = self.knowledge.objective
        trials = [objective.trial(v.params, part) for v in visits for part in v.parts]
        return self.costs.of(trials, repetitions)

    def visit(
        self, visits: Sequence[Visit], *, repetitions: int = 1, lost: Lost | None = None
    ) -> list[Reading]:
        """Measure configurations, those that share a load in one run of llama-bench.

        Args:
            visits: what to measure, in the order that is wanted within a load.
            repetitions: of every test.
            lost: whether a visit has lost by one of its parts: the other is then not measured.

        Returns:
            The reading of each; where it was disturbed, that of its last repetition that worked.

        Raises:
            TimeIsUp: it would not be, or was not, finished in time.
            CouldNotMeasure: everything fails in the same way.
        """
        readings = self._once(visits, repetitions, lost)
        for _ in range(MOST_AGAIN_DECIDING if visits[0].kind in DECIDING else MOST_AGAIN):
            again = [i for i, reading in enumerate(readings) if reading.disturbed]
            if not again or self._hurried:
                break
            began_s = self.elapsed_s
            self._calm_down(readings[again[0]])
            try:
                fresh = self._once([visits[i] for i in again], repetitions, lost)
            except TimeIsUp:  # What there is has to do.
                break
            self.watch.lost_s += self.elapsed_s - began_s
            for i, reading in zip(again, fresh, strict=True):
                if not reading.failure:  # It has worked: what ends it now is not its own fault.
                    readings[i] = reading
        if self._breaker.is_open:
            self.ask_whether_it_is_well(Kind.ANCHOR)
        return readings

    def _calm_down(self, disturbed: Reading) -> None:
        """Wait for a quiet machine, unless what comes is answered from the record."""
        if not self._kept:
            self.watch.wait_for_quiet(disturbed.disturbed, enough=lambda: self._hurried)

    def ask_whether_it_is_well(self, kind: Kind) -> None:
        """What has worked once, llama.cpp's defaults, must work now, or nothing does.

        Args:
            kind: of the visit that asks.

        Raises:
            TimeIsUp: there is none for that.
            CouldNotMeasure: it does not.
        """
        first = next((r.visit for r in self.knowledge.readings if not r.failure), None)
        if first is not None:
            asked = replace(first, kind=kind, source=STILL_WELL)
            (reading,) = self._once([asked], 1, None)
            if reading.failure is None:
                self._breaker.close()
                return
        raise self._breaker.explained()

    def _once(self, visits: Sequence[Visit], repetitions: int, lost: Lost | None) -> list[Reading]:
        readings = self._from_the_record(visits)
        rest = [visit for visit, reading in zip(visits, readings, strict=True) if not reading]
        if rest:
            fresh = iter(self._measured(rest, repetitions, lost))
            readings = [reading or next(fresh) for reading in readings]
        done = [reading for reading in readings if reading]
        if len(done) < len(visits):
            raise TimeIsUp
        return done

    def _measured(
        self, visits: Sequence[Visit], repetitions: int, lost: Lost | None
    ) -> list[Reading | None]:
        self._check_time(visits, repetitions)
        self._check()
        # Of those, a record has both parts: a repetition is of both, and none is left to be spared.
        several = self.knowledge.objective.n_parallel > 1
        self._job = Job(
            visits,
            bench=self._bench,
            desk=self,
            clock=self._clock,
            objective=self.knowledge.objective,
            costs=self.costs,
            repetitions=repetitions,
            lost=lost if self._may_stop_tests and not several else None,
        )
        try:
            patient = visits[0].kind is Kind.BASELINE and not self._hurried
            return self._job.measure(None if patient else self._limit_s())
        finally:
            self._job = None

    def _limit_s(self) -> float | None:
        left_s = self.left_s()
        if math.isinf(left_s):
            return None
        grace_s = (
            0.0 if self._hurried else max(_GRACE_S, _GRACE_SHARE * (self.limits.budget_s or 0))
        )
        return left_s + grace_s

    def _check_time(self, visits: Sequence[Visit], repetitions: int) -> None:
        kind = visits[0].kind
        if kind is Kind.BASELINE and not self._hurried:
            return  # Without it there is no answer at all.
        if self._hurried and kind not in DECIDING:
            raise TimeIsUp
        searched = sum(r.visit.kind not in DECIDING for r in self.knowledge.readings)
        most = self.limits.trials
        if most is not None and kind not in DECIDING and searched + len(visits) > most:
            raise TimeIsUp
        if self.cost_s(visits, repetitions=repetitions) > self.left_s():
            raise TimeIsUp

    def _from_the_record(self, visits: Sequence[Visit]) -> list[Reading | None]:
        """What a resumed study has measured of these already."""
        readings: list[Reading | None] = []
        for visit in visits:
            match = next((r for r in self._kept if r.visit == visit), None)
            readings.append(match)
            if match:
                self._replayed_s = match.elapsed_s
                self._kept.remove(match)
                self._remember(match)
        if self._kept and None in readings:
            if self._kept[0].visit.kind in DECIDING and visits[0].kind not in DECIDING:
                raise TimeIsUp  # It was, then.
            # The search goes another way than it did: what was measured is known all the same.
            for reading in self._kept:
                self._remember(reading)
            self._kept.clear()
        return readings

    def begin(self, visit: Visit) -> Ticket:
        """Note in the study that a visit is being measured."""
        return self._study.begin(visit)

    def show(self, visit: Visit, part: Part, progress: Progress) -> None:
        """Tell how far a test is."""
        if progress.phase is Phase.WARMUP:
            self.watch.test_begins()
        self.tell(
            events.Measuring(
                visit=visit, part=part, phase=progress.phase, repetition=progress.repetition
            )
        )

    def record(self, ticket: object, part: Part | None, outcome: Outcome) -> None:
        """Tell what came of a test, before anything is made of it; or that it is of nothing."""
        self._check()
        number = ticket.number if isinstance(ticket, Ticket) else None
        self.tell(events.Recorded(outcome=outcome, number=number, part=part))

    def finish(self, ticket: object, visit: Visit, outcomes: dict[Part, Outcome]) -> Reading:
        """Keep what came of a visit."""
        if not isinstance(ticket, Ticket):
            raise TypeError("a ticket is what `begin` gave")
        reading = Reading(
            visit=visit,
            outcomes=dict(outcomes),
            disturbed=self.watch.disturbed(visit, outcomes, self.knowledge.objective),
            elapsed_s=self.elapsed_s,
            number=ticket.number,
        )
        self._keep(ticket, reading)
        return reading

    def _keep(self, ticket: Ticket, reading: Reading) -> None:
        self._learn(reading)
        self._study.tell(ticket, reading, self.knowledge.cost(reading.visit.params))
        self.tell(measured_by(self.knowledge, reading, replayed=False))
        self._breaker.take(reading.failure)

    def give_up(self, ticket: object) -> None:
        """Note that a visit was interrupted."""
        if isinstance(ticket, Ticket):
            self._study.give_up(ticket, "interrupted")

    def _remember(self, reading: Reading) -> None:
        """What broke then may work now: the circuit breaker hears nothing of it."""
        self._learn(reading)
        self.watch.learn(reading, self.knowledge.objective)
        self.tell(measured_by(self.knowledge, reading, replayed=True))

    def _learn(self, reading: Reading) -> None:
        self.knowledge.add(reading.bare())
        self.costs.add(reading)
        failure = reading.failure
        if failure:
            self.failures[failure.kind] = self.failures.get(failure.kind, 0) + 1
            if failure.kind is FailureKind.OOM:
                self.memory.remember_failure(reading.visit.params, full_place(failure))
        elif reading.outcomes:
            self.memory.remember_success(reading.visit.params)


def measured_by(
    knowledge: Knowledge, reading: Reading, *, replayed: bool, elsewhere: bool = False
) -> events.Measured:
    """What is told of a visit, by what is known then."""
    params = reading.visit.params
    return events.Measured(
        reading=reading,
        seconds=knowledge.seconds(params),
        joules=knowledge.joules(params),
        replayed=replayed,
        elsewhere=elsewhere,
    )


INTERRUPTED = "interrupted"  # The source of a verification that was cut short.
STILL_WELL = "is llama-bench still well?"  # The source of what the circuit breaker asks.
