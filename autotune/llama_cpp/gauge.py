"""What a test's repetitions have used, from a meter that was read as each began and ended."""

from autotune.llama_cpp.patience import Phase


class Gauge:
    """The joules of one test's repetitions; warm-ups and the filling of a cache are left out."""

    def __init__(self) -> None:
        self._running = 0  # The repetition; 0 outside of them.
        self._since: float | None = None
        self._used: dict[int, float | None] = {}

    def begin(self) -> None:
        """Another test begins."""
        self._running, self._used = 0, {}

    def enter(self, phase: Phase, repetition: int, joules: float | None) -> None:
        """Another phase begins, or another repetition; the meter stands at `joules`."""
        self._end(joules)
        self._running, self._since = repetition if phase is Phase.RUN else 0, joules

    def samples(self, n: int, joules: float | None) -> tuple[float, ...]:
        """What each of `n` repetitions has used, the last up to now; empty where one is unknown."""
        self._end(joules)
        self._running = 0
        used = [self._used.get(repetition) for repetition in range(1, n + 1)]
        known = tuple(joules for joules in used if joules is not None)
        return known if len(known) == n else ()

    def _end(self, joules: float | None) -> None:
        if not self._running:
            return
        # Of a test of both, prompt and generation are one repetition.
        before = self._used.get(self._running, 0.0)
        is_known = None not in (before, joules, self._since)
        self._used[self._running] = before + joules - self._since if is_known else None  # type: ignore[operator]
