"""Is one configuration faster than another? Robust location, guarded spread, honest interval.

Times are compared by their logarithms, because noise is multiplicative. Bursts of foreign load make
pair differences with a standard deviation of 0.076 where a MAD-based one is 0.028, so both location
and spread are robust; with few pairs no spread of the sample is trusted alone.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from statistics import NormalDist

# The spread of pair differences to expect before any is seen, as that many observations. Quiet
# repetitions of llama-bench spread by 0.3 to 1.5 %, those of busy machines by 2 to 5 %.
PRIOR_SD = 0.025
PRIOR_WEIGHT = 4.0
# The sd of a normal distribution over its MAD; and, for samples of few values, the factor by which
# that estimate's mean square falls short (tests/unit/test_stats.py draws such).
_MAD_TO_SD = 1.4826
_SMALL_SAMPLE = {2: 0.95, 3: 1.14, 4: 1.18, 5: 1.05, 6: 1.08, 7: 1.03, 8: 1.04}
# How many of the degrees of freedom of a sample's own standard deviation such an estimate has: it
# scatters more. With all of them, 5 pairs that spread by 3 % claimed 7.5 % of nothing at 0.95.
_MAD_FREEDOM = 0.5
# The sd of a normal distribution over the median absolute difference of two values of it.
_DIFFERENCE_TO_SD = 1 / (math.sqrt(2) * NormalDist().inv_cdf(0.75))
# The variance of a Hodges-Lehmann estimate over that of a mean, for normal data: pi / 3.
_HL_VARIANCE = math.pi / 3
_STEPS = 400
LEAST_PAIRS = 2  # With fewer, nothing is decided: one pair may be chance alone.
# Fewer deviations than those of three pairs say nothing of the noise.
_LEAST_DEVIATIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many times as fast the candidate is as the baseline: above 1 is faster."""

    ratio: float
    low: float
    high: float
    pairs: int
    confidence: float  # Of the interval, as 0.95.
    chance: float  # That two equally fast ones would look this different, either way.

    @property
    def shown_better(self) -> bool:
        return self.low > 1

    @property
    def shown_worse(self) -> bool:
        return self.high < 1


def compare(
    log_ratios: Sequence[float],
    *,
    confidence: float = 0.95,
    prior_sd: float = PRIOR_SD,
    prior_weight: float = PRIOR_WEIGHT,
) -> Comparison:
    """Compare by paired differences.

    The interval is around two locations, the Hodges-Lehmann estimate and the median: by half of an
    outlier among three pairs the first is moved, and the second not at all.

    Args:
        log_ratios: for each pair, log(seconds of the baseline / seconds of the candidate).
        confidence: that the interval holds the true ratio.
        prior_sd: the spread of such differences that is expected beforehand.
        prior_weight: how many differences that expectation is worth.

    Raises:
        ValueError: there is no pair.
    """
    if not log_ratios:
        raise ValueError("a comparison takes at least one pair")
    n = len(log_ratios)
    middle = hodges_lehmann(log_ratios)
    lower, upper = sorted((middle, statistics.median(log_ratios)))
    own_freedom = _MAD_FREEDOM * (n - 1)
    freedom = prior_weight + own_freedom
    variance = (prior_weight * prior_sd**2 + own_freedom * robust_sd(log_ratios) ** 2) / freedom
    error = math.sqrt(_HL_VARIANCE * variance / n)
    half = error * t_quantile(1 - (1 - confidence) / 2, freedom)
    return Comparison(
        ratio=math.exp(middle),
        low=math.exp(lower - half),
        high=math.exp(upper + half),
        pairs=n,
        confidence=confidence,
        chance=t_chance(max(lower, -upper, 0.0) / error if error else math.inf, freedom),
    )


def hodges_lehmann(values: Sequence[float]) -> float:
    """The median of all pairwise means: nearly as efficient as a mean, and robust."""
    return statistics.median((a + b) / 2 for a, b in combinations_with_replacement(values, 2))


def robust_sd(values: Sequence[float]) -> float:
    """A standard deviation from the median absolute deviation; 0 of a single value."""
    if len(values) < 2:  # noqa: PLR2004 - one value has no spread
        return 0.0
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    return mad * _MAD_TO_SD * _SMALL_SAMPLE.get(len(values), 1.02)


def median_of_sorted(values: Sequence[float]) -> float:
    """The middle of some values that stand in their order; there is at least one."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def noise_of(repeats: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation of one value against another of the same, by what was repeated.

    Args:
        repeats: the values of each thing that was measured, once or more often.

    Returns:
        None where too few were.
    """
    several = [(statistics.median(same), same) for same in repeats if len(same) > 1]
    deviations = [value - middle for middle, same in several for value in same]
    if len(deviations) < _LEAST_DEVIATIONS:
        return None
    # Deviations from the middle of two are smaller than those from the truth by sqrt(2).
    return robust_sd(deviations) * math.sqrt(2)


def widened(expected_sd: float, series: Iterable[Sequence[float]]) -> float:
    """The spread of a single value to expect, after some were seen: never less than before.

    Pooled with the median difference of each value from the next two, which neither slow drift nor
    an outlier among three moves by much.

    Args:
        expected_sd: beforehand, as `PRIOR_WEIGHT` observations.
        series: values in the order in which they were measured, of one thing each.
    """
    steps = [
        abs(after - before)
        for values in series
        for n, before in enumerate(values)
        for after in values[n + 1 : n + 3]
    ]
    if not steps:
        return expected_sd
    seen_sd = _DIFFERENCE_TO_SD * statistics.median(steps)
    squares = PRIOR_WEIGHT * expected_sd**2 + len(steps) * seen_sd**2
    return max(expected_sd, math.sqrt(squares / (PRIOR_WEIGHT + len(steps))))


def t_quantile(probability: float, freedom: float) -> float:
    """Student's t, by the expansion 26.7.5 of Abramowitz and Stegun; good to 1 % from 4 degrees."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**k for k, term in enumerate(terms))


def t_chance(t: float, freedom: float) -> float:
    """How often Student's t is at least this far from 0, either way.

    With t = tan(angle) * sqrt(freedom), its density is cos(angle) ** (freedom - 1), which is summed
    up here at the middles of so many steps: good to six digits.
    """

    def beyond(angle: float) -> float:
        step = (math.pi / 2 - angle) / _STEPS
        middles = (angle + (k + 0.5) * step for k in range(_STEPS))
        return step * math.fsum(math.cos(middle) ** (freedom - 1) for middle in middles)

    return beyond(math.atan(abs(t) / math.sqrt(freedom))) / beyond(0.0)
