"""What is concluded from readings: what is known, what has failed, what is faster."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes.readings import BY_JOULES, Came, knowing, reading

from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.tuning.visits import Reading

A = Params(n_threads=4, n_threads_batch=8, n_ubatch=512)
OTHER_TG = replace(A, n_threads=2)  # Its prompts are those of A.
OTHER_PP = replace(A, n_ubatch=128)  # Its tokens are those of A.


def test_a_request_takes_the_sum_of_its_parts() -> None:
    assert knowing(reading(A, pp=2.0, tg=5.0)).seconds(A) == pytest.approx(7)


def test_a_prompt_that_was_measured_once_serves_other_threads_of_generation() -> None:
    knowledge = knowing(reading(A, pp=2.0, tg=5.0), reading(OTHER_TG, tg=4.0))

    assert knowledge.seconds(OTHER_TG) == pytest.approx(6)


def test_generation_that_was_measured_once_serves_other_batches() -> None:
    knowledge = knowing(reading(A, pp=2.0, tg=5.0), reading(OTHER_PP, pp=1.0))

    assert knowledge.seconds(OTHER_PP) == pytest.approx(6)


def test_a_request_is_unknown_while_a_part_is() -> None:
    assert knowing(reading(A, pp=2.0)).seconds(A) is None


def test_the_middle_of_several_readings_counts() -> None:
    knowledge = knowing(*(reading(A, tg=s) for s in (5.0, 90.0, 6.0)))

    assert knowledge.part_seconds(A, "tg") == pytest.approx(6)


@pytest.mark.parametrize(
    ("readings", "seconds"),
    [
        ([reading(A, tg=9.0, disturbed="busy")], 9),
        ([reading(A, tg=9.0, disturbed="busy"), reading(A, tg=5.0)], 5),
        ([reading(A, tg=5.0), reading(A, tg=9.0, disturbed="busy")], 5),
    ],
    ids=["alone", "before a clean one", "after a clean one"],
)
def test_a_disturbed_reading_counts_only_without_a_clean_one(
    readings: Sequence[Reading], seconds: float
) -> None:
    assert knowing(*readings).part_seconds(A, "tg") == pytest.approx(seconds)


def test_the_part_that_was_measured_least_says_how_often_it_was() -> None:
    knowledge = knowing(
        reading(A, pp=2.0, tg=5.0),
        reading(A, tg=5.0),
        reading(A, pp=2.0, disturbed="busy"),
    )

    assert knowledge.times_measured(A) == 1


@pytest.mark.parametrize(
    ("failures", "has_failed"),
    [
        ([], False),
        ([FailureKind.OOM], True),
        ([FailureKind.UNSUPPORTED], True),
        ([FailureKind.BAD_ARGUMENTS], True),
        ([FailureKind.CRASH], False),
        ([FailureKind.HANG], False),
        ([FailureKind.CRASH, FailureKind.HANG], True),
    ],
)
def test_what_may_be_an_accident_fails_twice_before_it_has_failed(
    failures: Sequence[Came], *, has_failed: bool
) -> None:
    knowledge = knowing(*(reading(A, tg=kind) for kind in failures))

    assert knowledge.has_failed(A) == has_failed


def test_a_failure_is_that_of_all_that_share_the_part() -> None:
    knowledge = knowing(reading(A, pp=FailureKind.OOM))

    assert [knowledge.has_failed(p) for p in (OTHER_TG, OTHER_PP)] == [True, False]


@pytest.mark.parametrize(
    ("readings", "has_lost"),
    [
        ([], False),
        ([reading(A, parts=("pp", "tg"))], True),
        ([reading(A, pp=9.0, parts=("pp", "tg"))], True),
        ([reading(OTHER_PP, parts=("pp", "tg"))], False),
        ([reading(OTHER_PP, parts=("tg",))], True),
        ([reading(A, pp=FailureKind.CRASH, parts=("pp", "tg"))], False),
        ([reading(A, parts=("pp", "tg")), reading(A, pp=2.0, tg=5.0)], False),
        ([reading(A, pp=2.0, tg=5.0)], False),
    ],
    ids=[
        "never tried",
        "dropped",
        "dropped after a part",
        "another with the same tokens dropped",
        "its tokens dropped",
        "failed",
        "dropped and measured later",
        "measured",
    ],
)
def test_what_was_dropped_while_it_ran_has_lost_until_it_is_measured(
    readings: Sequence[Reading], *, has_lost: bool
) -> None:
    assert knowing(*readings).has_lost(A) == has_lost


NOISY = [reading(A, pp=2.0 * f, tg=5.0 * f) for f in (1.0, 1.03, 0.97)]


def test_a_faster_part_is_a_gain_of_its_share_of_the_request() -> None:
    knowledge = knowing(*NOISY, reading(OTHER_TG, tg=2.5))

    assert knowledge.gain(OTHER_TG, over=A) == pytest.approx(2.5 / 7)


def test_a_part_that_cannot_be_told_apart_is_no_gain() -> None:
    both = replace(OTHER_TG, n_ubatch=128)
    knowledge = knowing(*NOISY, reading(both, pp=2.02, tg=2.5))

    assert knowledge.gain(both, over=A) == pytest.approx(2.5 / 7)


def test_the_same_difference_is_a_gain_where_both_were_measured_often() -> None:
    once = knowing(reading(A, pp=2.0, tg=5.0), reading(OTHER_TG, tg=4.9))
    often = knowing(
        *[reading(A, pp=2.0, tg=5.0)] * 9,
        *[reading(OTHER_TG, tg=4.9)] * 9,
    )

    gains = [knowledge.gain(OTHER_TG, over=A) for knowledge in (once, often)]
    assert gains == [0, pytest.approx(0.1 / 7)]


def test_the_gain_of_what_is_not_measured_is_below_none() -> None:
    assert knowing(*NOISY).gain(OTHER_TG, over=A) == -1


@pytest.mark.parametrize(
    ("factors", "noise"),
    [
        ([1.0, 1.2], 0.02),  # Too few to learn from.
        ([1.0] * 6, 0.003),  # No machine is quieter.
        ([1.0, 1.09, 0.91, 1.05, 0.95, 1.0], 0.11),
    ],
)
def test_the_noise_is_learned_from_what_was_measured_several_times(
    factors: Sequence[float], noise: float
) -> None:
    knowledge = knowing(*(reading(A, tg=5.0 * factor) for factor in factors))

    assert knowledge.noise() == pytest.approx(noise, rel=0.1)


def test_what_is_forgotten_counts_only_without_what_is_not() -> None:
    knowledge = knowing(
        reading(A, tg=5.0, number=1),
        reading(A, tg=9.0, number=2),
        reading(OTHER_TG, tg=7.0, number=3),
    )

    knowledge.forget(lambda r: r.number > 1)

    known = [knowledge.part_seconds(p, "tg") for p in (A, OTHER_TG)]
    assert known == [pytest.approx(5), pytest.approx(7)]


def test_what_is_forgotten_does_not_count_as_measured() -> None:
    knowledge = knowing(reading(A, pp=2.0, tg=5.0))

    knowledge.forget(lambda _: True)

    assert (knowledge.times_measured(A), len(knowledge.readings)) == (0, 1)


def test_forgetting_keeps_what_has_failed_as_often_as_it_did() -> None:
    knowledge = knowing(reading(A, tg=FailureKind.CRASH))

    knowledge.forget(lambda _: True)

    assert not knowledge.has_failed(A)


def joules(params: Params, pp: float, tg: float) -> Reading:
    return reading(params, pp=2.0, tg=5.0, joules={"pp": pp, "tg": tg})


def test_the_cost_of_a_request_is_its_joules_where_those_are_minimised() -> None:
    known = knowing(joules(A, 30.0, 50.0), objective=BY_JOULES)

    assert [known.cost(A), known.seconds(A)] == pytest.approx([80, 7])


def test_joules_are_known_where_seconds_are_minimised() -> None:
    known = knowing(joules(A, 30.0, 50.0))

    assert [known.cost(A), known.joules(A)] == pytest.approx([7, 80])


def test_what_spares_joules_gains_though_it_is_as_slow() -> None:
    known = knowing(joules(A, 30.0, 50.0), joules(OTHER_TG, 30.0, 30.0), objective=BY_JOULES)

    assert known.gain(OTHER_TG, over=A) == pytest.approx(0.25, rel=0.01)


def test_a_configuration_whose_joules_nobody_told_is_not_known_by_them() -> None:
    known = knowing(reading(A, pp=2.0, tg=5.0), objective=BY_JOULES)

    assert (known.cost(A), known.seconds(A), known.times_measured(A)) == (None, 7, 0)
