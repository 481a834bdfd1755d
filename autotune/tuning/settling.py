"""More readings of what cannot be told from the best yet, while there is time.

A single test scatters by some percent, and what is left to gain in the end is less than that: one
thread more, the next ubatch. Only more readings of both sides tell.
"""

from autotune.params import Params
from autotune.tuning.contest import WORTH, Contest
from autotune.tuning.visits import Kind

# What is so many times the noise of a test behind the best is told from it.
_CLOSE = 2.0
# Beside the best, in a pass: few, so that what drifts hits all of them.
_AT_ONCE = 4
# Of each, by then: what four readings do not tell apart is no difference that counts.
_ENOUGH = 4
# At most, before the tail looks around what has won; a machine that is always busy ends it too.
_MOST_PASSES = 4


class Settling:
    """The best, and what differs from it in one parameter, measured again in passes."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest

    def walk(self) -> bool:
        """Until all that is close has been measured often enough; tells whether one has won."""
        best_before = self._contest.incumbent
        for _ in range(_MOST_PASSES):
            close = self._close()
            if not close:
                break
            both = [self._contest.incumbent, *close]
            self._contest.visit(Kind.SECOND, "settling", both, may_lose=False)
            self._contest.challenge(min(close, key=self._contest.cost))
        return self._contest.incumbent != best_before

    def _close(self) -> list[Params]:
        contest, best = self._contest, self._contest.incumbent
        limit = contest.cost(best) * (1 - WORTH + _CLOSE * contest.known.noise())
        close = [
            params
            for params in contest.known.visited()
            if contest.cost(params) < limit
            and contest.space.distance(params, best) == 1
            and contest.known.times_measured(params) < _ENOUGH
            and self._may_ship(params)
        ]
        return sorted(close, key=contest.cost)[:_AT_ONCE]

    def _may_ship(self, params: Params) -> bool:
        contest = self._contest
        fits = contest.space.holds(params) and contest.memory.fits(params)
        return fits and not contest.known.has_failed(params)
