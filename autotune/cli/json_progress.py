"""Each event of a session as a line of `--json-progress`; docs/json.md has the keys."""

import math
from collections.abc import Mapping

from autotune.cli import eta
from autotune.cli.progress import Progress
from autotune.params import params_to_json
from autotune.tuning import events
from autotune.tuning.objective import Objective, Part
from autotune.tuning.verify import MOST_ROUNDS
from autotune.tuning.visits import Reading

Facts = dict[str, object]


def told(event: events.Event, progress: Progress) -> tuple[str, Facts] | None:
    """Name an event and give what is known by now; None for what programs need not hear.

    Args:
        event: what has happened.
        progress: the state, with the event in it.
    """
    objective = progress.objective
    if isinstance(event, events.Stage):
        name, facts = "stage", Facts()
    elif isinstance(event, events.Measuring):
        name, facts = "measuring", _measuring(event, objective)
    elif isinstance(event, events.Measured):
        name, facts = "trial", _trial(event, objective)
    elif isinstance(event, events.NewIncumbent):
        name, facts = "incumbent", _incumbent(event)
    elif isinstance(event, events.Waiting):
        name, facts = "waiting", _waiting(event)
    elif isinstance(event, events.Verifying):
        name, facts = "round", _round(event)
    else:
        return None
    return name, {**_state(progress), **facts}


def _state(progress: Progress) -> Facts:
    """What every line has."""
    course = progress.course
    left, seen = eta.outlook(course), progress.comparison
    ratio = seen.ratio if seen else progress.gain
    return {
        "elapsed_s": course.elapsed_s,
        "eta_s": left.most_s,
        "eta_is_limit": left.is_limit,
        "fraction": eta.share(course),
        "stage": progress.stage,
        "trials": progress.n_trials,
        "ratio": None if ratio is None else _finite(ratio),
        "low": seen.low if seen else None,
        "high": seen.high if seen else None,
    }


def _measuring(event: events.Measuring, objective: Objective) -> Facts:
    return {
        "test": str(objective.test(event.part)),
        "phase": event.phase.value,
        "repetition": event.repetition,
        "params": params_to_json(event.visit.params),
    }


def _trial(event: events.Measured, objective: Objective) -> Facts:
    reading = event.reading
    failure = reading.failure
    return {
        "trial": reading.number,
        "kind": reading.visit.kind.value,
        "source": reading.visit.source,
        "params": params_to_json(reading.visit.params),
        **_rates(reading, objective),
        "request_s": None if event.seconds is None else _finite(event.seconds),
        "request_j": event.joules,
        "failure": {"kind": failure.kind.value, "message": failure.message} if failure else None,
        "disturbed": reading.disturbed,
        "replayed": event.replayed,
    }


def _rates(reading: Reading, objective: Objective) -> Mapping[str, float | None]:
    def rate(part: Part) -> float | None:
        measured = reading.measured(part)
        if measured is None:
            return None
        return _finite(objective.rate(part, objective.part_seconds(part, measured.samples_ns)))

    return {"pp_tokens_per_s": rate("pp"), "tg_tokens_per_s": rate("tg")}


def _incumbent(event: events.NewIncumbent) -> Facts:
    return {
        "params": params_to_json(event.params),
        "request_s": _finite(event.seconds),
        "baseline_request_s": _finite(event.baseline_s),
        "request_j": event.joules,
        "baseline_request_j": event.baseline_j,
    }


def _waiting(event: events.Waiting) -> Facts:
    return {"why": event.why, "waited_s": event.for_s, "waits_at_most_s": event.at_most_s}


def _round(event: events.Verifying) -> Facts:
    seen = event.comparison
    return {
        "round": event.rounds,
        "rounds_at_most": MOST_ROUNDS,
        "pairs": seen.pairs if seen else 0,
        "confidence": seen.confidence if seen else None,
    }


def _finite(number: float) -> float | None:
    """JSON has no word for the others."""
    return number if math.isfinite(number) else None
