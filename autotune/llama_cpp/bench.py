"""Run llama-bench for many trials, and lose none of them to another.

Trials that share their model parameters run in one process, with one load of the model, as far as
they form the grids that llama-bench knows (`grids`). Records come as they are finished. What ends
the process is named as a `Failure` of the one trial that did it; the rest is started again.
"""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp import environment, failures, grids
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.dialect import FLAGS, render
from autotune.llama_cpp.grids import CONTEXT_FIELDS, Grid, Trial
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.patience import Clock, Patience, Phase
from autotune.llama_cpp.process import Child, Exit, Line
from autotune.llama_cpp.records import (
    BadRecord,
    Failure,
    FailureKind,
    Measurement,
    Outcome,
    Record,
    RunFacts,
    parse_record,
)

STDERR_TAIL_LINES = 40  # With -v, llama.cpp says why within the last of them.

_PROGRESS = re.compile(r"benchmark (\d+)/(\d+): (\w+)(?: (\w+) run)?(?:.* (\d+)/(\d+))?")

State = Mapping[str, float]


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


@dataclass(kw_only=True)
class Bench:
    """One llama-bench and one model.

    `observe` is called before and after each record for the machine's state; it must be quick,
    since the next test is already running by then.
    """

    program: Program
    capabilities: Capabilities
    model: Path
    patience: Patience = field(default_factory=Patience)
    observe: Callable[[], State] = dict
    extra_arguments: tuple[str, ...] = ()  # Such as --rpc HOST:PORT.

    def __post_init__(self) -> None:
        if not self.capabilities.streams_records:
            raise LlamaCppUnusable(
                f"{' '.join(self.program.command)} has no `-o jsonl`: a crash would lose results",
                hint="update llama.cpp to a build of September 2024 (b3661) or later",
            )
        if "," in str(self.model):
            raise LlamaCppUnusable(
                f"llama-bench reads the comma in {self.model} as the end of a path",
                hint="rename the file or link it under another name",
            )

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> Iterator[Event]:
        """Measure every trial once; closing the iterator stops llama-bench at once.

        Yields:
            `Progress` as things happen, and one `Result` for each trial.
        """
        waiting = grids.split(trials)
        while waiting:
            grid = waiting.pop(0)
            run = _Run(self, grid, repetitions)
            yield from run.events()
            waiting = grids.split(run.unfinished) + waiting if run.unfinished else waiting

    def arguments(self, grid: Grid, repetitions: int) -> list[str]:
        """The argument list, without the program, that runs a grid."""
        rendered = render(grid.model_params, "bench", self.capabilities)
        arguments = ["-m", str(self.model), *self.extra_arguments, *rendered.arguments]
        for name in CONTEXT_FIELDS:
            values = grid.axes[name]
            if values != (None,):
                arguments += [self._flag(name), ",".join(map(_spelled, values))]
        prompts = [str(p) for p, n in grid.tests if p and not n]
        generations = [str(n) for p, n in grid.tests if n and not p]
        arguments += ["-p", ",".join(prompts) or "0", "-n", ",".join(generations) or "0"]
        for n_prompt, n_gen in grid.tests:
            if n_prompt and n_gen:
                arguments += ["-pg", f"{n_prompt},{n_gen}"]
        if grid.depths != (0,):
            arguments += ["-d", ",".join(map(str, grid.depths))]
        arguments += ["-r", str(repetitions), "-o", "jsonl"]
        return arguments + (["--progress"] if self.capabilities.has("--progress") else [])

    def _flag(self, name: str) -> str:
        short, long = FLAGS[name]
        return short if self.capabilities.has(short) else long


def _spelled(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


class _Run:
    """One llama-bench process over one grid."""

    def __init__(self, bench: Bench, grid: Grid, repetitions: int) -> None:
        self._bench = bench
        self._grid = grid
        self._expected = grid.trials()
        self._repetitions = repetitions
        self._argv = [*bench.program.command, *bench.arguments(grid, repetitions)]
        self._n_done = 0
        self._stderr: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._load_s: float | None = None
        self._before: State = {}
        self._started_at = 0.0
        self.unfinished: list[Trial] = []

    def events(self) -> Iterator[Event]:
        """Everything that happens, up to the first failure or the end."""
        oom_kills = _oom_kills()
        self._before = self._bench.observe()
        with self._child() as child:
            self._started_at = child.started_at
            clock = self._bench.patience.clock(self._expected, self._repetitions)
            while True:
                event = child.next_event(clock.left())
                if event is None:
                    idle = clock.was_idle(child.cpu_seconds())
                    kind: Literal[FailureKind.HANG, FailureKind.TIMEOUT]
                    kind = FailureKind.HANG if idle else FailureKind.TIMEOUT
                    child.stop()
                    yield self._failed(failures.Reason(kind, clock.explained()), None)
                    return
                if isinstance(event, Exit):
                    yield from self._ended(event.code, killed_for_memory=_oom_kills() > oom_kills)
                    return
                if event.stream == "stderr":
                    yield from self._said(event, clock, child)
                elif event.text.startswith("{"):
                    result = self._recorded(event.text)
                    yield result
                    if isinstance(result.outcome, Failure):
                        return
                    clock.advance(self._n_done)
                else:
                    self._stderr.append(event.text)  # A usage text, or a debugger's.

    def _child(self) -> Child:
        try:
            return Child(self._argv)
        except OSError as error:
            raise LlamaCppUnusable(
                f"{self._argv[0]} cannot be executed: {error.strerror}",
                hint="is it built for this system and processor?",
            ) from error

    def _said(self, line: Line, clock: Clock, child: Child) -> Iterator[Event]:
        match = _PROGRESS.search(line.text)
        if not match:
            self._stderr.append(line.text)
            return
        index = min(int(match[1]), len(self._expected)) - 1
        phase = _PHASES.get(match[3], Phase.RUN)
        if phase is not Phase.LOAD and self._load_s is None:
            self._load_s = clock.elapsed()
        clock.enter(phase, index, line.at, child.cpu_seconds())
        repetition = int(match[5]) if phase is Phase.RUN and match[5] else 0
        yield Progress(trial=self._expected[index], phase=phase, repetition=repetition, at=line.at)

    def _recorded(self, line: str) -> Result:
        """The record of the trial that is next; anything else is output that cannot be trusted."""
        trial = self._expected[min(self._n_done, len(self._expected) - 1)]
        try:
            record = parse_record(line)
            _check(record, trial, self._repetitions)
        except BadRecord as problem:
            return self._failed(failures.Reason(FailureKind.BAD_OUTPUT, str(problem)), None)
        run = self._facts()
        measurement = Measurement(
            params=trial.params,
            test=trial.test,
            samples_ns=record.samples_ns,
            build_commit=record.build_commit,
            build_number=record.build_number,
            run=run,
            record=record.raw,
        )
        self._before = run.after
        impossible = implausible(measurement)
        if impossible:
            return self._failed(failures.Reason(FailureKind.IMPLAUSIBLE, impossible), None)
        self._n_done += 1
        return Result(trial=trial, outcome=measurement)

    def _ended(self, code: int, *, killed_for_memory: bool) -> Iterator[Event]:
        if self._n_done == len(self._expected) and code == 0:
            return
        if self._n_done == len(self._expected):  # Everything was measured; it fell over on leaving.
            return
        if code == 0:
            what = f"it ended with {self._n_done} of {len(self._expected)} records"
            yield self._failed(failures.Reason(FailureKind.BAD_OUTPUT, what), code)
            return
        reason = failures.classify(code, self._stderr, killed_for_memory=killed_for_memory)
        if failures.is_silent(code, self._stderr):
            reason = self._asked_again() or reason
        yield self._failed(reason, code)

    def _asked_again(self) -> failures.Reason | None:
        """Run the failed trial alone and talkative, for the reason alone."""
        trial = self._expected[self._n_done]
        (alone,) = grids.split([trial])
        arguments = [*self._bench.arguments(alone, 1), "-v"]
        if self._bench.capabilities.has("--no-warmup"):
            arguments.append("--no-warmup")
        said: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        with Child([*self._bench.program.command, *arguments]) as child:
            deadline = time.monotonic() + self._bench.patience.retry_s
            while (event := child.next_event(deadline - time.monotonic())) is not None:
                if isinstance(event, Exit):
                    self._stderr = said
                    return failures.classify(event.code, said) if event.code else None
                if not _PROGRESS.search(event.text):
                    said.append(event.text)
        return None

    def _failed(self, reason: failures.Reason, code: int | None) -> Result:
        """The trial that is next has failed; those after it are to be run again."""
        index = min(self._n_done, len(self._expected) - 1)
        trial = self._expected[index]
        self.unfinished = self._expected[index + 1 :]
        failure = Failure(
            kind=reason.kind,
            message=reason.message,
            params=trial.params,
            test=trial.test,
            exit_code=code,
            stderr_tail=tuple(self._stderr),
            run=self._facts(),
        )
        return Result(trial=trial, outcome=failure)

    def _facts(self) -> RunFacts:
        return RunFacts(
            argv=tuple(self._argv),
            removed_environment=environment.removed(os.environ),
            started_at=self._started_at,
            ended_at=time.time(),
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


def _check(record: Record, trial: Trial, repetitions: int) -> None:
    """The record is of the trial that was asked for, with as many samples."""
    if record.test != trial.test:
        raise BadRecord(f"a record of {record.test} where {trial.test} was asked for")
    if len(record.samples_ns) != repetitions:
        raise BadRecord(f"{len(record.samples_ns)} samples where {repetitions} were asked for")
    for name in ("n_threads", "n_batch", "n_ubatch", "type_k", "type_v"):
        asked, told = getattr(trial.params, name), getattr(record, name)
        if asked is not None and told is not None and asked != told:
            raise BadRecord(f"a record of {name} {told} where {asked} was asked for")


# No machine that runs llama.cpp streams its memory faster or computes faster than this: an H200 has
# 4.8 TB/s and 2 PFLOP/s in 8 bits, and eight of them are in one box.
MOST_BYTES_PER_SECOND = 50e12
MOST_FLOP_PER_SECOND = 20e15
# A mixture of experts reads this share of its weights for a token at the least (Kimi K2: 3 %).
LEAST_ACTIVE_SHARE = 0.02


def implausible(measurement: Measurement) -> str | None:
    """Why a number cannot be: builds before b5391 ignore a failed decode, and look very fast."""
    size, n_params = (measurement.record.get(key) for key in ("model_size", "model_n_params"))
    fastest = max(measurement.samples_ts)
    if not isinstance(size, int) or not isinstance(n_params, int):
        return None
    if measurement.test.n_gen and not measurement.test.n_prompt:
        most = MOST_BYTES_PER_SECOND / max(size * LEAST_ACTIVE_SHARE, 1)
        bound = "reading the weights once a token"
    else:
        most = MOST_FLOP_PER_SECOND / max(2 * n_params * LEAST_ACTIVE_SHARE, 1)
        bound = "two operations a weight and token"
    if fastest <= most:
        return None
    return f"{fastest:.0f} t/s is more than any machine reaches by {bound}: was a failure ignored?"


def _oom_kills() -> int:
    """Processes that this machine's kernel has killed for memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("oom_kill "))
    return int(next(counts, "0"))
