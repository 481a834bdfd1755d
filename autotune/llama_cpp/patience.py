"""How long each phase of llama-bench may take, learned from those that were seen.

A limit that is guessed is too short for a model on a slow disk, or too long for a hanging program.
So the first run of each kind is waited for generously, the others for a multiple of what it took.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autotune.llama_cpp.grids import Trial


class Phase(StrEnum):
    """What llama-bench does for a test, in this order."""

    LOAD = "load"
    WARMUP = "warmup"
    DEPTH = "depth"
    RUN = "run"


# One thread instead of sixteen, or layers on the CPU instead of the GPU, is less than this slower.
SLOWER_BY = 50
LEAST_S = 20.0  # Below this, a busy neighbour explains a delay better than a fault does.


@dataclass(kw_only=True)
class Patience:
    """Seconds to wait: before anything was seen, and the longest that was."""

    first_load_s: float = 1800.0  # 300 GB from a disk of 170 MB/s
    first_step_s: float = 1200.0  # One repetition, a warm-up, or the filling of a depth.
    retry_s: float = 300.0  # For the run that only looks for the reason of a failure.
    least_s: float = LEAST_S
    _load_s: float = field(default=0.0, init=False)
    _s_per_token: dict[str, float] = field(default_factory=dict, init=False)

    def allowed(self, phase: Phase, trial: Trial) -> float:
        """Seconds that a phase of this trial may take."""
        if phase is Phase.LOAD:
            # A context of another size takes its own time, whatever the model took.
            return (
                max(self._load_s * SLOWER_BY, 6 * self.least_s)
                if self._load_s
                else self.first_load_s
            )
        per_token = self._s_per_token.get(_kind(phase, trial))
        if per_token is None:
            return self.first_step_s
        return max(per_token * _tokens(phase, trial) * SLOWER_BY, self.least_s)

    def saw(self, phase: Phase, trial: Trial, seconds: float) -> None:
        """A phase has ended well."""
        if phase is Phase.LOAD:
            self._load_s = max(self._load_s, seconds)
            return
        kind, per_token = _kind(phase, trial), seconds / max(_tokens(phase, trial), 1)
        self._s_per_token[kind] = max(self._s_per_token.get(kind, 0.0), per_token)

    def clock(self, expected: Sequence[Trial], repetitions: int) -> "Clock":
        """A clock for one run."""
        return Clock(self, expected, repetitions)


def _kind(phase: Phase, trial: Trial) -> str:
    """Phases whose time a token is comparable: prompts are processed many tokens at a time."""
    prompt = phase is Phase.DEPTH or bool(trial.test.n_prompt)
    return "prompt" if prompt else "generation"


def _tokens(phase: Phase, trial: Trial) -> int:
    return trial.test.n_depth if phase is Phase.DEPTH else trial.test.n_tokens


class Clock:
    """Where a run is, since when, and how long that may still take."""

    def __init__(self, patience: Patience, expected: Sequence[Trial], repetitions: int) -> None:
        self._patience = patience
        self._expected = expected
        self._repetitions = repetitions
        self._index = 0
        self._phase = Phase.LOAD
        self._since = self._start = time.monotonic()
        self._cpu_since: float | None = 0.0
        self._talks = False

    def enter(self, phase: Phase, index: int, at: float, cpu_seconds: float | None) -> None:
        """A progress line has arrived: the phase before it has ended well."""
        if self._talks or self._phase is Phase.LOAD:
            self._patience.saw(self._phase, self._expected[self._index], at - self._since)
        self._talks = True
        self._phase, self._index, self._since, self._cpu_since = phase, index, at, cpu_seconds

    def advance(self, n_done: int) -> None:
        """A record has arrived."""
        self._index = min(n_done, len(self._expected) - 1)
        self._phase, self._since = Phase.LOAD, time.monotonic()

    def left(self) -> float:
        """Seconds until patience ends."""
        return self._since + self._allowed() - time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._start

    def was_idle(self, cpu_seconds: float | None) -> bool:
        """The program has waited for something rather than worked: it hangs."""
        if cpu_seconds is None or self._cpu_since is None:
            return False
        return cpu_seconds - self._cpu_since < 0.01 * (time.monotonic() - self._since)

    def explained(self) -> str:
        """What was waited for."""
        seconds = time.monotonic() - self._since
        return f"{self._phase} of {self._expected[self._index].test} took more than {seconds:.0f} s"

    def _allowed(self) -> float:
        trial = self._expected[self._index]
        if self._talks:
            return self._patience.allowed(self._phase, trial)
        # A build without --progress shows nothing until the first record.
        steps = (self._repetitions + 2) * self._patience.allowed(Phase.RUN, trial)
        return self._patience.allowed(Phase.LOAD, trial) + steps
