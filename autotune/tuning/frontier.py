"""What configurations that were not measured promise, by those that were.

On a GPU that holds a part of a model, the time of a token is close to linear in the layers, or
layers' experts, that are left to the CPU; and a switch multiplies a part's time by about the same
factor everywhere. So a line and a few factors say which combination is worth a load of the model.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.params import Params
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Part
from autotune.tuning.space import Space

_OPTIONS = ("n_ubatch", "no_kv_offload", "cache_type", "flash_attn", "no_op_offload", "load_mode")
_PLACEMENT = frozenset({"n_gpu_layers", "n_cpu_moe"})
# What does not move a part, so that it may differ between two configurations that are compared.
_IDLE = {
    "pp": frozenset({"n_threads"}),
    "tg": frozenset({"n_ubatch", "n_batch", "n_threads_batch", "no_op_offload"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A configuration, and what share of a request it should spare against the incumbent."""

    params: Params
    gain: float


class Frontier:
    """The line and the factors, from everything that was measured by now."""

    def __init__(self, knowledge: Knowledge, memory: Memory, space: Space) -> None:
        self._known = knowledge
        self._memory = memory
        self._space = space
        self._measured = [p for p in knowledge.visited() if knowledge.cost(p) is not None]
        self._slopes = {part: self._slope(part) for part in knowledge.objective.parts}

    def best_promise(self, options: Sequence[Params], incumbent: Params) -> Promise | None:
        """The option that promises most, of those that were not measured."""
        best = self._known.cost(incumbent)
        if best is None:
            return None
        promises = [
            Promise(params=params, gain=1 - self._predicted(params, incumbent) / best)
            for params in options
            if self._known.cost(params) is None and not self._known.has_failed(params)
        ]
        return max(promises, key=lambda promise: promise.gain, default=None)

    def _predicted(self, params: Params, incumbent: Params) -> float:
        """The cost of a request: the incumbent's, along the line, times each option's factor."""
        on_host = self._memory.layers_on_host(params) - self._memory.layers_on_host(incumbent)
        changed = self._space.differing(params, incumbent)
        total = 0.0
        for part in self._known.objective.parts:
            cost = self._known.part_cost(incumbent, part) or math.inf
            cost = max(cost + on_host * self._slopes[part], 0.0)
            for name in _OPTIONS:
                if name in changed:
                    cost *= self._factor(part, name, params)
            total += cost
        return total

    def _slope(self, part: Part) -> float:
        """What one more layer on the host costs, from pairs that differ in nothing else."""
        slopes = [
            (a - b) / layers for a, b, layers in self._pairs(part, self._measured, set()) if layers
        ]
        return statistics.median(slopes) if slopes else 0.0

    def _factor(self, part: Part, name: str, params: Params) -> float:
        """What a value of an option multiplies a part by; infinite where it was never seen."""
        if name in _IDLE[part]:
            return 1.0
        value = self._space.point(params)[name]
        having = [p for p in self._measured if self._space.point(p)[name] == value]
        slope = self._slopes[part]
        factors = [
            max(a - layers * slope, 0.01 * a) / b
            for a, b, layers in self._pairs(part, having, {name})
        ]
        return statistics.median(factors) if factors else math.inf

    def _pairs(
        self, part: Part, some: Sequence[Params], options: set[str]
    ) -> Iterator[tuple[float, float, int]]:
        """Pairs that differ in these options, maybe in placement, and in nothing else.

        Yields:
            The costs of both, and how many layers more the first has on the host.
        """
        for one in some:
            for other in self._measured:
                a = self._known.part_cost(one, part)
                b = self._known.part_cost(other, part)
                if a is None or b is None or self._differ_in(one, other, part) != options:
                    continue
                yield a, b, self._memory.layers_on_host(one) - self._memory.layers_on_host(other)

    def _differ_in(self, one: Params, other: Params, part: Part) -> set[str]:
        return self._space.differing(one, other) - _PLACEMENT - _IDLE[part]
