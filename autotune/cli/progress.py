"""How tuning goes, and what came of it, in words; nothing is printed here."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from autotune.cli.words import (
    THE_DEFAULTS,
    clock_time,
    compared,
    counted,
    described,
    digits,
    duration,
    failed,
    failures,
    parameter,
    ratios,
    request_of,
    shown,
)
from autotune.errors import printable
from autotune.llama_cpp.patience import Phase
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.objective import Objective
from autotune.tuning.space import value_in
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import DIMENSIONS

if TYPE_CHECKING:
    from autotune.llama_cpp.records import FailureKind

_STAGES = {
    "baseline": f"measuring {THE_DEFAULTS}",
    "seeds": "trying what is recommended",
    "ladder": "micro-batches, each with the layers that fit",
    "threads": "racing threads and batches",
    "toggles": "switches, one at a time",
    "frontier": "placements that promise more",
    "tail": "around the best, and what Optuna proposes",
    "verification": "verifying the best against the defaults",
}
_PHASES = {
    Phase.LOAD: "loading",
    Phase.WARMUP: "warming up",
    Phase.DEPTH: "filling the cache",
    Phase.EXIT: "ending",
}
# What makes words of a visit's source, where that alone does not say it.
_PREFIXES = {Kind.ANCHOR: "check for ", Kind.FRONTIER: "prediction that "}


class Progress:
    """The state of a session, from what is told of it.

    Args:
        objective: what is minimised.
        budget_s: how long it may take; None: until it is stopped.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        budget_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objective = objective
        self._budget_s = budget_s
        self._clock = clock
        self._elapsed_s, self._as_of = 0.0, clock()
        self._ends_s: float | None = None
        self._stage = "starting"
        self._now: events.Measuring | None = None
        self._waiting: events.Waiting | None = None
        self._waits_since = 0.0
        self._baseline: Params | None = None
        self._baseline_s: float | None = None
        self._baseline_rates = ""
        self._best: Params | None = None
        self._best_s = 0.0
        self._verifying: events.Verifying | None = None
        self._failures: Counter[FailureKind] = Counter()
        self._n_trials = self._n_replayed = 0
        self._replaying = False

    @property
    def elapsed_s(self) -> float:
        """Seconds of the study so far, earlier sessions included."""
        return self._elapsed_s + self._clock() - self._as_of

    @property
    def eta(self) -> str:
        """How long it may still take."""
        ends_s = self._budget_s if self._ends_s is None else self._ends_s
        if ends_s is None:
            return "until stopped (Ctrl-C)"
        stopping = "" if self._ends_s is None else "stopping, "
        left_s = ends_s - self.elapsed_s
        return f"{stopping}at most {duration(left_s)} left" if left_s > 0 else "ending"

    def hurry(self, seconds: float) -> None:
        """The user has asked for an end within so many seconds; safe in a signal handler."""
        self._ends_s = self.elapsed_s + seconds

    def take(self, event: events.Event) -> str | None:
        """Learn from an event, and give a line for the log if it deserves one."""
        said = [self._now_fresh(event), self._wait_over(event), self._taken(event)]
        line = "; ".join(filter(None, said))
        return f"{clock_time(self.elapsed_s)}  {line}" if line and not self._replaying else None

    def rows(self) -> list[tuple[str, str]]:
        """What is shown of the state: labels, and a line of text for each."""
        rows = [("stage", self._stage)]
        trials = f", {counted(self._n_trials, 'trial')}" if self._n_trials else ""
        rows.append(("time", f"{clock_time(self.elapsed_s)}{trials}, {self.eta}"))
        if self._waiting:
            waited_s = self._clock() - self._waits_since
            most = duration(self._waiting.at_most_s)
            rows.append(
                ("waiting", f"{duration(waited_s)} of {most}: {printable(self._waiting.why)}")
            )
        elif self._now:
            rows.append(("now", self._measuring(self._now)))
        if self._baseline_s is not None:
            rows.append(("defaults", f"{self._request(self._baseline_s)}; {self._baseline_rates}"))
        if self._best and self._baseline_s is not None:
            seen = "by what the search saw" if self._verifying else "not verified yet"
            rows.append(("best", f"{self._gain()}, {seen}"))
            rows.append(("", self._described(self._best)))
        if self._verifying:
            rows.append(("verifying", _round(self._verifying)))
        if self._failures:
            rows.append(("failures", failures(self._failures)))
        return rows

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
        return f"{said}; best so far: {self._gain()}" if self._best else said

    def _wait_over(self, event: events.Event) -> str | None:
        if not self._waiting or isinstance(event, events.Waiting):
            return None
        self._waiting = None
        return f"waited {duration(self._clock() - self._waits_since)}"

    def _taken(self, event: events.Event) -> str | None:
        if isinstance(event, events.Measuring):
            self._know_baseline(event.visit)
            self._now = event
            return None
        if isinstance(event, events.Measured):
            return self._measured(event)
        if isinstance(event, events.Waiting):
            return self._waits(event)
        if isinstance(event, events.Stage):
            self._elapsed_s, self._as_of = event.elapsed_s, self._clock()
            self._stage = _STAGES.get(event.name, printable(event.name))
            return self._stage
        if isinstance(event, events.NewIncumbent):
            self._best, self._best_s = event.params, event.seconds
            self._baseline_s = event.baseline_s
            what = self._described(event.params)
            return f"new best: {what}; {self._gain(speed='x')}, unverified"
        self._verifying = event
        return f"verification, {_round(event)}"

    def _measured(self, event: events.Measured) -> str:
        reading, params = event.reading, event.reading.visit.params
        self._know_baseline(reading.visit)
        self._elapsed_s, self._as_of = reading.elapsed_s, self._clock()
        self._n_trials += 1
        self._n_replayed += event.replayed
        self._replaying = event.replayed
        if reading.failure:
            self._failures[reading.failure.kind] += 1
        if params == self._baseline and event.seconds is not None:
            self._baseline_s = event.seconds
            self._baseline_rates = self._baseline_rates or self._rates(reading)
        if params == self._best and event.seconds is not None:
            self._best_s = event.seconds
        return self._visited(event)

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

    def _request(self, seconds: float) -> str:
        return f"{request_of(self._objective).split()[-1]} {digits(seconds)} s"

    def _gain(self, speed: str = "x as fast") -> str:
        """The best beside the defaults, by what the search has seen."""
        (ratio,) = ratios((self._baseline_s or math.nan) / self._best_s)
        return f"{self._request(self._best_s)}, {ratio}{speed}"

    def _measuring(self, event: events.Measuring) -> str:
        phase = _PHASES.get(event.phase, f"repetition {event.repetition}")
        test = self._objective.test(event.part)
        return f"{test}, {phase}: {self._described(event.visit.params)}"

    def _rates(self, reading: Reading) -> str:
        seconds = {
            part: self._objective.part_seconds(part, measured.samples_ns)
            for part in self._objective.parts
            if (measured := reading.measured(part))
        }
        return ", ".join(
            f"{part} {digits(self._objective.rate(part, s))} t/s" for part, s in seconds.items()
        )

    def _visited(self, event: events.Measured) -> str:
        reading = event.reading
        said = [self._asked(reading.visit), self._rates(reading)]
        if reading.failure:
            said.append(failed(reading.failure))
        elif len(reading.outcomes) < len(reading.visit.parts):
            said.append("ended early, it had lost")
        elif event.seconds is not None:
            said.append(self._request(event.seconds))
        if reading.disturbed:
            said.append(f"disturbed: {printable(reading.disturbed)}")
        return "; ".join(filter(None, said))

    def _asked(self, visit: Visit) -> str:
        """Where a configuration comes from, and what it is."""
        source, what = printable(visit.source), self._described(visit.params)
        if source == what:
            return what
        name = source.partition("=")[0]
        if name not in DIMENSIONS:
            return f"{_PREFIXES.get(visit.kind, '')}{source}: {what}"
        # What this one is about is said even where it is the default.
        subject = f"{parameter(name)} {shown(name, value_in(visit.params, name))}"
        return f"{visit.kind}: {what if subject in what.split(', ') else f'{what}, {subject}'}"


def _round(event: events.Verifying) -> str:
    seen = compared(event.comparison, speed="x") if event.comparison else "nothing to compare yet"
    return f"round {event.rounds}: {seen}"
