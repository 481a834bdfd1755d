"""Records of every llama-bench since jsonl are read; what is no record is said to be none."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.llama_cpp.records import BadRecord, Measurement, RunFacts, parse_record
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

BUILDS = Path(__file__).parent.parent / "fixtures" / "llama_bench"
RECORDED = sorted(BUILDS.glob("*/records.jsonl"))
TODAY = BUILDS / "0.3.36-2026-10" / "records.jsonl"


def today(**changes: object) -> str:
    record: dict[str, Any] = json.loads(TODAY.read_text(encoding="utf-8").splitlines()[0])
    return json.dumps(record | changes)


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.parent.name)
def test_what_a_build_printed_is_read(file: Path) -> None:
    records = [parse_record(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(record.test, len(record.samples_ns)) for record in records] == [
        (BenchTest(n_prompt=16), 3),
        (BenchTest(n_gen=4), 3),
    ]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.parent.name)
def test_what_a_build_was_asked_for_is_read(file: Path) -> None:
    record = parse_record(file.read_text(encoding="utf-8").splitlines()[0])
    told = {name: record.settings[name] for name in ("n_threads", "n_batch", "type_k")}
    assert told == {"n_threads": 1, "n_batch": 2048, "type_k": "f16"}


def test_builds_from_five_seasons_are_recorded() -> None:
    assert len(RECORDED) >= 5


@pytest.mark.parametrize(("told", "read"), [(False, 0), (True, 1), (-1, -1), (0, 0), (1, 1)])
def test_flash_attention_is_a_number_whatever_the_build_says(told: object, read: int) -> None:
    assert parse_record(today(flash_attn=told)).settings["flash_attn"] == read


def test_a_build_without_depth_has_measured_at_none() -> None:
    record = json.loads(today())
    del record["n_depth"]
    assert parse_record(json.dumps(record)).test == BenchTest(n_prompt=16)


def test_fields_that_nobody_knows_are_kept() -> None:
    assert parse_record(today(colour="blue")).raw["colour"] == "blue"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        "not a record",
        '{"n_prompt": 16}',
        '{"a":' * 100_000,
        today()[:-200],
        today(n_prompt="16"),
        today(n_prompt=True),
        today(n_prompt=-1),
        today(n_prompt=0, n_gen=0),
        today(samples_ns=[]),
        today(samples_ns=None),
        today(samples_ns=[1, 0]),
        today(samples_ns=[1, -1]),
        today(samples_ns=[1.5]),
        today(samples_ns=["1"]),
        today(samples_ns=[True]),
    ],
    ids=range(19),
)
def test_a_line_that_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(BadRecord):
        parse_record(line)


@pytest.mark.parametrize("tokens", [(0, 0), (-1, 4), (4, -1)])
def test_a_test_takes_a_number_of_tokens(tokens: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="tokens"):
        BenchTest(n_prompt=tokens[0], n_gen=tokens[1])


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (BenchTest(n_prompt=512), "pp512"),
        (BenchTest(n_gen=128, n_depth=4096), "tg128 @ d4096"),
        (BenchTest(n_prompt=512, n_gen=128), "pp512+tg128"),
    ],
)
def test_tests_have_llama_bench_s_names(test: BenchTest, name: str) -> None:
    assert str(test) == name


def test_rates_are_computed_from_the_samples() -> None:
    run = RunFacts(argv=(), removed_environment={}, started_at=0, ended_at=0, load_s=None)
    measured = Measurement(
        params=Params(),
        test=BenchTest(n_prompt=100),
        samples_ns=(10**9, 2 * 10**9, 10**8),
        build_commit="",
        build_number=0,
        run=run,
        record={},
    )
    assert (measured.samples_ts, measured.median_ts) == ((100.0, 50.0, 1000.0), 100.0)
