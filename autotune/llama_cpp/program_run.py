"""One process that measures trials, up to its first failure: what it says, and how it ends.

Which program it is and what its words mean, `grid_run` (llama-bench) and `batch_run`
(llama-batched-bench) know.
"""

import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autotune.llama_cpp import environment, failures, numactl
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Clock, Phase
from autotune.llama_cpp.process import Child, Exit, Line, oom_kills
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, Outcome, RunFacts, State
from autotune.llama_cpp.setup import Setup

STDERR_TAIL_LINES = 40  # With -v, llama.cpp says why within the last of them.
STRAY_LINES = 5  # Of what is on stdout and is no record.


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the program is doing now."""

    trial: Trial
    phase: Phase
    repetition: int  # 1 for the first; 0 outside of repetitions.
    at: float  # time.monotonic()
    joules: float | None = None  # What the machine has used up to then; None: nobody can tell.


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One trial is done."""

    trial: Trial
    outcome: Outcome


Event = Progress | Result
Start: TypeAlias = Callable[[], "ProgramRun"]


class ProgramRun(ABC):
    """One process, and the trials that it measures in their order.

    Args:
        setup: which program, and how it is asked.
        expected: the trials, in the order in which they are done.
        arguments: of the program.
        clock: how long it may take.
        rescued: gets the results that an interrupt kept from being told.
    """

    def __init__(
        self,
        setup: Setup,
        expected: Sequence[Trial],
        *,
        arguments: Sequence[str],
        clock: Clock,
        rescued: list[Result],
    ) -> None:
        self.again: list[Start] = []  # What is still to be run when this one has ended.
        self._setup = setup
        self._expected = list(expected)
        self._rescued = rescued
        # Trials of one process share what a load depends on, and so what it is bound by.
        self._command = [*numactl.prefix(expected[0].params.numactl), *setup.program.command]
        self._argv = [*self._command, *arguments]
        self._child = Child(self._argv, meter=setup.meter)
        self._clock = clock
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
        self._untold: list[Result] = []

    @abstractmethod
    def _read(self, line: Line) -> Iterator[Event]:
        """What a line says."""

    @abstractmethod
    def _runs(self, trials: Sequence[Trial]) -> list[Start]:
        """The processes that would measure some of the trials."""

    @abstractmethod
    def _talkative(self, trial: Trial) -> list[str]:
        """The arguments that measure a trial alone, and say why it cannot be."""

    @abstractmethod
    def _n_blamed(self, reason: Reason, code: int | None) -> int:
        """How many of the trials that are left have failed for this reason."""

    def _is_of_all(self, reason: Reason) -> bool:
        """It failed before a test of several was started: which of them is to blame is unknown."""
        several = self._n_done == 0 and len(self._expected) > 1
        return several and not self._test_seen and reason.kind in OF_A_WORD

    def stop(self) -> None:
        """End it; what it has finished can still be read."""
        self._stopped = True
        self._child.stop()

    def events(self) -> Generator[Event]:
        """Everything that happens."""
        killed_before = oom_kills()
        self._before = self._setup.observe()
        try:
            with self._child as child:
                yield from self._begun()
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

    def _begun(self) -> Iterator[Event]:
        """What is to be told of a program that does not tell it itself."""
        return iter(())

    def _rescue(self) -> None:
        """Keep what was finished when an interrupt came; the program is stopped by now."""
        self._rescued += self._untold
        line = self._child.in_hand
        if line is None or line is self._counted:
            line = self._child.next_event(0)
        while not self._over and isinstance(line, Line):
            for event in self._read(line):
                if isinstance(event, Result) and isinstance(event.outcome, Measurement):
                    self._rescued.append(event)
            line = self._child.next_event(0)

    def _stray(self, line: Line) -> bool:
        """It is no record: half of one, a usage text, a debugger's backtrace."""
        if line.whole and line.text.startswith("{"):
            return False
        if line.text.strip():
            self._strays.append(line.text[:200])
        return True

    def _done(self, line: Line, results: list[Result]) -> Iterator[Event]:
        """A record has been read, and ends these trials."""
        self._n_done, self._counted, self._untold = self._n_done + len(results), line, results
        while self._untold:
            yield self._untold[0]
            self._untold = self._untold[1:]

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
        arguments = self._talkative(self._expected[self._n_done])
        said: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._child = Child([*self._command, *arguments])
        deadline = time.monotonic() + self._setup.patience.retry_s
        with self._child as child:
            while (event := child.next_event(deadline - time.monotonic())) is not None:
                if isinstance(event, Exit):
                    if event.code == 0:
                        return None
                    self._stderr = said
                    return failures.classify(event.code, tuple(said))
                if self._tells_why(event):
                    said.append(failures.shortened(event.text))
        return None

    def _tells_why(self, line: Line) -> bool:
        """It may be the reason of a failure."""
        return line.stream == "stderr"

    def _failed(self, reason: Reason, code: int | None) -> Iterator[Result]:
        """The trial that is next has failed; those after it are to be run again."""
        left = self._expected[self._n_done :]
        if self._is_of_all(reason):
            # Any one of them may have the word that it stumbled over.
            middle = len(left) // 2
            self._leave(left[:middle], left[middle:])
            return
        n_failed = self._n_blamed(reason, code)
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

    def _leave(self, *groups: Sequence[Trial]) -> None:
        """End here, and let these groups be measured by other processes."""
        self._over = True
        self.again = [start for group in groups for start in self._runs(group)]

    def _facts(self, at: float) -> RunFacts:
        now, epoch = time.monotonic(), time.time()
        return RunFacts(
            argv=tuple(self._argv),
            removed_environment=environment.removed(os.environ),
            started_at=epoch - (now - self._test_since),
            ended_at=epoch - (now - at),
            load_s=self._load_s,
            before=self._before,
            after=self._setup.observe(),
        )


# How a program ends that was given something that it does not know.
OF_A_WORD = frozenset(
    {
        FailureKind.BAD_ARGUMENTS,
        FailureKind.BAD_OUTPUT,
        FailureKind.CRASH,
        FailureKind.UNSUPPORTED,
    }
)
