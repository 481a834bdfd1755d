"""How long tuning may still take: a limit that is kept, or an estimate that says so."""

import datetime as dt
from dataclasses import replace

import pytest

from autotune.cli.eta import Course, Outlook, outlook, said, share
from autotune.tuning.visits import Kind

NOW = dt.datetime(2026, 10, 1, 7, 30, tzinfo=dt.UTC)
# A load and both parts took 40 s, a race inside one load 2 s for each of its runners.
COSTS = {Kind.BASELINE: [90.0], Kind.SEED: [40.0], Kind.RACE: [5.0, 1.0, 1.0, 1.0]}
SEARCHING = Course(elapsed_s=138, trials=16, searched=6, costs_s=COSTS)


def test_a_budget_is_a_limit() -> None:
    left = outlook(Course(elapsed_s=100, ends_s=600))

    assert left == Outlook(least_s=0, most_s=500, is_limit=True)


def test_what_is_beyond_the_budget_has_no_time_left() -> None:
    assert outlook(Course(elapsed_s=610, ends_s=600)).most_s == 0


def test_without_any_limit_nobody_can_say() -> None:
    course = Course(elapsed_s=100, costs_s=COSTS)

    assert (outlook(course).most_s, share(course)) == (None, None)


def test_before_the_first_trial_is_over_nobody_can_say() -> None:
    assert said(outlook(Course(elapsed_s=5, trials=16)), NOW) == "time left not known yet"


def test_trials_that_are_left_cost_between_the_cheapest_and_the_dearest_kind() -> None:
    left = outlook(replace(SEARCHING, verifies=False))

    assert (left.least_s, left.most_s, left.is_limit) == (10 * 2, 10 * 40, False)


def test_the_cold_baseline_stands_for_others_only_while_it_is_alone() -> None:
    alone = Course(elapsed_s=90, trials=3, searched=1, costs_s={Kind.BASELINE: [90.0]})

    assert outlook(replace(alone, verifies=False)).most_s == 180


def test_a_verification_may_follow_and_takes_up_to_sixteen_rounds_of_two() -> None:
    left = outlook(SEARCHING)
    certain = outlook(replace(SEARCHING, has_candidate=True))

    assert (left.least_s, left.most_s) == (20, 400 + 16 * 80)
    assert certain.least_s == 20 + 2 * 2 * 2


def test_the_earlier_of_budget_and_trials_ends_it() -> None:
    assert outlook(replace(SEARCHING, ends_s=238)) == Outlook(least_s=20, most_s=100, is_limit=True)
    assert not outlook(replace(SEARCHING, ends_s=9999)).is_limit


def test_a_verification_is_told_by_its_rounds() -> None:
    course = Course(elapsed_s=300, verifying_since_s=260, rounds=4, costs_s=COSTS)

    assert outlook(course) == Outlook(least_s=0, most_s=12 * 10)
    assert share(course) == 300 / 420


def test_a_verification_is_not_over_before_the_second_round() -> None:
    course = Course(elapsed_s=300, verifying_since_s=290, rounds=1, costs_s=COSTS)

    assert outlook(course) == Outlook(least_s=10, most_s=15 * 10)


def test_a_verification_without_a_round_is_told_by_the_trials() -> None:
    course = Course(elapsed_s=300, ends_s=600, verifying_since_s=290, costs_s=COSTS)

    assert outlook(course) == Outlook(least_s=2 * 4, most_s=300, is_limit=True)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (Outlook(most_s=545, is_limit=True), "at most 10 min left, by 07:40"),
        (Outlook(most_s=600, is_limit=True), "at most 10 min left, by 07:40"),
        (Outlook(most_s=60, is_limit=True), "at most 60 s left"),
        (Outlook(least_s=100, most_s=545), "about 2 min to 10 min left, by 07:40"),
        (Outlook(least_s=541, most_s=545), "about 10 min left, by 07:40"),
        (Outlook(most_s=545), "about 10 min left at most, by 07:40"),
        (Outlook(most_s=59_401, is_limit=True), "at most 16 h 31 min left, by Fri 00:01"),
        (Outlook(most_s=0), "ending"),
    ],
)
def test_an_outlook_is_said_with_the_time_on_the_clock(left: Outlook, words: str) -> None:
    assert said(left, NOW) == words
