"""Faults that are done to a running `lcm` and to its llama-bench, at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from processes import benches_of

# How long a stop of llama-bench, or a neighbour, lasts.
_SHORTEST_S, _LONGEST_S = 2.0, 6.0
# Two faults are so far apart, at least and on average beyond that: so that most tests are spared.
_LEAST_APART_S, _MEAN_APART_S = 8.0, 20.0


@dataclass(slots=True, kw_only=True)
class Fault:
    """What was done, and when."""

    kind: str
    began_at: float  # Seconds since the epoch.
    ended_at: float

    def touches(self, since: float, until: float) -> bool:
        """Whether something that ran in between may have felt it."""
        return self.began_at <= until and self.ended_at >= since


class Injector:
    """Does one fault after the other to whatever runs."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - moments, no secrets
        self.done: list[Fault] = []
        self._until_s = 0.0
        self._finish: Callable[[], None] | None = None
        self._kinds: dict[str, Callable[[int], Callable[[], None] | None]] = {
            "llama-bench killed": lambda pid: _signalled(pid, signal.SIGKILL),
            "llama-bench terminated": lambda pid: _signalled(pid, signal.SIGTERM),
            "llama-bench stopped for seconds": _stopped,
            "a busy neighbour for seconds": lambda _: _neighbour(),
        }
        self._next_s = self._pause()

    def between(self, low: float, high: float) -> float:
        """A random number of seconds."""
        return self._chance.uniform(low, high)

    def note(self, kind: str) -> None:
        """Something was done elsewhere."""
        now = time.time()
        self.done.append(Fault(kind=kind, began_at=now, ended_at=now))

    def step(self, lcm: int) -> None:
        """Begin or end what is due, to the llama-bench of this `lcm`; to be called often."""
        now = time.monotonic()
        if self._finish and now >= self._until_s:
            self.finish()
        if self._finish or now < self._next_s:
            return
        benches = benches_of(lcm)
        if not benches:
            return
        kind = self._chance.choice(list(self._kinds))
        at = time.time()
        self._finish = self._kinds[kind](benches[0])
        self.done.append(Fault(kind=kind, began_at=at, ended_at=at))
        self._until_s = now + self.between(_SHORTEST_S, _LONGEST_S)
        self._next_s = self._pause()

    def finish(self) -> None:
        """End what lasts."""
        if self._finish:
            self._finish()
            self._finish = None
            self.done[-1].ended_at = time.time()
            self._next_s = self._pause()

    def _pause(self) -> float:
        apart_s = _LEAST_APART_S + self._chance.expovariate(1 / _MEAN_APART_S)
        return time.monotonic() + apart_s


def _signalled(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _stopped(pid: int) -> Callable[[], None]:
    _signalled(pid, signal.SIGSTOP)
    return lambda: _signalled(pid, signal.SIGCONT)


def _neighbour() -> Callable[[], None]:
    # Of another session: no descendant of lcm could be meant.
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)

    def end() -> None:
        busy.kill()
        busy.wait()

    return end
