"""Ways to look for better parameters, each on the same machine in virtual time.

What a strategy would hand to its user after so many seconds is asked of it at several moments; how
good that is, the machine knows. All but `lcm` decide by their own numbers, as tools of this field
do: a configuration is measured in a process of its own, with three repetitions, and the best mean
wins. They too measure llama.cpp's defaults first, and hand these out until something looks better.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import optuna
from fakes.simulated_run import SimulatedRun
from fakes.tuned import session_on
from fakes.virtual import VirtualMachine

from autotune.llama_cpp.grids import CONTEXT_FIELDS, Trial
from autotune.llama_cpp.program_run import Result
from autotune.llama_cpp.records import Measurement
from autotune.params import Params
from autotune.tuning.lab import Limits
from autotune.tuning.objective import Objective
from autotune.tuning.session import Plan
from autotune.tuning.space import Dimension, Space
from autotune.tuning.workload import Value

REPETITIONS = 3  # What tools of this field take; `--repeat` of llama-optimus is 2 or 3.
# What fails is told as so many times the defaults' seconds: Optuna does not see a failed trial.
_FAILED = 10.0
# Of the exhaustive grid: nobody types a list of more values than this.
_MOST_VALUES = 8

Make = Callable[[], VirtualMachine]
PlanFor = Callable[[VirtualMachine, Limits, int], Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What a user would have after so many seconds."""

    at_s: float
    params: Params
    claims: bool  # It is said to be faster than the defaults.
    loads: int


# On a machine, with its plan: what it hands out at each of some moments, by a seed.
Run = Callable[[Make, PlanFor, Sequence[float], int], list[Handed]]


def _lcm(make: Make, plan_for: PlanFor, moments: Sequence[float], seed: int) -> list[Handed]:
    """A whole session for each budget: what is verified at its end is what counts."""
    handed = []
    for budget_s in moments:
        machine = make()
        plan = plan_for(machine, Limits(budget_s=budget_s), seed)
        tuned = session_on(machine, plan).run()
        claims = tuned.verification.verdict == "better"
        handed.append(
            Handed(at_s=budget_s, params=tuned.shipped, claims=claims, loads=machine.n_loads)
        )
    return handed


@dataclass
class _Table:
    """What was seen so far, and what is best by it, at each moment that is asked for."""

    machine: VirtualMachine
    objective: Objective
    moments: Sequence[float]
    baseline: Params
    baseline_s: float = math.inf
    best: Params = field(init=False)
    best_s: float = math.inf
    handed: list[Handed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best = self.baseline

    @property
    def is_over(self) -> bool:
        return len(self.handed) == len(self.moments)

    def pass_time(self) -> None:
        """Hand out what was best at each moment that has come."""
        while not self.is_over and self.machine.clock.now() >= self.moments[len(self.handed)]:
            self._hand_out()

    def end(self) -> None:
        """There is nothing left to measure."""
        while not self.is_over:
            self._hand_out()

    def _hand_out(self) -> None:
        self.handed.append(
            Handed(
                at_s=self.moments[len(self.handed)],
                params=self.best,
                claims=self.best_s < self.baseline_s and self.best != self.baseline,
                loads=self.machine.n_loads,
            )
        )

    def take(self, params: Params, seconds: float) -> None:
        """A configuration was measured, in time to be handed out at the next moment."""
        self.pass_time()
        if params == self.baseline:
            self.baseline_s = seconds
        if seconds < self.best_s:
            self.best, self.best_s = params, seconds

    def measure(self, configurations: Sequence[Params]) -> list[float]:
        """Seconds of a request of each, infinite where it failed; in as few loads as they take."""
        waiting = {params: self._trials(params) for params in configurations}
        seen: dict[Trial, float] = {}
        with self._running([t for trials in waiting.values() for t in trials]) as run:
            for event in run:
                if isinstance(event, Result):
                    seen[event.trial] = _mean_s(event)
                    self._take_finished(waiting, seen)
                    if self.is_over:
                        break
        return [self._request_s(self._trials(params), seen) for params in configurations]

    def _running(self, trials: Sequence[Trial]) -> SimulatedRun:
        return self.machine.run(list(dict.fromkeys(trials)), repetitions=REPETITIONS)

    def _trials(self, params: Params) -> list[Trial]:
        return [self.objective.trial(params, part) for part in self.objective.parts]

    def _take_finished(
        self, waiting: dict[Params, list[Trial]], seen: Mapping[Trial, float]
    ) -> None:
        done = [p for p, trials in waiting.items() if all(t in seen for t in trials)]
        for params in done:
            self.take(params, self._request_s(waiting.pop(params), seen))

    def _request_s(self, trials: Sequence[Trial], seen: Mapping[Trial, float]) -> float:
        return sum(
            seen.get(trial, math.inf) * self.objective.tokens(part) / trial.test.n_tokens
            for trial, part in zip(trials, self.objective.parts, strict=True)
        )


def _mean_s(result: Result) -> float:
    """Mean seconds of a test; infinite where it failed."""
    if not isinstance(result.outcome, Measurement):
        return math.inf
    samples = result.outcome.samples_ns
    return sum(samples) / len(samples) / 1e9


def _begun(
    make: Make, plan_for: PlanFor, moments: Sequence[float], seed: int
) -> tuple[_Table, Space]:
    """Measure the defaults first, as everybody does here."""
    machine = make()
    plan = plan_for(machine, Limits(), seed)
    table = _Table(machine, plan.objective, moments, plan.baseline)
    table.measure([plan.baseline])
    return table, plan.space


def _by_sampler(sampler_of: Callable[[int], optuna.samplers.BaseSampler]) -> Run:
    def run(make: Make, plan_for: PlanFor, moments: Sequence[float], seed: int) -> list[Handed]:
        table, space = _begun(make, plan_for, moments, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=sampler_of(seed))
        while not table.is_over:
            trial = study.ask()
            point = {d.name: _suggested(trial, d) for d in space.dimensions}
            (seconds,) = table.measure([space.with_point(space.fixed, point)])
            study.tell(trial, min(seconds, _FAILED * table.baseline_s))
        return table.handed

    return run


def _suggested(trial: optuna.Trial, dimension: Dimension) -> Value:
    if dimension.is_range:
        return trial.suggest_int(
            dimension.name, int(dimension.values[0]), int(dimension.values[-1])
        )
    chosen: Value = trial.suggest_categorical(dimension.name, dimension.values)  # type: ignore[assignment]
    return chosen


def _grid(make: Make, plan_for: PlanFor, moments: Sequence[float], seed: int) -> list[Handed]:
    """Lists of values for one llama-bench, in its own order: few loads, and every combination.

    It has one `-t`, so both parts of a request are measured with it.
    """
    table, space = _begun(make, plan_for, moments, seed)
    of_context = {*CONTEXT_FIELDS, "cache_type", "n_threads"}
    dimensions = [d for d in space.dimensions if d.name != "n_threads_batch"]
    inner = [d for d in dimensions if d.name in of_context]
    outer = [d for d in dimensions if d.name not in of_context]
    for load in _points(outer):
        every = [
            space.with_point(space.fixed, _one_number_of_threads(space, load | context))
            for context in _points(inner)
        ]
        table.measure(list(dict.fromkeys(every)))
        if table.is_over:
            break
    table.end()
    return table.handed


def _points(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    names = [d.name for d in dimensions]
    for values in product(*(_thinned(d.values) for d in dimensions)):
        yield dict(zip(names, values, strict=True))


def _one_number_of_threads(space: Space, point: dict[str, Value]) -> dict[str, Value]:
    if space.has("n_threads_batch") and "n_threads" in point:
        return point | {"n_threads_batch": point["n_threads"]}
    return point


def _thinned(values: Sequence[Value]) -> Sequence[Value]:
    """The first, the last and some between; more of the small ones, as one would type them."""
    if len(values) <= _MOST_VALUES:
        return values
    last = len(values) - 1
    steps = {round(last ** (n / (_MOST_VALUES - 1))) for n in range(_MOST_VALUES)} | {0}
    return [values[n] for n in sorted(steps)]


STRATEGIES: Mapping[str, Run] = {
    "lcm": _lcm,
    "TPE, a process a trial": _by_sampler(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "random search": _by_sampler(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "exhaustive grid": _grid,
}
