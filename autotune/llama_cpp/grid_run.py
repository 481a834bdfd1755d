"""One llama-bench process over one grid: what it says as it says it, up to its first failure."""

import os
import re
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from autotune.llama_cpp import environment, failures, grids
from autotune.llama_cpp.bench_setup import BenchSetup
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.grids import Grid, Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.plausibility import check, implausible
from autotune.llama_cpp.process import Child, Exit, Line, oom_kills
from autotune.llama_cpp.records import (
    BadRecord,
    Failure,
    FailureKind,
    Measurement,
    Outcome,
    RunFacts,
    State,
    parse_record,
)

STDERR_TAIL_LINES = 40  # With -v, llama.cpp says why within the last of them.
STRAY_LINES = 5  # Of what is on stdout and is no record.

_PROGRESS = re.compile(r"benchmark (\d+)/(\d+): (\w+)(?:.* (\d+)/(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What llama-bench is doing now."""

    trial: Trial
    phase: Phase
    repetition: int  # 1 for the first; 0 outside of repetitions.
    at: float  # time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One trial is done."""

    trial: Trial
    outcome: Outcome


Event = Progress | Result


class GridRun:
    """One llama-bench process over one grid, up to its first failure."""

    def __init__(
        self, bench: BenchSetup, grid: Grid, repetitions: int, rescued: list[Result]
    ) -> None:
        self.again: list[Grid] = []  # What is still to be measured when this one has ended.
        self._bench = bench
        self._expected = grid.trials()
        self._repetitions = repetitions
        self._rescued = rescued
        self._argv = [*bench.program.command, *bench.arguments(grid, repetitions)]
        self._child = Child(self._argv)
        self._clock = bench.patience.clock(
            self._expected,
            repetitions,
            model_bytes=bench.model_bytes(),
            talks=bench.capabilities.has("--progress"),
        )
        self._n_done = 0
        self._stopped = self._over = False
        self._test_seen = False  # Its arguments were understood: a test has been started.
        self._test_since = time.monotonic()
        self._stderr: deque[str] = deque(maxlen=STDERR_TAIL_LINES)  # Of this test alone.
        self._strays: deque[str] = deque(maxlen=STRAY_LINES)
        self._load_s: float | None = None
        self._before: State = {}
        # An interrupt may come between counting a record and telling of it.
        self._counted: Line | None = None
        self._untold: Result | None = None

    def stop(self) -> None:
        """End it; what it has finished can still be read."""
        self._stopped = True
        self._child.stop()

    def events(self) -> Generator[Event]:
        """Everything that happens."""
        killed_before = oom_kills()
        self._before = self._bench.observe()
        try:
            with self._child as child:
                while not self._over:
                    event = child.next_event(self._clock.left())
                    if isinstance(event, Exit):
                        yield from self._ended(event.code, for_memory=oom_kills() > killed_before)
                    elif event is None or self._clock.is_over(event.at):
                        yield from self._waited_too_long(event)
                    else:
                        yield from self._read(event)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            self._rescue()
            raise

    def _rescue(self) -> None:
        """Keep what was finished when an interrupt came; the program is stopped by now."""
        if self._untold:
            self._rescued.append(self._untold)
        line = self._child.in_hand
        if line is None or line is self._counted:
            line = self._child.next_event(0)
        while not self._over and isinstance(line, Line):
            for event in self._read(line):
                if isinstance(event, Result) and isinstance(event.outcome, Measurement):
                    self._rescued.append(event)
            line = self._child.next_event(0)

    def _read(self, line: Line) -> Iterator[Event]:
        if line.stream == "stdout":
            yield from self._printed(line)
            return
        match = _PROGRESS.search(line.text)
        if match:
            yield from self._progressed(match, line)
        else:
            self._stderr.append(line.text)

    def _progressed(self, match: re.Match[str], line: Line) -> Iterator[Event]:
        index, total = int(match[1]) - 1, int(match[2])
        if total != len(self._expected) or not 0 <= index < total:
            what = f"it runs {total} tests where {len(self._expected)} were asked for"
            yield from self._failed(Reason(FailureKind.BAD_OUTPUT, what), None)
            return
        self._test_seen = True
        phase = _PHASES.get(match[3], Phase.RUN)
        if phase is Phase.WARMUP:  # What else the machine did while the model was loaded is past.
            self._before = self._bench.observe()
        if phase is Phase.LOAD:
            self._stderr.clear()  # What was said of other tests was survived.
            self._test_since = line.at
        elif self._load_s is None:
            self._load_s = self._clock.since_start(line.at)
        self._clock.enter(phase, index, line.at, self._child.cpu_seconds())
        repetition = int(match[4]) if phase is Phase.RUN and match[4] else 0
        yield Progress(trial=self._expected[index], phase=phase, repetition=repetition, at=line.at)

    def _printed(self, line: Line) -> Iterator[Event]:
        if not line.whole or not line.text.startswith("{"):
            # Half a record, a usage text, a debugger's backtrace.
            self._strays.append(line.text[:200])
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
        )
        impossible = implausible(
            measurement, line.at - self._test_since, active_share=self._bench.active_share
        )
        if impossible:
            yield from self._failed(Reason(FailureKind.IMPLAUSIBLE, impossible), None)
            return
        self._before, self._test_since = run.after, line.at
        self._clock.advance(self._n_done + 1, line.at, self._child.cpu_seconds())
        result = Result(trial=trial, outcome=measurement)
        self._n_done, self._counted, self._untold = self._n_done + 1, line, result
        yield result
        self._untold = None

    def _waited_too_long(self, line: Line | None) -> Iterator[Event]:
        idle = line is None and self._clock.was_idle(self._child.cpu_seconds())
        reason = Reason(
            FailureKind.HANG if idle else FailureKind.TIMEOUT,
            self._clock.explained() + ("; it did not work either" if idle else ""),
        )
        n_done = self._n_done
        self._child.stop()
        # What it finished at this very moment counts.
        event: Line | Exit | None = line or self._child.next_event(0)
        while not self._over and isinstance(event, Line):
            yield from self._read(event)
            event = self._child.next_event(0)
        if self._over:
            return
        if self._n_done == n_done < len(self._expected):
            yield from self._failed(reason, None)
        else:
            self._leave(self._expected[self._n_done :])

    def _ended(self, code: int, *, for_memory: bool) -> Iterator[Event]:
        if self._stopped or self._n_done == len(self._expected):
            self._over = True  # If it fell over on leaving, all was measured by then.
            return
        stderr = tuple(self._stderr)
        if code == 0:
            what = f"it ended with {self._n_done} of {len(self._expected)} records"
            if self._strays:
                what += f", and printed {self._strays[0]!r}"
            reason = Reason(FailureKind.BAD_OUTPUT, what)
        else:
            reason = failures.classify(code, stderr, killed_for_memory=for_memory)
            if failures.is_silent(code, stderr) and not self._is_of_all(reason):
                reason = self._asked_again() or reason
        if not self._stopped:  # While it was asked.
            yield from self._failed(reason, code)
        self._over = True

    def _asked_again(self) -> Reason | None:
        """Run the failed trial alone and talkative, for the reason alone."""
        (alone,) = grids.split([self._expected[self._n_done]])
        arguments = [*self._bench.arguments(alone, 1), "-v"]
        if self._bench.capabilities.has("--no-warmup"):
            arguments.append("--no-warmup")
        said: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._child = Child([*self._bench.program.command, *arguments])
        deadline = time.monotonic() + self._bench.patience.retry_s
        with self._child as child:
            while (event := child.next_event(deadline - time.monotonic())) is not None:
                if isinstance(event, Exit):
                    if event.code == 0:
                        return None
                    self._stderr = said
                    return failures.classify(event.code, tuple(said))
                if event.stream == "stderr" and not _PROGRESS.search(event.text):
                    said.append(event.text)
        return None

    def _failed(self, reason: Reason, code: int | None) -> Iterator[Result]:
        """The trial that is next has failed; those after it are to be run again."""
        left = self._expected[self._n_done :]
        if self._is_of_all(reason):
            # Any one of them may have the word that it stumbled over.
            middle = len(left) // 2
            self._leave(left[:middle], left[middle:])
            return
        talks = self._bench.capabilities.has("--progress")
        never_started = code is None and talks and not self._test_seen
        n_failed = len(left) if reason.of_model or never_started else 1
        self._leave(left[n_failed:])
        run = self._facts(time.monotonic())
        for trial in left[:n_failed]:
            failure = Failure(
                kind=reason.kind,
                message=reason.message,
                params=trial.params,
                test=trial.test,
                exit_code=code,
                stderr_tail=tuple(self._stderr),
                run=run,
            )
            yield Result(trial=trial, outcome=failure)

    def _is_of_all(self, reason: Reason) -> bool:
        """It failed before a test of several was started: which of them is to blame is unknown."""
        several = self._n_done == 0 and len(self._expected) > 1
        return several and not self._test_seen and reason.kind in _OF_A_WORD

    def _leave(self, *groups: Sequence[Trial]) -> None:
        """End here, and let these groups be measured by other processes."""
        self._over = True
        self.again = [grid for group in groups for grid in grids.split(group)]

    def _facts(self, at: float) -> RunFacts:
        now, epoch = time.monotonic(), time.time()
        return RunFacts(
            argv=tuple(self._argv),
            removed_environment=environment.removed(os.environ),
            started_at=epoch - (now - self._test_since),
            ended_at=epoch - (now - at),
            load_s=self._load_s,
            before=self._before,
            after=self._bench.observe(),
        )


_PHASES = {
    "starting": Phase.LOAD,
    "warmup": Phase.WARMUP,
    "depth": Phase.DEPTH,
    "prompt": Phase.RUN,
    "generation": Phase.RUN,
}

# How a program ends that was given something that it does not know.
_OF_A_WORD = frozenset(
    {
        FailureKind.BAD_ARGUMENTS,
        FailureKind.BAD_OUTPUT,
        FailureKind.CRASH,
        FailureKind.UNSUPPORTED,
    }
)
