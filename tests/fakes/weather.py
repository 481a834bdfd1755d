"""What disturbs a simulated machine: noise, drift, outliers and a neighbour that comes and goes.

All of it follows from the seed and from virtual time, so a run can be had again exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import exp, sin, tau
from typing import TYPE_CHECKING

from fakes.surfaces import LOGICAL, dice

if TYPE_CHECKING:
    from random import Random

    from autotune.llama_cpp.records import Test
    from autotune.params import Params

_PERIODS_S = (7 * 60.0, 31 * 60.0)
_OUTLIER = 1.3
_BURST_S = 15.0  # How long the neighbour stays, on the average.
_BESIDE = 1.15  # What it costs a test that leaves it a core.
_WORST_SLOWDOWNS = (3.0, 20.0)  # And what one that does not: all its threads wait for the slowest.


class VirtualClock:
    """Time that passes when somebody says so."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds since the machine was made."""
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)

    def pass_to(self, moment: float) -> None:
        self._now = max(self._now, moment)


@dataclass
class Bursts:
    """When the neighbour computes: `share` of the time, on one CPU."""

    seed: int
    share: float
    _ends: list[float] = field(default_factory=list)  # Of quiet and busy times in turn.
    _busy_before: list[float] = field(default_factory=list)
    _slowdowns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError("a neighbour is there for 0 up to less than all of the time")
        self._dice = dice("bursts", self.seed)

    def at(self, moment: float) -> tuple[float, float]:
        """Until when it stays as it is at `moment`, and the slowdown; 1 while it is quiet."""
        if not self.share:
            return float("inf"), 1.0
        n = self._span(moment)
        return self._ends[n], self._slowdowns[n]

    def busy_s(self, moment: float) -> float:
        """CPU seconds that the neighbour has used by then."""
        if not self.share:
            return 0.0
        n = self._span(moment)
        busy = self._slowdowns[n] > 1
        return self._busy_before[n] + (moment - (self._ends[n - 1] if n else 0.0)) * busy

    def _span(self, moment: float) -> int:
        while not self._ends or self._ends[-1] <= moment:
            self._extend()
        return bisect_right(self._ends, moment)

    def _extend(self) -> None:
        start = self._ends[-1] if self._ends else 0.0
        busy_before = self._busy_before[-1] if self._busy_before else 0.0
        quiet = _BURST_S * (1 - self.share) / self.share
        first, last = (
            start + self._dice.expovariate(1 / quiet),
            self._dice.expovariate(1 / _BURST_S),
        )
        if self._ends:
            busy_before += self._ends[-1] - self._ends[-2]
        self._ends += [first, first + last]
        self._busy_before += [busy_before] * 2
        self._slowdowns += [1.0, self._dice.uniform(*_WORST_SLOWDOWNS)]


@dataclass
class Weather:
    """All disturbances of one machine; each can be 0."""

    seed: int
    noise: float = 0.02  # Standard deviation of the logarithm, one repetition against another.
    drift: float = 0.02  # The most that speed is off by in the course of half an hour.
    bursts: float = 0.0  # The share of the time that the neighbour computes.
    outliers: float = 0.01  # The share of repetitions that take 1.3 times as long.
    n_cpus: int = LOGICAL  # Threads that leave the neighbour no CPU of its own.

    def __post_init__(self) -> None:
        d = dice("drift", self.seed)
        self._phases = [d.uniform(0, tau) for _ in _PERIODS_S]
        self.neighbour = Bursts(self.seed, self.bursts)

    def of_load(self, model_params: Params, nth: int) -> float:
        """The factor that a process has on all it measures, by where its memory came to lie."""
        return exp(self.noise / 2 * dice("load", self.seed, model_params, nth).gauss())

    def of_visit(self, params: Params, test: Test, nth: int) -> Random:
        """Random numbers for a trial that is measured for the nth time, whatever else was."""
        return dice("visit", self.seed, params, test, nth)

    def of_repetition(self, d: Random) -> float:
        """The factor on the time of one repetition."""
        factor = exp(self.noise * d.gauss())
        return factor * (_OUTLIER if d.random() < self.outliers else 1.0)

    def drifted(self, moment: float) -> float:
        waves = zip(_PERIODS_S, self._phases, strict=True)
        return exp(self.drift * sum(sin(tau * moment / s + phase) for s, phase in waves) / 2)

    def work(self, clock: VirtualClock, seconds: float, threads: int) -> float:
        """Let that much work be done, and give the seconds that it really took."""
        started, left = clock.now(), seconds
        while left > 0:
            until, slowdown = self.neighbour.at(clock.now())
            if slowdown > 1 and threads < self.n_cpus:
                slowdown = _BESIDE
            if clock.now() + left * slowdown < until:
                clock.sleep(left * slowdown)
                break
            left -= (until - clock.now()) / slowdown
            clock.pass_to(until)
        return clock.now() - started
