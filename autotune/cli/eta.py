"""When tuning will be over, by what is known of it: a limit, or an estimate, and which of them.

A budget is a limit that is kept. A number of trials is none: what they cost is learned from those
that were seen, and a test of one part inside a load that is shared costs a tenth of a load with
both parts. So the steps are never taken to be alike: there is a shortest and a longest time.
"""

import datetime as dt
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotune.tuning.verify import LEAST_ROUNDS, MOST_ROUNDS
from autotune.tuning.visits import Kind
from autotune.words import duration

# What ends this soon is told by no clock that shows minutes.
_SHORT_S = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """How long it may still take, in seconds."""

    least_s: float = 0.0
    most_s: float | None = None  # None: nobody can say.
    is_limit: bool = False  # It is kept to, and no estimate.


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How far a session has come."""

    elapsed_s: float  # Of the study.
    ends_s: float | None = None  # When it has to be over, in the same seconds; None: never.
    trials: int | None = None  # Of the search at most.
    searched: int = 0  # Of these, those that are over.
    costs_s: Mapping[Kind, Sequence[float]] = field(default_factory=dict)  # What each took.
    verifies: bool = True
    has_candidate: bool = False  # There is something to verify by now.
    verifying_since_s: float | None = None  # None: it still searches.
    rounds: int = 0  # Of the verification that are over.


def outlook(course: Course) -> Outlook:
    """The earlier of the limit and of the estimate."""
    limit_s = None if course.ends_s is None else max(course.ends_s - course.elapsed_s, 0.0)
    least_s, most_s = _estimate(course) or (0.0, None)
    if limit_s is not None and (most_s is None or limit_s <= most_s):
        return Outlook(least_s=min(least_s, limit_s), most_s=limit_s, is_limit=True)
    return Outlook(least_s=least_s, most_s=most_s)


def share(course: Course) -> float | None:
    """The share of the longest time that is over; None where nobody can say."""
    most_s = outlook(course).most_s
    whole_s = course.elapsed_s + (most_s or 0.0)
    return course.elapsed_s / whole_s if most_s is not None and whole_s else None


def _estimate(course: Course) -> tuple[float, float] | None:
    """The shortest and the longest time, by what the steps have cost so far."""
    if course.verifying_since_s is not None:
        return _verification_s(course)
    costs = _trial_s(course)
    if course.trials is None or costs is None:
        return None
    left = max(course.trials - course.searched, 0)
    least_s, most_s = (left * cost for cost in costs)
    if course.verifies:
        shortest, longest = _round_s(costs)
        least_s += LEAST_ROUNDS * shortest if course.has_candidate else 0.0
        most_s += MOST_ROUNDS * longest
    return least_s, most_s


def _verification_s(course: Course) -> tuple[float, float] | None:
    """It may be over after any round but the first, and is after the last."""
    if course.rounds:
        round_s = (course.elapsed_s - (course.verifying_since_s or 0.0)) / course.rounds
        shortest = longest = round_s
    else:
        costs = _trial_s(course)
        if costs is None:
            return None
        shortest, longest = _round_s(costs)
    least = max(LEAST_ROUNDS - course.rounds, 0)
    return least * shortest, max(MOST_ROUNDS - course.rounds, 0) * longest


def _trial_s(course: Course) -> tuple[float, float] | None:
    """What a trial costs of the cheapest and of the dearest kind that was seen.

    Of a kind it is the mean: who begins a load pays for all that share it.
    """
    means = {kind: statistics.fmean(costs) for kind, costs in course.costs_s.items() if costs}
    if len(means) > 1:
        means.pop(Kind.BASELINE, None)  # Measured twice, from a cold disk.
    return (min(means.values()), max(means.values())) if means else None


def _round_s(costs: tuple[float, float]) -> tuple[float, float]:
    """A round has the defaults and a candidate."""
    return 2 * costs[0], 2 * costs[1]


def said(of: Outlook, now: dt.datetime) -> str:
    """An outlook in words, with the time on the clock: "at most 9 min left, by 07:42"."""
    if of.most_s is None:
        return "time left not known yet"
    if of.most_s <= 0:
        return "ending"
    longest = duration(of.most_s)
    when = "" if of.most_s < _SHORT_S else f", by {_on_the_clock(now, of.most_s)}"
    if of.is_limit:
        return f"at most {longest} left{when}"
    shortest = duration(of.least_s)
    if of.least_s <= 0:
        return f"about {longest} left at most{when}"
    span = longest if shortest == longest else f"{shortest} to {longest}"
    return f"about {span} left{when}"


def _on_the_clock(now: dt.datetime, seconds: float) -> str:
    """Rounded up to a minute; with the day where that is another."""
    then = now + dt.timedelta(seconds=seconds)
    if then.second or then.microsecond:
        then = then.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%a %H:%M}"
