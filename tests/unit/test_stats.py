"""Figures of the statistics, tried on samples whose truth is known."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.stats import (
    PRIOR_SD,
    compare,
    hodges_lehmann,
    median_of_sorted,
    noise_of,
    robust_sd,
    t_chance,
    t_quantile,
    widened,
)


def samples(n: int, count: int, *, sd: float = 1.0, seed: int = 0) -> list[list[float]]:
    rng = random.Random(seed)  # noqa: S311 - noise, not a secret
    return [[rng.gauss(0, sd) for _ in range(n)] for _ in range(count)]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 12])
def test_the_robust_spread_of_few_normal_values_is_right_in_the_mean_square(n: int) -> None:
    squares = [robust_sd(values) ** 2 for values in samples(n, 5000)]

    assert statistics.fmean(squares) == pytest.approx(1, abs=0.08)


def test_a_single_value_has_no_spread() -> None:
    assert robust_sd([3.0]) == 0
    assert widened(0.0, [[3.0], [4.0], []]) == 0


def test_one_outlier_among_three_pairs_shows_nothing() -> None:
    seen = compare([0.0, 0.3, 0.001])

    assert not seen.shown_better
    assert seen.low < 1 < seen.ratio < seen.high
    assert seen.chance > 0.9


def test_one_outlier_among_three_pairs_hides_nothing() -> None:
    assert compare([0.15, 0.45, 0.151]).shown_better


def test_a_spread_that_is_seen_takes_the_place_of_the_one_expected() -> None:
    assert widened(0.1, samples(4, 5000)) == pytest.approx(1, abs=0.03)


def test_alike_values_are_no_reason_to_expect_less() -> None:
    assert widened(0.02, [[1.0] * 16]) == 0.02


@pytest.mark.parametrize(
    "values", [[0.0, 0.01, 0.02, 0.03, 0.04], [0.0, 0.01, 0.9], [0.9, 0.02, 0.01, 0.0]]
)
def test_neither_drift_nor_an_outlier_is_much_of_a_spread(values: list[float]) -> None:
    assert widened(0.01, [values, [0.0, 0.01, 0.02]]) < 0.03


@pytest.mark.parametrize(
    ("values", "middle"), [([7.0], 7.0), ([1.0, 2.0], 1.5), ([1.0, 2.0, 3.0, 400.0], 2.75)]
)
def test_the_location_is_the_median_of_all_pairwise_means(
    values: list[float], middle: float
) -> None:
    assert hodges_lehmann(values) == middle


def test_the_location_of_normal_values_scatters_by_pi_over_three_more_than_their_mean() -> None:
    drawn = samples(8, 6000)

    ratio = statistics.pvariance(map(hodges_lehmann, drawn)) / statistics.pvariance(
        map(statistics.fmean, drawn)
    )

    assert ratio == pytest.approx(math.pi / 3, abs=0.04)


@pytest.mark.parametrize(
    ("probability", "freedom", "tabled"),
    [
        (0.975, 4, 2.7764),
        (0.975, 5, 2.5706),
        (0.975, 10, 2.2281),
        (0.975, 30, 2.0423),
        (0.95, 4, 2.1318),
        (0.95, 8, 1.8595),
        (0.995, 5, 4.0321),
        (0.995, 8, 3.3554),
        (0.995, 20, 2.8453),
        (0.9975, 6, 4.3168),
    ],
)
def test_students_t_is_that_of_the_tables_within_one_percent(
    probability: float, freedom: float, tabled: float
) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(tabled, rel=0.01)


def test_a_difference_of_nothing_is_claimed_in_at_most_six_percent() -> None:
    compared = [compare(pairs, confidence=0.95) for pairs in samples(5, 2000, sd=0.03)]

    claims = sum(c.shown_better or c.shown_worse for c in compared)

    assert claims / len(compared) <= 0.06


def test_a_gain_of_ten_percent_is_shown_by_five_pairs_nearly_always() -> None:
    gained = [[x + math.log(1.1) for x in pairs] for pairs in samples(5, 400, sd=0.03)]

    shown = sum(compare(pairs).shown_better for pairs in gained)

    assert shown / len(gained) > 0.95


def test_a_burst_of_foreign_load_does_not_blow_the_interval_up() -> None:
    quiet = [0.10, 0.11, 0.09, 0.105, 0.095, 0.1, 0.102, 0.098]

    plain, burst = (compare(pairs) for pairs in (quiet, [*quiet[:-1], -1.5]))

    widths = [math.log(c.high / c.low) for c in (plain, burst)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_pairs_that_agree_by_chance_are_not_trusted_more_than_the_spread_to_expect() -> None:
    compared = compare([0.02, 0.02])

    assert compared.low < 1 < compared.ratio


@pytest.mark.parametrize(
    ("log_ratio", "better", "worse"), [(0.3, True, False), (-0.3, False, True), (0, False, False)]
)
def test_the_interval_says_which_is_faster(log_ratio: float, *, better: bool, worse: bool) -> None:
    compared = compare([log_ratio] * 5)

    assert (compared.shown_better, compared.shown_worse) == (better, worse)


def test_a_comparison_reports_its_ratio_its_pairs_and_its_confidence() -> None:
    compared = compare([math.log(1.25)] * 4, confidence=0.9)

    assert (round(compared.ratio, 9), compared.pairs, compared.confidence) == (1.25, 4, 0.9)


def test_more_confidence_takes_a_wider_interval() -> None:
    assert compare([0.1] * 5, confidence=0.99).low < compare([0.1] * 5, confidence=0.9).low


def test_without_a_pair_nothing_is_compared() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        compare([])


@pytest.mark.parametrize(
    ("t", "freedom", "chance"),  # From a table of Student's t.
    [(0, 4, 1), (2.776, 4, 0.05), (4.604, 4, 0.01), (8.610, 4, 0.001), (2.228, 10, 0.05)],
)
def test_the_chance_is_that_of_the_tables(t: float, freedom: float, chance: float) -> None:
    assert t_chance(t, freedom) == pytest.approx(chance, rel=2e-3)
    assert t_chance(-t, freedom) == t_chance(t, freedom)


@given(
    log_ratios=st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=16),
    confidence=st.sampled_from([0.9, 0.95, 0.99]),
)
def test_chance_and_interval_say_the_same(log_ratios: list[float], confidence: float) -> None:
    seen = compare(log_ratios, confidence=confidence)

    if abs(seen.chance - (1 - confidence)) > 0.1 * (1 - confidence):  # The quantile is good to 1 %.
        assert (seen.shown_better or seen.shown_worse) == (seen.chance < 1 - confidence)


def test_the_noise_is_that_of_what_was_repeated() -> None:
    pairs = [[3 + a, 3 + b] for a, b in samples(2, 4000, sd=0.02)]

    assert noise_of([*pairs, [99.0]]) == pytest.approx(0.02, rel=0.1)
    assert noise_of(pairs[:2]) is None


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.06])
def test_looking_after_every_pair_makes_nothing_rarer_than_it_is(sd: float) -> None:
    # As the verification looks: after each pair, at 99 %, until it is shown or sixteen are seen;
    # and with the noise that the search has seen.
    n_rare, sessions = 0, samples(16, 1500, sd=sd)
    for log_ratios in sessions:
        for n in range(2, 17):
            seen = compare(log_ratios[:n], confidence=0.99, prior_sd=max(PRIOR_SD, sd))
            if seen.shown_better or seen.shown_worse:
                break
        n_rare += seen.chance * seen.pairs < 0.05

    assert n_rare / len(sessions) < 0.05


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_middle_of_what_is_sorted_is_the_median(values: list[float]) -> None:
    assert median_of_sorted(sorted(values)) == statistics.median(values)
