"""`benchmarks/soak.py` for a minute: it does its faults, and nothing is lost by them."""

import re
from pathlib import Path

import pytest
from benchmark_process import run_benchmark

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def table(llama_cpp_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    del llama_cpp_dir  # It is found by the benchmark, and has to be here.
    return run_benchmark(
        "soak", "--minutes", "1", "--trials", "100", out=tmp_path_factory.mktemp("out")
    )


@pytest.mark.parametrize(
    "what",
    [
        "records lost, torn or kept twice",
        "stray processes",
        "anchors that drifted unexplained",
    ],
)
def test_nothing_is_lost_or_left_behind_or_unexplained(table: str, what: str) -> None:
    assert f"| {what} | ≤ 0 | 0 | yes |" in table


def test_memory_and_files_grow_as_they_may(table: str) -> None:
    figures = dict(re.findall(r"(?m)^\| ([^|]+?) \| ≤ [\d.]+[^|]* \| [^|]+ \| (\S+) \|$", table))

    assert figures["memory of lcm for each 1,000 trials"] == "yes"
    assert figures["bytes for each trial, all along over those at first"] == "yes"


def test_lcm_itself_was_ended_in_the_middle(table: str) -> None:
    done = re.findall(r"(?m)^\| (lcm killed|Ctrl-C) \| (\d+) \|$", table)

    assert sum(int(times) for _, times in done) >= 1
    assert re.search(r"(?m)^\| chat .* ended by us: (lcm killed|Ctrl-C) \|$", table)
