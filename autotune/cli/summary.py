"""The table and the verdict at the end of a session."""

from autotune.cli import console
from autotune.cli.words import compared, request_of
from autotune.params import Params
from autotune.stats import LEAST_PAIRS
from autotune.tuning.objective import Objective
from autotune.tuning.session import Tuned
from autotune.words import THE_DEFAULTS, clock_time, counted, described, digits, duration, failures


def summary(tuned: Tuned, objective: Objective) -> str:
    """The defaults beside the winner, and the verdict."""
    candidate = tuned.verification.candidate or tuned.incumbent
    name = "winner" if tuned.verification.verdict == "better" else "best candidate"
    sides = {THE_DEFAULTS: tuned.baseline}
    if candidate != tuned.baseline:
        sides[name] = candidate
    request = request_of(objective).split()[-1]
    rows = [["configuration", *(f"{part} t/s" for part in objective.parts), f"{request} s"]]
    rows += [[name, *_cells(tuned, objective, params)] for name, params in sides.items()]
    lines = [console.table(rows, "<" + ">" * (len(rows[0]) - 1))]
    if candidate != tuned.baseline:
        lines.append(f"{name}: {described(candidate, tuned.baseline)}")
    return "\n".join([*lines, _verdict(tuned, objective), _course(tuned)])


def _cells(tuned: Tuned, objective: Objective, params: Params) -> list[str]:
    known = tuned.part_seconds.get(params, {})
    rates = [
        digits(objective.rate(part, known[part])) if part in known else "-"
        for part in objective.parts
    ]
    seconds = tuned.seconds(params)
    return [*rates, "-" if seconds is None else digits(seconds)]


def _verdict(tuned: Tuned, objective: Objective) -> str:
    verification, seen = tuned.verification, tuned.verification.comparison
    candidate = verification.candidate or tuned.incumbent
    keep = f"keep {THE_DEFAULTS}."
    if seen is None:
        if candidate == tuned.baseline:
            return f"Not shown: nothing looked faster than {THE_DEFAULTS}; keep them."
        if tuned.shipped == candidate:
            takes = _takes(tuned, objective, candidate)
            return f"Not verified: {takes} by what the search saw, which flatters what it chose."
        busy = counted(verification.disturbed_rounds, "round")
        why = f", because the machine was busy in {busy}" if verification.disturbed_rounds else ""
        return f"Not shown: the verification came to no comparison{why}; {keep}"
    if verification.verdict == "better":
        return f"Better: {_takes(tuned, objective, candidate)}, {compared(seen)}."
    if verification.verdict == "worse":
        return f"Worse: the best candidate is {compared(seen)}; {keep}"
    few = "; one pair decides nothing" if seen.pairs < LEAST_PAIRS else ""
    return f"Not shown: the best candidate is {compared(seen)}{few}; {keep}"


def _takes(tuned: Tuned, objective: Objective, candidate: Params) -> str:
    seconds = (tuned.seconds(params) for params in (candidate, tuned.baseline))
    mine, theirs = ("?" if s is None else digits(s) for s in seconds)
    return f"{request_of(objective)} takes {mine} s instead of {theirs} s"


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
