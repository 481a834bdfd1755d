"""Joules of repetitions, out of a meter that is read as llama-bench goes on."""

import sys

import pytest

from autotune.llama_cpp import process
from autotune.llama_cpp.gauge import Gauge
from autotune.llama_cpp.patience import Phase

Told = tuple[Phase, int, float | None]


def used(*told: Told, n: int, ends_at: float | None) -> tuple[float, ...]:
    gauge = Gauge()
    for phase, repetition, joules in told:
        if phase is Phase.LOAD:
            gauge.begin()
        gauge.enter(phase, repetition, joules)
    return gauge.samples(n, ends_at)


def test_warm_ups_and_the_filling_of_a_cache_are_left_out() -> None:
    joules = used(
        (Phase.LOAD, 0, 10.0),
        (Phase.WARMUP, 0, 100.0),
        (Phase.DEPTH, 0, 120.0),
        (Phase.RUN, 1, 150.0),
        (Phase.DEPTH, 0, 157.0),
        (Phase.RUN, 2, 200.0),
        n=2,
        ends_at=209.0,
    )

    assert joules == (7.0, 9.0)


def test_a_prompt_and_its_answer_are_one_repetition() -> None:
    joules = used((Phase.RUN, 1, 0.0), (Phase.RUN, 1, 5.0), n=1, ends_at=8.0)

    assert joules == (8.0,)


@pytest.mark.parametrize(
    ("began_at", "ends_at", "n"),
    [(None, 8.0, 1), (1.0, None, 1), (1.0, 8.0, 2), (1.0, 8.0, 3)],
    ids=["not told then", "not told now", "one more was timed", "two more were timed"],
)
def test_what_is_not_known_of_all_is_not_told(
    began_at: float | None, ends_at: float | None, n: int
) -> None:
    assert used((Phase.RUN, 1, began_at), n=n, ends_at=ends_at) == ()


def test_the_next_test_begins_at_nothing() -> None:
    gauge = Gauge()
    gauge.enter(Phase.RUN, 1, 1.0)
    gauge.samples(1, 5.0)

    gauge.begin()
    gauge.enter(Phase.RUN, 1, 20.0)

    assert gauge.samples(1, 23.0) == (3.0,)


def test_a_program_that_tells_no_progress_has_no_joules() -> None:
    assert Gauge().samples(3, 500.0) == ()


def test_the_meter_is_read_in_a_long_silence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_METERED_EVERY_S", 0.1)
    read: list[float] = []
    silent = (sys.executable, "-S", "-c", "import time; time.sleep(1)")

    with process.Child(silent, meter=lambda: read.append(0.0)) as child:
        assert isinstance(child.next_event(30), process.Exit)

    at_the_end_of_both_pipes = 2
    assert len(read) > at_the_end_of_both_pipes
