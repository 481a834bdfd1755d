"""SIGKILL of lcm, of llama-bench and of both, at any moment."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from faults.checks import ended_well, failures, is_named, kept, nothing_is_lost
from faults.running import Night, Running, moments

pytestmark = pytest.mark.llama_cpp


def kill_lcm(running: Running) -> None:
    running.process.kill()


def kill_both(running: Running) -> None:
    for pid in (*running.until_benches(), running.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@moments(1, 25)
@pytest.mark.parametrize("kill", [kill_lcm, kill_both])
def test_a_killed_lcm_goes_on_with_all_that_was_measured(
    night: Night, kill: Callable[[Running], None], chance: random.Random
) -> None:
    with night.started() as running:
        running.until_some_moment(chance)
        kill(running)
        running.end()
    before = kept(night.folder)

    ended = night.resumed()

    ended_well(ended, night)
    nothing_is_lost(before, night.folder)


@moments(1, 25)
def test_what_is_killed_before_anything_was_measured_is_gone_on_with_or_begun_again(
    night: Night, chance: random.Random
) -> None:
    with night.started() as running:
        time.sleep(2 * chance.random())
        kill_lcm(running)
        running.end()

    ended = night.resumed()

    if ended.code:
        is_named(ended, 2, "there is no unfinished study")
        ended = night.run()
    ended_well(ended, night)


@moments(1, 10)
def test_what_is_killed_again_and_again_comes_to_its_end(
    night: Night, chance: random.Random
) -> None:
    for nth in range(3):
        with night.started(*(["--resume"] if nth else [])) as running:
            running.until_trials(2 * nth + chance.randint(1, 2))
            kill_lcm(running)
            running.end()
        before = kept(night.folder)

    ended = night.resumed()

    ended_well(ended, night)
    nothing_is_lost(before, night.folder)


@moments(1, 25)
def test_a_killed_llama_bench_costs_one_configuration(night: Night, chance: random.Random) -> None:
    kills = 2
    with night.started() as running:
        for nth in range(kills):
            running.until_trials(4 * nth + chance.randint(0, 3))
            running.kill_benches()
        ended = running.end()

    ended_well(ended, night)
    nothing_is_lost(kept(night.folder), night.folder)
    failed = failures(night.folder)
    assert len(failed) <= kills
    assert {(f["kind"], f["message"]) for f in failed} <= {
        ("crash", "ended by SIGKILL from outside")
    }
