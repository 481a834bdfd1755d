"""Was a test disturbed by something that is not llama.cpp's own doing?

Judged from two readings of `hardware.activity`; what either of them lacks is not judged.
"""

from collections.abc import Iterator

from autotune.llama_cpp.records import State

# llama.cpp's threads wait for each other after each operation, so where they fill the CPUs the
# slowest decides: 0.1 of one CPU taken away costs the whole test up to 10 %. Daemons take less:
# 0.02 on an idle virtual machine.
_MOST_FOREIGN_CPUS = 0.1
# Of the CPUs that the test leaves idle, one is for the kernel and for ourselves. Half of the others
# may be used: the scheduler does not always find them, and they share caches and memory.
_USABLE_SHARE_OF_IDLE = 0.5
# Before a test starts, a little more is let pass: what is starting or ending just then goes away.
_MOST_FOREIGN_CPUS_AT_REST = 0.15
# /proc/stat counts in ticks of 10 ms, rounded down, and so do the times of a process: three
# readings that are off by one are no program.
_LEAST_FOREIGN_S = 0.03
# Where that of a process is measured, a CPU's time is sampled, at 250 Hz in Debian's kernels and
# many others: each CPU that the test fills can seem busy for a sample more than the test used.
_SAMPLING_S_PER_CPU = 0.004
# llama-bench keeps at least one thread busy. With less than this, it runs where its time is not
# seen, such as in a container, and would be taken for a foreign program.
_LEAST_OWN_CPUS = 0.1
# Share of the time in which some task waited for memory (/proc/pressure). With memory to spare it
# is next to none: 0.03 % over three hours of work on a virtual machine.
_MOST_MEMORY_PRESSURE = 0.05
_MOST_SWAPPED_PAGES = 256  # 1 MiB in pages of 4 KiB, far less than a model that does not fit.
# nvmlClocksEventReason*. Not among them: the limit of power that the GPU is set to (0x4), which
# `power` judges, and idleness (0x1).
_HOT = 0x20 | 0x40  # SwThermalSlowdown, HwThermalSlowdown
_POWER_BRAKE = 0x80  # HwPowerBrakeSlowdown
_HARDWARE_SLOWDOWN = 0x8  # HwSlowdown: one of the two, not said which.


def disturbance(before: State, after: State, *, n_threads: int, n_cpus: int) -> str:
    """Say in a short phrase what disturbed the test between two readings; "" if nothing did.

    Args:
        before: What `Activity.read` gave when the test started.
        after: What it gave when the test had ended.
        n_threads: Threads that the test computes with.
        n_cpus: CPUs that it may use.
    """
    idle_cpus = max(0, n_cpus - n_threads - 1)
    own_s, passed_s = _rise("own_s", before, after), _rise("at_s", before, after)
    if own_s is None or passed_s is None or own_s < _LEAST_OWN_CPUS * passed_s:
        foreign = ""
    else:
        foreign = _foreign_cpus(
            before,
            after,
            most_cpus=_MOST_FOREIGN_CPUS + _USABLE_SHARE_OF_IDLE * idle_cpus,
            least_s=max(_LEAST_FOREIGN_S, _SAMPLING_S_PER_CPU * n_cpus),
        )
    return (
        foreign
        or _short_memory(before, after)
        or _swapping(before, after)
        or _hot_cpu(before, after)
        or _slowed_gpu(before, after)
        or _shared_gpu(before, after)
    )


def quiet(before: State, after: State) -> str:
    """Say in a short phrase why the machine is too busy to measure on; "" if it is not.

    Both are readings of `Activity.read`, between which nothing of ours ran.
    """
    return (
        _foreign_cpus(before, after, most_cpus=_MOST_FOREIGN_CPUS_AT_REST, least_s=_LEAST_FOREIGN_S)
        or _short_memory(before, after)
        or _slowed_gpu(before, after)
    )


def _rise(key: str, before: State, after: State) -> float | None:
    return after[key] - before[key] if key in before and key in after else None


def _share(key: str, before: State, after: State) -> float | None:
    """Give the rise of a number of seconds per second that has passed."""
    rise, passed_s = _rise(key, before, after), _rise("at_s", before, after)
    return rise / passed_s if rise is not None and passed_s else None


def _foreign_cpus(before: State, after: State, *, most_cpus: float, least_s: float) -> str:
    busy_s, own_s = _rise("busy_s", before, after), _rise("own_s", before, after)
    passed_s = _rise("at_s", before, after)
    if busy_s is None or own_s is None or not passed_s:
        return ""
    foreign_s = busy_s - own_s
    cpus = foreign_s / passed_s
    return (
        f"other programs used {cpus:.1f} CPUs" if foreign_s > least_s and cpus > most_cpus else ""
    )


def _short_memory(before: State, after: State) -> str:
    share = _share("pressure_memory_s", before, after) or 0
    return f"memory was short {share:.0%} of the time" if share > _MOST_MEMORY_PRESSURE else ""


def _swapping(before: State, after: State) -> str:
    pages = _rise("swapped_pages", before, after) or 0
    return f"{pages:.0f} pages were swapped" if pages > _MOST_SWAPPED_PAGES else ""


def _hot_cpu(before: State, after: State) -> str:
    return "the CPU was slowed down by heat" if (_rise("throttles", before, after) or 0) > 0 else ""


def _slowed_gpu(before: State, after: State) -> str:
    for gpu, key in _gpu_keys("throttle_reasons", before, after):
        # Neither reading is in the midst of the test, so either of them counts.
        reasons = int(before[key]) | int(after[key])
        if reasons & _HOT:
            return f"{gpu} was slowed down by heat"
        if reasons & _POWER_BRAKE:
            return f"{gpu} was slowed down by its power supply"
        if reasons & _HARDWARE_SLOWDOWN:
            return f"{gpu} was slowed down by heat or its power supply"
    return ""


def _shared_gpu(before: State, after: State) -> str:
    for gpu, key in _gpu_keys("foreign_processes", before, after):
        if after[key] > before[key]:
            return f"another program began to use {gpu}"
    return ""


def _gpu_keys(name: str, before: State, after: State) -> Iterator[tuple[str, str]]:
    """Yield each GPU's name for people, and its key for `name` where both readings have it."""
    for key in sorted(after.keys() & before.keys()):
        gpu, _, rest = key.partition("_")
        if gpu.startswith("gpu") and rest == name:
            yield f"GPU {gpu.removeprefix('gpu')}", key
