"""The table and the verdict at the end of a session."""

from collections.abc import Mapping
from itertools import chain

from autotune.cli import console
from autotune.cli.answer import FleetSection, WorkerSection
from autotune.cli.words import compared, counted_requests, request_of
from autotune.params import Params
from autotune.stats import LEAST_PAIRS
from autotune.tuning.objective import Objective, Part
from autotune.tuning.session import Tuned
from autotune.words import (
    THE_DEFAULTS,
    clock_time,
    counted,
    described,
    digits,
    duration,
    failures,
    ratios,
)


def summary(tuned: Tuned, objective: Objective) -> str:
    """The defaults beside the winner, and the verdict."""
    candidate = tuned.verification.candidate or tuned.incumbent
    name = "winner" if tuned.verification.verdict == "better" else "best candidate"
    sides = {THE_DEFAULTS: tuned.baseline}
    if candidate != tuned.baseline:
        sides[name] = candidate
    requests = counted_requests(objective)
    units = ["s", "J"] if any(map(tuned.joules, sides.values())) else ["s"]
    columns = [
        [*(f"{part} t/{unit}" for part in objective.parts), f"{requests} {unit}"] for unit in units
    ]
    rows = [["configuration", *chain(*columns)]]
    for name, params in sides.items():
        costs = [tuned.part_seconds, tuned.part_joules][: len(units)]
        cells = [_cells(objective, of_parts.get(params, {})) for of_parts in costs]
        rows.append([name, *chain(*cells)])
    lines = [console.table(rows, "<" + ">" * (len(rows[0]) - 1))]
    if candidate != tuned.baseline:
        lines.append(f"{name}: {described(candidate, tuned.baseline)}")
    return "\n".join([*lines, _verdict(tuned, objective), _course(tuned)])


def where_it_holds(fleet: FleetSection, objective: Objective) -> str:
    """A line for each worker of a shared study: what it has verified, or how far it is."""
    return "\n".join(
        f"on {one['host']}: {one['verdict'] or one['state']}{_ratio_there(one, objective)}"
        for one in fleet["workers"]
    )


def _ratio_there(worker: WorkerSection, objective: Objective) -> str:
    if worker["ratio"] is None or worker["low"] is None or worker["high"] is None:
        return ""
    ratio, low, high = ratios(worker["ratio"], worker["low"], worker["high"])
    return f", {ratio}x as {objective.quality.good} ({low} to {high})"


def _cells(objective: Objective, known: Mapping[Part, float]) -> list[str]:
    """Tokens per second or joule of each part, and all that a request takes."""
    rates = [
        digits(objective.rate(part, known[part])) if part in known else "-"
        for part in objective.parts
    ]
    return [*rates, digits(sum(known.values())) if known else "-"]


def _verdict(tuned: Tuned, objective: Objective) -> str:
    verification, seen = tuned.verification, tuned.verification.comparison
    candidate = verification.candidate or tuned.incumbent
    keep = f"keep {THE_DEFAULTS}."
    words = objective.quality
    said = compared(seen, f"x as {words.good}") if seen else ""
    if seen is None:
        if candidate == tuned.baseline:
            return f"Not shown: nothing looked {words.better} than {THE_DEFAULTS}; keep them."
        if tuned.shipped == candidate:
            takes = _takes(tuned, objective, candidate)
            return f"Not verified: {takes} by what the search saw, which flatters what it chose."
        busy = counted(verification.disturbed_rounds, "round")
        why = f", because the machine was busy in {busy}" if verification.disturbed_rounds else ""
        return f"Not shown: the verification came to no comparison{why}; {keep}"
    if verification.verdict == "better":
        return f"Better: {_takes(tuned, objective, candidate)}, {said}."
    if verification.verdict == "worse":
        return f"Worse: the best candidate is {said}; {keep}"
    unconfirmed = tuned.confirmation and not tuned.confirmation.supports and seen.shown_better
    what = "Not confirmed" if unconfirmed else "Not shown"
    few = "; one pair decides nothing" if seen.pairs < LEAST_PAIRS else ""
    return f"{what}: the best candidate is {said}{few}; {keep}"


def _takes(tuned: Tuned, objective: Objective, candidate: Params) -> str:
    costs = (
        objective.cost(seconds=tuned.seconds(params), joules=tuned.joules(params))
        for params in (candidate, tuned.baseline)
    )
    mine, theirs = ("?" if cost is None else digits(cost) for cost in costs)
    takes = "take" if objective.n_parallel > 1 else "takes"
    unit = objective.quality.unit
    return f"{request_of(objective)} {takes} {mine} {unit} instead of {theirs} {unit}"


def _course(tuned: Tuned) -> str:
    """How it went, in one line."""
    said = [f"{counted(tuned.n_trials, 'trial')} in {clock_time(tuned.elapsed_s)}"]
    if tuned.hurried:
        said.append("cut short")
    if tuned.waited_s:
        said.append(f"{duration(tuned.waited_s)} waited for a busy machine")
    if tuned.failures:
        said.append(f"failed: {failures(tuned.failures)}")
    return "; ".join(said) + "."
