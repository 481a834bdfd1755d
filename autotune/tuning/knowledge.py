"""What is known so far: what each part of a request costs, and what has failed."""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.stats import median_of_sorted, noise_of
from autotune.tuning.objective import Objective, Part, Quantity
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


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a part took, in ascending order, since the middle is asked for again and again."""

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    def of(self, quantity: Quantity) -> list[float]:
        return self.joules if quantity == "joules" else self.seconds


_NOTHING = _Costs()


class Knowledge:
    """Adds readings up; a disturbed one counts only where there is no other."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.readings: list[Reading] = []
        self._clean: dict[tuple[Part, Params], _Costs] = defaultdict(_Costs)
        self._disturbed: dict[tuple[Part, Params], _Costs] = defaultdict(_Costs)
        self._failures: dict[tuple[Part, Params], list[FailureKind]] = defaultdict(list)
        self._dropped: set[frozenset[tuple[Part, Params]]] = set()
        self._asked: dict[tuple[Part, Params], tuple[Part, Params]] = {}

    def add(self, reading: Reading) -> None:
        """Learn from a visit."""
        self.readings.append(reading)
        where = self._disturbed if reading.disturbed else self._clean
        for part in reading.visit.parts:
            key = self._key(reading.visit.params, part)
            measured = reading.measured(part)
            if measured:
                seconds = self.objective.part_seconds(part, measured.samples_ns)
                insort(where[key].seconds, seconds)
                joules = self.objective.part_joules(part, measured)
                if joules is not None:
                    insort(where[key].joules, joules)
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
        return self._middle(params, part, "seconds")

    def part_joules(self, params: Params, part: Part) -> float | None:
        """The joules of a part of a request, or None where they were not told."""
        return self._middle(params, part, "joules")

    def part_cost(self, params: Params, part: Part) -> float | None:
        """What is minimised of a part of a request, or None where it was not measured."""
        return self._middle(params, part, self.objective.minimises)

    def _middle(self, params: Params, part: Part, quantity: Quantity) -> float | None:
        key = self._key(params, part)
        clean, disturbed = (where.get(key, _NOTHING) for where in (self._clean, self._disturbed))
        known = clean.of(quantity) or disturbed.of(quantity)
        return median_of_sorted(known) if known else None

    def seconds(self, params: Params) -> float | None:
        """The seconds of a request, or None where a part was not measured."""
        return self._request(params, "seconds")

    def joules(self, params: Params) -> float | None:
        """The joules of a request, or None where those of a part were not told."""
        return self._request(params, "joules")

    def cost(self, params: Params) -> float | None:
        """What is minimised of a request, or None where a part was not measured."""
        return self._request(params, self.objective.minimises)

    def _request(self, params: Params, quantity: Quantity) -> float | None:
        total = 0.0
        for part in self.objective.parts:
            cost = self._middle(params, part, quantity)
            if cost is None:
                return None
            total += cost
        return total

    def gain(self, params: Params, *, over: Params, doubt: float = 1.0) -> float:
        """What share of a request `params` spares; a part that cannot be told apart is equal.

        What changes prompts would otherwise drown in the noise of generation, and the other way.
        -1 where a part of either was not measured.

        Args:
            params: the challenger.
            over: what it is compared with.
            doubt: a loss must be so many times the error that a gain must be to count.
        """
        mine = theirs = 0.0
        for part in self.objective.parts:
            a, b = self.part_cost(over, part), self.part_cost(params, part)
            if a is None or b is None:
                return -1.0
            theirs += a
            ratio, error = math.log(b / a), self._error(params, over, part)
            mine += b if not -error <= ratio <= doubt * error else a
        return 1 - mine / theirs

    def _error(self, one: Params, other: Params, part: Part) -> float:
        """What a log ratio of a part must exceed to be more than chance."""
        counts = [self._n_clean(self._key(p, part)) for p in (one, other)]
        return _ERRORS * self.noise() * math.sqrt(sum(1 / max(n, 1) for n in counts))

    def times_measured(self, params: Params) -> int:
        """How many clean readings there are of the part that has the fewest."""
        keys = self._keys(params, self.objective.parts)
        return min(map(self._n_clean, keys))

    def _n_clean(self, key: tuple[Part, Params]) -> int:
        return len(self._clean.get(key, _NOTHING).of(self.objective.minimises))

    def has_lost(self, params: Params) -> bool:
        """What was asked of it was dropped while it ran, because it took much too long."""
        if self.cost(params) is not None:
            return False
        keys = {*self._keys(params, self.objective.parts)}
        return any(dropped <= keys for dropped in self._dropped)

    def _key(self, params: Params, part: Part) -> tuple[Part, Params]:
        asked = (part, params)
        if asked not in self._asked:
            self._asked[asked] = part, self.objective.key(params, part)
        return self._asked[asked]

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
        costs = [known.of(self.objective.minimises) for known in self._clean.values()]
        noise = noise_of([list(map(math.log, known)) for known in costs])
        return _NOISE_AT_FIRST if noise is None else max(noise, _LEAST_NOISE)
