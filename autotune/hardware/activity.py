"""What the machine is doing right now: who computes, what is short, what is hot.

Most numbers are counters, so two readings are needed to say what happened between them.
"""

import os
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

from autotune.hardware import drm
from autotune.hardware.energy import Meter
from autotune.hardware.nvml_activity import open_gpus
from autotune.hardware.root import Root, to_int

_CPUS = "sys/devices/system/cpu"
_ZONES = "sys/class/thermal"
_SENSORS = "sys/class/hwmon"
# The unit of the times in /proc, 10 ms on all but a few old systems; Windows has neither.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# Columns of a "cpu" line (proc_stat(5)): user, nice, system, irq, softirq, steal. A guest's time is
# in user already, and idle and iowait are no work.
_BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)
# utime, stime, cutime and cstime, fields 14 to 17 of proc_pid_stat(5), counted from the state.
_TIMES = slice(11, 15)
_N_TIMES = 4
# How often the processes are read again while children are being reaped; once is rare.
_MOST_PASSES = 3
# Kernels before 5.18 wait 10 ms for the clock of each idle CPU (arch_freq_get_on_cpu), so not all
# are asked.
_MOST_CLOCKS = 8
# The thermal zones that are a processor's on x86, on Raspberry Pis and on Rockchip's boards. Others
# are the mainboard (acpitz), the battery, the radio.
_CPU_ZONES = ("x86_pkg_temp", "cpu", "soc", "bigcore", "littlecore")
# Drivers of Intel's, AMD's and ARM's sensors; their temp1 is the package as a whole.
_CPU_SENSORS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal"})


class _Process(NamedTuple):
    parent: int
    own_ticks: int
    ended_ticks: int  # Of its children that have ended, and theirs.


class Activity:
    """Reads what happens on this machine, or on the recorded one that `root` holds.

    What stays as it is (which sensors there are, which CPUs this process may use, the GPUs) is
    found when it is made. A reading then takes about a millisecond for each hundred processes.
    """

    def __init__(self, root: Root | None = None) -> None:
        self._root = root = root or Root()
        self._is_linux = not root.is_real or sys.platform == "linux"
        # A recorded machine has its own CPUs, which the affinity of this process says nothing of.
        on_linux = root.is_real and sys.platform == "linux"
        self._usable = os.sched_getaffinity(0) if on_linux else None
        self._clocks = _find_clocks(root, self._usable)
        self._throttles = _find_throttles(root)
        self._temperatures = _find_temperatures(root)
        self._power_limits = _find_power_limits(root)
        self._gpus = open_gpus(root)
        cards = [card for vendor in (drm.AMD, drm.INTEL) for card in drm.cards(root, vendor)]
        self._cards = [drm.Sensors(root, card) for card in cards]
        self.meter = Meter(root, self._gpus)

    def read(self) -> dict[str, float]:
        """Read everything; what cannot be read is left out, and nothing is raised.

        Counters since some time in the past:
            at_s: seconds, of time.monotonic().
            busy_s: CPU seconds of everybody on the CPUs that this process may use (/proc/stat);
                time that a hypervisor took away (steal) is in it.
            own_s: CPU seconds of this process and all that it started, ended or alive.
            pressure_cpu_s, pressure_memory_s, pressure_io_s: seconds in which some task on the
                machine waited for it (/proc/pressure).
            swapped_pages: pages swapped in and out (/proc/vmstat).
            throttles: how often a core or package was slowed because it was hot, all together.
            power_limits: how often one was slowed because it took all the power that it may.
            package0_energy_j: joules of each package that has a limit for its power (RAPL).

        Right now:
            package0_limit_w: that limit, in watts, which holds for a test's length and longer.
            clock_mhz: mean clock of the usable CPUs, or of some of them if there are many.
            temperature_c: the hottest sensor of the processors, in degrees Celsius.

        Of each NVIDIA GPU, numbered as CUDA numbers them for this process:
            gpu0_temperature_c, gpu0_clock_mhz: as above; the clock is that of the SMs.
            gpu0_throttle_reasons: why the clock is not higher, NVML's nvmlClocksEventReason*.
            gpu0_power_capped_s: seconds, since some time in the past, in which its limit of power
                kept the clock down.
            gpu0_foreign_processes: how many processes use it that this one did not start.

        Of AMD's and Intel's GPUs, numbered after those, by the kernel's numbers:
            gpu0_temperature_c, gpu0_clock_mhz: as above, as far as the driver shows them.
        """
        state = {"at_s": time.monotonic()}
        if not self._is_linux:
            return state | _read_portable() | self._read_gpus(None)
        root = self._root
        # Both kinds of CPU time side by side: what passes between the two looks foreign.
        busy_s = _read_busy_s(root, self._usable)
        me, processes = _read_processes(root)
        family = _family(me, processes)
        known = {
            "busy_s": busy_s,
            "own_s": _own_s(family, processes),
            "pressure_cpu_s": _read_pressure_s(root, "cpu"),
            "pressure_memory_s": _read_pressure_s(root, "memory"),
            "pressure_io_s": _read_pressure_s(root, "io"),
            "swapped_pages": _read_swapped_pages(root),
            "throttles": _total(self._read_all(self._throttles)),
            "power_limits": _total(self._read_all(self._power_limits)),
            "clock_mhz": _mean(self._read_all(self._clocks), unit=1000),
            "temperature_c": _hottest(self._read_all(self._temperatures), unit=1000),
        }
        users = (family, processes.keys())
        return state | _known(known) | self.meter.read_packages() | self._read_gpus(users)

    def _read_gpus(self, users: tuple[Collection[int], Collection[int]] | None) -> dict[str, float]:
        ours, known = users or ((), ())
        states = [gpu.read(ours, known) for gpu in self._gpus]
        states += [card.read() for card in self._cards]
        return {
            f"gpu{index}_{key}": value
            for index, state in enumerate(states)
            for key, value in state.items()
        }

    def _read_all(self, paths: list[str]) -> list[int]:
        numbers = (self._root.read_int(path) for path in paths)
        return [number for number in numbers if number is not None]


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None}


def _total(numbers: list[int]) -> float | None:
    return sum(numbers) if numbers else None


def _mean(numbers: list[int], unit: int) -> float | None:
    return sum(numbers) / len(numbers) / unit if numbers else None


def _hottest(numbers: list[int], unit: int) -> float | None:
    return max(numbers) / unit if numbers else None


def _read_busy_s(root: Root, usable: Collection[int] | None) -> float | None:
    text = root.read_text("proc/stat") or ""
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    ticks = {words[0].removeprefix("cpu"): _busy_ticks(words) for words in lines}
    total = ticks.pop("", None)
    mine = [of_cpu for cpu, of_cpu in ticks.items() if usable is None or to_int(cpu) in usable]
    # The kernel rounds each number down to a tick: the line for all CPUs has the least of that.
    if len(mine) < len(ticks) or total is None:
        counted = [of_cpu for of_cpu in mine if of_cpu is not None]
        total = sum(counted) if counted and len(counted) == len(mine) else None
    return None if total is None else total / _TICKS_PER_S


def _busy_ticks(words: list[str]) -> int | None:
    numbers = [to_int(words[column]) for column in _BUSY_COLUMNS if column < len(words)]
    return _sum_of_known(numbers, count=len(_BUSY_COLUMNS))


def _read_processes(root: Root) -> tuple[int | None, dict[int, _Process]]:
    """Read the number of this process, as this /proc counts, and all processes by theirs."""
    me, before = _read_self(root)
    processes = dict[int, _Process]()
    for _ in range(_MOST_PASSES):
        processes = _read_numbered(root)
        _, after = _read_self(root)
        # A child that was reaped meanwhile would be missed, or be counted twice.
        if before is None or after is None or after.ended_ticks == before.ended_ticks:
            break
        before = after
    return me, processes


def _read_self(root: Root) -> tuple[int | None, _Process | None]:
    stat = root.read_text("proc/self/stat") or ""
    return to_int(stat.partition(" ")[0]), _to_process(stat)


def _read_numbered(root: Root) -> dict[int, _Process]:
    pids = (int(name) for name in root.names("proc") if name.isdecimal())
    stats = ((pid, root.read_text(f"proc/{pid}/stat") or "") for pid in pids)
    processes = ((pid, _to_process(stat)) for pid, stat in stats)
    return {pid: process for pid, process in processes if process is not None}


def _to_process(stat: str) -> _Process | None:
    # The second field is a name in brackets, which may have brackets and spaces in it.
    fields = stat.rpartition(")")[2].split()[: _TIMES.stop]
    numbers = [to_int(field) for field in (*fields[1:2], *fields[_TIMES])]
    parent, *times = [number for number in numbers if number is not None] or [0]
    return _Process(parent, sum(times[:2]), sum(times[2:])) if len(times) == _N_TIMES else None


def _sum_of_known(numbers: list[int | None], *, count: int) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == count else None


def _family(me: int | None, processes: Mapping[int, _Process]) -> set[int]:
    """Find this process and everything below it."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    family = set[int]()
    found = [] if me is None or me not in processes else [me]
    while found:
        pid = found.pop()
        if pid not in family:
            family.add(pid)
            found.extend(children.get(pid, ()))
    return family


def _own_s(family: set[int], processes: Mapping[int, _Process]) -> float | None:
    found = [processes[pid] for pid in family]
    ticks = sum(process.own_ticks + process.ended_ticks for process in found)
    return ticks / _TICKS_PER_S if found else None


def _read_pressure_s(root: Root, resource: str) -> float | None:
    # "some avg10=0.00 avg60=0.00 avg300=0.00 total=2581", in microseconds; then a line of "full".
    first, _, _ = (root.read_text(f"proc/pressure/{resource}") or "").partition("\n")
    total_us = to_int(first.rpartition("total=")[2])
    return None if total_us is None else total_us / 1e6


def _read_swapped_pages(root: Root) -> int | None:
    fields = root.read_fields("proc/vmstat")
    return _sum_of_known([to_int(fields.get(key, "")) for key in ("pswpin", "pswpout")], count=2)


def _find_clocks(root: Root, usable: Collection[int] | None) -> list[str]:
    cpus = [cpu for cpu in _list_cpus(root) if usable is None or cpu in usable]
    files = [f"{_CPUS}/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus]
    there = [path for path in files if root.exists(path)]
    # Spread over all of them: the kinds of core and the sockets lie side by side.
    return there[:: -(-len(there) // _MOST_CLOCKS) or 1]


def _find_throttles(root: Root) -> list[str]:
    return _find_counts(root, "throttle_count")


def _find_power_limits(root: Root) -> list[str]:
    """Shown only where the kernel was started with int_pln_enable."""
    return _find_counts(root, "power_limit_count")


def _find_counts(root: Root, what: str) -> list[str]:
    """The counters of each core, and that of each package once: all its cores show the same."""
    cpus = [f"{_CPUS}/cpu{number}" for number in _list_cpus(root)]
    packages = {root.read_int(f"{cpu}/topology/physical_package_id"): cpu for cpu in cpus}
    files = [f"{cpu}/thermal_throttle/core_{what}" for cpu in cpus]
    files += [f"{cpu}/thermal_throttle/package_{what}" for cpu in packages.values()]
    return [path for path in files if root.exists(path)]


def _list_cpus(root: Root) -> list[int]:
    numbers = (to_int(name.removeprefix("cpu")) for name in root.names(_CPUS))
    return sorted(number for number in numbers if number is not None)


def _find_temperatures(root: Root) -> list[str]:
    zones = [f"{_ZONES}/{name}" for name in root.names(_ZONES)]
    sensors = [f"{_SENSORS}/{name}" for name in root.names(_SENSORS)]
    return [
        *(f"{zone}/temp" for zone in zones if _name(root, zone, "type").startswith(_CPU_ZONES)),
        *(f"{chip}/temp1_input" for chip in sensors if _name(root, chip, "name") in _CPU_SENSORS),
    ]


def _name(root: Root, folder: str, file: str) -> str:
    return (root.read_text(f"{folder}/{file}") or "").strip().lower()


def _read_portable() -> dict[str, float]:
    """Read the CPU times where there is no /proc."""
    import psutil  # type: ignore[import-untyped] # noqa: PLC0415 - 19 ms, which Linux does without.

    times = psutil.cpu_times()
    busy_s = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq"))
    own_s = sum(os.times()[:4])  # Itself and its ended children; Windows does not count those.
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # It has ended since.
                own_s += sum(child.cpu_times()[:4])
    return {"busy_s": busy_s, "own_s": own_s}
