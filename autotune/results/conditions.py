"""When a test ran and what the machine did meanwhile, as cells of a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from autotune.hardware.power_limit import limited
from autotune.llama_cpp.records import RunFacts
from autotune.results.columns import Row, Value

# What a sensor says right now: the reading after the test is the nearest to its heat.
_SENSORS = ("temperature_c", "clock_mhz")


def conditions(run: RunFacts) -> Row:
    """Times, load and sensors of one test."""
    return {
        "started_at": _when(run.started_at),
        "ended_at": _when(run.ended_at),
        "load_s": run.load_s,
        "foreign_cpus": foreign_cpus(run),
        "pressure_cpu": _share("pressure_cpu_s", run),
        "pressure_memory": _share("pressure_memory_s", run),
        "pressure_io": _share("pressure_io_s", run),
        "swapped_pages": _counted("swapped_pages", run),
        "throttles": _counted("throttles", run),
        "power_limits": _counted("power_limits", run),
        **{name: value for name, value in run.after.items() if name.endswith(_SENSORS)},
        **_of_gpus(run),
        "power_limited": ", ".join(limited(run.before, run.after)) or None,
    }


def foreign_cpus(run: RunFacts) -> float | None:
    """CPUs that others kept busy; never below 0, though the two counters tick unevenly."""
    busy, own = _share("busy_s", run), _share("own_s", run)
    return None if busy is None or own is None else round(max(busy - own, 0.0), 6)


def worst(tests: Iterable[Row]) -> Row:
    """Of several tests together: from the first to the last, and the worst of each reading."""
    known: dict[str, list[Any]] = {}
    for test in tests:
        for name, value in test.items():
            if value is not None:
                known.setdefault(name, []).append(value)
    return {name: _WORST[_without_gpu(name)](values) for name, values in known.items()}


def _of_gpus(run: RunFacts) -> dict[str, Value]:
    before = run.before
    found: dict[str, Value] = {}
    for name, value in run.after.items():
        if name.endswith("throttle_reasons"):
            found[name] = _all_bits([int(before.get(name, 0)), int(value)])
        elif name.endswith("power_capped_s"):
            found[name.removesuffix("_s")] = _share(name, run)
        elif name.endswith("foreign_processes"):
            found[name] = int(value)
    return found


def _when(seconds: float) -> str:
    """ISO 8601 in UTC, always as long."""
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")


def _rise(name: str, run: RunFacts) -> float | None:
    known = name in run.before and name in run.after
    return run.after[name] - run.before[name] if known else None


def _share(name: str, run: RunFacts) -> float | None:
    """How much a counter of seconds rose in each second."""
    rise, passed_s = _rise(name, run), _rise("at_s", run)
    return round(rise / passed_s, 6) if rise is not None and passed_s else None


def _counted(name: str, run: RunFacts) -> int | None:
    rise = _rise(name, run)
    return None if rise is None else int(rise)


def _all_bits(masks: Sequence[int]) -> int:
    together = 0
    for mask in masks:
        together |= mask
    return together


def _without_gpu(name: str) -> str:
    """`temperature_c` for `gpu0_temperature_c`."""
    return name.partition("_")[2] if name.startswith("gpu") else name


_WORST: Mapping[str, Callable[[list[Any]], Value]] = {
    "started_at": min,
    "ended_at": max,
    "load_s": max,
    "foreign_cpus": max,
    "pressure_cpu": max,
    "pressure_memory": max,
    "pressure_io": max,
    "swapped_pages": sum,
    "throttles": sum,
    "power_limits": sum,
    "power_capped": max,
    "power_limited": lambda texts: ", ".join(dict.fromkeys(", ".join(texts).split(", "))),
    "watts": max,
    "temperature_c": max,
    "clock_mhz": min,
    "throttle_reasons": _all_bits,
    "foreign_processes": max,
}
