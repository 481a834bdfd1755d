"""`benchmarks/quick.py` in its short form: what stands in the table that it writes."""

import re
from pathlib import Path

import pytest
from benchmark_process import run_benchmark

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def table(llama_cpp_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    del llama_cpp_dir  # It is found by the benchmark, and has to be here.
    out = tmp_path_factory.mktemp("out")
    return run_benchmark("quick", "--rounds", "2", "--gguf-rounds", "1", out=out)


def test_everything_is_timed_in_turn_and_the_slow_reader_in_fewer_rounds(table: str) -> None:
    times = dict(re.findall(r"(?m)^\| (.+?) \| .* ms \| .* ms \| [\d.]+ \| (\d+) \|$", table))

    assert times == {
        "python -c pass": "2",
        "lcm --run --model MODEL --optimize": "2",
        "the same on a llama of 70B": "2",
        "llama-fit-params --fit-print on -m MODEL": "2",
        "gguf.GGUFReader(MODEL)": "1",
        "analyze_model(MODEL), in process": "2",
        "analyze_model(70B), in process": "2",
    }


def test_the_figure_is_the_ratio_to_llama_fit_params(table: str) -> None:
    row = re.search(r"(?m)^\| lcm --run .* \| ([\d.]+) \| 2 \|$", table)
    figure = re.search(r"(?m)^\| lcm / llama-fit-params \| ≤ 0.3 \| ([\d.]+) \|", table)

    assert row
    assert figure
    assert float(figure[1]) == pytest.approx(float(row[1]), abs=0.0006)


def test_the_table_says_where_and_how_it_was_made(table: str) -> None:
    assert "`nox -s bench -- quick --rounds 2 --gguf-rounds 1`" in table
    assert set(re.findall(r"(?m)^\| (date|machine|llama.cpp|model) \|", table)) == {
        "date",
        "machine",
        "llama.cpp",
        "model",
    }
