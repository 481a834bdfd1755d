"""What the anchors of a study say: the best so far measured again, and why it differs, if it does.

The judgement is made anew from the journal: of what was written down, not of what `lcm` made of it.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from injected import Fault

from autotune.llama_cpp.records import Measurement
from autotune.results.stored import Stored, Visited
from autotune.stats import noise_of

_TIMES_NOISE, _LEAST_LIMIT = 4.0, 0.05
_NOISE_AT_FIRST = 0.02
_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The incumbent again, against what was known of it."""

    study: str
    number: int
    drift: float  # A log ratio of the seconds of a request: above 0 is slower.
    limit: float
    why: str  # "" where it drifted for no reason that is known.

    @property
    def is_explained(self) -> bool:
        """It did not drift, or there is a reason."""
        return bool(self.why)


def anchors_of(stored: Stored, faults: Sequence[Fault]) -> Iterator[Anchor]:
    """Each anchor of a study that was measured whole."""
    request = stored.environment["request"]
    for n, visited in enumerate(stored.visited):
        if visited.trial.kind != "anchor" or visited.trial.source != "drift":
            continue
        same = [one for one in stored.visited[:n] if one.trial.params == visited.trial.params]
        now, before = _seconds([visited], request), _seconds(same, request)
        if now is None or before is None:
            continue
        drift = math.log(now / before)
        limit = max(_TIMES_NOISE * _noise(stored.visited[:n], request), _LEAST_LIMIT)
        why = _why(visited, same, faults, within=abs(drift) <= limit)
        yield Anchor(
            study=stored.folder.name, number=visited.trial.number, drift=drift, limit=limit, why=why
        )


def _seconds(of: Sequence[Visited], request: dict[str, Any]) -> float | None:
    """Of a request, by the middle of what was measured of each part; None where one is missing."""
    total = 0.0
    for part in request["tests"]:
        known = [m for one in of if (m := one.measured(part))]
        clean = [m for one in of if not one.trial.disturbed and (m := one.measured(part))]
        if not known:
            return None
        tokens = request["n_prompt"] if part == "pp" else request["n_gen"]
        total += statistics.median(tokens / m.median_ts for m in clean or known)
    return total


def _noise(before: Sequence[Visited], request: dict[str, Any]) -> float:
    same: dict[object, list[float]] = defaultdict(list)
    for one in before:
        for part in request["tests"]:
            measured = one.measured(part)
            if measured and not one.trial.disturbed:
                same[part, one.trial.params].append(math.log(measured.median_ts))
    return noise_of(same.values()) or _NOISE_AT_FIRST


def _why(
    visited: Visited, same: Sequence[Visited], faults: Sequence[Fault], *, within: bool
) -> str:
    if within:
        return "within the noise"
    if visited.trial.disturbed:
        return f"seen by lcm: {visited.trial.disturbed}"
    if hit := _hit(visited, faults):
        return f"during the test: {hit}"
    for one in same:
        if one.trial.disturbed:
            return f"what it is compared with was disturbed: {one.trial.disturbed}"
        if hit := _hit(one, faults):
            return f"during what it is compared with: {hit}"
    return ""


def _hit(visited: Visited, faults: Sequence[Fault]) -> str:
    """The fault that was done while one of its tests ran."""
    for record in visited.records:
        run = record.outcome.run
        if not isinstance(record.outcome, Measurement):
            continue
        for fault in faults:
            if fault.touches(run.started_at - _MARGIN_S, run.ended_at + _MARGIN_S):
                return fault.kind
    return ""
