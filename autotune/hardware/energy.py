"""How many joules the machine has used: its processors, their memory, and its GPUs.

What is counted is the machine's while a test runs, with its idle share: no counter tells programs
apart. Processors count by RAPL, which Linux shows for Intel's and AMD's alike in
`/sys/class/powercap`; NVIDIA's GPUs count by NVML, others in `/sys/class/hwmon`. Where a GPU tells
only its power, that is read all the time and added up.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from autotune.hardware.nvml_activity import WatchedGpu, open_gpus
from autotune.hardware.root import Root

_POWERCAP = "sys/class/powercap"
_SENSORS = "sys/class/hwmon"
# A package or a part of one. The same packages stand there again as intel-rapl-mmio.
_ZONE = re.compile(r"intel-rapl:\d{1,4}(:\d{1,4})?")
# Of the zones, "package-N" has "core" and "uncore" in it, and "psys" has the packages in it.
_PACKAGE, _MEMORY = "package", "dram"
# Drivers of GPUs that are no NVIDIA ones: the joules of an Intel card, the watts of an AMD one.
_GPU_DRIVERS = frozenset({"amdgpu", "i915", "xe"})
# Only a GPU inside a processor measures the voltage of the north bridge (the kernel's documentation
# of amdgpu, "hwmon interfaces"); RAPL has it in the package.
_IN_PROCESSOR = "vddnb"
# How often a counter moves. RAPL's: Intel's Software Developer's Manual, 15.10. Of NVIDIA's GPUs
# most are updated every 20 to 100 ms (Yang et al., "Part-time Power Measurements", 2023).
_RAPL_S, _GPU_S = 0.001, 0.1
_SAMPLED_EVERY_S = 0.05
# A test of five steps of the counter is off by up to 20 %, one of twenty by up to 5 %.
_LEAST_STEPS, _WANTED_STEPS = 5, 20
# A counter that nobody has looked at for so long may have wrapped around twice: the smallest goes
# up to 65 kJ (32 bits of 15.3 uJ), which 1000 W take in a minute.
_MOST_WATTS = 1000.0

CHMOD = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What of this machine counts its joules, and what does not show them."""

    of: tuple[str, ...] = ()  # "CPU package 0", "memory of package 0", "GPU 0".
    hidden: tuple[str, ...] = ()  # Files that hold a counter, and may not be read.
    resolution_s: float = 0.0  # How often the slowest counter moves.

    @property
    def least_s(self) -> float:
        """A test must take so long for its joules to be told."""
        return _LEAST_STEPS * self.resolution_s

    @property
    def wanted_s(self) -> float:
        """So long it should take, where configurations are compared by their joules."""
        return _WANTED_STEPS * self.resolution_s

    @property
    def is_whole(self) -> bool:
        """Everything that counts can be read, and there is something."""
        return bool(self.of) and not self.hidden

    @property
    def of_cpu(self) -> bool:
        """The processors' joules are among them."""
        return any(name.startswith("CPU") for name in self.of)

    @property
    def gap(self) -> str:
        """What is missing, in words; "" if nothing is."""
        if self.hidden:
            return f"only root may read {self.hidden[0]} (since CVE-2020-8694)"
        return "" if self.of else "neither RAPL nor a GPU shows a counter of joules here"

    @property
    def remedy(self) -> str:
        """What to do about the gap."""
        if self.hidden:
            return f"run it as root, or until the next boot: {CHMOD}"
        return (
            "measure on the machine itself: a virtual machine or a container seldom shows "
            "/sys/class/powercap; on old kernels, modprobe intel_rapl_msr"
        )


class _Source(Protocol):
    name: str
    resolution_s: float

    def read(self) -> float | None:
        """Joules since some time in the past; None where that cannot be told."""
        ...


class _Counter:
    """A file of microjoules that wraps around."""

    def __init__(self, root: Root, name: str, path: str, *, range_path: str, step_s: float) -> None:
        self.name = name
        self.resolution_s = step_s
        self._root = root
        self._path = path
        self._range_uj = root.read_int(range_path)
        self._last: int | None = None
        self._last_at = 0.0
        self._total_uj = 0

    def read(self) -> float | None:
        now, at = self._root.read_int(self._path), time.monotonic()
        last, self._last = self._last, now
        last_at, self._last_at = self._last_at, at
        if now is None:
            return None
        if last is not None:
            rise = now - last
            if rise < 0:
                rise += self._range_uj or 0
            unseen_s = at - last_at
            if rise < 0 or (self._range_uj and unseen_s * _MOST_WATTS * 1e6 > self._range_uj):
                return None  # From here on it is known again.
            self._total_uj += rise
        return self._total_uj / 1e6


class _Told:
    """A GPU that counts by itself."""

    resolution_s = _GPU_S

    def __init__(self, name: str, joules: Callable[[], float | None]) -> None:
        self.name = name
        self.read = joules


class _Sampled:
    """A GPU that tells watts only: a thread adds them up from the first reading on."""

    resolution_s = _GPU_S

    def __init__(self, name: str, watts: Callable[[], float | None]) -> None:
        self.name = name
        self._watts = watts
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None  # When, and watts.
        self._joules = 0.0
        self._thread: threading.Thread | None = None

    def read(self) -> float | None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._sample, name="watts", daemon=True)
            self._thread.start()
        return self._add()

    def _sample(self) -> None:
        while True:
            time.sleep(_SAMPLED_EVERY_S)
            self._add()

    def _add(self) -> float | None:
        with self._lock:
            watts, at = self._watts(), time.monotonic()
            last, self._last = self._last, None if watts is None else (at, watts)
            if watts is None:
                return None
            if last is not None:
                self._joules += (at - last[0]) * (watts + last[1]) / 2
            return self._joules


class Meter:
    """Adds up what everything that counts has used, on this machine or a recorded one.

    It may be read by several threads. A reading of a package takes some ten microseconds.

    Args:
        root: where the files are.
        gpus: NVIDIA's, as they were opened.
    """

    def __init__(self, root: Root | None = None, gpus: Sequence[WatchedGpu] = ()) -> None:
        self._root = root = root or Root()
        self._lock = threading.Lock()
        self._packages = dict[str, _Counter]()  # By their zone.
        found = [*self._zones(), *_of_gpus(gpus), *_of_sensors(root)]
        readable = [source.read() is not None for _, source in found]
        self._sources = [
            source for (_, source), is_told in zip(found, readable, strict=True) if is_told
        ]
        self.metered = Metered(
            of=tuple(source.name for source in self._sources),
            hidden=tuple(
                f"/{path}"
                for (path, _), is_told in zip(found, readable, strict=True)
                if not is_told
            ),
            resolution_s=max((source.resolution_s for source in self._sources), default=0.0),
        )

    def _zones(self) -> list[tuple[str, _Source]]:
        found: list[tuple[str, _Source]] = []
        for zone in filter(_ZONE.fullmatch, self._root.names(_POWERCAP)):
            kind = (self._root.read_text(f"{_POWERCAP}/{zone}/name") or "").strip()
            of_package = zone.removeprefix("intel-rapl:").partition(":")[0]
            path = f"{_POWERCAP}/{zone}/energy_uj"
            if not kind.startswith((_PACKAGE, _MEMORY)) or not self._root.exists(path):
                continue
            is_package = kind.startswith(_PACKAGE)
            name = f"CPU package {of_package}" if is_package else f"memory of package {of_package}"
            counter = _Counter(
                self._root,
                name,
                path,
                range_path=f"{_POWERCAP}/{zone}/max_energy_range_uj",
                step_s=_RAPL_S,
            )
            if is_package:
                self._packages[zone] = counter
            found.append((path, counter))
        return found

    def read(self) -> float | None:
        """Joules of everything together, since it was made; None where one does not answer."""
        if not self._sources:
            return None
        with self._lock:
            told = [source.read() for source in self._sources]
        known = [joules for joules in told if joules is not None]
        return sum(known) if len(known) == len(told) else None

    def read_packages(self) -> dict[str, float]:
        """The joules of each package, and the watts that it may take for long, where known."""
        state = dict[str, float]()
        for number, (zone, counter) in enumerate(self._packages.items()):
            with self._lock:
                joules = counter.read() if counter in self._sources else None
            limit_uw = self._root.read_int(f"{_POWERCAP}/{zone}/constraint_0_power_limit_uw")
            is_on = self._root.read_int(f"{_POWERCAP}/{zone}/enabled") != 0
            if joules is not None and limit_uw and is_on:
                state[f"package{number}_energy_j"] = joules
                state[f"package{number}_limit_w"] = limit_uw / 1e6
        return state


def _of_gpus(gpus: Sequence[WatchedGpu]) -> list[tuple[str, _Source]]:
    """Each that counts, or at least tells its watts."""
    found: list[tuple[str, _Source]] = []
    for number, gpu in enumerate(gpus):
        name = f"GPU {number}"
        if gpu.joules() is not None:  # Since Volta.
            found.append(("", _Told(name, gpu.joules)))
        elif gpu.watts() is not None:
            found.append(("", _Sampled(name, gpu.watts)))
    return found


def _of_sensors(root: Root) -> list[tuple[str, _Source]]:
    """Cards that are no NVIDIA ones, by the sensors of their driver."""
    found: list[tuple[str, _Source]] = []
    for chip in (f"{_SENSORS}/{name}" for name in root.names(_SENSORS)):
        driver = (root.read_text(f"{chip}/name") or "").strip()
        inside = (root.read_text(f"{chip}/in1_label") or "").strip() == _IN_PROCESSOR
        if driver not in _GPU_DRIVERS or inside:
            continue
        name = f"GPU of {driver}, {chip.rpartition('/')[2]}"
        if root.exists(f"{chip}/energy1_input"):
            path = f"{chip}/energy1_input"
            found.append((path, _Counter(root, name, path, range_path="", step_s=_GPU_S)))
            continue
        for path in (f"{chip}/power1_average", f"{chip}/power1_input"):
            if root.read_int(path) is not None:
                found.append((path, _Sampled(name, _watts_in(root, path))))
                break
    return found


def _watts_in(root: Root, path: str) -> Callable[[], float | None]:
    def watts() -> float | None:
        microwatts = root.read_int(path)
        return None if microwatts is None else microwatts / 1e6

    return watts


def metered(root: Root | None = None) -> Metered:
    """Find out what counts joules here."""
    root = root or Root()
    return Meter(root, open_gpus(root)).metered
