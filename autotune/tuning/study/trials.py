"""Visits as trials: what stands in a trial's attributes, and what they say when read again."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import TrialState

from autotune.llama_cpp.records import outcome_from_json, outcome_to_json
from autotune.params import params_from_json, params_to_json
from autotune.tuning.study.rows import Row
from autotune.tuning.visits import Kind, Reading, Visit

_OVER = frozenset({TrialState.COMPLETE.name, TrialState.PRUNED.name})
FINISHED = _OVER | {TrialState.FAIL.name}


def for_what(visit: Visit) -> dict[str, Any]:
    """What a visit is for, as user attributes."""
    return {
        "kind": visit.kind.value,
        "source": visit.source,
        "parts": list(visit.parts),
        "params": params_to_json(visit.params),
    }


def came_of(reading: Reading) -> dict[str, Any]:
    """What came of a visit, as user attributes."""
    attributes: dict[str, Any] = {
        "outcomes": {part: outcome_to_json(o) for part, o in reading.outcomes.items()},
        "elapsed_s": reading.elapsed_s,
    }
    if reading.disturbed:
        attributes["disturbed"] = reading.disturbed
    if reading.failure:
        attributes["failure"] = reading.failure.kind.value
    return attributes


def why(row: Row) -> dict[str, Any]:
    """What a trial is for, of its attributes."""
    return {key: row.attributes.get(key) for key in ("kind", "source", "parts", "params")}


def end(reading: Reading, seconds: float | None) -> tuple[TrialState, float | None]:
    """The state and the value that a visit ends with."""
    if reading.failure or seconds is None:
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, seconds


def over(rows: Iterable[Row], of_study: Mapping[str, Any]) -> list[Row]:
    """Those that were finished, in the order in which they were."""
    not_believed = doubted(of_study)
    finished = [row for row in rows if row.state in _OVER and "outcomes" in row.attributes]
    told = [row for row in finished if row.number not in not_believed]
    return sorted(told, key=lambda row: (row.attributes["elapsed_s"], row.number))


def doubted(of_study: Mapping[str, Any]) -> set[int]:
    """Numbers of the trials whose failure was the end of a session, and is not believed."""
    return set(of_study.get("doubted", ()))


def reading(row: Row) -> Reading:
    """The visit that a trial was, as it came out."""
    kept = row.attributes
    visit = Visit(
        kind=Kind(kept["kind"]),
        source=kept["source"],
        params=params_from_json(kept["params"]),
        parts=tuple(kept["parts"]),
    )
    return Reading(
        visit=visit,
        outcomes={part: outcome_from_json(o) for part, o in kept["outcomes"].items()},
        disturbed=kept.get("disturbed", ""),
        elapsed_s=kept["elapsed_s"],
        number=row.number,
    )
