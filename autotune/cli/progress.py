"""How tuning goes, and what came of it, in words; nothing is printed here."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields

from autotune.cli import console
from autotune.errors import printable
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.records import Failure, FailureKind
from autotune.params import ALL_LAYERS, Params
from autotune.tuning import events
from autotune.tuning.objective import Objective, Part
from autotune.tuning.session import Tuned
from autotune.tuning.space import DEFAULTS, value_in
from autotune.tuning.stats import Comparison
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import DIMENSIONS

_DEFAULTS = "llama.cpp's defaults"
_STAGES = {
    "baseline": f"measuring {_DEFAULTS}",
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
# What a request is called when only a part of it counts.
_REQUESTS: Mapping[tuple[Part, ...], str] = {("pp",): "a prompt", ("tg",): "an answer"}
_PARAMETERS = {
    "flash_attn": "fa",
    "no_kv_offload": "kv-offload",
    "no_op_offload": "op-offload",
    "type_k": "cache-k",
    "type_v": "cache-v",
    "cache_type": "cache",
}
_LONGEST_MESSAGE = 100
_MINUTE, _HOUR = 60, 3600
# Below so many seconds they are counted as such, and below so many minutes these.
_COUNTED_S, _COUNTED_MIN = 90, 90
_FEW_PAIRS = 2  # With fewer, the verification decides nothing.


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
        return f"{stopping}at most {_duration(left_s)} left" if left_s > 0 else "ending"

    def hurry(self, seconds: float) -> None:
        """The user has asked for an end within so many seconds; safe in a signal handler."""
        self._ends_s = self.elapsed_s + seconds

    def take(self, event: events.Event) -> str | None:
        """Learn from an event, and give a line for the log if it deserves one."""
        said = [self._now_fresh(event), self._wait_over(event), self._taken(event)]
        line = "; ".join(filter(None, said))
        return f"{_clock(self.elapsed_s)}  {line}" if line and not self._replaying else None

    def rows(self) -> list[tuple[str, str]]:
        """What is shown of the state: labels, and a line of text for each."""
        rows = [("stage", self._stage)]
        trials = f", {_counted(self._n_trials, 'trial')}" if self._n_trials else ""
        rows.append(("time", f"{_clock(self.elapsed_s)}{trials}, {self.eta}"))
        if self._waiting:
            waited_s = self._clock() - self._waits_since
            most = _duration(self._waiting.at_most_s)
            rows.append(
                ("waiting", f"{_duration(waited_s)} of {most}: {printable(self._waiting.why)}")
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
            rows.append(("failures", _failures(self._failures)))
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
        said = f"resumed, {_counted(self._n_replayed, 'trial')} known: {self._stage}"
        return f"{said}; best so far: {self._gain()}" if self._best else said

    def _wait_over(self, event: events.Event) -> str | None:
        if not self._waiting or isinstance(event, events.Waiting):
            return None
        self._waiting = None
        return f"waited {_duration(self._clock() - self._waits_since)}"

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
        most = _duration(event.at_most_s)
        return f"waiting at most {most}: {printable(event.why)}"

    def _know_baseline(self, visit: Visit) -> None:
        if visit.kind is Kind.BASELINE:
            self._baseline = visit.params

    # Words.

    def _described(self, params: Params) -> str:
        return described(params, self._baseline or params)

    def _request(self, seconds: float) -> str:
        return f"{_request_of(self._objective).split()[-1]} {_digits(seconds)} s"

    def _gain(self, speed: str = "x as fast") -> str:
        """The best beside the defaults, by what the search has seen."""
        (ratio,) = _ratios((self._baseline_s or math.nan) / self._best_s)
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
            f"{part} {_digits(self._objective.rate(part, s))} t/s" for part, s in seconds.items()
        )

    def _visited(self, event: events.Measured) -> str:
        reading = event.reading
        said = [self._asked(reading.visit), self._rates(reading)]
        if reading.failure:
            said.append(_failed(reading.failure))
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
        subject = f"{_parameter(name)} {_shown(name, value_in(visit.params, name))}"
        return f"{visit.kind}: {what if subject in what.split(', ') else f'{what}, {subject}'}"


def described(params: Params, baseline: Params) -> str:
    """What a configuration has other than the defaults: "threads 8, ubatch 1024, fa off"."""
    changed = {
        field.name: value
        for field in fields(Params)
        if (value := _value(params, field.name)) != _value(baseline, field.name)
    }
    if "type_k" in changed and changed.get("type_v") == changed["type_k"]:
        changed["cache_type"] = changed.pop("type_k")
        del changed["type_v"]
    threads_first = sorted(changed.items(), key=lambda item: not item[0].startswith("n_threads"))
    words = [f"{_parameter(name)} {_shown(name, value)}" for name, value in threads_first]
    return printable(", ".join(words)) or _DEFAULTS


def _value(params: Params, name: str) -> object:
    value = getattr(params, name)
    if value is not None:
        return value
    return DEFAULTS.get("cache_type" if name in {"type_k", "type_v"} else name)


def _parameter(name: str) -> str:
    return _PARAMETERS.get(name, name.removeprefix("n_").replace("_", "-"))


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value != name.startswith("no_") else "off"
    if value is None:
        return "default"
    if name == "n_gpu_layers" and value == ALL_LAYERS:
        return "all"
    if isinstance(value, tuple):
        return "/".join("=".join(v) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def summary(tuned: Tuned, objective: Objective) -> str:
    """The defaults beside the winner, and the verdict."""
    candidate = tuned.verification.candidate or tuned.incumbent
    name = "winner" if tuned.verification.verdict == "better" else "best candidate"
    compared = {_DEFAULTS: tuned.baseline}
    if candidate != tuned.baseline:
        compared[name] = candidate
    request = _request_of(objective).split()[-1]
    rows = [["configuration", *(f"{part} t/s" for part in objective.parts), f"{request} s"]]
    rows += [[name, *_cells(tuned, objective, params)] for name, params in compared.items()]
    lines = [console.table(rows, "<" + ">" * (len(rows[0]) - 1))]
    if candidate != tuned.baseline:
        lines.append(f"{name}: {described(candidate, tuned.baseline)}")
    return "\n".join([*lines, _verdict(tuned, objective), _course(tuned)])


def _cells(tuned: Tuned, objective: Objective, params: Params) -> list[str]:
    known = tuned.part_seconds.get(params, {})
    rates = [
        _digits(objective.rate(part, known[part])) if part in known else "-"
        for part in objective.parts
    ]
    seconds = tuned.seconds(params)
    return [*rates, "-" if seconds is None else _digits(seconds)]


def _verdict(tuned: Tuned, objective: Objective) -> str:
    verification, seen = tuned.verification, tuned.verification.comparison
    candidate = verification.candidate or tuned.incumbent
    keep = f"keep {_DEFAULTS}."
    if seen is None:
        if candidate == tuned.baseline:
            return f"Not shown: nothing looked faster than {_DEFAULTS}; keep them."
        if tuned.shipped == candidate:
            takes = _takes(tuned, objective, candidate)
            return f"Not verified: {takes} by what the search saw, which flatters what it chose."
        busy = _counted(verification.disturbed_rounds, "round")
        why = f", because the machine was busy in {busy}" if verification.disturbed_rounds else ""
        return f"Not shown: the verification came to no comparison{why}; {keep}"
    if verification.verdict == "better":
        return f"Better: {_takes(tuned, objective, candidate)}, {_compared(seen)}."
    if verification.verdict == "worse":
        return f"Worse: the best candidate is {_compared(seen)}; {keep}"
    few = "; one pair decides nothing" if seen.pairs < _FEW_PAIRS else ""
    return f"Not shown: the best candidate is {_compared(seen)}{few}; {keep}"


def _takes(tuned: Tuned, objective: Objective, candidate: Params) -> str:
    seconds = (tuned.seconds(params) for params in (candidate, tuned.baseline))
    mine, theirs = ("?" if s is None else _digits(s) for s in seconds)
    return f"{_request_of(objective)} takes {mine} s instead of {theirs} s"


def _course(tuned: Tuned) -> str:
    """How it went, in one line."""
    said = [f"{_counted(tuned.n_trials, 'trial')} in {_clock(tuned.elapsed_s)}"]
    if tuned.hurried:
        said.append("cut short")
    if tuned.waited_s:
        said.append(f"{_duration(tuned.waited_s)} waited for a busy machine")
    if tuned.failures:
        said.append(f"failed: {_failures(tuned.failures)}")
    return "; ".join(said) + "."


def _request_of(objective: Objective) -> str:
    return _REQUESTS.get(objective.parts, "a request")


def _round(event: events.Verifying) -> str:
    seen = _compared(event.comparison, speed="x") if event.comparison else "nothing to compare yet"
    return f"round {event.rounds}: {seen}"


def _compared(seen: Comparison, speed: str = "x as fast") -> str:
    ratio, low, high = _ratios(seen.ratio, seen.low, seen.high)
    interval = f"{100 * seen.confidence:.3g} % interval {low} to {high}"
    return f"{ratio}{speed} ({interval}, {_counted(seen.pairs, 'pair')})"


def _failed(failure: Failure) -> str:
    message = printable(failure.message)
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 3] + "..."
    return f"{_kind(failure.kind)}: {message}"


def _failures(failures: Mapping[FailureKind, int]) -> str:
    return ", ".join(f"{n} x {_kind(kind)}" for kind, n in failures.items())


def _kind(kind: FailureKind) -> str:
    return "out of memory" if kind is FailureKind.OOM else kind.replace("_", " ")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _digits(number: float) -> str:
    """Three significant digits; no measurement here has more."""
    if not number or not math.isfinite(number):
        return "?"
    decimals = 2 - math.floor(math.log10(abs(float(f"{number:.2e}"))))
    return f"{round(number, decimals):.{max(decimals, 0)}f}"


def _ratios(*ratios: float) -> list[str]:
    """With as many decimals as it takes to tell them from 1, within reason."""
    decimals = next(
        (n for n in (2, 3) if all(round(ratio, n) != 1 for ratio in ratios)),
        4 if any(round(ratio, 3) == 1 != round(ratio, 4) for ratio in ratios) else 2,
    )
    return [f"{ratio:.{decimals}f}" for ratio in ratios]


def _clock(seconds: float) -> str:
    """Elapsed time as 2:14, or 1:02:14."""
    minutes, rest = divmod(int(max(seconds, 0)), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _duration(seconds: float) -> str:
    """So long, rounded up: it is "at most" or "waited"."""
    if seconds < _COUNTED_S:
        return f"{math.ceil(max(seconds, 0))} s"
    minutes = math.ceil(seconds / _MINUTE)
    if minutes < _COUNTED_MIN:
        return f"{minutes} min"
    return f"{minutes // _MINUTE} h {minutes % _MINUTE} min"
