"""How long each phase of llama-bench may take, learned from those that were seen.

A limit that is guessed is too short for a model on a slow disk, or too long for a hanging program.
So the first run of each kind is waited for generously, the others for a multiple of what it took.
What was seen with other layers on the GPU says little: that alone can be a factor of hundreds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autotune.llama_cpp.grids import Trial, model_params
from autotune.params import Params


class Phase(StrEnum):
    """What llama-bench does for a test, in this order."""

    LOAD = "load"  # Of the model for the first test, of a context for each.
    WARMUP = "warmup"
    DEPTH = "depth"
    RUN = "run"
    EXIT = "exit"  # After the last test.


# Under the same model parameters: one thread instead of many, a deep context, a busy neighbour.
SLOWER_BY = 50
# Under others: all layers on a slow CPU instead of a fast GPU.
SLOWER_ELSEWHERE_BY = 2000
LEAST_S = 30.0  # Below this, a busy neighbour explains a delay better than a fault does.
EXIT_S = 60.0  # Giving back the memory of a large model.
_TICKS_S = 0.05  # CPU time is counted in steps.
SLOWEST_LOAD_BYTES_PER_S = 10e6  # From a device on a network of 100 Mbit/s.


@dataclass(kw_only=True)
class Patience:
    """Seconds to wait: before anything was seen, and the longest that was."""

    first_load_s: float = 1800.0
    first_step_s: float = 1200.0  # One repetition, a warm-up, or the filling of a depth.
    retry_s: float = 300.0  # For the run that only looks for the reason of a failure.
    least_s: float = LEAST_S
    exit_s: float = EXIT_S
    _load_s: float = field(default=0.0, init=False)
    _s_per_token: dict[tuple[Params, str], float] = field(default_factory=dict, init=False)

    def allowed(self, phase: Phase, trial: Trial, *, model_bytes: int = 0) -> float:
        """Seconds that a phase of this trial may take."""
        if phase is Phase.EXIT:
            return self.exit_s
        if phase is Phase.LOAD:
            # What was in the page cache at first may be on a slow disk the next time.
            learned = max(self._load_s * SLOWER_BY, 4 * self.least_s)
            from_disk = model_bytes / SLOWEST_LOAD_BYTES_PER_S
            return max(learned if self._load_s else self.first_load_s, from_disk)
        kind, tokens = _kind(phase, trial), _tokens(phase, trial)
        per_token = self._s_per_token.get((model_params(trial.params), kind))
        if per_token is not None:
            return max(per_token * tokens * SLOWER_BY, self.least_s)
        elsewhere = [s for (_, other), s in self._s_per_token.items() if other == kind]
        if not elsewhere:
            return self.first_step_s
        scaled = max(elsewhere) * tokens * SLOWER_ELSEWHERE_BY
        return max(scaled, 4 * self.least_s)

    def saw(self, phase: Phase, trial: Trial, seconds: float) -> None:
        """A phase has ended well."""
        if phase is Phase.LOAD:
            self._load_s = max(self._load_s, seconds)
            return
        key = (model_params(trial.params), _kind(phase, trial))
        self._s_per_token[key] = max(
            self._s_per_token.get(key, 0.0), seconds / max(_tokens(phase, trial), 1)
        )

    def clock(
        self,
        expected: Sequence[Trial],
        repetitions: int,
        *,
        model_bytes: int = 0,
        talks: bool = False,
    ) -> "Clock":
        """A clock for one run; of a program that tells its progress, if it `talks`."""
        return Clock(self, expected, repetitions, model_bytes=model_bytes, talks=talks)


def _kind(phase: Phase, trial: Trial) -> str:
    """Phases whose time a token is comparable: prompts are processed many tokens at a time."""
    test = trial.test
    if phase is Phase.DEPTH or not test.n_gen:
        return "prompt"
    return "both" if test.n_prompt else "generation"


def _tokens(phase: Phase, trial: Trial) -> int:
    test = trial.test
    if phase is Phase.DEPTH:
        return max(test.n_depth, 1)
    if phase is Phase.WARMUP:  # The whole prompt, but a single token.
        return max(test.n_prompt, 1)
    return max(test.n_tokens, 1)


class Clock:
    """Where a run is, since when, and how long that may still take."""

    def __init__(
        self,
        patience: Patience,
        expected: Sequence[Trial],
        repetitions: int,
        *,
        model_bytes: int,
        talks: bool,
    ) -> None:
        self._patience = patience
        self._expected = expected
        self._repetitions = repetitions
        self._model_bytes = model_bytes
        self._index = 0
        self._phase = Phase.LOAD
        self._since = self._start = time.monotonic()
        self._cpu_since: float | None = 0.0
        self._talks = talks
        self._has_begun = False

    def enter(self, phase: Phase, index: int, at: float, cpu_seconds: float | None) -> None:
        """A progress line has arrived: the phase before it has ended well."""
        first_load = not self._has_begun and phase is Phase.LOAD
        self._talks = self._has_begun = True
        if first_load:  # `starting` is said when the program is up; it is loading since it started.
            return
        self._learn(at)
        self._phase, self._index, self._since, self._cpu_since = phase, index, at, cpu_seconds

    def advance(self, n_done: int, at: float, cpu_seconds: float | None) -> None:
        """A record has arrived: the last repetition of its test has ended well."""
        if self._talks:
            self._learn(at)
        over = n_done >= len(self._expected)
        self._phase = Phase.EXIT if over else Phase.LOAD
        self._index = min(n_done, len(self._expected) - 1)
        self._since, self._cpu_since = at, cpu_seconds

    def left(self) -> float:
        """Seconds until patience ends."""
        return self._since + self._allowed() - time.monotonic()

    def is_over(self, at: float) -> bool:
        """What arrived at `at` came too late; words alone are no sign of work."""
        return at > self._since + self._allowed()

    def since_start(self, at: float) -> float:
        """Seconds from the start of the run to `at`."""
        return at - self._start

    def was_idle(self, cpu_seconds: float | None) -> bool:
        """The program has waited for something rather than worked: it hangs."""
        if cpu_seconds is None or self._cpu_since is None:
            return False
        used_s = cpu_seconds - self._cpu_since
        return used_s < _TICKS_S + 0.01 * (time.monotonic() - self._since)

    def explained(self) -> str:
        """What was waited for."""
        seconds = time.monotonic() - self._since
        test = self._expected[self._index].test
        return f"nothing was seen of the {self._phase} of {test} for {seconds:.0f} s"

    def _learn(self, at: float) -> None:
        self._patience.saw(self._phase, self._expected[self._index], at - self._since)

    def _allowed(self) -> float:
        trial, patience = self._expected[self._index], self._patience
        load_s = patience.allowed(Phase.LOAD, trial, model_bytes=self._model_bytes)
        if self._phase is Phase.LOAD and not self._talks:
            # A build without --progress shows nothing until the first record.
            return load_s + (self._repetitions + 2) * patience.allowed(Phase.RUN, trial)
        if self._phase is Phase.LOAD:
            return load_s
        return patience.allowed(self._phase, trial)
