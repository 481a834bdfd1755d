"""The benchmark of many machines in short: the table is there, and more workers do more."""

import pytest
from benchmark_process import run_benchmark


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Give the cells of the rows of one place's table."""
    out = tmp_path_factory.mktemp("tables")
    text = run_benchmark("fleet", "layered-rpc", "--workers", "1", "4", "--seeds", "1", out=out)
    lines = text.split("### layered-rpc: ")[1].split("\n\n")[1].splitlines()
    return [line.strip("| ").split(" | ") for line in lines]


def test_there_is_a_row_for_each_number_of_workers(rows: list[list[str]]) -> None:
    assert rows[0][0] == "workers"
    assert [row[0] for row in rows[2:]] == ["1", "4"]


def test_alone_everything_that_is_measured_is_used(rows: list[list[str]]) -> None:
    column = rows[0].index("of all used, %")

    assert rows[2][column] == "100"
    assert 0 < int(rows[3][column]) < 100


def test_four_measure_more_and_are_sooner_done(rows: list[list[str]]) -> None:
    measured = next(n for n, name in enumerate(rows[0]) if name.startswith("measured in"))
    faster = rows[0].index("times as fast")

    assert int(rows[3][measured]) > 1.5 * int(rows[2][measured])
    assert float(rows[3][faster]) > 1.2
