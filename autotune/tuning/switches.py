"""One switch at a time against the best so far; what gains is kept at once."""

import math
from collections.abc import Sequence

from autotune.llama_cpp.grids import model_params
from autotune.params import Params
from autotune.tuning.contest import WORTH, Contest
from autotune.tuning.space import value_in
from autotune.tuning.visits import Kind, Reading
from autotune.tuning.workload import Value

# Those that gain most often come first.
_SWITCHES = (
    "kv_unified",
    "load_mode",
    "flash_attn",
    "repack",
    "no_kv_offload",
    "no_op_offload",
    "cache_type",
    "numa",
)


class Switches:
    """Load mode, flash attention, and what else is on or off."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._known = contest.known
        self._space = contest.space

    def run(self) -> None:
        """One at a time against the incumbent; what gains is kept at once."""
        for name in _SWITCHES:
            for value in self._space.values_of(name):
                is_on = value == value_in(self._contest.incumbent, name)
                if not is_on and not self._is_idle(name, value):
                    self._toggle(name, value)

    def _is_idle(self, name: str, value: Value) -> bool:
        """`auto` has switched flash attention on, if switching it off makes a difference."""
        incumbent = self._contest.incumbent
        if name != "flash_attn" or value is not True or value_in(incumbent, name) != "auto":
            return False
        off = self._contest.cost(self._space.with_value(incumbent, name, value=False))
        difference = abs(math.log(off / self._contest.cost(incumbent)))
        return difference > self._known.noise()

    def _toggle(self, name: str, value: Value) -> None:
        other = self._contest.with_value(name, value)
        if other is None or not self._contest.is_new(other):
            return
        source, mine = f"{name}={value}", self._contest.incumbent
        if model_params(other) != model_params(mine) or self._contest.loads_are_dear():
            self._contest.visit(Kind.TOGGLE, source, [other])
            self._contest.challenge(other)
            return
        order = [mine, other, other, mine]
        readings = self._contest.visit(Kind.TOGGLE, source, order, may_lose=False)
        if self._gain_among(readings, mine, other) > WORTH:
            self._contest.consider(other)

    def _gain_among(self, readings: Sequence[Reading], mine: Params, other: Params) -> float:
        """How much `other` has spared in these readings alone; -1 where it cannot be told."""
        costs = [
            self._contest.total([r for r in readings if r.visit.params == params])
            for params in (mine, other)
        ]
        return 1 - costs[1] / costs[0] if costs[0] and costs[1] else -1.0
