"""What a tuner relies on in llama-batched-bench, asked of the real one and of the fake alike."""

from dataclasses import replace
from pathlib import Path

import pytest
from contract.bench_contract import measured, n_loads, results, told
from fakes.benches import batched_bench_of, fake_batched_bench

from autotune.llama_cpp.bench import BatchedBench
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Progress, Result
from autotune.llama_cpp.records import Failure, FailureKind
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP, TG = BenchTest(n_prompt=16, n_parallel=4), BenchTest(n_gen=4, n_depth=16, n_parallel=4)
ONE = Params(n_threads=1, n_threads_batch=1, n_parallel=4)


def both(*configurations: Params) -> list[Trial]:
    return [Trial(params, test) for params in configurations for test in (PP, TG)]


def slots(*numbers: int) -> list[Trial]:
    return [Trial(replace(ONE, n_parallel=n), PP) for n in numbers]


class BatchedBenchContract:
    """Subclasses give the fixture `bench`."""

    def test_every_trial_has_one_result_and_its_own(self, bench: BatchedBench) -> None:
        others = replace(ONE, n_ubatch=8, n_batch=32), replace(ONE, kv_unified=True)
        trials = [*both(ONE, *others), *slots(1, 2)]
        found = results(told(bench, trials))
        assert sorted(map(repr, trials)) == sorted(repr(result.trial) for result in found)
        assert all(Trial(r.outcome.params, r.outcome.test) == r.trial for r in found)

    def test_both_parts_are_of_one_run(self, bench: BatchedBench) -> None:
        prompts, generation = measured(bench, both(ONE))
        assert (prompts.test, generation.test, n_loads([prompts, generation])) == (PP, TG, 1)
        assert prompts.record["t_pp"] == generation.record["t_pp"]

    def test_the_record_has_its_test_and_the_times_of_each_repetition(
        self, bench: BatchedBench
    ) -> None:
        (found,) = measured(bench, [Trial(ONE, TG)], 2)
        told = {name: found.record[name] for name in ("n_prompt", "n_gen", "n_depth")}
        assert told == {"n_prompt": 0, "n_gen": 4, "n_depth": 16}
        assert found.samples_ns == tuple(round(1e9 * t) for t in found.record["t_tg_each"])

    def test_numbers_of_slots_share_a_load_in_their_order(self, bench: BatchedBench) -> None:
        found = measured(bench, slots(1, 2, 4, 4, 2, 1))
        assert [m.params.n_parallel for m in found] == [1, 2, 4, 4, 2, 1]
        assert n_loads(found) == 1

    def test_whatever_else_differs_is_another_load(self, bench: BatchedBench) -> None:
        pair = ONE, replace(ONE, kv_unified=True)
        assert n_loads(measured(bench, [Trial(params, PP) for params in pair])) == 2

    @pytest.mark.parametrize("repetitions", [1, 3])
    def test_each_repetition_is_a_sample(self, bench: BatchedBench, repetitions: int) -> None:
        for found in measured(bench, both(ONE), repetitions):
            assert [ns > 0 for ns in found.samples_ns] == [True] * repetitions

    def test_fewer_slots_than_requests_take_several_waves(self, bench: BatchedBench) -> None:
        (found,) = measured(bench, slots(2), 1)
        assert found.samples_ns == (round(2e9 * found.record["t_pp"]),)

    def test_more_slots_than_requests_stay_empty(self, bench: BatchedBench) -> None:
        (found,) = measured(bench, slots(8), 1)
        assert (found.record["pl"], found.samples_ns) == (4, (round(1e9 * found.record["t_pp"]),))

    def test_the_record_repeats_the_settings(self, bench: BatchedBench) -> None:
        params = replace(
            ONE, n_threads=2, n_batch=64, n_ubatch=32, flash_attn=True, n_gpu_layers=0,
            type_k="q8_0", type_v="q8_0", load_mode="none", repack=False, kv_unified=True,
        )  # fmt: skip
        (found,) = measured(bench, [Trial(params, TG)])
        expected = {
            "n_threads": 2, "n_threads_batch": 1, "n_batch": 64, "n_ubatch": 32, "flash_attn": 1,
            "n_gpu_layers": 0, "pp": 16, "tg": 4, "pl": 4,
        }  # fmt: skip
        assert {name: found.record[name] for name in expected} == expected

    def test_the_facts_of_the_process_are_there(self, bench: BatchedBench) -> None:
        (found,) = measured(bench, slots(4), 2)
        assert found.run.load_s is not None
        lasted_s = found.run.ended_at - found.run.started_at
        assert found.run.load_s + sum(found.samples_ns) / 1e9 <= lasted_s + 0.05

    def test_loading_and_each_later_repetition_are_told(self, bench: BatchedBench) -> None:
        events = told(bench, both(ONE), 3)
        said = [(e.phase, e.repetition) for e in events if isinstance(e, Progress)]
        assert said == [(Phase.LOAD, 0), (Phase.RUN, 2), (Phase.RUN, 3)]

    def test_a_failing_trial_costs_no_other(self, bench: BatchedBench) -> None:
        bad = replace(ONE, flash_attn=False, type_v="q8_0")
        found = results(told(bench, both(ONE, bad, replace(ONE, n_threads=2))))
        kinds = [getattr(result.outcome, "kind", None) for result in found]
        assert kinds == [None, None, *[FailureKind.UNSUPPORTED] * 2, None, None]

    def test_a_model_that_is_not_there_is_named(self, bench: BatchedBench, tmp_path: Path) -> None:
        missing = replace(bench, model=tmp_path / "missing.gguf")
        for result in results(told(missing, both(ONE))):
            assert isinstance(result.outcome, Failure)
            assert result.outcome.kind in {FailureKind.MODEL_UNREADABLE, FailureKind.CRASH}

    def test_what_has_no_room_is_refused_and_not_passed_over(self, bench: BatchedBench) -> None:
        long = BenchTest(n_prompt=2000, n_parallel=4)
        (result,) = results(told(bench, [Trial(ONE, long)]))
        assert isinstance(result.outcome, Failure)
        assert (result.outcome.kind, result.outcome.message) == (
            FailureKind.UNSUPPORTED, "pp2000 x4 needs 8004 tokens of context, and has 4096",
        )  # fmt: skip

    def test_no_repetitions_are_refused(self, bench: BatchedBench) -> None:
        with pytest.raises(ValueError, match="at least one repetition"):
            bench.run(both(ONE), repetitions=0)

    def test_stopping_ends_it_early_and_tells_nothing_twice(self, bench: BatchedBench) -> None:
        trials, found = slots(*[1, 2] * 200), []
        with bench.run(trials, repetitions=2) as run:
            for event in run:
                if isinstance(event, Result):
                    found.append(event)
                    run.stop()
        assert 1 <= len(found) < len(trials)
        assert [result.trial for result in found] == trials[: len(found)]

    def test_leaving_keeps_the_result_that_may_not_have_arrived(self, bench: BatchedBench) -> None:
        with bench.run(both(ONE, replace(ONE, n_threads=2)), repetitions=1) as run:
            result = next(event for event in run if isinstance(event, Result))
        assert run.rescued[0] is result
        assert list(run) == []

    def test_measuring_nothing_is_no_work(self, bench: BatchedBench) -> None:
        assert told(bench, []) == []


class TestOverTheFake(BatchedBenchContract):
    @pytest.fixture
    def bench(self, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> BatchedBench:
        monkeypatch.setenv("LCM_FAKE_MS", "3 3")
        return batched_bench_of(fake_batched_bench(), tiny)


@pytest.mark.llama_cpp
class TestOverTheRealOne(BatchedBenchContract):
    @pytest.fixture
    def bench(self, llama_cpp_dir: Path, tiny: Path) -> BatchedBench:
        command = (str(llama_cpp_dir / "llama-batched-bench"),)
        program = Program(name="llama-batched-bench", command=command, found_by="tests")
        return batched_bench_of(program, tiny)
