"""The real llama-bench behaves as the driver expects, and as the fake does."""

from pathlib import Path

import pytest
from contract.llama_bench_contract import LlamaBenchContract

from autotune.llama_cpp.locate import Program


@pytest.mark.llama_cpp
class TestRealLlamaBench(LlamaBenchContract):
    @pytest.fixture
    def bench(self, llama_cpp_dir: Path) -> Program:
        command = (str(llama_cpp_dir / "llama-bench"),)
        return Program(name="llama-bench", command=command, found_by="tests")
