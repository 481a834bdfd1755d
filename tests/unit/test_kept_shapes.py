"""What a study's JSON must look like to be used, however it was changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.results.kept_shapes import checked_evidence, known_environment

_KEPT = Path(__file__).parents[1] / "fixtures" / "studies" / "format-2"


def evidence() -> dict[str, Any]:
    lines = map(json.loads, (_KEPT / "journal.jsonl").read_text().splitlines())
    found: dict[str, Any] = next(line for line in lines if line["type"] == "evidence")["evidence"]
    return found


def environment() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((_KEPT / "environment.json").read_text())
    return kept


def test_what_was_written_is_used_whole() -> None:
    assert checked_evidence(evidence()) == evidence()
    assert known_environment(environment()) == environment()


@pytest.mark.parametrize("key", ["verdict", "workload", "baseline"])
def test_evidence_without_what_a_report_rests_on_is_none(key: str) -> None:
    kept = evidence()
    del kept[key]

    assert checked_evidence(kept) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("verdict", "best"),
        ("ratio", -1),
        ("ratio", "2"),
        ("low", None),
        ("pairs", 1e300),
        ("workload", {"n_prompt": 1}),
        ("baseline", {"params": {"n_threads": "2"}}),
        ("candidate", {"params": {"type_k": "--rpc"}}),
        ("failures", []),
    ],
    ids=str,
)
def test_evidence_that_cannot_be_is_none(key: str, value: object) -> None:
    assert checked_evidence(evidence() | {key: value}) is None


@pytest.mark.parametrize("value", [3, "x", [], None, {"gpus": [{"name": 1}], "notes": [1]}])
def test_a_circumstance_of_another_shape_is_not_known_and_the_rest_is(value: object) -> None:
    known = known_environment(environment() | {"hardware": value})

    assert known["model"] == environment()["model"]
    assert (known.get("hardware") or {}).get("gpus", []) == []
    assert not (known.get("hardware") or {}).get("notes")


@pytest.mark.parametrize("kept", [None, [], 3, "x"])
def test_what_is_no_object_says_nothing(kept: object) -> None:
    assert known_environment(kept) == {}


@pytest.mark.parametrize("fleet", [[], {"workers": [{"host": 3}]}, {"workers": 1}, {"study": "x"}])
def test_a_fleet_that_is_none_leaves_no_evidence(fleet: object) -> None:
    kept = evidence() | {"fleet": fleet}

    assert (checked_evidence(kept) is None) is bool(fleet)
