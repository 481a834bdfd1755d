"""How configurations and figures are said to people, in few words and honest digits."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple, TypeVar

from autotune.errors import printable
from autotune.params import ALL_LAYERS, DEFAULTS, Params

_Kind = TypeVar("_Kind", bound=str)

THE_DEFAULTS = "llama.cpp's defaults"
_PARAMETERS = {
    "flash_attn": "fa",
    "no_kv_offload": "kv-offload",
    "no_op_offload": "op-offload",
    "type_k": "cache-k",
    "type_v": "cache-v",
    "cache_type": "cache",
}
_MINUTE = 60
# Below so many seconds they are counted as such, and below so many minutes these.
_COUNTED_S, _COUNTED_MIN = 90, 90
_MOST_DECIMALS = 4  # Of a ratio; no measurement here is that sure.
_FUZZ = 1e-9  # 2.3 - 1.9 is a little less than 0.4.


class Quality(NamedTuple):
    """The words for what is compared."""

    unit: str
    good: str  # "1.2x as ..."
    better: str
    worse: str


_SPEED = Quality(unit="s", good="fast", better="faster", worse="slower")
_EFFICIENCY = Quality(unit="J", good="efficient", better="more efficient", worse="less efficient")


def quality(objective: str) -> Quality:
    """How the gain of a workload's objective is said."""
    return _EFFICIENCY if objective == "efficiency" else _SPEED


def described(params: Params, baseline: Params) -> str:
    """What a configuration has other than the defaults: "threads 8, ubatch 1024, fa off"."""
    changed = {
        field.name: value
        for field in fields(Params)
        if (value := _value(params, field.name)) != _value(baseline, field.name)
    }
    if "type_k" in changed and changed.get("type_v") == changed["type_k"]:
        changed["cache_type"] = changed.pop("type_k")
        del changed["type_v"]
    if "numactl" in changed:
        changed["numa"] = changed.pop("numactl")
    threads_first = sorted(changed.items(), key=lambda item: not item[0].startswith("n_threads"))
    words = [f"{parameter(name)} {shown(name, value)}" for name, value in threads_first]
    return printable(", ".join(words)) or THE_DEFAULTS


def _value(params: Params, name: str) -> object:
    value = getattr(params, name)
    if value is not None:
        return value
    return DEFAULTS.get("cache_type" if name in {"type_k", "type_v"} else name)


def parameter(name: str) -> str:
    """A field of `Params` in few letters: n_gpu_layers is gpu-layers."""
    return _PARAMETERS.get(name, name.removeprefix("n_").replace("_", "-"))


def shown(name: str, value: object) -> str:
    """A field's value; a switch that says no is turned around."""
    if isinstance(value, bool):
        return "on" if value != name.startswith("no_") else "off"
    if value is None:
        return "default"
    if name == "n_gpu_layers" and value == ALL_LAYERS:
        return "all"
    if isinstance(value, tuple):
        return "/".join(_part(v) for v in value)
    return str(value)


def _part(value: object) -> str:
    """One of several in a value: a device, its share, or a pattern with its place."""
    if isinstance(value, tuple):
        return "=".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(number: int, what: str) -> str:
    """1 trial, 2 trials."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def digits(number: float) -> str:
    """Three significant digits; no measurement here has more."""
    if not number or not math.isfinite(number):
        return "?"
    decimals = 2 - int(f"{number:.2e}".partition("e")[2])
    return f"{round(number, decimals):.{max(decimals, 0)}f}"


def ratios(*values: float) -> list[str]:
    """A ratio and the ends of its interval, or either alone, with honest decimals.

    They are those that the interval justifies, and those that tell its ends from 1. The first
    uncertain digit is the last one, or the last but one where that is a 1.
    """
    ends = (min(values), max(values))
    half = (ends[1] - ends[0]) / 2
    justified = math.ceil(-math.log10(half / 2) - _FUZZ) if 0 < half < math.inf else 2
    least = max(justified, 0)
    told = (n for n in range(least, _MOST_DECIMALS + 1) if all(round(x, n) != 1 for x in ends))
    decimals = min(next(told, max(least, 2)), _MOST_DECIMALS)
    return [f"{x:.{decimals}f}" for x in values]


def clock_time(seconds: float) -> str:
    """Elapsed time as 2:14, or 1:02:14."""
    minutes, rest = divmod(int(max(seconds, 0)), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """So long, rounded up: it is "at most" or "waited"."""
    if seconds < _COUNTED_S:
        return f"{math.ceil(max(seconds, 0))} s"
    minutes = math.ceil(seconds / _MINUTE)
    if minutes < _COUNTED_MIN:
        return f"{minutes} min"
    return f"{minutes // _MINUTE} h {minutes % _MINUTE} min"


def failures(by_kind: Mapping[_Kind, int]) -> str:
    """How many failures of each kind there were."""
    return ", ".join(f"{n} x {failure_kind(kind)}" for kind, n in by_kind.items())


def failure_kind(kind: str) -> str:
    """A kind of failure, as one says it."""
    return "out of memory" if kind == "oom" else kind.replace("_", " ")


def size(n_bytes: float) -> str:
    """Bytes in the unit that reads best, of 1024."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"
