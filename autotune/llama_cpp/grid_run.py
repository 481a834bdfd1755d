"""One llama-bench process over one grid: what it says as it says it."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from autotune.llama_cpp import failures, grids
from autotune.llama_cpp.bench_setup import BenchSetup
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.gauge import Gauge
from autotune.llama_cpp.grids import Grid, Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.plausibility import check, implausible
from autotune.llama_cpp.process import Line
from autotune.llama_cpp.program_run import Event, ProgramRun, Progress, Result, Start
from autotune.llama_cpp.records import BadRecord, FailureKind, Measurement, parse_record

_PROGRESS = re.compile(r"benchmark (\d{1,9})/(\d{1,9}): (\w+)(?:.* (\d{1,9})/(\d{1,9}))?")

_LONGEST_PROGRESS = 500


class Told(NamedTuple):
    """A line of `--progress`."""

    test: int  # From 0; -1 where it counts wrongly.
    total: int
    phase: Phase
    repetition: int  # 1 for the first; 0 outside of repetitions.


def progress_of(line: str) -> Told | None:
    """What a line of stderr says of the progress; None: it is another."""
    match = _PROGRESS.search(line[:_LONGEST_PROGRESS])
    if match is None:
        return None
    phase = _PHASES.get(match[3], Phase.RUN)
    return Told(int(match[1]) - 1, int(match[2]), phase, int(match[4] or 0))


class GridRun(ProgramRun):
    """One llama-bench process over one grid, up to its first failure."""

    def __init__(
        self, bench: BenchSetup, grid: Grid, repetitions: int, rescued: list[Result]
    ) -> None:
        expected = grid.trials()
        super().__init__(
            bench,
            expected,
            arguments=bench.arguments(grid, repetitions),
            clock=bench.patience.clock(
                expected,
                repetitions,
                model_bytes=bench.model_bytes(),
                talks=bench.capabilities.has("--progress"),
            ),
            rescued=rescued,
        )
        self._bench = bench
        self._repetitions = repetitions
        self._gauge = Gauge()

    def _runs(self, trials: Sequence[Trial]) -> list[Start]:
        return runs_of(self._bench, trials, self._repetitions, self._rescued)

    def _talkative(self, trial: Trial) -> list[str]:
        (alone,) = grids.split([trial])
        arguments = [*self._bench.arguments(alone, 1), "-v"]
        if self._bench.capabilities.has("--no-warmup"):
            arguments.append("--no-warmup")
        return arguments

    def _tells_why(self, line: Line) -> bool:
        return super()._tells_why(line) and not progress_of(line.text)

    def _n_blamed(self, reason: Reason, code: int | None) -> int:
        talks = self._bench.capabilities.has("--progress")
        never_started = code is None and talks and not self._test_seen
        return len(self._expected) - self._n_done if reason.of_model or never_started else 1

    def _read(self, line: Line) -> Iterator[Event]:
        if line.stream == "stdout":
            yield from self._printed(line)
            return
        told = progress_of(line.text)
        if told:
            yield from self._progressed(told, line)
        else:
            self._stderr.append(failures.shortened(line.text))

    def _progressed(self, told: Told, line: Line) -> Iterator[Event]:
        index, total, phase = told.test, told.total, told.phase
        if total != len(self._expected) or not 0 <= index < total:
            what = f"it runs {total} tests where {len(self._expected)} were asked for"
            yield from self._failed(Reason(FailureKind.BAD_OUTPUT, what), None)
            return
        self._test_seen = True
        if phase is Phase.WARMUP:  # What else the machine did while the model was loaded is past.
            self._before = self._bench.observe()
        if phase is Phase.LOAD:
            self._stderr.clear()  # What was said of other tests was survived.
            self._test_since = line.at
            self._gauge.begin()
        elif self._load_s is None:
            self._load_s = self._clock.since_start(line.at)
        self._clock.enter(phase, index, line.at, self._child.cpu_seconds())
        repetition = told.repetition if phase is Phase.RUN else 0
        self._gauge.enter(phase, repetition, line.joules)
        yield Progress(
            trial=self._expected[index],
            phase=phase,
            repetition=repetition,
            at=line.at,
            joules=line.joules,
        )

    def _printed(self, line: Line) -> Iterator[Event]:
        if self._stray(line):
            return
        if self._n_done == len(self._expected):
            self._over = True  # It goes on, though all that was asked for is measured.
            return
        trial = self._expected[self._n_done]
        try:
            record = parse_record(line.text)
            check(record, trial, self._repetitions)
        except BadRecord as problem:
            yield from self._failed(Reason(FailureKind.BAD_OUTPUT, str(problem)), None)
            return
        run = self._facts(line.at)
        measurement = Measurement(
            params=trial.params,
            test=trial.test,
            samples_ns=record.samples_ns,
            build_commit=record.build_commit,
            build_number=record.build_number,
            run=run,
            record=record.raw,
            samples_j=self._used(record.samples_ns, line.joules),
        )
        impossible = implausible(
            measurement, line.at - self._test_since, active_share=self._bench.active_share
        )
        if impossible:
            yield from self._failed(Reason(FailureKind.IMPLAUSIBLE, impossible), None)
            return
        self._before, self._test_since = run.after, line.at
        self._clock.advance(self._n_done + 1, line.at, self._child.cpu_seconds())
        yield from self._done(line, [Result(trial=trial, outcome=measurement)])

    def _used(self, samples_ns: Sequence[int], joules: float | None) -> tuple[float, ...]:
        """Joules of each repetition, where they are long enough for the meter.

        A meter that has not moved was not read in time, or stands still.
        """
        known = self._gauge.samples(len(samples_ns), joules)
        is_told = sum(samples_ns) / 1e9 >= self._bench.metered_s and sum(known) > 0
        return known if is_told else ()


def runs_of(
    bench: BenchSetup, trials: Sequence[Trial], repetitions: int, rescued: list[Result]
) -> list[Start]:
    """The processes that measure some trials, one for each grid that they form."""
    return [partial(GridRun, bench, grid, repetitions, rescued) for grid in grids.split(trials)]


_PHASES = {
    "starting": Phase.LOAD,
    "warmup": Phase.WARMUP,
    "depth": Phase.DEPTH,
    "prompt": Phase.RUN,
    "generation": Phase.RUN,
}
