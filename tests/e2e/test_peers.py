"""The benchmark of the peers in short: who took part, with what, and what the referee says."""

import re
from pathlib import Path

import pytest
from benchmark_process import run_benchmark

pytestmark = pytest.mark.llama_cpp

MEASURED = ("`llama-optimus`, told what this machine is", "`lcm --deep`")
RATIO = re.compile(r"[\d.]+ \([\d.]+ to [\d.]+\)|1, the same command")


@pytest.fixture(scope="module")
def table(llama_cpp_dir: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    del llama_cpp_dir  # It is found by the benchmark, and has to be here.
    words = ["--budget", "12s", "--rounds", "2", "--no-install", "--model", str(tiny)]
    return run_benchmark("peers", *words, out=tmp_path_factory.mktemp("out"))


def rows(text: str, title: str) -> dict[str, list[str]]:
    """The cells of each row of a table, by the name of the tool."""
    table = text.split(f"### {title}\n")[1].strip().split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {name: cells for name, *cells in lines}


@pytest.mark.parametrize("tool", MEASURED)
def test_who_measures_has_loaded_the_model_and_asked_for_runs(table: str, tool: str) -> None:
    _, loads, runs, *_ = rows(table, "What each took, and what it claims")[tool]

    assert int(loads) > 0
    assert int(runs) >= int(loads)


@pytest.mark.parametrize("tool", [*MEASURED, "`lcm --optimize`"])
def test_the_referee_compares_every_final_command_with_the_defaults(table: str, tool: str) -> None:
    pp, tg, seconds, ratio, settings = rows(table, "What the referee says of the final commands")[
        tool
    ]

    assert RATIO.fullmatch(ratio)
    assert float(seconds) == pytest.approx(512 / float(pp) + 256 / float(tg), rel=0.2)
    assert settings


def test_the_quick_path_has_loaded_nothing(table: str) -> None:
    assert rows(table, "What each took, and what it claims")["`lcm --optimize`"][1] == "0"


def test_who_is_not_here_is_named(table: str) -> None:
    absent = rows(table, "Who does not take part")

    assert absent["`llama-dyno`"][-1] == "not installed: pip install llama-dyno==1.5.0"
    assert "more than 12 s" in absent["`llama-optimus`"][-1]
