"""`benchmarks/memory.py` for two architectures: what stands in the table that it writes."""

import re
from pathlib import Path

import pytest
from benchmark_process import run_benchmark

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def table(llama_cpp_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    del llama_cpp_dir  # It is found by the benchmark, and has to be here.
    return run_benchmark("memory", "mamba-2.8b", "phi3-mini", out=tmp_path_factory.mktemp("out"))


def test_no_number_is_outside_of_its_bounds(table: str) -> None:
    assert "| numbers outside of their bounds | ≤ 0 | 0 | yes |" in table


def test_each_part_has_its_largest_error(table: str) -> None:
    parts = re.findall(r"(?m)^\| (.+?) \| \d+ \| (\d) \| (\S+) .*\| 0 \|$", table)

    assert [(part, models) for part, models, _ in parts] == [
        ("weights", "2"),
        ("KV cache", "1"),
        ("recurrent state", "1"),
        ("compute", "2"),
    ]
    assert [lowest for part, _, lowest in parts if part != "compute"] == ["+0", "+0", "+0"]


def test_each_model_has_a_line(table: str) -> None:
    models = re.findall(r"(?m)^\| (\S+) \| \d+ \| 0 MiB \| 0 MiB \| \S+ to \S+ \|$", table)

    assert models == ["mamba-2.8b", "phi3-mini"]
