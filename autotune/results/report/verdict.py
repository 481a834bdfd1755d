"""What the evidence of a study says, as one sentence with its interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autotune.results.served import agreement_of, served
from autotune.results.stored import Stored
from autotune.stats import LEAST_PAIRS
from autotune.words import THE_DEFAULTS, counted, digits, quality, ratios

# What is claimed to be rarer rests on more than the few rounds of a verification can tell.
_RAREST = 1000
_FUZZ = 1e-9  # 1 / (1 / 93) is a little less than 93.
_WHAT = {"pp": "Prompts ", "tg": "Answers "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is claimed, which stands for itself, and how sure that is."""

    tone: Literal["better", "kept", "open"]
    claim: str  # Without its full stop.
    rest: str = ""
    mark: Literal[",", "."] = "."  # Between the two.


def verdict(stored: Stored) -> Verdict:
    """Say what is proven, or that nothing is."""
    evidence = stored.evidence
    if evidence is None:
        return _of_format_1(stored) or Verdict(
            tone="open", claim=_unproven(stored), rest=_so_far(stored)
        )
    ratio = evidence.get("ratio")
    words = quality(stored.objective)
    if ratio is None:
        return _without_comparison(evidence)
    if evidence["verdict"] == "better":
        what = _WHAT.get(evidence["workload"]["objective"], "")
        ratio, interval = interval_of(evidence)
        claim = f"{what}{ratio}x {words.better} than {THE_DEFAULTS}"
        rest = f"{interval}. {served(evidence)}".rstrip()
        return Verdict(tone="better", claim=claim, rest=rest, mark=",")
    if agreement_of(evidence) in {"contradicted", "failed"}:
        return Verdict(
            tone="kept",
            claim=f"Keep {THE_DEFAULTS}: a real llama-server does not show the gain",
            rest=f"Measured: {as_fast(evidence)}. {served(evidence)}",
        )
    found = (
        f"the best candidate is {words.worse}"
        if evidence["verdict"] == "worse"
        else f"nothing was shown to be {words.better}"
    )
    rest = f"The best candidate: {as_fast(evidence)}{_few(evidence)}. {served(evidence)}"
    return Verdict(tone="kept", claim=f"Keep {THE_DEFAULTS}: {found}", rest=rest.rstrip())


def _of_format_1(stored: Stored) -> Verdict | None:
    """By the profile, which has the verdict and no more of the evidence."""
    profile = stored.profile
    if profile is None or not profile.verdict or stored.folder.state != "finished":
        return None
    if profile.verdict != "better" or not (profile.ratio and profile.low and profile.high):
        claim = f"Keep {THE_DEFAULTS}: nothing was shown to be faster"
        return Verdict(tone="kept", claim=claim)
    ratio, low, high = ratios(profile.ratio, profile.low, profile.high)
    claim = f"{ratio}x faster than {THE_DEFAULTS}"
    return Verdict(tone="better", claim=claim, rest=f"interval {low} to {high}.", mark=",")


def as_fast(evidence: Mapping[str, Any]) -> str:
    """The ratio of the candidate with its interval and chance."""
    ratio, interval = interval_of(evidence)
    return f"{ratio}x as {quality(evidence['workload']['objective']).good}, {interval}"


def interval_of(evidence: Mapping[str, Any]) -> tuple[str, str]:
    """The ratio, and "95 % CI 1.9 to 2.3; 1 in 400 by chance"."""
    ratio, low, high = ratios(evidence["ratio"], evidence["low"], evidence["high"])
    chance = by_chance(evidence.get("chance"))
    said = f"{100 * evidence['confidence']:.3g} % CI {low} to {high}"
    return ratio, f"{said}; {chance}" if chance else said


def by_chance(chance: float | None) -> str:
    """How often two equally fast ones would look this different: "1 in 400 by chance"."""
    if chance is None:
        return ""
    if chance < 1 / _RAREST:
        return f"less than 1 in {_RAREST:,} by chance"
    one_in = int(1 / chance + _FUZZ)
    if one_in <= 1:
        return "no more than chance"
    step = 10 ** max(len(str(one_in)) - 2, 0)
    return f"1 in {one_in // step * step:,} by chance"


def _few(evidence: Mapping[str, Any]) -> str:
    return "; one pair decides nothing" if evidence["pairs"] < LEAST_PAIRS else ""


def _without_comparison(evidence: Mapping[str, Any]) -> Verdict:
    candidate, words = evidence.get("candidate"), quality(evidence["workload"]["objective"])
    if evidence.get("winner") and candidate:
        unit = words.unit
        sides = (evidence["baseline"], candidate)
        theirs, mine = (digits(side.get(f"request_{unit.lower()}") or 0) for side in sides)
        return Verdict(
            tone="open",
            claim=f"Not verified: a request took {mine} {unit} instead of {theirs} {unit}",
            rest="by what the search saw, which flatters what it has chosen.",
            mark=",",
        )
    keep = f"Keep {THE_DEFAULTS}"
    if not candidate:
        return Verdict(tone="kept", claim=f"{keep}: nothing looked {words.better}")
    rounds = evidence.get("disturbed_rounds", 0)
    busy = f", because the machine was busy in {counted(rounds, 'round')}" if rounds else ""
    rest = f"The verification came to no comparison{busy}."
    return Verdict(tone="kept", claim=f"{keep}: nothing was shown to be {words.better}", rest=rest)


def _unproven(stored: Stored) -> str:
    return {
        "running": "Still being measured: nothing is proven yet",
        "interrupted": "Interrupted before anything was proven",
    }.get(stored.folder.state, "Nothing was proven")


def _so_far(stored: Stored) -> str:
    if not stored.incumbents:
        return ""
    best = stored.incumbents[-1]
    words = quality(stored.objective)
    if words.unit == "J" and best.joules and best.baseline_j:
        looks = digits(best.baseline_j / best.joules)
    else:
        looks = digits(best.baseline_s / best.seconds)
    return (
        f"The best so far looks {looks}x as {words.good}; the best of many looks better than it is."
    )
