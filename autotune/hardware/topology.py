"""Which logical CPUs make up which physical core, and which cores are the fast ones."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from autotune.hardware.root import Root, to_int

_CPUS = "sys/devices/system/cpu"
# A core at or below this share of the fastest core's speed is an efficiency core. Cores of one kind
# stay above: Turbo Boost Max 3.0 favours cores by up to 14 % (4.0 to 3.5 GHz, Core i7-6950X), AMD's
# preferred cores by less. Other kinds stay below: Zen 4c at 3.7 of 5.0 GHz (Ryzen 5 8500G),
# Zen 5c at 3.3 of 5.1 GHz (Ryzen AI 9 HX 370), Cortex-A55 at 530 of 1024 (RK3588).
_EFFICIENCY_SHARE = 0.75
# In order of trust; acpi_cppc/highest_perf is not among them, because with AMD's preferred cores it
# is a rank for the scheduler, and on some servers each read waits for the firmware.
_SPEEDS = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")


class Core(NamedTuple):
    """One physical core."""

    cpus: tuple[int, ...]  # The logical CPUs that are its hardware threads.
    package: int  # The socket it sits in; -1 where the kernel does not know.


def read_online(root: Root, notes: list[str]) -> tuple[int, ...]:
    """List the logical CPUs that are switched on."""
    if online := root.read_cpus(f"{_CPUS}/online"):
        return online
    processors = [to_int(block["processor"]) for block in _cpuinfo_blocks(root)]
    if known := sorted(cpu for cpu in processors if cpu is not None):
        notes.append(f"/{_CPUS}/online could not be read; /proc/cpuinfo stands in for it.")
        return tuple(known)
    count = (os.cpu_count() or 1) if root.is_real else 1
    notes.append(f"Neither /{_CPUS}/online nor /proc/cpuinfo could be read; CPUs assumed: {count}.")
    return tuple(range(count))


def read_cores(root: Root, online: tuple[int, ...], notes: list[str]) -> list[Core]:
    """Group the logical CPUs into physical cores."""
    if cores := _sysfs_cores(root, online):
        return cores
    if cores := _cpuinfo_cores(root, online):
        notes.append(f"/{_CPUS}/cpu*/topology could not be read; /proc/cpuinfo stands in for it.")
        return cores
    notes.append(
        f"Neither /{_CPUS}/cpu*/topology nor /proc/cpuinfo tells which CPUs share a core; "
        "each is counted as a core of its own."
    )
    return [Core((cpu,), package=-1) for cpu in online]


def performance_cores(root: Root, cores: list[Core]) -> list[Core]:
    """Return the cores of the fastest kind: all of them where all are alike."""
    # Intel's hybrids register their two kinds of core as two kinds of performance counter.
    if intel := root.read_cpus("sys/devices/cpu_core/cpus"):
        performance = set(intel)
        if fast := [core for core in cores if not performance.isdisjoint(core.cpus)]:
            return fast
    for source in _SPEEDS:
        speeds = _read_speeds(root, cores, source)
        threshold = max(speeds, default=0) * _EFFICIENCY_SHARE
        if speeds and min(speeds) <= threshold:
            return [core for core, speed in zip(cores, speeds, strict=True) if speed > threshold]
    return cores


def count_numa_nodes(root: Root) -> int:
    """Count the nodes that have CPUs; a node of memory alone is none to place threads on."""
    return len(root.read_cpus("sys/devices/system/node/has_cpu") or (0,))


def count_sockets(cores: Iterable[Core]) -> int:
    """Count the packages the cores sit in."""
    return len({core.package for core in cores})


def _sysfs_cores(root: Root, online: tuple[int, ...]) -> list[Core]:
    cores: list[Core] = []
    seen: set[int] = set()
    present = set(online)
    for cpu in online:
        # The files of a core's second thread would say what those of its first thread say.
        if cpu in seen:
            continue
        siblings = _read_siblings(root, cpu)
        if siblings is None:
            return []
        threads = tuple(sorted({cpu, *siblings}.intersection(present)))
        package = root.read_int(f"{_CPUS}/cpu{cpu}/topology/physical_package_id")
        cores.append(Core(threads, -1 if package is None else package))
        seen.update(threads)
    return cores


def _read_siblings(root: Root, cpu: int) -> tuple[int, ...] | None:
    # The second name is the older one, deprecated since Linux 5.3.
    names = ("core_cpus_list", "thread_siblings_list")
    found = (root.read_cpus(f"{_CPUS}/cpu{cpu}/topology/{name}") for name in names)
    return next((cpus for cpus in found if cpus), None)


def _cpuinfo_cores(root: Root, online: tuple[int, ...]) -> list[Core]:
    threads: dict[tuple[str, str], list[int]] = {}
    for block in _cpuinfo_blocks(root):
        cpu = to_int(block["processor"])
        if cpu not in online or "core id" not in block:
            return []
        threads.setdefault((block.get("physical id", "-1"), block["core id"]), []).append(cpu)
    return [Core(tuple(cpus), to_int(key[0]) or 0) for key, cpus in threads.items()]


def _cpuinfo_blocks(root: Root) -> list[dict[str, str]]:
    text = root.read_text("proc/cpuinfo") or ""
    blocks = (cpuinfo_fields(block) for block in text.split("\n\n"))
    return [block for block in blocks if "processor" in block]


def cpuinfo_fields(block: str) -> dict[str, str]:
    """Parse the `name : value` lines of /proc/cpuinfo; of a repeated name the first counts."""
    fields: dict[str, str] = {}
    for line in block.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _read_speeds(root: Root, cores: list[Core], source: str) -> list[int]:
    """Read one number for each core; empty where any of them is missing."""
    speeds: list[int] = []
    for core in cores:
        speed = root.read_int(f"{_CPUS}/cpu{core.cpus[0]}/{source}")
        if speed is None:
            return []
        speeds.append(speed)
    return speeds
