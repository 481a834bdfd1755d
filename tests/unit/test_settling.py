"""What is close to the best is measured until it is told from it."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from fakes.readings import SHARE
from fakes.scripted import BASELINE, SPACE, Answer, LabOfTests, Script, of_changed_tests

from autotune.llama_cpp.grids import Trial
from autotune.params import Params
from autotune.tuning.contest import Contest
from autotune.tuning.settling import Settling
from autotune.tuning.visits import Kind

FEWER = replace(BASELINE, n_threads=5)
FLASH = replace(BASELINE, flash_attn=True)
BOTH = replace(FEWER, flash_attn=True)

Lucky = dict[Params, Sequence[float]]  # How fast each looks, the first time and after; then 1.


def looks(speeds: Lucky) -> Script:
    """Each part of all others takes 10 s."""
    keys = of_changed_tests(speeds)

    def script(trial: Trial, nth: int) -> Answer:
        each = keys.get(trial, ())
        return Answer(seconds=10 * SHARE / (each[min(nth, len(each) - 1)] if each else 1.0))

    return script


def settled(tests: LabOfTests, *measured: Params) -> tuple[Contest, bool]:
    """After the baseline, the best so far, and others were measured once."""
    contest = Contest(tests.lab, SPACE, BASELINE)
    contest.visit(Kind.BASELINE, "test", [BASELINE, *measured], may_lose=False)
    return contest, Settling(contest).walk()


def n_times(tests: LabOfTests, params: Params) -> int:
    return sum(reading.visit.params == params for reading in tests.study.readings())


def test_one_that_was_unlucky_once_wins() -> None:
    tests = LabOfTests(looks({FEWER: (0.99, 1.03)}))

    contest, has_won = settled(tests, FEWER)

    assert (contest.incumbent, has_won) == (FEWER, True)


def test_one_that_was_lucky_once_does_not() -> None:
    tests = LabOfTests(looks({FEWER: (1.02, 0.98)}))

    contest, has_won = settled(tests, FEWER)

    assert (contest.incumbent, has_won) == (BASELINE, False)


def test_what_is_far_behind_or_differs_in_two_is_left() -> None:
    tests = LabOfTests(looks({FEWER: (0.8,), BOTH: (0.99,)}))

    settled(tests, FEWER, BOTH)

    assert [n_times(tests, params) for params in (BASELINE, FEWER, BOTH)] == [1, 1, 1]


def test_what_stays_close_is_measured_four_times_beside_the_best() -> None:
    rng = random.Random(1)  # noqa: S311 - noise, not a secret

    def script(_trial: Trial, _nth: int) -> Answer:
        return Answer(seconds=math.exp(rng.gauss(0, 0.02)))

    tests = LabOfTests(script)
    settled(tests, FLASH)

    assert [n_times(tests, params) for params in (BASELINE, FLASH)] == [4, 4]


def test_an_always_busy_machine_comes_to_an_end() -> None:
    def script(trial: Trial, _nth: int) -> Answer:
        return Answer(seconds=1.0, foreign_cpus=8.0 if trial.params.n_threads == 5 else 0.0)

    contest, has_won = settled(LabOfTests(script), FEWER)

    assert (contest.incumbent, has_won) == (BASELINE, False)
