"""What a tuner relies on in whatever measures: `Bench` over a program, or a simulated machine."""

from collections.abc import Sequence

import pytest
from fakes.virtual import VirtualMachine

from autotune.llama_cpp.bench import BatchedBench, Bench
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Event, Progress, Result
from autotune.llama_cpp.records import Failure, FailureKind, Measurement
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

Measures = Bench | BatchedBench | VirtualMachine

PP, TG, DEEP = BenchTest(n_prompt=16), BenchTest(n_gen=4), BenchTest(n_gen=4, n_depth=8)


def threads(*counts: int, test: BenchTest = PP) -> list[Trial]:
    return [Trial(Params(n_threads=n), test) for n in counts]


def told(bench: Measures, trials: Sequence[Trial], repetitions: int = 2) -> list[Event]:
    with bench.run(trials, repetitions=repetitions) as run:
        return list(run)


def results(events: Sequence[Event]) -> list[Result]:
    return [event for event in events if isinstance(event, Result)]


def measured(bench: Measures, trials: Sequence[Trial], repetitions: int = 2) -> list[Measurement]:
    """Measure trials that all must succeed."""
    found = []
    for result in results(told(bench, trials, repetitions)):
        assert isinstance(result.outcome, Measurement), result.outcome
        found.append(result.outcome)
    return found


def n_loads(measurements: Sequence[Measurement]) -> int:
    """Count the processes; no two of them take the same time to load to the nanosecond."""
    return len({(m.run.argv, m.run.load_s) for m in measurements})


def progress(events: Sequence[Event]) -> list[tuple[Phase, int]]:
    return [(e.phase, e.repetition) for e in events if isinstance(e, Progress)]


class BenchContract:
    """Subclasses give the fixture `bench`."""

    def test_every_trial_has_one_result_and_its_own(self, bench: Measures) -> None:
        trials = [
            *threads(1, 2),
            *threads(1, test=TG),
            Trial(Params(n_threads=1, n_ubatch=8, n_batch=32), PP),
            Trial(Params(n_threads=2, n_gpu_layers=0), DEEP),
        ]
        found = results(told(bench, trials))
        assert sorted(map(repr, trials)) == sorted(repr(result.trial) for result in found)
        assert all(Trial(r.outcome.params, r.outcome.test) == r.trial for r in found)

    def test_abba_over_one_axis_keeps_its_order_in_one_load(self, bench: Measures) -> None:
        found = measured(bench, threads(1, 2, 2, 1))
        assert ([m.params.n_threads for m in found], n_loads(found)) == ([1, 2, 2, 1], 1)

    def test_prompts_come_before_generation_in_one_load(self, bench: Measures) -> None:
        found = measured(bench, [*threads(1, test=TG), *threads(1, test=PP)])
        assert ([m.test for m in found], n_loads(found)) == ([PP, TG], 1)

    def test_context_parameters_share_a_load(self, bench: Measures) -> None:
        shared = [
            Params(n_threads=n, n_ubatch=ubatch, flash_attn=flash)
            for n in (1, 2)
            for ubatch in (8, 16)
            for flash in (False, True)
        ]
        found = measured(bench, [Trial(params, PP) for params in shared], 1)
        assert (len(found), n_loads(found)) == (8, 1)

    @pytest.mark.parametrize(
        "pair",
        [
            (Params(n_gpu_layers=0), Params(n_gpu_layers=1)),
            (Params(load_mode="none"), Params(load_mode="mmap")),
        ],
        ids=["n_gpu_layers", "load_mode"],
    )
    def test_model_parameters_do_not(self, bench: Measures, pair: tuple[Params, Params]) -> None:
        found = measured(bench, [Trial(params, PP) for params in pair])
        assert (len(found), n_loads(found)) == (2, 2)

    @pytest.mark.parametrize("repetitions", [1, 3])
    def test_each_repetition_is_a_sample(self, bench: Measures, repetitions: int) -> None:
        (found,) = measured(bench, threads(1), repetitions)
        assert [ns > 0 for ns in found.samples_ns] == [True] * repetitions
        assert list(found.samples_ns) == found.record["samples_ns"]

    def test_no_repetitions_are_refused(self, bench: Measures) -> None:
        with pytest.raises(ValueError, match="at least one repetition"):
            bench.run(threads(1), repetitions=0)

    def test_progress_tells_each_phase_before_the_result(self, bench: Measures) -> None:
        events = told(bench, threads(1, 2))
        ends = [n for n, event in enumerate(events) if isinstance(event, Result)]
        parts = events[: ends[0] + 1], events[ends[0] + 1 :]
        phases = [(Phase.LOAD, 0), (Phase.WARMUP, 0), (Phase.RUN, 1), (Phase.RUN, 2)]
        for n, part in enumerate(parts, 1):
            assert progress(part) == phases
            assert [event.trial.params.n_threads for event in part] == [n] * 5
        times = [event.at for event in events if isinstance(event, Progress)]
        assert times == sorted(times)

    def test_a_depth_is_filled_before_each_repetition(self, bench: Measures) -> None:
        events = told(bench, threads(1, test=DEEP))
        (result,) = results(events)
        assert isinstance(result.outcome, Measurement)
        assert result.outcome.record["n_depth"] == 8
        assert progress(events)[2:] == [
            (Phase.DEPTH, 0), (Phase.RUN, 1), (Phase.DEPTH, 0), (Phase.RUN, 2),
        ]  # fmt: skip

    def test_prompt_and_generation_in_one_test_are_told_apart(self, bench: Measures) -> None:
        events = told(bench, threads(1, test=BenchTest(n_prompt=16, n_gen=4)), 1)
        phases = [(Phase.LOAD, 0), *[(Phase.WARMUP, 0)] * 2, *[(Phase.RUN, 1)] * 2]
        assert (progress(events), len(results(events))) == (phases, 1)

    def test_the_record_repeats_the_settings(self, bench: Measures) -> None:
        params = Params(
            n_threads=2, n_batch=64, n_ubatch=32, type_k="q8_0", type_v="q8_0", flash_attn=True,
            n_gpu_layers=0, no_kv_offload=True, no_op_offload=True, load_mode="none",
        )  # fmt: skip
        (found,) = measured(bench, [Trial(params, PP)])
        expected = {
            "n_threads": 2, "n_batch": 64, "n_ubatch": 32, "type_k": "q8_0", "type_v": "q8_0",
            "flash_attn": 1, "n_gpu_layers": 0, "no_kv_offload": True, "no_op_offload": 1,
            "load_mode": "none", "repack": True, "n_cpu_moe": 0, "split_mode": "layer",
            "main_gpu": 0, "n_prompt": 16, "n_gen": 0, "n_depth": 0,
        }  # fmt: skip
        assert {name: found.record[name] for name in expected} == expected

    def test_the_record_tells_what_was_taken_where_nothing_was_said(self, bench: Measures) -> None:
        (found,) = measured(bench, [Trial(Params(), PP)], 1)
        assert found.params == Params()
        assert found.record["n_threads"] >= 1
        told = {name: found.record[name] for name in ("n_batch", "n_ubatch", "type_k", "type_v")}
        assert told == {"n_batch": 2048, "n_ubatch": 512, "type_k": "f16", "type_v": "f16"}
        assert (found.record["flash_attn"], found.record["load_mode"]) == (-1, "auto")

    def test_the_facts_of_the_process_are_there(self, bench: Measures) -> None:
        first, second = measured(bench, threads(1, 2))
        for found in (first, second):
            assert found.run.load_s is not None
            assert found.run.load_s > 0
            assert sum(found.samples_ns) / 1e9 <= found.run.ended_at - found.run.started_at + 0.05
        assert first.run.argv == second.run.argv
        assert first.run.ended_at <= second.run.ended_at

    def test_a_failing_trial_costs_no_other(self, bench: Measures) -> None:
        kinds = ("f16", "q8_0", "bf16")  # Which flash attention alone can do, as a V cache.
        params = [Params(n_threads=1, flash_attn=False, type_v=kind) for kind in kinds]
        found = {
            result.trial.params.type_v: result.outcome
            for result in results(told(bench, [Trial(p, PP) for p in params], 1))
        }
        assert {kind: type(outcome) for kind, outcome in found.items()} == {
            "f16": Measurement, "q8_0": Failure, "bf16": Measurement,
        }  # fmt: skip
        bad = found["q8_0"]
        assert isinstance(bad, Failure)
        assert (bad.kind, bad.params, bad.test) == (FailureKind.UNSUPPORTED, params[1], PP)

    def test_stopping_ends_it_early_and_tells_nothing_twice(self, bench: Measures) -> None:
        trials = threads(*[1, 2] * 20)
        found = []
        with bench.run(trials, repetitions=20) as run:
            for event in run:
                if isinstance(event, Result):
                    found.append(event)
                    run.stop()
        assert 1 <= len(found) < len(trials)
        assert len({id(result) for result in found}) == len(found)
        assert [result.trial for result in found] == trials[: len(found)]

    def test_stopping_before_the_first_result_is_no_failure(self, bench: Measures) -> None:
        with bench.run(threads(*[1, 2] * 20), repetitions=20) as run:
            next(event for event in run if isinstance(event, Progress))
            run.stop()
            assert not [r for r in results(list(run)) if isinstance(r.outcome, Failure)]

    def test_leaving_keeps_the_result_that_may_not_have_arrived(self, bench: Measures) -> None:
        with bench.run(threads(*[1, 2] * 20), repetitions=20) as run:
            result = next(event for event in run if isinstance(event, Result))
        assert run.rescued[0] is result
        assert list(run) == []

    def test_measuring_nothing_is_no_work(self, bench: Measures) -> None:
        assert told(bench, []) == []
