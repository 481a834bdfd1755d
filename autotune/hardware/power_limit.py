"""Whether a limit of power held something back between two readings of `activity`."""

from collections.abc import Mapping

State = Mapping[str, float]

# Of a test. A card touches its limit for a moment whenever it begins to work hard.
_MOST_SHARE = 0.05
# RAPL keeps a package at its limit on the average; what takes so much of it is held back by it.
_AT_LIMIT = 0.97
_SW_POWER_CAP = 0x4  # nvmlClocksEventReasonSwPowerCap


def limited(before: State, after: State) -> tuple[str, ...]:
    """What was at its limit of power: "CPU package 0", "GPU 0"; what is not known is not.

    Where a GPU counts the time, that decides; else its reasons at either end of the test do, which
    is when it has hardly begun to work, or has just ended.
    """
    packages = [
        n for n in range(_numbered(after, "package")) if _package_is_limited(before, after, n)
    ]
    gpus = [n for n in range(_numbered(after, "gpu")) if _gpu_is_limited(before, after, n)]
    cores = ["CPU"] if (_rise("power_limits", before, after) or 0) > 0 and not packages else []
    return (*cores, *(f"CPU package {n}" for n in packages), *(f"GPU {n}" for n in gpus))


def _numbered(state: State, what: str) -> int:
    """One more than the highest number of a key such as gpu0_clock_mhz."""
    heads = (key.partition("_")[0].removeprefix(what) for key in state if key.startswith(what))
    return max((int(head) + 1 for head in heads if head.isdecimal()), default=0)


def _package_is_limited(before: State, after: State, number: int) -> bool:
    joules = _rise(f"package{number}_energy_j", before, after)
    passed_s, limit_w = _rise("at_s", before, after), after.get(f"package{number}_limit_w")
    if joules is None or not passed_s or not limit_w:
        return False
    return joules / passed_s > _AT_LIMIT * limit_w


def _gpu_is_limited(before: State, after: State, number: int) -> bool:
    capped_s, passed_s = (
        _rise(f"gpu{number}_power_capped_s", before, after),
        _rise("at_s", before, after),
    )
    if capped_s is not None and passed_s:
        return capped_s / passed_s > _MOST_SHARE
    key = f"gpu{number}_throttle_reasons"
    return bool((int(before.get(key, 0)) | int(after.get(key, 0))) & _SW_POWER_CAP)


def _rise(key: str, before: State, after: State) -> float | None:
    return after[key] - before[key] if key in before and key in after else None
