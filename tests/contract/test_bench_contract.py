"""The simulated machines measure as `Bench` does, so that a tuner may be judged on them."""

import time
from pathlib import Path

import pytest
from contract.bench_contract import BenchContract, measured, threads, told
from fakes.benches import bench_of, fake_bench
from fakes.simulator import SimulatedMachine, cpu16, flat

from autotune.llama_cpp.bench import Bench
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.program_run import Progress
from autotune.llama_cpp.records import Test as BenchTest

LATE_S = 0.015


WATTS = 50.0


class MeteredContract:
    """Joules of a test are those of its timed repetitions: no load, warm-up or depth is in them.

    A machine that takes the same at any time is one whose clock is its meter. Subclasses give the
    fixture `bench`.
    """

    @pytest.mark.parametrize(
        "test",
        [BenchTest(n_prompt=256), BenchTest(n_gen=64), BenchTest(n_gen=64, n_depth=256)],
        ids=str,
    )
    def test_joules_are_those_of_the_repetitions(
        self, bench: Bench, test: BenchTest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LCM_FAKE_MS", "60 60")
        bench.meter = lambda: WATTS * time.monotonic()

        (found,) = measured(bench, threads(1, test=test), repetitions=2)

        # A line is read when this process is scheduled, which a busy machine delays.
        expected = [WATTS * ns / 1e9 for ns in found.samples_ns]
        assert found.samples_j == pytest.approx(expected, rel=0.05, abs=WATTS * LATE_S)

    def test_progress_tells_the_meter(self, bench: Bench) -> None:
        bench.meter = lambda: 7.0

        events = told(bench, threads(1))

        assert {e.joules for e in events if isinstance(e, Progress)} == {7.0}

    def test_of_a_test_that_is_too_short_for_the_meter_nothing_is_told(self, bench: Bench) -> None:
        bench.meter, bench.metered_s = time.monotonic, 600.0

        (found,) = measured(bench, threads(1))

        assert (found.joules, found.tokens_per_joule) == (None, None)

    def test_without_a_meter_there_are_no_joules(self, bench: Bench) -> None:
        (found,) = measured(bench, threads(1))

        assert found.samples_j == ()


class TestBenchOverTheFake(BenchContract, MeteredContract):
    @pytest.fixture
    def bench(self, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> Bench:
        monkeypatch.setenv("LCM_FAKE_MS", "3 3")
        return bench_of(fake_bench(), tiny)


@pytest.mark.llama_cpp
class TestBenchOverTheRealOne(BenchContract, MeteredContract):
    @pytest.fixture
    def bench(self, llama_cpp_dir: Path, tiny: Path) -> Bench:
        command = (str(llama_cpp_dir / "llama-bench"),)
        return bench_of(Program(name="llama-bench", command=command, found_by="tests"), tiny)


class TestSimulatedMachine(BenchContract):
    @pytest.fixture(params=[cpu16, flat])
    def bench(self, request: pytest.FixtureRequest) -> SimulatedMachine:
        machine: SimulatedMachine = request.param(seed=1)
        return machine
