"""How the steps of tuning are said to people, each on a line of a terminal."""

from collections.abc import Mapping

from autotune.errors import printable
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.records import Failure
from autotune.params import Params
from autotune.stats import Comparison
from autotune.tuning import events
from autotune.tuning.objective import Objective, Part
from autotune.tuning.space import value_in
from autotune.tuning.verify import MOST_ROUNDS
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import DIMENSIONS
from autotune.words import (
    THE_DEFAULTS,
    counted,
    described,
    digits,
    failure_kind,
    parameter,
    ratios,
    shown,
)

# What a request is called when only a part of it counts; and several.
_REQUESTS: Mapping[tuple[Part, ...], str] = {("pp",): "a prompt", ("tg",): "an answer"}
_LONGEST_MESSAGE = 100
_STAGES = {
    "baseline": f"measuring {THE_DEFAULTS}",
    "seeds": "trying what is recommended",
    "ladder": "micro-batches, each with the layers that fit",
    "threads": "racing threads and batches",
    "toggles": "switches, one at a time",
    "frontier": "placements that promise more",
    "tail": "around the best, and what Optuna proposes",
    "settling": "what is close to the best, again",
    "verification": "verifying the best against the defaults",
    "confirmation": "asking a real llama-server",
}
_PHASES = {
    Phase.LOAD: "loading",
    Phase.WARMUP: "warming up",
    Phase.DEPTH: "filling the cache",
    Phase.EXIT: "ending",
}
# What makes words of a visit's source, where that alone does not say it.
_PREFIXES = {Kind.ANCHOR: "check for ", Kind.FRONTIER: "prediction that "}


def request_of(objective: Objective) -> str:
    """What is to be fast, or to spare energy."""
    if objective.n_parallel > 1:
        return f"{counted_requests(objective)} at once"
    return _REQUESTS.get(objective.parts, "a request")


def counted_requests(objective: Objective) -> str:
    """What the seconds or joules are of: "request", "8 requests"."""
    what = _REQUESTS.get(objective.parts, "a request").split()[-1]
    return f"{objective.n_parallel} {what}s" if objective.n_parallel > 1 else what


def request(objective: Objective, cost: float) -> str:
    """What is minimised of a request: "request 19.2 s"."""
    return f"{counted_requests(objective)} {digits(cost)} {objective.quality.unit}"


def stage(name: str) -> str:
    """A part of the work, by its name in `events.Stage`."""
    return _STAGES.get(name, printable(name))


def compared(seen: Comparison, speed: str = "x as fast") -> str:
    """A ratio with its interval."""
    ratio, low, high = ratios(seen.ratio, seen.low, seen.high)
    interval = f"{100 * seen.confidence:.3g} % interval {low} to {high}"
    return f"{ratio}{speed} ({interval}, {counted(seen.pairs, 'pair')})"


def failed(failure: Failure) -> str:
    """A failure's kind and message, cut to fit a line."""
    message = printable(failure.message)
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 3] + "..."
    return f"{failure_kind(failure.kind)}: {message}"


def round_seen(event: events.Verifying) -> str:
    """A round of the verification."""
    seen = compared(event.comparison, speed="x") if event.comparison else "nothing to compare yet"
    return f"round {event.rounds} of {MOST_ROUNDS}: {seen}"


def measuring(event: events.Measuring, objective: Objective, baseline: Params | None) -> str:
    """What llama-bench is at."""
    phase = _PHASES.get(event.phase, f"repetition {event.repetition}")
    params = event.visit.params
    return f"{objective.test(event.part)}, {phase}: {described(params, baseline or params)}"


def rates(reading: Reading, objective: Objective) -> str:
    """Tokens per second of each part that was measured."""
    seconds = {
        part: objective.part_seconds(part, measured.samples_ns)
        for part in objective.parts
        if (measured := reading.measured(part))
    }
    return ", ".join(f"{part} {digits(objective.rate(part, s))} t/s" for part, s in seconds.items())


def visited(event: events.Measured, objective: Objective, baseline: Params | None) -> str:
    """A visit that is over: where it came from, and what came of it."""
    reading = event.reading
    said = [_asked(reading.visit, baseline or reading.visit.params), rates(reading, objective)]
    if reading.failure:
        said.append(failed(reading.failure))
    elif len(reading.outcomes) < len(reading.visit.parts):
        said.append("ended early, it had lost")
    elif (cost := objective.cost(seconds=event.seconds, joules=event.joules)) is not None:
        said.append(request(objective, cost))
    if reading.disturbed:
        said.append(f"disturbed: {printable(reading.disturbed)}")
    return "; ".join(filter(None, said))


def _asked(visit: Visit, baseline: Params) -> str:
    """Where a configuration comes from, and what it is."""
    source, what = printable(visit.source), described(visit.params, baseline)
    if source == what:
        return what
    name = source.partition("=")[0]
    if name not in DIMENSIONS:
        return f"{_PREFIXES.get(visit.kind, '')}{source}: {what}"
    # What this one is about is said even where it is the default.
    subject = f"{parameter(name)} {shown(name, value_in(visit.params, name))}"
    return f"{visit.kind}: {what if subject in what.split(', ') else f'{what}, {subject}'}"
