"""A bench that does what a test says, in virtual time, and a lab around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from fakes.readings import OBJECTIVE, run_facts
from fakes.simulated_hosts import dense_8b, hardware
from fakes.weather import VirtualClock

from autotune.llama_cpp import grids
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Event, Progress, Result
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, Outcome, State
from autotune.params import Params
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.lab import Lab, Limits
from autotune.tuning.memory import Memory
from autotune.tuning.space import Dimension, Space
from autotune.tuning.study import Study

if TYPE_CHECKING:
    from autotune.tuning import events
    from autotune.tuning.objective import Objective

T = TypeVar("T")
N_CPUS = 8
BASELINE = Params(
    n_threads=8, n_threads_batch=8, n_batch=2048, n_ubatch=512, flash_attn="auto", type_k="f16"
)
SPACE = Space(
    dimensions=(
        Dimension(name="n_threads", values=tuple(range(1, N_CPUS + 1))),
        Dimension(name="n_ubatch", values=(128, 256, 512)),
        Dimension(name="flash_attn", values=("auto", False, True)),
        Dimension(name="repack", values=(True, False)),
    ),
    fixed=BASELINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What comes of one trial."""

    seconds: float = 1.0  # Of one repetition of the test.
    warmup_s: float | None = None  # None: as long as what is warmed up.
    failure: FailureKind | None = None
    message: str = "it failed"
    foreign_cpus: float = 0.0  # Used by others meanwhile.


Script: TypeAlias = Callable[[Trial, int], Answer]  # Of a trial, and how often it was run before.


def of_changed_tests(values: Mapping[Params, T]) -> dict[Trial, T]:
    """Give the value of a configuration to each test in which it differs from the baseline."""
    return {
        OBJECTIVE.trial(params, part): value
        for params, value in values.items()
        for part in OBJECTIVE.parts
        if OBJECTIVE.key(params, part) != OBJECTIVE.key(BASELINE, part)
    }


def always(_trial: Trial, _nth: int) -> Answer:
    return Answer()


class ScriptedBench:
    """As `autotune.llama_cpp.bench.Bench`; each process takes 10 s to load the model."""

    def __init__(self, script: Script = always, *, load_s: float = 10.0) -> None:
        self.script = script
        self.load_s = load_s
        self.clock = VirtualClock()
        self.asked: list[list[Trial]] = []  # Of each run.
        self.repetitions: list[int] = []
        self.done: list[Trial] = []
        self.counts: Counter[Trial] = Counter()
        self.on_event: Callable[[Event], None] = lambda _: None  # Before it is told.

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> ScriptedRun:
        self.asked.append(list(trials))
        self.repetitions.append(repetitions)
        return ScriptedRun(self, trials, repetitions)


class ScriptedRun(Iterator[Event]):
    """One run; to stop it ends it before its next event."""

    def __init__(self, bench: ScriptedBench, trials: Sequence[Trial], repetitions: int) -> None:
        self._bench = bench
        self._stopped = False
        self._events = self._all(grids.split(trials), repetitions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def __next__(self) -> Event:
        if self._stopped:
            raise StopIteration
        event = next(self._events)
        self._bench.on_event(event)
        return event

    def stop(self) -> None:
        self._stopped = True

    def _all(self, whole: Sequence[grids.Grid], repetitions: int) -> Generator[Event]:
        for grid in whole:
            for n, trial in enumerate(grid.trials()):
                yield self._progress(trial, Phase.LOAD)
                if n == 0:
                    self._bench.clock.sleep(self._bench.load_s)
                yield from self._one(trial, repetitions)

    def _one(self, trial: Trial, repetitions: int) -> Iterator[Event]:
        clock = self._bench.clock
        answer = self._bench.script(trial, self._bench.counts[trial])
        self._bench.counts[trial] += 1
        started = clock.now()
        if answer.failure:
            yield Result(trial=trial, outcome=_failure(trial, answer))
            return
        yield self._progress(trial, Phase.WARMUP)
        once = answer.seconds / (1 if trial.test.n_prompt else trial.test.n_gen)
        clock.sleep(once if answer.warmup_s is None else answer.warmup_s)
        for repetition in range(1, repetitions + 1):
            yield self._progress(trial, Phase.RUN, repetition)
            clock.sleep(answer.seconds)
        self._bench.done.append(trial)
        outcome = self._measurement(trial, answer, repetitions, clock.now() - started)
        yield Result(trial=trial, outcome=outcome)

    def _progress(self, trial: Trial, phase: Phase, repetition: int = 0) -> Progress:
        at = self._bench.clock.now()
        return Progress(trial=trial, phase=phase, repetition=repetition, at=at)

    def _measurement(
        self, trial: Trial, answer: Answer, repetitions: int, took_s: float
    ) -> Outcome:
        own_s = took_s * (trial.params.n_threads or 1)
        before = {"at_s": 0.0, "busy_s": 0.0, "own_s": 0.0}
        busy_s = own_s + took_s * answer.foreign_cpus
        after = {"at_s": took_s, "busy_s": busy_s, "own_s": own_s}
        return Measurement(
            params=trial.params,
            test=trial.test,
            samples_ns=(round(answer.seconds * 1e9),) * repetitions,
            build_commit="5eed5eed",
            build_number=7,
            run=run_facts(self._bench.load_s, before, after),
            record={},
        )


def _failure(trial: Trial, answer: Answer) -> Failure:
    assert answer.failure
    return Failure(
        kind=answer.failure,
        message=answer.message,
        params=trial.params,
        test=trial.test,
        exit_code=1,
        stderr_tail=(answer.message,),
        run=run_facts(),
    )


class LabOfTests:
    """A lab on a scripted bench, with what it told."""

    def __init__(
        self,
        script: Script = always,
        *,
        limits: Limits | None = None,
        load_s: float = 10.0,
        observe: Callable[[], State] = dict,
        objective: Objective = OBJECTIVE,
        study: Study | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.bench = ScriptedBench(script, load_s=load_s)
        self.study = study or Study.create(None, SPACE, {}, seed=1)
        self.told: list[events.Event] = []
        self.memory = Memory(hardware(()), dense_8b(), n_ctx=4096, n_tested=512)
        self.lab = Lab(
            bench=self.bench,
            study=self.study,
            knowledge=Knowledge(objective),
            memory=self.memory,
            clock=self.bench.clock,
            limits=limits or Limits(),
            n_cpus=N_CPUS,
            observe=observe,
            tell=self.told.append,
            check=check,
        )
