"""What is known so far: how long each part of a request takes, and what has failed."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.stats import noise_of
from autotune.tuning.objective import Objective, Part
from autotune.tuning.visits import Reading

# Of a single test on an idle machine, before two of the same have been seen.
_NOISE_AT_FIRST = 0.02
# However alike some repetitions were, the next may differ by so much.
_LEAST_NOISE = 0.003
# A difference of fewer standard errors is no difference to search by.
_ERRORS = 1.0
# What has failed for these would fail again; a hang or a crash may be an accident, once.
_FOR_GOOD = frozenset({FailureKind.OOM, FailureKind.UNSUPPORTED, FailureKind.BAD_ARGUMENTS})
# What is said of a reading that was clean by itself.
_SUSPECT = "the machine had changed"


class Knowledge:
    """Adds readings up; a disturbed one counts only where there is no other."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.readings: list[Reading] = []
        self._clean: dict[tuple[Part, Params], list[float]] = defaultdict(list)
        self._disturbed: dict[tuple[Part, Params], list[float]] = defaultdict(list)
        self._failures: dict[tuple[Part, Params], list[FailureKind]] = defaultdict(list)
        self._dropped: set[frozenset[tuple[Part, Params]]] = set()

    def add(self, reading: Reading) -> None:
        """Learn from a visit."""
        self.readings.append(reading)
        where = self._disturbed if reading.disturbed else self._clean
        for part in reading.visit.parts:
            key = self._key(reading.visit.params, part)
            measured = reading.measured(part)
            if measured:
                where[key].append(self.objective.part_seconds(part, measured.samples_ns))
            elif part in reading.outcomes and reading.failure:
                self._failures[key].append(reading.failure.kind)
        dropped = not reading.failure and len(reading.outcomes) < len(reading.visit.parts)
        if dropped and not reading.disturbed:
            self._dropped.add(frozenset(self._keys(reading.visit.params, reading.visit.parts)))

    def forget(self, unwanted: Callable[[Reading], bool]) -> None:
        """Count some readings as disturbed: the machine was not itself when they were made."""
        readings, self.readings = self.readings, []
        for where in (self._clean, self._disturbed, self._failures):
            where.clear()
        self._dropped.clear()
        for reading in readings:
            suspect = unwanted(reading) and not reading.disturbed
            self.add(replace(reading, disturbed=_SUSPECT) if suspect else reading)

    def visited(self) -> list[Params]:
        """Every configuration that there is a reading of, in the order of the first."""
        return list(dict.fromkeys(reading.visit.params for reading in self.readings))

    def part_seconds(self, params: Params, part: Part) -> float | None:
        """The seconds of a part of a request, or None where it was not measured."""
        key = self._key(params, part)
        known = self._clean.get(key) or self._disturbed.get(key)
        return statistics.median(known) if known else None

    def seconds(self, params: Params) -> float | None:
        """The seconds of a request, or None where a part was not measured."""
        total = 0.0
        for part in self.objective.parts:
            seconds = self.part_seconds(params, part)
            if seconds is None:
                return None
            total += seconds
        return total

    def gain(self, params: Params, *, over: Params, doubt: float = 1.0) -> float:
        """By what share of a request `params` is faster; a part that cannot be told apart is equal.

        What changes prompts would otherwise drown in the noise of generation, and the other way.
        -1 where a part of either was not measured.

        Args:
            params: the challenger.
            over: what it is compared with.
            doubt: a loss must be so many times the error that a gain must be to count.
        """
        mine = theirs = 0.0
        for part in self.objective.parts:
            a, b = self.part_seconds(over, part), self.part_seconds(params, part)
            if a is None or b is None:
                return -1.0
            theirs += a
            ratio, error = math.log(b / a), self._error(params, over, part)
            mine += b if not -error <= ratio <= doubt * error else a
        return 1 - mine / theirs

    def _error(self, one: Params, other: Params, part: Part) -> float:
        """What a log ratio of a part must exceed to be more than chance."""
        counts = [len(self._clean.get(self._key(p, part), ())) for p in (one, other)]
        return _ERRORS * self.noise() * math.sqrt(sum(1 / max(n, 1) for n in counts))

    def times_measured(self, params: Params) -> int:
        """How many clean readings there are of the part that has the fewest."""
        keys = self._keys(params, self.objective.parts)
        return min(len(self._clean.get(key, ())) for key in keys)

    def has_lost(self, params: Params) -> bool:
        """What was asked of it was dropped while it ran, because it took much too long."""
        if self.seconds(params) is not None:
            return False
        keys = {*self._keys(params, self.objective.parts)}
        return any(dropped <= keys for dropped in self._dropped)

    def _key(self, params: Params, part: Part) -> tuple[Part, Params]:
        return part, self.objective.key(params, part)

    def _keys(self, params: Params, parts: Sequence[Part]) -> list[tuple[Part, Params]]:
        return [self._key(params, part) for part in parts]

    def has_failed(self, params: Params) -> bool:
        """It failed for good, or twice."""
        for key in self._keys(params, self.objective.parts):
            kinds = self._failures.get(key, [])
            if len(kinds) > 1 or any(kind in _FOR_GOOD for kind in kinds):
                return True
        return False

    def noise(self) -> float:
        """The spread of one test against another of the same, as a standard deviation of logs."""
        noise = noise_of([list(map(math.log, known)) for known in self._clean.values()])
        return _NOISE_AT_FIRST if noise is None else max(noise, _LEAST_NOISE)
