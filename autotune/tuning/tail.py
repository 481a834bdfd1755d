"""With the time that is left: neighbours of the best, then what Optuna proposes."""

import math
import random
from collections.abc import Collection
from typing import Protocol

from autotune.llama_cpp.grids import CONTEXT_FIELDS, model_params
from autotune.params import Params
from autotune.tuning.contest import GAIN_THAT_COUNTS, Contest
from autotune.tuning.space import value_in
from autotune.tuning.visits import Kind, Reading
from autotune.tuning.workload import Value

# TPE is asked so often for one proposal that is not measured yet.
_ATTEMPTS = 5
# Visits of the tail without a gain of 1 %, after which more time would be spent for nothing.
_PATIENCE = 12
# Every so many visits of the tail the incumbent is measured again, and compared with itself.
_ANCHOR_EVERY = 6
# A drift beyond this many times the noise is the machine's and not the clock's.
_DRIFT = 4.0


class Proposer(Protocol):
    """What TPE would try next: `Study`, or one that is shared."""

    def proposal(self, numbers: Collection[int], *, nth: int) -> dict[str, Value]:
        """The nth point of the space, given what came of these trials."""
        ...


class Tail:
    """Goes on until nothing has gained 1 % for long."""

    def __init__(self, contest: Contest, study: Proposer, seed: int) -> None:
        self._contest = contest
        self._known = contest.known
        self._memory = contest.memory
        self._space = contest.space
        self._study = study
        self._seed = seed
        self._n_proposed = 0
        self._shown: frozenset[int] = frozenset()  # Numbers of the trials that TPE is shown.

    def walk(self) -> None:
        """Neighbours of the best while there are any, then what Optuna proposes."""
        rng = random.Random(self._seed)  # noqa: S311 - an order of trying, not a secret
        since_gain, n_visits = 0, 0
        while since_gain < _PATIENCE:
            n_visits += 1
            if n_visits % _ANCHOR_EVERY == 0:
                self._check_anchor()
            best_before = self._contest.cost(self._contest.incumbent)
            batch = self._next_batch(rng)
            if not batch:
                return
            self._contest.visit(Kind.TAIL, "neighbour" if len(batch) > 1 else "proposal", batch)
            challenger = min(batch, key=self._contest.cost)
            self._contest.challenge(challenger)
            gained = 1 - self._contest.cost(self._contest.incumbent) / best_before
            since_gain = 0 if gained > GAIN_THAT_COUNTS else since_gain + len(batch)

    def _next_batch(self, rng: random.Random) -> list[Params]:
        neighbours = self._neighbours()
        if not neighbours:
            proposed = self._proposal()
            return [proposed] if proposed else []
        rng.shuffle(neighbours)
        first = neighbours[0]
        # Those that share its load, and differ in the same parameter, cost a test each.
        varied = self._changed(first)
        alike = [
            p
            for p in neighbours
            if model_params(p) == model_params(first) and self._changed(p) == varied
        ]
        return alike[:3] if varied <= {*CONTEXT_FIELDS, "n_threads_batch"} else [first]

    def _changed(self, params: Params) -> set[str]:
        return self._space.differing(params, self._contest.incumbent)

    def _neighbours(self) -> list[Params]:
        found: list[Params | None] = []
        for dimension in self._space.dimensions:
            for value in dimension.beside(value_in(self._contest.incumbent, dimension.name)):
                found.append(self._space.with_value(self._contest.incumbent, dimension.name, value))
                if dimension.moves_memory:
                    found.append(self._contest.with_value(dimension.name, value))
        return list(dict.fromkeys(p for p in found if p is not None and self._contest.is_new(p)))

    def _proposal(self) -> Params | None:
        """What TPE asks for and is not measured yet: it repeats itself, and we do not."""
        nth = self._n_proposed % self._contest.lab.proposals_at_once
        if not nth:
            self._shown = frozenset(reading.number for reading in self._known.readings)
        self._n_proposed += 1
        for attempt in range(_ATTEMPTS):
            point = self._study.proposal(self._shown, nth=_ATTEMPTS * nth + attempt)
            params = self._memory.fitted(self._space.with_point(self._space.fixed, point))
            if params is not None and self._contest.is_new(params):
                return params
        return None

    def _check_anchor(self) -> None:
        """Measure the incumbent again: if the machine has changed, what came since is suspect."""
        before = self._contest.cost(self._contest.incumbent)
        (reading,) = self._contest.visit(
            Kind.ANCHOR, "drift", [self._contest.incumbent], may_lose=False
        )
        now = self._contest.total([reading])
        if now is None or reading.disturbed:
            return
        limit = max(_DRIFT * self._known.noise(), 0.05)
        if abs(math.log(now / before)) > limit:
            last_good = max(
                (r.number for r in self._anchors() if r.number < reading.number), default=-1
            )
            self._known.forget(lambda suspect: last_good < suspect.number < reading.number)

    def _anchors(self) -> list[Reading]:
        return [r for r in self._known.readings if r.visit.kind is Kind.ANCHOR and not r.disturbed]
