"""Numbers that cannot be are told from numbers that are merely very good."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.plausibility import check, implausible
from autotune.llama_cpp.records import BadRecord, Measurement, Record, RunFacts, parse_record
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

TODAY = Path(__file__).parent.parent / "fixtures" / "llama_bench" / "0.3.36-2026-10"
LLAMA_70B = {"model_size": 42_000_000_000, "model_n_params": 70_000_000_000}
TG, PP = BenchTest(n_gen=128), BenchTest(n_prompt=512)


def measured(test: BenchTest, *tokens_per_s: float) -> Measurement:
    """Give a measurement of a 70B in Q4_K_M with a sample for each speed."""
    facts = RunFacts(argv=(), removed_environment={}, started_at=0, ended_at=0, load_s=None)
    return Measurement(
        params=Params(),
        test=test,
        samples_ns=tuple(int(1e9 * test.n_tokens / speed) for speed in tokens_per_s),
        build_commit="",
        build_number=0,
        run=facts,
        record=LLAMA_70B,
    )


@pytest.mark.parametrize(
    ("test", "speed", "said"),
    [
        (TG, 900, None),  # 38 TB/s: eight H200 side by side are said to have as much.
        (TG, 1300, "reading the weights once a token"),
        (PP, 100_000, None),
        (PP, 150_000, "two operations a weight and token"),
    ],
)
def test_nothing_is_faster_than_memory_or_arithmetic(
    test: BenchTest, speed: float, said: str | None
) -> None:
    problem = implausible(measured(test, speed), lasted_s=60, active_share=1)
    assert (problem is None) if said is None else (problem is not None and said in problem)


def test_experts_that_are_not_used_are_not_read() -> None:
    fast = measured(TG, 1300)
    assert implausible(fast, lasted_s=60, active_share=0.1) is None


def test_the_fastest_sample_is_judged() -> None:
    assert implausible(measured(TG, 20, 1300, 20), lasted_s=60, active_share=1)


def test_samples_do_not_add_up_to_more_than_passed() -> None:
    slow = measured(TG, 16, 16)  # Two times 8 s.
    assert implausible(slow, lasted_s=15.5) is None  # Clocks may be set meanwhile.
    problem = implausible(slow, lasted_s=10)
    assert problem == "its samples add up to 16.0 s, but it ran for 10.0 s"


def test_a_model_of_no_known_size_still_takes_time_for_each_call() -> None:
    unknown = replace(measured(TG, 300_000), record={})
    assert "the calls alone" in (implausible(unknown, lasted_s=60) or "")


def recorded(**changes: object) -> Record:
    line = (TODAY / "records.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return parse_record(json.dumps(json.loads(line) | changes))


PP16 = BenchTest(n_prompt=16)


def test_a_record_of_what_was_asked_for_is_taken() -> None:
    check(recorded(), Trial(Params(n_threads=1), PP16), 3)


@pytest.mark.parametrize(
    ("trial", "repetitions", "said"),
    [
        (Trial(Params(n_threads=1), TG), 3, "a record of pp16 where tg128 was asked for"),
        (Trial(Params(n_threads=1), PP16), 5, "3 samples where 5 were asked for"),
        (Trial(Params(n_threads=2), PP16), 3, "a record of n_threads 1 where 2 was asked for"),
        (Trial(Params(type_k="q8_0"), PP16), 3, "a record of type_k f16 where q8_0 was asked for"),
    ],
)
def test_a_record_of_something_else_is_refused(trial: Trial, repetitions: int, said: str) -> None:
    with pytest.raises(BadRecord, match=said):
        check(recorded(), trial, repetitions)
