"""Time, as a seam: a simulated machine brings its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Clock(Protocol):
    """Seconds that pass, and waiting."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class RealClock:
    """This machine's clock, which no one sets back."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@contextmanager
def alarm(clock: Clock, seconds: float | None, ring: Callable[[], None]) -> Iterator[None]:
    """Call `ring` after so many real seconds, unless left before; never in simulated time."""
    if seconds is None or not isinstance(clock, RealClock):
        yield
        return
    timer = threading.Timer(max(seconds, 0), ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
