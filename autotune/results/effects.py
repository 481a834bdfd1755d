"""What each parameter did by itself: pairs of tests between which nothing else was changed.

A pair is the default of one parameter and another value of it, everything else that the part can
notice being equal. Each test is in one pair of a value at most, with the one that ran nearest to it
in time, so that pairs are independent and what drifts hits both. Disturbed tests do not count.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from autotune.params import DEFAULTS, Params
from autotune.results.stored import Visited
from autotune.stats import PRIOR_SD, Comparison, compare, noise_of

# What no test notices; llama-bench's context is its own.
_UNNOTICED = frozenset({"n_ctx", "cache_ram"})
# A token is generated in a batch of its own, by the threads that are for that.
_UNNOTICED_BY = {
    "pp": frozenset({"n_threads"}),
    "tg": frozenset({"n_threads_batch", "n_batch", "n_ubatch"}),
}
_CACHES = ("type_k", "type_v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One value of one parameter against the default of it, for one part of a request."""

    part: str  # "pp" or "tg".
    test: str  # llama-bench's name of it.
    parameter: str  # As in `Params`; cache_type is type_k and type_v together.
    value: object
    default: object
    seen: Comparison  # Above 1: faster than the default.


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    log_rate: float


@dataclass(frozen=True, slots=True)
class _Place:
    """Where readings can be compared: all is equal but one parameter."""

    part: str
    test: str
    parameter: str
    rest: "Point"


Point: TypeAlias = tuple[tuple[str, object], ...]
_Readings: TypeAlias = Mapping[tuple[str, str, Point], list[_Reading]]


def effects(visited: Sequence[Visited], baseline: Params) -> tuple[Effect, ...]:
    """Every value that there is at least one pair of, by part, parameter and value.

    Args:
        visited: The trials of one study.
        baseline: What the defaults are; None in it is what `params.DEFAULTS` has.
    """
    readings = _readings(visited)
    noise = noise_of([[one.log_rate for one in same] for same in readings.values()])
    prior_sd = max(PRIOR_SD, math.sqrt(2) * (noise or 0.0))
    found: dict[tuple[str, str, str, object], list[float]] = defaultdict(list)
    for place, by_value in _places(readings).items():
        default = dict(point(baseline, place.part)).get(place.parameter)
        for value in by_value.keys() - {default}:
            pairs = _paired(by_value.get(default, []), by_value[value])
            found[place.part, place.test, place.parameter, value] += pairs
    return tuple(
        Effect(
            part=part,
            test=test,
            parameter=parameter,
            value=value,
            default=dict(point(baseline, part)).get(parameter),
            seen=compare(log_ratios, prior_sd=prior_sd),
        )
        for (part, test, parameter, value), log_ratios in sorted(found.items(), key=_order)
        if log_ratios
    )


def point(params: Params, part: str) -> Point:
    """What a part of a request notices of a configuration: equal points are equally fast."""
    unnoticed = _UNNOTICED | _UNNOTICED_BY[part]
    values = {
        field.name: DEFAULTS.get(field.name) if value is None else value
        for field in fields(Params)
        if field.name not in {*unnoticed, *_CACHES}
        for value in [getattr(params, field.name)]
    }
    if part == "pp":
        values["n_threads_batch"] = params.n_threads_batch or params.n_threads
    caches = [getattr(params, name) or DEFAULTS["cache_type"] for name in _CACHES]
    values["cache_type"] = "/".join(dict.fromkeys(map(str, caches)))
    return tuple(sorted(values.items()))


def _readings(visited: Sequence[Visited]) -> _Readings:
    found = defaultdict(list)
    for one in visited:
        for part in ("pp", "tg"):
            measured = one.measured(part)
            if measured and not one.trial.disturbed:
                place = part, str(measured.test), point(one.trial.params, part)
                reading = _Reading(one.trial.elapsed_s, math.log(measured.median_ts))
                found[place].append(reading)
    return found


def _places(
    readings: _Readings,
) -> Mapping[_Place, Mapping[object, list[_Reading]]]:
    """The same readings, once for each parameter that they may be compared by."""
    places: dict[_Place, dict[object, list[_Reading]]] = defaultdict(dict)
    varied = _varied(readings)
    for (part, test, values), found in readings.items():
        for at, (name, value) in enumerate(values):
            if (part, name) in varied:
                place = _Place(part, test, name, values[:at] + values[at + 1 :])
                places[place][value] = found
    return places


def _varied(readings: _Readings) -> set[tuple[str, str]]:
    """The parameters that were tried at more than one value, with the part."""
    seen = defaultdict(set)
    for part, _, values in readings:
        for name, value in values:
            seen[part, name].add(value)
    return {place for place, values in seen.items() if len(values) > 1}


def _paired(defaults: Sequence[_Reading], others: Sequence[_Reading]) -> Iterator[float]:
    """How much faster each of the others is than the default that ran nearest to it."""
    few, many = sorted([defaults, others], key=len)
    left = list(many)
    for one in few:
        nearest = min(left, key=lambda other: abs(other.at_s - one.at_s))
        left.remove(nearest)
        other, default = (one, nearest) if few is others else (nearest, one)
        yield other.log_rate - default.log_rate


def _order(found: tuple[tuple[str, str, str, object], object]) -> tuple[object, ...]:
    part, test, parameter, value = found[0]
    is_number = isinstance(value, int | float)
    return part, test, parameter, not is_number, value if is_number else 0, str(value)
