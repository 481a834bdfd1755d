"""What configurations that were not measured promise, by those that were.

On a GPU that holds a part of a model, the time of a token is close to linear in the layers, or
layers' experts, that are left to the CPU; and a switch multiplies a part's time by about the same
factor everywhere. So a line and a few factors say which combination is worth a load of the model.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.params import Params
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Part
from autotune.tuning.space import Space

_OPTIONS = ("n_ubatch", "no_kv_offload", "cache_type", "flash_attn", "no_op_offload", "load_mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A configuration, and by how much it should be faster than the incumbent."""

    params: Params
    gain: float


def best_promise(
    knowledge: Knowledge,
    memory: Memory,
    space: Space,
    options: Sequence[Params],
    incumbent: Params,
) -> Promise | None:
    """The unmeasured option that promises most."""
    best = knowledge.seconds(incumbent)
    measured = _measured(knowledge)
    if best is None or len(measured) < 3:  # noqa: PLR2004 - a line takes more than two points
        return None
    promises = []
    for params in options:
        if knowledge.seconds(params) is not None or knowledge.has_failed(params):
            continue
        seconds = sum(
            _predicted(knowledge, memory, space, measured, incumbent, params, part)
            for part in knowledge.objective.parts
        )
        promises.append(Promise(params=params, gain=1 - seconds / best))
    return max(promises, key=lambda promise: promise.gain, default=None)


def _measured(knowledge: Knowledge) -> list[Params]:
    configurations = dict.fromkeys(reading.visit.params for reading in knowledge.readings)
    return [p for p in configurations if knowledge.seconds(p) is not None]


def _predicted(
    knowledge: Knowledge,
    memory: Memory,
    space: Space,
    measured: Sequence[Params],
    incumbent: Params,
    params: Params,
    part: Part,
) -> float:
    """Seconds of a part: the incumbent's, along the line, times the factor of each option."""
    seconds = knowledge.part_seconds(incumbent, part) or math.inf
    on_host = memory.layers_on_host(params) - memory.layers_on_host(incumbent)
    seconds += on_host * _slope(knowledge, memory, space, measured, part)
    here, there = space.point(incumbent), space.point(params)
    for name in _OPTIONS:
        if name in here and here[name] != there[name]:
            seconds *= _factor(knowledge, memory, space, measured, part, name, params)
    return max(seconds, 0.0)


def _slope(
    knowledge: Knowledge, memory: Memory, space: Space, measured: Sequence[Params], part: Part
) -> float:
    """Seconds for one more layer on the host, from pairs that differ in nothing else; 0 of none."""
    slopes = []
    for i, one in enumerate(measured):
        for other in measured[:i]:
            layers = memory.layers_on_host(one) - memory.layers_on_host(other)
            if layers and not _options_differ(space, one, other, part):
                a, b = knowledge.part_seconds(one, part), knowledge.part_seconds(other, part)
                if a is not None and b is not None:
                    slopes.append((a - b) / layers)
    return statistics.median(slopes) if slopes else 0.0


def _factor(
    knowledge: Knowledge,
    memory: Memory,
    space: Space,
    measured: Sequence[Params],
    part: Part,
    name: str,
    params: Params,
) -> float:
    """What a value of an option multiplies a part by; infinite where it was never seen."""
    if part == "tg" and name in ("n_ubatch", "no_op_offload"):
        return 1.0  # They are about prompts.
    value, slope = space.point(params)[name], _slope(knowledge, memory, space, measured, part)
    factors = []
    for one in (p for p in measured if space.point(p)[name] == value):
        for other in (p for p in measured if space.point(p)[name] != value):
            a, b = knowledge.part_seconds(one, part), knowledge.part_seconds(other, part)
            if a is None or b is None or _options_differ(space, one, other, part, beside=name):
                continue
            layers = memory.layers_on_host(one) - memory.layers_on_host(other)
            factors.append(max(a - layers * slope, 0.01 * a) / b)
    return statistics.median(factors) if factors else math.inf


def _options_differ(
    space: Space, one: Params, other: Params, part: Part, *, beside: str = ""
) -> bool:
    """They differ in something else than their placement that moves the part."""
    here, there = space.point(one), space.point(other)
    skipped = {"n_gpu_layers", "n_cpu_moe", beside}
    skipped |= {"n_ubatch", "n_batch", "n_threads_batch"} if part == "tg" else {"n_threads"}
    return any(here[name] != there[name] for name in here if name not in skipped)
