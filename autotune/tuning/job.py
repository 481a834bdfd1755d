"""Some visits in as few runs of llama-bench as they take."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Event as BenchEvent
from autotune.llama_cpp.program_run import Progress, Result
from autotune.llama_cpp.records import Failure, Outcome
from autotune.tuning.clock import Clock, alarm
from autotune.tuning.costs import Costs
from autotune.tuning.objective import Objective, Part
from autotune.tuning.visits import Reading, Visit

# A warm-up may take so much longer than what it warms up, by page faults and rising clocks.
_WARMUP_SLOWER = 1.5

# Whether a visit has lost by what one part of a request costs, in seconds or joules.
Lost: TypeAlias = Callable[[Visit, Part, float], bool]


class BenchRun(Protocol):
    """A run of llama-bench over some trials."""

    def __iter__(self) -> Iterator[BenchEvent]: ...
    def __next__(self) -> BenchEvent: ...
    def stop(self) -> None:
        """End it; what has finished can still be read."""
        ...


class Bench(Protocol):
    """What measures: `llama_cpp.bench.Bench`, or a simulation of it."""

    def run(
        self, trials: Sequence[Trial], *, repetitions: int = 5
    ) -> AbstractContextManager[BenchRun]:
        """Measure every trial once."""
        ...


class Desk(Protocol):
    """Who gives out jobs and takes what came of them."""

    def begin(self, visit: Visit) -> object:
        """A visit is started; the ticket is for `finish` or `give_up`."""
        ...

    def show(self, visit: Visit, part: Part, progress: Progress) -> None:
        """A test goes on."""
        ...

    def record(self, ticket: object, part: Part | None, outcome: Outcome) -> None:
        """A test is over; without a ticket it is of no visit."""
        ...

    def finish(self, ticket: object, visit: Visit, outcomes: dict[Part, Outcome]) -> Reading:
        """A visit is over."""
        ...

    def give_up(self, ticket: object) -> None:
        """A visit will not be finished."""
        ...


class Open:
    """A visit that is being measured."""

    def __init__(self, visit: Visit, objective: Objective) -> None:
        self.visit = visit
        self.outcomes: dict[Part, Outcome] = {}
        self.missing: dict[Part, Trial] = {
            part: objective.trial(visit.params, part) for part in visit.parts
        }
        self.ticket: object = None
        self.reading: Reading | None = None

    def part_of(self, trial: Trial) -> Part | None:
        """The part that a trial is of, if this still waits for it."""
        if self.reading:
            return None
        return next((part for part, mine in self.missing.items() if mine == trial), None)


class Job:
    """Measures visits; what ends a run early costs only what had not finished."""

    def __init__(
        self,
        visits: Sequence[Visit],
        *,
        bench: Bench,
        desk: Desk,
        clock: Clock,
        objective: Objective,
        costs: Costs,
        repetitions: int,
        lost: Lost | None,
    ) -> None:
        self._bench = bench
        self._desk = desk
        self._clock = clock
        self._objective = objective
        self._costs = costs
        self._repetitions = repetitions
        self._lost = lost
        self._open = [Open(visit, objective) for visit in visits]
        self._run: BenchRun | None = None
        self._before: Progress | None = None
        self._stopped = False
        self._until_s = math.inf  # Also where no alarm rings, in simulated time.

    def stop(self) -> None:
        """End it as soon as can be; safe in a signal handler and from another thread."""
        self._stopped = True
        if self._run:
            self._run.stop()

    def measure(self, limit_s: float | None) -> list[Reading | None]:
        """The reading of each visit; None: it was stopped before that one was finished.

        Args:
            limit_s: after so many seconds it is stopped, whatever it was predicted to take.
        """
        self._until_s = math.inf if limit_s is None else self._clock.now() + limit_s
        try:
            with alarm(self._clock, limit_s, self.stop):
                while (waiting := [o for o in self._open if not o.reading]) and not self._stopped:
                    self._measure_once(waiting)
        finally:
            for visit in self._open:
                if visit.ticket is not None and not visit.reading:
                    self._desk.give_up(visit.ticket)
        return [o.reading for o in self._open]

    def _measure_once(self, waiting: Sequence[Open]) -> None:
        for visit in waiting:
            if visit.ticket is None:
                visit.ticket = self._desk.begin(visit.visit)
        missing = [trial for visit in waiting for trial in visit.missing.values()]
        trials = self._costs.runs(missing)[0]
        with self._bench.run(trials, repetitions=self._repetitions) as run:
            self._run = run
            if self._stopped:  # Between two runs.
                run.stop()
            for event in run:
                self._take(event, waiting)
                if self._clock.now() > self._until_s:
                    self.stop()
            self._run = None
        still = [trial for visit in waiting for trial in visit.missing.values()]
        if len(still) == len(missing):  # Whatever is missing will not come.
            self._stopped = True

    def _take(self, event: BenchEvent, waiting: Sequence[Open]) -> None:
        for visit in waiting:
            part = visit.part_of(event.trial)
            if part is None:
                continue
            if isinstance(event, Progress):
                self._desk.show(visit.visit, part, event)
                self._watch(visit, part, event)
            else:
                self._before = None
                self._keep(visit, part, event)
            return
        if isinstance(event, Result):  # Of a test that only rounds off a grid.
            self._desk.record(None, None, event.outcome)

    def _watch(self, visit: Open, part: Part, progress: Progress) -> None:
        """A warm-up of a prompt, or a repetition, says already that a test has lost."""
        before, self._before = self._before, progress
        if before is None or before.trial != progress.trial or self._lost is None:
            return
        warmed_up = before.phase is Phase.WARMUP and part == "pp"
        if not warmed_up and before.phase is not Phase.RUN:
            return
        if not warmed_up and before.repetition == 1 and not self._objective.first_counts:
            return  # On a GPU the first one does what is done once.
        cost = self._objective.cost_between(part, before, progress)
        if cost is None:
            return
        alone = all(o is visit or o.reading for o in self._open)  # Others would need a new load.
        lost = self._lost(visit.visit, part, cost / (_WARMUP_SLOWER if warmed_up else 1))
        if alone and lost:
            visit.missing.clear()
            self._finish(visit)
            if self._run:
                self._run.stop()

    def _keep(self, visit: Open, part: Part, result: Result) -> None:
        del visit.missing[part]
        visit.outcomes[part] = result.outcome
        self._desk.record(visit.ticket, part, result.outcome)
        dropped = bool(visit.missing) and self._is_lost(visit.visit, part, result.outcome)
        if visit.missing and not dropped:
            return
        self._finish(visit)
        if dropped:
            self._drop()

    def _finish(self, visit: Open) -> None:
        ticket, visit.ticket = visit.ticket, None  # Whatever is raised now, it is not given up.
        visit.reading = self._desk.finish(ticket, visit.visit, visit.outcomes)

    def _is_lost(self, visit: Visit, part: Part, outcome: Outcome) -> bool:
        if isinstance(outcome, Failure):
            return True  # The other part cannot save it.
        if self._lost is None:
            return False
        cost = self._objective.part_cost(part, outcome)
        return cost is not None and self._lost(visit, part, cost)

    def _drop(self) -> None:
        """Spare a test by ending the process, unless the others would need a dearer load."""
        others = [t for o in self._open if not o.reading for t in o.missing.values()]
        if not others and self._run:
            self._run.stop()
