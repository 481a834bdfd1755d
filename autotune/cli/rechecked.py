"""What came of `lcm verify`: the JSON, and the same in a few lines for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.cli.answer import SCHEMA_VERSION, EvidenceSection, GainVerdict, VerifyAnswer
from autotune.cli.words import compared
from autotune.errors import printable
from autotune.results.changes import Change
from autotune.results.profile import Kept, Profile
from autotune.stats import LEAST_PAIRS, Comparison
from autotune.tuning.session import Tuned
from autotune.words import THE_DEFAULTS, counted, failures, quality, ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """What a verification has shown, or why there was none."""

    kept: Kept  # The profile as it was before.
    verdict: GainVerdict
    reason: str  # Why nothing was compared; "" where it was.
    comparison: Comparison | None
    evidence: EvidenceSection | None
    changed: Sequence[Change]
    study_is_known: bool  # False: of what was here then, only the build is known.
    objective: str = "request"  # What was minimised.


def reason_of(tuned: Tuned) -> str:
    """Why a session came to no comparison; "" if it did."""
    verification = tuned.verification
    if verification.comparison:
        return ""
    if tuned.hurried:
        return "it was interrupted"
    if tuned.failures:
        return f"the profile does not run here: {failures(tuned.failures)}"
    if verification.disturbed_rounds:
        return f"the machine was busy in {counted(verification.disturbed_rounds, 'round')}"
    return "there was no time for a comparison; give a longer --budget"


def verify_answer(done: Rechecked) -> VerifyAnswer:
    """The answer of `lcm verify --json`."""
    then = done.kept.profile
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": done.verdict,
        "reason": done.reason,
        "evidence": done.evidence,
        "then": {
            "date": then.date,
            "build": then.build,
            "verdict": then.verdict,
            "ratio": then.ratio,
            "low": then.low,
            "high": then.high,
            "workload": then.workload,
            "study": then.study,
            "profile": str(done.kept.path),
        },
        "changed": [{"what": c.what, "then": c.then, "now": c.now} for c in done.changed],
    }


def verify_lines(done: Rechecked) -> str:
    """The verdict, what was known before, and what has changed since."""
    then = done.kept.profile
    lines = [_verdict(done), _then(then), *_changes(done)]
    return "\n".join(map(printable, lines))


def _verdict(done: Rechecked) -> str:
    seen = done.comparison
    if seen is None:
        return f"{done.verdict}: {done.reason}"
    still = "still " if done.verdict == done.kept.profile.verdict == "better" else ""
    few = "; one pair decides nothing" if seen.pairs < LEAST_PAIRS else ""
    speed = f"x as {quality(done.objective).good} as {THE_DEFAULTS}"
    return f"{still}{done.verdict}: {compared(seen, speed)}{few}"


def _then(then: Profile) -> str:
    said = then.verdict or "not verified"
    if then.ratio is not None and then.low is not None and then.high is not None:
        ratio, low, high = ratios(then.ratio, then.low, then.high)
        said += f", {ratio}x ({low} to {high})"
    return f"on {then.date}: {said}, with {then.build}"


def _changes(done: Rechecked) -> list[str]:
    date = done.kept.profile.date
    since = [f"changed since: {c.what}: {c.then} then, {c.now} now" for c in done.changed]
    if not done.study_is_known:
        since.append("its study is gone: what else has changed since is not known")
    return since or [f"nothing changed since {date}"]
