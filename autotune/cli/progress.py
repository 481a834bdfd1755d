"""How tuning goes, and what came of it, in words; nothing is printed here."""

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.cli import eta, words
from autotune.errors import printable
from autotune.params import Params
from autotune.stats import Comparison
from autotune.tuning import events
from autotune.tuning.lab import Limits
from autotune.tuning.objective import Objective
from autotune.tuning.visits import DECIDING, Kind, Visit
from autotune.words import clock_time, counted, described, duration, failures, ratios

if TYPE_CHECKING:
    from autotune.llama_cpp.records import FailureKind


class Progress:
    """The state of a session, from what is told of it.

    Args:
        objective: what is minimised.
        limits: how much may be measured.
        verifies: a verification follows the search.
        clock: seconds that only grow.
        now: the time on the clock on the wall.
    """

    def __init__(
        self,
        objective: Objective,
        limits: Limits,
        *,
        verifies: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
    ) -> None:
        self.objective = objective
        self._clock, self._now_on_the_wall = clock, now
        self._elapsed_s, self._as_of = 0.0, clock()
        self._costs_s: dict[Kind, list[float]] = {}
        self._measured_until_s = 0.0
        self._course = eta.Course(
            elapsed_s=0.0,
            ends_s=limits.budget_s,
            trials=limits.trials,
            costs_s=self._costs_s,
            verifies=verifies,
        )
        self._hurry_ends_s: float | None = None
        self.stage = "starting"  # As the search calls it.
        self._now: events.Measuring | None = None
        self._waiting: events.Waiting | None = None
        self._waits_since = 0.0
        self._baseline: Params | None = None
        self._baseline_cost: float | None = None  # Of a request, in seconds or joules.
        self._baseline_rates = ""
        self._best: Params | None = None
        self._best_cost = 0.0
        self._verifying: events.Verifying | None = None
        self._failures: Counter[FailureKind] = Counter()
        self._n_trials = self._n_replayed = 0
        self._replaying = False

    @property
    def elapsed_s(self) -> float:
        """Seconds of the study so far, earlier sessions included."""
        return self._elapsed_s + self._clock() - self._as_of

    @property
    def course(self) -> eta.Course:
        """How far it has come by now."""
        course = replace(self._course, elapsed_s=self.elapsed_s)
        if self._hurry_ends_s is None:
            return course
        return replace(course, ends_s=self._hurry_ends_s, trials=None)

    @property
    def n_trials(self) -> int:
        """Those that are over, of earlier sessions and of the verification too."""
        return self._n_trials

    @property
    def eta(self) -> str:
        """How long it may still take."""
        course = self.course
        if (course.ends_s, course.trials, course.verifying_since_s) == (None, None, None):
            return "until stopped (Ctrl-C)"
        left = eta.said(eta.outlook(course), self._now_on_the_wall())
        return left if self._hurry_ends_s is None or left == "ending" else f"stopping, {left}"

    @property
    def comparison(self) -> Comparison | None:
        """What the verification has seen by now."""
        return self._verifying.comparison if self._verifying else None

    @property
    def gain(self) -> float | None:
        """How many times as good as the defaults the best looks to the search; None: no best."""
        return self._baseline_cost / self._best_cost if self._best and self._baseline_cost else None

    def hurry(self, seconds: float) -> None:
        """The user has asked for an end within so many seconds; safe in a signal handler."""
        self._hurry_ends_s = self.elapsed_s + seconds

    def take(self, event: events.Event) -> str | None:
        """Learn from an event, and give a line for the log if it deserves one."""
        said = [self._now_fresh(event), self._wait_over(event), self._taken(event)]
        line = "; ".join(filter(None, said))
        return f"{clock_time(self.elapsed_s)}  {line}" if line and not self._replaying else None

    def rows(self) -> list[tuple[str, str]]:
        """What is shown of the state: labels, and a line of text for each."""
        rows = [("stage", self._stage)]
        done = eta.share(self.course)
        if done is not None:
            rows.append(("progress", f"{100 * done:3.0f} % of the longest time"))
        rows.append(("time", f"{clock_time(self.elapsed_s)}{self._trials()}, {self.eta}"))
        if self._waiting:
            waited_s = self._clock() - self._waits_since
            most = duration(self._waiting.at_most_s)
            rows.append(
                ("waiting", f"{duration(waited_s)} of {most}: {printable(self._waiting.why)}")
            )
        elif self._now:
            rows.append(("now", words.measuring(self._now, self.objective, self._baseline)))
        if self._baseline_cost is not None:
            took = words.request(self.objective, self._baseline_cost)
            rows.append(("defaults", f"{took}; {self._baseline_rates}"))
        if self._best and self._baseline_cost is not None:
            seen = "by what the search saw" if self._verifying else "not verified yet"
            rows.append(("best", f"{self._gain()}, {seen}"))
            rows.append(("", self._described(self._best)))
        if self._verifying:
            rows.append(("verifying", words.round_seen(self._verifying)))
        if self._failures:
            rows.append(("failures", failures(self._failures)))
        return rows

    def _trials(self) -> str:
        """What is counted, where there is a last one."""
        course = self.course
        if course.trials and course.verifying_since_s is None:
            return f", {course.searched} of {counted(course.trials, 'trial')}"
        return f", {counted(self._n_trials, 'trial')}" if self._n_trials else ""

    @property
    def _stage(self) -> str:
        return words.stage(self.stage)

    # What each event changes, and what is said of it.

    def _is_fresh(self, event: events.Event) -> bool:
        """It comes from llama-bench or the machine, and not from the record of a study."""
        if isinstance(event, events.Measured):
            return not event.replayed
        return isinstance(event, events.Measuring | events.Waiting)

    def _now_fresh(self, event: events.Event) -> str | None:
        if not self._replaying or not self._is_fresh(event):
            return None
        self._replaying = False
        said = f"resumed, {counted(self._n_replayed, 'trial')} known: {self._stage}"
        best = f"best so far: {self._gain()}" if self._best else ""
        return "; ".join(filter(None, [said, best, self.eta]))

    def _wait_over(self, event: events.Event) -> str | None:
        if not self._waiting or isinstance(event, events.Waiting):
            return None
        self._waiting = None
        return f"waited {duration(self._clock() - self._waits_since)}"

    def _taken(self, event: events.Event) -> str | None:
        if isinstance(event, events.Measuring | events.Recorded):
            if isinstance(event, events.Measuring):
                self._know_baseline(event.visit)
                self._now = event
            return None
        if isinstance(event, events.Measured):
            return self._measured(event)
        if isinstance(event, events.Waiting):
            return self._waits(event)
        if isinstance(event, events.Stage):
            return self._begun(event)
        if isinstance(event, events.NewIncumbent):
            cost = self.objective.cost
            best = cost(seconds=event.seconds, joules=event.joules)
            self._best, self._best_cost = event.params, math.inf if best is None else best
            self._baseline_cost = cost(seconds=event.baseline_s, joules=event.baseline_j)
            self._course = replace(self._course, has_candidate=True)
            what = self._described(event.params)
            return f"new best: {what}; {self._gain(speed='x')}, unverified"
        self._verifying = event
        self._course = replace(self._course, rounds=event.rounds)
        return f"verification, {words.round_seen(event)}"

    def _begun(self, event: events.Stage) -> str:
        self._elapsed_s, self._as_of = event.elapsed_s, self._clock()
        self.stage = event.name
        # Not what was asked for: what a resumed study has taken may count, or not.
        self._course = replace(self._course, ends_s=event.budget_s)
        if event.name == "verification":
            self._course = replace(self._course, verifying_since_s=event.elapsed_s)
        return f"{self._stage}; {self.eta}"

    def _measured(self, event: events.Measured) -> str:
        reading, params = event.reading, event.reading.visit.params
        self._know_baseline(reading.visit)
        cost_s = max(reading.elapsed_s - self._measured_until_s, 0.0)
        self._costs_s.setdefault(reading.visit.kind, []).append(cost_s)
        self._elapsed_s, self._as_of = reading.elapsed_s, self._clock()
        self._measured_until_s = reading.elapsed_s
        searched = self._course.searched + (reading.visit.kind not in DECIDING)
        self._course = replace(self._course, searched=searched)
        self._n_trials += 1
        self._replaying = event.replayed and not event.elsewhere
        self._n_replayed += self._replaying
        if reading.failure:
            self._failures[reading.failure.kind] += 1
        cost = self.objective.cost(seconds=event.seconds, joules=event.joules)
        if params == self._baseline and cost is not None:
            self._baseline_cost = cost
            self._baseline_rates = self._baseline_rates or words.rates(reading, self.objective)
        if params == self._best and cost is not None:
            self._best_cost = cost
        return words.visited(event, self.objective, self._baseline)

    def _waits(self, event: events.Waiting) -> str | None:
        begun = self._waiting is None
        self._waiting = event
        if not begun:
            return None
        self._waits_since = self._clock() - event.for_s
        most = duration(event.at_most_s)
        return f"waiting at most {most}: {printable(event.why)}"

    def _know_baseline(self, visit: Visit) -> None:
        if visit.kind is Kind.BASELINE:
            self._baseline = visit.params

    # Words.

    def _described(self, params: Params) -> str:
        return described(params, self._baseline or params)

    def _gain(self, speed: str | None = None) -> str:
        """The best beside the defaults, by what the search has seen."""
        (ratio,) = ratios(self.gain or math.nan)
        as_good = f"x as {self.objective.quality.good}" if speed is None else speed
        return f"{words.request(self.objective, self._best_cost)}, {ratio}{as_good}"
