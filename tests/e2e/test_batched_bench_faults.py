"""What may go wrong with llama-batched-bench, done by the fake: each is named, nothing is left."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.benches import TOKEN, batched_bench_of, fake_batched_bench, left_behind, outcomes

from autotune.llama_cpp.batch_run import MOST_ATTEMPTS
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Patience
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, Outcome
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP, TG = BenchTest(n_prompt=16, n_parallel=4), BenchTest(n_gen=4, n_depth=16, n_parallel=4)
BAD = Params(n_threads=1, n_threads_batch=1, n_parallel=4)
GOOD = replace(BAD, n_threads=2)
TRIALS = [Trial(params, test) for params in (BAD, GOOD) for test in (PP, TG)]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    token = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN, token)
    monkeypatch.setenv("LCM_FAKE_LOG", str(tmp_path / "log"))
    return token


def measured(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, fault: str, trials: list[Trial] = TRIALS
) -> list[Outcome]:
    bench = batched_bench_of(fake_batched_bench(), tiny)
    bench.patience = Patience(first_load_s=1.5, first_step_s=0.3, least_s=0.3, retry_s=5)
    monkeypatch.setenv("LCM_FAKE", fault)
    return [outcome for _, outcome in outcomes(bench.run(trials, repetitions=2))]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("oom@1", FailureKind.OOM),
        ("crash=11@1", FailureKind.CRASH),
        ("crash=9@1", FailureKind.CRASH),
        ("hang@1", FailureKind.HANG),
        ("spin@1", FailureKind.TIMEOUT),
        ("garbage@1", FailureKind.BAD_OUTPUT),
        ("half@1", FailureKind.BAD_OUTPUT),
        ("nan@1", FailureKind.BAD_OUTPUT),
        ("missing@1", FailureKind.BAD_OUTPUT),
        ("wrong-test@1", FailureKind.BAD_OUTPUT),
        ("wrong-threads@1", FailureKind.BAD_OUTPUT),
        ("absurd@1", FailureKind.IMPLAUSIBLE),
        ("decode@1", FailureKind.DECODE_ERROR),
    ],
)
def test_a_fault_is_named_costs_no_other_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str, fault: str, kind: FailureKind
) -> None:
    found = measured(monkeypatch, tiny, fault)
    kinds = [outcome.kind if isinstance(outcome, Failure) else None for outcome in found]
    assert (kinds, left_behind(token)) == ([kind, kind, None, None], [])


def test_a_record_that_is_lost_at_the_end_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str
) -> None:
    del token
    found = measured(monkeypatch, tiny, f"loses={MOST_ATTEMPTS - 1}")
    assert [type(outcome) for outcome in found] == [Measurement] * 4


def test_where_the_most_slots_have_no_room_fewer_are_measured(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str
) -> None:
    del token
    trials = [Trial(replace(GOOD, n_parallel=n), PP) for n in (1, 2, 4)]
    found = measured(monkeypatch, tiny, "crowded", trials)
    kinds = {o.params.n_parallel: getattr(o, "kind", None) for o in found}
    assert kinds == {1: None, 2: None, 4: FailureKind.OOM}


def test_leaving_in_the_middle_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str
) -> None:
    bench = batched_bench_of(fake_batched_bench(), tiny)
    monkeypatch.setenv("LCM_FAKE", "hang,deaf")
    with bench.run(TRIALS) as run:
        next(run)
    assert left_behind(token) == []
