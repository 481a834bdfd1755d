"""Run llama-bench, or llama-batched-bench, for many trials, and lose none of them to another.

Trials that share their model parameters run in one process, with one load of the model, as far as
they form the grids that llama-bench knows (`grids`). Records come as they are finished. What ends
the process is named as a `Failure` of the one trial that did it; the rest is started again.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Self

from autotune.llama_cpp import batch_run, grid_run
from autotune.llama_cpp.batched_setup import BatchedSetup
from autotune.llama_cpp.bench_setup import BenchSetup
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.program_run import Event, ProgramRun, Result, Start
from autotune.llama_cpp.records import Failure, FailureKind, RunFacts


class Bench(BenchSetup):
    """One llama-bench and one model, ready to measure."""

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> "Run":
        """Measure every trial once; use it in a `with`, so that leaving stops llama-bench."""
        _check(repetitions)
        return Run(
            trials,
            inexpressible=self.inexpressible,
            runs=lambda trials, rescued: grid_run.runs_of(self, trials, repetitions, rescued),
        )


class BatchedBench(BatchedSetup):
    """One llama-batched-bench and one model, ready to measure several sequences at once."""

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> "Run":
        """Measure every trial once; use it in a `with`, so that leaving stops the program."""
        _check(repetitions)
        return Run(
            trials,
            inexpressible=self.inexpressible,
            runs=lambda trials, rescued: batch_run.runs_of(self, trials, repetitions, rescued),
        )


def _check(repetitions: int) -> None:
    if repetitions < 1:
        raise ValueError("a measurement takes at least one repetition")


class Run(Iterator[Event]):
    """Yields `Progress` as things happen, and one `Result` for each trial.

    After `stop`, what was finished by then is still yielded. Leaving the `with`, `close`, Ctrl-C or
    any other exception ends the program at once; what it had finished by then is in `rescued`,
    beginning with the last result that was told, as an interrupt may have come before it arrived.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        inexpressible: Callable[[Trial], str | None],
        runs: Callable[[Sequence[Trial], list[Result]], list[Start]],
    ) -> None:
        self._inexpressible = inexpressible
        self._runs = runs
        self._process: ProgramRun | None = None
        self._of_process: Generator[Event] | None = None
        self._stopped = False
        self._events = self._all(trials)
        self.rescued: list[Result] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop the program at once."""
        self._events.close()
        # Closed with it, unless an interrupt has come just between the two.
        if self._of_process:
            self._of_process.close()

    def stop(self) -> None:
        """Stop the program; the records that it has finished are still to be read from here."""
        self._stopped = True
        if self._process:
            self._process.stop()

    def _all(self, trials: Sequence[Trial]) -> Generator[Event]:
        speakable = []
        for trial in trials:
            problem = self._inexpressible(trial)
            if problem is None:
                speakable.append(trial)
            else:
                yield _never_run(trial, problem)
        waiting = deque(self._runs(speakable, self.rescued))
        while waiting and not self._stopped:
            self._process = waiting.popleft()()
            self._of_process = self._process.events()
            yield from self._of_process
            waiting.extendleft(reversed(self._process.again))


def _never_run(trial: Trial, problem: str) -> Result:
    now = time.time()
    failure = Failure(
        kind=FailureKind.UNSUPPORTED,
        message=problem,
        params=trial.params,
        test=trial.test,
        exit_code=None,
        stderr_tail=(),
        run=RunFacts(argv=(), removed_environment={}, started_at=now, ended_at=now, load_s=None),
    )
    return Result(trial=trial, outcome=failure)
