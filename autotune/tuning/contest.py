"""The best so far and its challengers: what every step of the search is made of.

Nothing that is believed here is claimed: the best of many measurements looks better than it is.
"""

import math
from collections.abc import Sequence

from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.lab import Lab
from autotune.tuning.objective import Part
from autotune.tuning.space import Space
from autotune.tuning.verify import LEAST_ROUNDS, round_s
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import Value

# A challenger must look this much better to be worth leaving what is nearer the defaults.
WORTH = 0.005
# What a load of the model, or another visit, is worth spending for.
GAIN_THAT_COUNTS = 0.01
# A part alone that makes a request so much slower than the incumbent's ends the visit.
_LOST_BY = 0.08
# Of what was measured once, a part that was slower is believed to be only beyond so many errors:
# what makes prompts faster must not be lost to one unlucky test of generation.
_DOUBT = 2.5
# What looks better by so many times the noise of a test needs no second opinion to be believed.
_SURE = 4.0
# Of the budget, for the verification; more only where it is short, for the least that may decide.
_SHARE, _MOST_SHARE = 0.25, 0.5
# Above this share of repeated work the machine counts as busy.
_BUSY = 1.05


class Contest:
    """Who is in the lead, and how a challenger takes it."""

    def __init__(self, lab: Lab, space: Space, baseline: Params) -> None:
        self.baseline = baseline
        self.incumbent = baseline
        self.lab = lab
        self.known = lab.knowledge
        self.memory = lab.memory
        self.space = space
        self.parts = self.known.objective.parts

    def cost(self, params: Params) -> float:
        """What a request is believed to take; infinite where that is unknown."""
        cost = self.known.cost(params)
        return math.inf if cost is None else cost

    def visit(
        self,
        kind: Kind,
        source: str,
        configurations: Sequence[Params],
        *,
        parts: tuple[Part, ...] | None = None,
        repetitions: int | None = None,
        may_lose: bool = True,
    ) -> list[Reading]:
        visits = [
            Visit(kind=kind, source=source, params=p, parts=parts or self.parts)
            for p in configurations
        ]
        if not visits:
            return []
        readings = self.lab.visit(
            visits,
            repetitions=repetitions or self.lab.least_repetitions(),
            lost=self.has_lost if may_lose else None,
        )
        self.reserve()
        return readings

    def has_lost(self, visit: Visit, part: Part, cost: float) -> bool:
        """With this part, the other cannot make good what was lost."""
        best, total = self.cost(self.incumbent), cost
        for other in self.parts:
            if other != part:
                known = self.known.part_cost(visit.params, other)
                total += known or self.known.part_cost(self.incumbent, other) or 0.0
        return total > best * (1 + _LOST_BY)

    def is_new(self, params: Params | None) -> bool:
        """It is of the space and fits, has not failed, and is not fully measured yet."""
        return (
            params is not None
            and self.space.holds(params)  # What was refitted may be beyond what the user wants.
            and self.memory.fits(params)
            and not self.known.has_failed(params)
            and not self.known.has_lost(params)
            and self.known.cost(params) is None
        )

    def consider(self, *challengers: Params) -> None:
        """Make the best of them the incumbent, if it is worth leaving this one."""
        best = min(challengers, key=self.cost, default=self.incumbent)
        if self.cost(best) < self.cost(self.incumbent) * (1 - WORTH):
            self._promote(best)

    def challenge(self, challenger: Params) -> None:
        """A second opinion on both sides before the incumbent is left; one reading is luck."""
        once = self.known.times_measured(challenger) == 1
        gain = self.known.gain(challenger, over=self.incumbent, doubt=_DOUBT if once else 1)
        if gain <= WORTH:
            return
        if once and gain < _SURE * self.known.noise():
            both = [challenger, self.incumbent]
            self.visit(Kind.SECOND, "challenger", both, may_lose=False)
        if self.known.gain(challenger, over=self.incumbent) > WORTH:
            self._promote(challenger)

    def _promote(self, challenger: Params) -> None:
        self.incumbent = challenger
        seconds, baseline_s = map(self.known.seconds, (challenger, self.baseline))
        self.lab.tell(
            events.NewIncumbent(
                params=challenger,
                seconds=math.inf if seconds is None else seconds,
                baseline_s=math.inf if baseline_s is None else baseline_s,
                elapsed_s=self.lab.elapsed_s,
                joules=self.known.joules(challenger),
                baseline_j=self.known.joules(self.baseline),
            )
        )

    def with_value(self, name: str, value: Value) -> Params | None:
        """The incumbent with one parameter changed, refitted where that takes memory."""
        changed = self.space.with_value(self.incumbent, name, value)
        return self.memory.fitted(changed)

    def loads_are_dear(self) -> bool:
        """A load takes longer than the tests of a whole configuration."""
        visit = Visit(kind=Kind.TAIL, source="", params=self.incumbent, parts=self.parts)
        load_s = self.lab.costs.load_s()
        return load_s > self.lab.cost_s([visit]) / 2

    def total(self, readings: Sequence[Reading]) -> float | None:
        """The cost of a request by these readings alone; None where a part is in none of them."""
        objective, total = self.known.objective, 0.0
        for part in self.parts:
            measured = [m for r in readings if (m := r.measured(part))]
            each = [c for m in measured if (c := objective.part_cost(part, m)) is not None]
            if not each:
                return None
            total += math.exp(sum(map(math.log, each)) / len(each))
        return total

    def reserve(self) -> None:
        """Keep time for the verification: enough pairs for the gain that is seen so far."""
        lab = self.lab
        budget_s = lab.limits.budget_s
        if budget_s is None or self.known.cost(self.baseline) is None:
            return
        repeats = lab.watch.repeats(lab.elapsed_s)
        pair_s = repeats * round_s(lab, self.baseline, [self.incumbent])
        gain = math.log(self.cost(self.baseline) / self.cost(self.incumbent))
        wanted_s = (pairs_for(gain, self.known.noise()) + 0.5) * pair_s
        # Where some rounds will not count, more than the least have to fit.
        least_s = (LEAST_ROUNDS + (2.5 if repeats > _BUSY else 0.5)) * pair_s
        most_s = min(max(_SHARE * budget_s, least_s), _MOST_SHARE * budget_s)
        if self.incumbent == self.baseline:
            wanted_s = least_s  # There is nothing to verify yet, and time to find something.
        lab.reserved_s = min(max(wanted_s, least_s), most_s)


def pairs_for(gain: float, noise: float) -> int:
    """Pairs that are likely to show a gain (a log ratio) at this noise of one test."""
    spread = math.sqrt(2) * noise + 0.01
    needed = (3.5 * spread / max(gain, 0.02)) ** 2
    return min(max(math.ceil(needed) + 1, LEAST_ROUNDS), 12)
