"""Where an axis has its ticks, and how many points are worth drawing."""

import math
from collections.abc import Sequence

Spot = tuple[float, float]

_STEPS_S = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200)
_MOST_TICKS = 6
_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)
# Between two ticks, and beyond the ends, of the length of the axis.
_LEAST_GAP, _MARGIN = 0.11, 0.06
_LEAST_SPAN = 0.02
# More points than this cannot be told apart, and only make the file long.
MOST_POINTS = 800
_CELLS = 512  # Along an axis, at first.


def times(end_s: float) -> list[float]:
    """Whole seconds, minutes or hours from 0 on."""
    step = next((s for s in _STEPS_S if end_s / s <= _MOST_TICKS), _STEPS_S[-1])
    return [float(n * step) for n in range(int(end_s / step) + 1)]


def ratios(values: Sequence[float]) -> tuple[list[float], Spot]:
    """Round ratios on a logarithmic axis that holds 1 and all values, and its two ends."""
    low, high = math.log(min(*values, 1)), math.log(max(*values, 1))
    span = max(high - low, _LEAST_SPAN)
    low, high = low - _MARGIN * span, high + _MARGIN * span
    ticks = [1.0]
    for ratio in sorted(_RATIOS, key=lambda ratio: abs(math.log(ratio))):
        apart = all(abs(math.log(ratio / tick)) > _LEAST_GAP * span for tick in ticks)
        if apart and low <= math.log(ratio) <= high:
            ticks.append(ratio)
    return sorted(ticks), (math.exp(low), math.exp(high))


def thinned(points: Sequence[Spot]) -> list[Spot]:
    """At most so many points: of those that would lie on each other, the first."""
    cells = _CELLS
    while len(points) > MOST_POINTS:
        spans = [max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True)]
        first: dict[tuple[int, ...], Spot] = {}
        for spot in points:
            cell = tuple(int(v * cells / s) for v, s in zip(spot, spans, strict=True))
            first.setdefault(cell, spot)
        points = list(first.values())
        cells = cells * 3 // 4
    return list(points)
