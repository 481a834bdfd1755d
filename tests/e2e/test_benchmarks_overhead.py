"""`benchmarks/overhead.py` in its short form: what stands in the table that it writes."""

import re
from pathlib import Path

import pytest
from benchmark_process import run_benchmark

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def table(llama_cpp_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    del llama_cpp_dir  # It is found by the benchmark, and has to be here.
    short = ("--budget", "20s", "--trials", "200", "--short", "50")
    return run_benchmark("overhead", *short, out=tmp_path_factory.mktemp("out"))


def test_llama_bench_has_nearly_all_of_a_session_and_never_more_than_all(table: str) -> None:
    found = re.findall(r"(?m)^\| (the \w+).* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+)% \|$", table)
    wall_s = {what: float(wall) for what, wall, _, _ in found}
    shares = {what: float(share) for what, _, _, share in found}

    assert wall_s["the whole"] > wall_s["the session"]
    assert all(50 < share <= 100 for share in shares.values())


def test_the_figure_is_the_share_of_the_session(table: str) -> None:
    figure = re.search(r"(?m)^\| llama-bench's share .* \| ≥ 95 % \| ([\d.]+) % \|", table)
    session = re.search(r"(?m)^\| the session.* \| ([\d.]+)% \|$", table)

    assert figure
    assert session
    assert float(figure[1]) == pytest.approx(float(session[1]), abs=0.1)


def test_a_trial_is_costed_where_there_are_few_and_where_there_are_many(table: str) -> None:
    costs = re.findall(r"(?m)^\| ([\d,]+) \| [\d.]+ ms \| [\d.]+ ms \| [\d.]+ ms \|$", table)

    assert costs == ["10", "20", "200"]


def test_a_long_study_is_opened_resumed_and_exported(table: str) -> None:
    _, _, part = table.partition("### A study of 200 trials")
    seconds = dict(re.findall(r"(?m)^\| ([^|]+?) \| ([\d.]+) \|$", part))

    whole_s = float(seconds["to resume it, together"])
    parts_s = [float(s) for what, s in seconds.items() if "its trials" in what or "every" in what]
    assert whole_s == pytest.approx(sum(parts_s), abs=0.011)
    assert float(seconds["lcm results export --format csv --level record"]) > 0
