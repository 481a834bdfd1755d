"""The clock is set back during a night."""

import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from faults.checks import ended_well, kept, nothing_is_lost
from faults.running import BUDGET_S, GRACE_S, Night, moments
from programs_here import needed

pytestmark = pytest.mark.llama_cpp

SOURCE = Path(__file__).with_name("clock.c")
HOUR_S, DAY_S = 3600, 24 * 3600


def set_clock(file: Path, by_s: int) -> None:
    """For every program that was started with it; at once, and never half a file."""
    beside = file.with_suffix(".new")
    beside.write_text(f"{by_s}\n", encoding="ascii")
    beside.replace(file)


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    file = tmp_path / "clock"
    set_clock(file, 0)
    return file


@pytest.fixture
def night(night: Night, clock: Path, tmp_path: Path) -> Night:
    """Give a night by a clock that can be set."""
    library = tmp_path / "clock.so"
    subprocess.run([needed("cc"), "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    environ = {"LD_PRELOAD": os.fspath(library), "LCM_CLOCK": os.fspath(clock)}
    return replace(night, environ=environ)


@moments(1, 12)
def test_a_clock_that_is_set_back_neither_ends_nor_prolongs_a_session(
    night: Night, clock: Path, chance: random.Random
) -> None:
    with night.started() as running:
        running.until_some_moment(chance, most=4)
        set_clock(clock, -3 * HOUR_S)
        ended = running.end()

    ended_well(ended, night)
    assert ended.took_s < BUDGET_S + GRACE_S
    whole = kept(night.folder)
    nothing_is_lost(whole, night.folder)
    began = [record["outcome"]["run"]["started_at"] for record in whole.of_type("record")]
    elapsed = [trial["elapsed_s"] for trial in whole.of_type("trial")]
    assert max(began) - min(began) > 2 * HOUR_S  # It was set back, by what was written down.
    assert elapsed == sorted(elapsed)
    listed = night.asked("list")
    assert (listed.returncode, "finished" in listed.stdout) == (0, True)


@moments(1, 6)
def test_a_study_goes_on_by_a_clock_that_says_it_has_not_begun(
    night: Night, clock: Path, chance: random.Random
) -> None:
    with night.started() as running:
        running.until_some_moment(chance)
        running.process.kill()
        running.end()
    before = kept(night.folder)
    set_clock(clock, -3 * DAY_S)

    ended = night.resumed()

    ended_well(ended, night)
    nothing_is_lost(before, night.folder)
