"""The simulated machines measure as `Bench` does, so that a tuner may be judged on them."""

from pathlib import Path

import pytest
from contract.bench_contract import BenchContract
from fakes.benches import bench_of, fake_bench
from fakes.simulator import SimulatedMachine, cpu16, flat

from autotune.llama_cpp.bench import Bench
from autotune.llama_cpp.locate import Program


class TestBenchOverTheFake(BenchContract):
    @pytest.fixture
    def bench(self, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> Bench:
        monkeypatch.setenv("LCM_FAKE_MS", "3 3")
        return bench_of(fake_bench(), tiny)


@pytest.mark.llama_cpp
class TestBenchOverTheRealOne(BenchContract):
    @pytest.fixture
    def bench(self, llama_cpp_dir: Path, tiny: Path) -> Bench:
        command = (str(llama_cpp_dir / "llama-bench"),)
        return bench_of(Program(name="llama-bench", command=command, found_by="tests"), tiny)


class TestSimulatedMachine(BenchContract):
    @pytest.fixture(params=[cpu16, flat])
    def bench(self, request: pytest.FixtureRequest) -> SimulatedMachine:
        machine: SimulatedMachine = request.param(seed=1)
        return machine
