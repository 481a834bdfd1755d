from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
INPUTS = 100_000
SEED = 20_261_123


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Read 100,000 broken files, in a process of its own, and give what came out."""
    # Coverage would follow the child and make its 20 seconds minutes; other tests run these lines.
    untraced = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
    program = Path(__file__).with_name("header_fuzz.py")
    folder = tmp_path_factory.mktemp("fuzz")
    done = subprocess.run(
        [sys.executable, program, folder, f"--inputs={INPUTS}", f"--seed={SEED}"],
        env=untraced | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    # What it says ends with the broken file and how it was met.
    assert done.returncode == 0, done.stderr[-8000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_broken_file_is_a_model_or_a_named_error(report: dict[str, Any]) -> None:
    assert sum(report["outcomes"].values()) == INPUTS


def test_the_broken_files_are_neither_all_refused_nor_all_read(report: dict[str, Any]) -> None:
    # If nearly all were alike, the mutations would break too much or too little to find anything.
    assert INPUTS // 10 < report["outcomes"]["Model"] < INPUTS * 9 // 10


def test_no_broken_file_takes_a_second(report: dict[str, Any]) -> None:
    # Of processor time, so that a busy machine does not fail it; the slowest takes 6 ms.
    assert report["slowest_s"] < 1.0


def test_broken_files_do_not_cost_memory(report: dict[str, Any]) -> None:
    # The interpreter with all that it has imported has 20 MB.
    assert report["most_bytes"] < 100_000_000
