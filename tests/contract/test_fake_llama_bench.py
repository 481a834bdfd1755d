"""The fake llama-bench keeps the contract of the real one, so that it may be trusted."""

import pytest
from contract.llama_bench_contract import LlamaBenchContract
from fakes.benches import fake_bench

from autotune.llama_cpp.locate import Program


@pytest.fixture(autouse=True)
def _steps_that_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_FAKE_MS", "3 3")


class TestFakeLlamaBench(LlamaBenchContract):
    @pytest.fixture
    def bench(self) -> Program:
        return fake_bench()
