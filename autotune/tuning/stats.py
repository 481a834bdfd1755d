"""Is one configuration faster than another? Robust location, guarded spread, honest interval.

Times are compared by their logarithms, because noise is multiplicative. Bursts of foreign load make
pair differences with a standard deviation of 0.076 where a MAD-based one is 0.028, so both location
and spread are robust; with few pairs no spread of the sample is trusted alone.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from statistics import NormalDist

# The spread of pair differences to expect before any is seen, as that many observations. Quiet
# repetitions of llama-bench spread by 0.3 to 1.5 %, those of busy machines by 2 to 5 %.
PRIOR_SD = 0.025
PRIOR_WEIGHT = 4.0
# The sd of a normal distribution over its MAD; and, for samples of few values, the factor by which
# that estimate's mean square falls short (tests/unit/test_tuning_stats.py draws such).
_MAD_TO_SD = 1.4826
_SMALL_SAMPLE = {2: 0.95, 3: 1.14, 4: 1.18, 5: 1.05, 6: 1.08, 7: 1.03, 8: 1.04}
# How many of the degrees of freedom of a sample's own standard deviation such an estimate has: it
# scatters more. With all of them, 5 pairs that spread by 3 % claimed 7.5 % of nothing at 0.95.
_MAD_FREEDOM = 0.5
# The variance of a Hodges-Lehmann estimate over that of a mean, for normal data: pi / 3.
_HL_VARIANCE = math.pi / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many times as fast the candidate is as the baseline: above 1 is faster."""

    ratio: float
    low: float
    high: float
    pairs: int
    confidence: float  # Of the interval, as 0.95.

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
    own_freedom = _MAD_FREEDOM * (n - 1)
    freedom = prior_weight + own_freedom
    variance = (prior_weight * prior_sd**2 + own_freedom * robust_sd(log_ratios) ** 2) / freedom
    quantile = t_quantile(1 - (1 - confidence) / 2, freedom)
    half = quantile * math.sqrt(_HL_VARIANCE * variance / n)
    return Comparison(
        ratio=math.exp(middle),
        low=math.exp(middle - half),
        high=math.exp(middle + half),
        pairs=n,
        confidence=confidence,
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
