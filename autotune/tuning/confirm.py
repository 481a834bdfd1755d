"""Whether llama-server serves what llama-batched-bench measured.

That one neither samples nor speaks HTTP, and its sequences go in step. So the winner and the
defaults are each started as they would be shipped, and asked the requests of the workload at once,
in turns. The server has the last word: a gain that it does not show is not claimed.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from autotune.llama_cpp.serving import NotServed, Served
from autotune.params import Params
from autotune.stats import Comparison

Agreement = Literal["confirmed", "of another size", "contradicted", "failed", "not compared"]

# How far the server's ratio may lie outside of the interval that was measured: a judgement. What
# the server does besides takes the same time on both sides, which draws its ratio towards 1.
MARGIN = 1.10
MOST_PAIRS = 3
# What starting and stopping a server takes beside loading the model, and the requests beside what
# llama-batched-bench takes for them; seen on two cores, where they are asked from the same ones.
START_S, SLOWER = 2.0, 1.4
# The answers may take so many times as long as was measured before that is called a failure.
_PATIENCE, _LEAST_PATIENCE_S = 20.0, 60.0
_MOST_SHARE = 0.25  # Of the budget.
_LEAST_TOKENS_SHARE = 0.05  # However little time there is.

RULE = (
    "all requests at once to a llama-server with each, in turns; confirmed: its ratio is above 1 "
    f"and within {MARGIN - 1:.0%} of the interval; contradicted: it is not above 1"
)


class Serves(Protocol):
    """Starts a server, asks it all requests at once, with a share of their tokens, and stops it."""

    def __call__(
        self, params: Params, *, share: float, limit_s: float, enough: Callable[[], bool]
    ) -> Served | NotServed: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What the server said of both sides."""

    baseline_s: tuple[float, ...]  # Until all requests were answered, of each time.
    candidate_s: tuple[float, ...]
    agreement: Agreement
    failure: str = ""  # Whose server failed, and how.
    share: float = 1.0  # Of the tokens of each request; less, where the time did not suffice.

    @property
    def supports(self) -> bool:
        """The server shows a gain too, if not one of the same size."""
        return self.agreement in {"confirmed", "of another size"}

    @property
    def ratio(self) -> float | None:
        """How many times as fast the candidate was served; None where it was not."""
        pairs = zip(self.baseline_s, self.candidate_s, strict=False)
        logs = [math.log(theirs / mine) for theirs, mine in pairs]
        return math.exp(statistics.median(logs)) if logs else None


def judged(
    baseline_s: Sequence[float],
    candidate_s: Sequence[float],
    seen: Comparison | None,
    failure: str = "",
) -> Confirmation:
    """Hold the server's ratio against what was measured."""
    known = Confirmation(
        baseline_s=tuple(baseline_s),
        candidate_s=tuple(candidate_s),
        agreement="failed" if failure else "not compared",
        failure=failure,
    )
    ratio = known.ratio
    if failure or ratio is None or seen is None:
        return known
    agreement: Agreement = "of another size"
    if ratio <= 1:
        agreement = "contradicted"
    elif seen.low / MARGIN <= ratio <= seen.high * MARGIN:
        agreement = "confirmed"
    return Confirmation(
        baseline_s=known.baseline_s, candidate_s=known.candidate_s, agreement=agreement
    )


def reserve_s(*, request_s: float, load_s: float, budget_s: float) -> float:
    """Seconds to keep for asking a server of each side once."""
    return min(2 * (_start_s(load_s) + SLOWER * request_s), _MOST_SHARE * budget_s)


def _start_s(load_s: float) -> float:
    """Seconds that a server takes beside the requests; loading is twice as long for caution."""
    return START_S + 2 * load_s


class Confirmer:
    """Asks servers in turns until the time is up.

    Args:
        serves: starts one.
        left_s: seconds that there are.
        enough: the user wants an end.
    """

    def __init__(
        self, serves: Serves, *, left_s: Callable[[], float], enough: Callable[[], bool]
    ) -> None:
        self._serves = serves
        self._left_s = left_s
        self._enough = enough

    def confirm(
        self,
        baseline: Params,
        candidate: Params | None,
        *,
        seen: Comparison | None,
        request_s: float,
        load_s: float,
    ) -> Confirmation | None:
        """Ask both, or the defaults alone; None: it was interrupted before anything was known.

        Args:
            baseline: the defaults.
            candidate: what is better by what was measured; None: nothing is.
            seen: by how much.
            request_s: what all requests took of the defaults, as it was measured.
            load_s: what one load of the model took.
        """
        sides = [baseline] if candidate is None else [baseline, candidate]
        seconds: dict[Params, list[float]] = {side: [] for side in sides}
        share = self._share(len(sides), request_s, load_s)
        limit_s = max(_PATIENCE * share * request_s, _LEAST_PATIENCE_S)
        longest_s = 0.0
        for n in range(MOST_PAIRS if candidate else 1):
            if n and self._left_s() < longest_s:
                break
            began_s = self._left_s()
            for side in sides[:: -1 if n % 2 else 1]:
                answer = self._serves(side, share=share, limit_s=limit_s, enough=self._enough)
                if self._enough():
                    return None if not n else self._judged(seconds, sides, seen, share)
                if isinstance(answer, NotServed):
                    whose = "the winner" if side == candidate else "llama.cpp's defaults"
                    what = f"llama-server with {whose}: {answer.kind}, {answer.message}"
                    return self._judged(seconds, sides, seen, share, what)
                seconds[side].append(answer.seconds)
            if math.isfinite(began_s):
                longest_s = max(longest_s, began_s - self._left_s())
        return self._judged(seconds, sides, seen, share)

    def _share(self, n_sides: int, request_s: float, load_s: float) -> float:
        """How much of each request there is time for, so that every side is asked once."""
        left_s = self._left_s()
        if math.isinf(left_s) or not request_s:
            return 1.0
        each_s = left_s / n_sides - _start_s(load_s)
        return min(max(each_s / (SLOWER * request_s), _LEAST_TOKENS_SHARE), 1.0)

    def _judged(
        self,
        seconds: dict[Params, list[float]],
        sides: list[Params],
        seen: Comparison | None,
        share: float,
        failure: str = "",
    ) -> Confirmation:
        theirs, mine = seconds[sides[0]], seconds[sides[1]] if len(sides) > 1 else []
        return replace(judged(theirs, mine, seen, failure), share=share)
