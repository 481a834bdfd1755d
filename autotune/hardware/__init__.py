"""What this machine is, and how much of it this process may use.

`detect_hardware()` never raises for what it cannot read: it assumes the safe side and says so in
`Hardware.notes`. On Linux everything is read from files under a root, so a recorded machine is a
folder; elsewhere psutil and sysctl answer.
"""

import os
import sys

from autotune.hardware import amd, drm, intel, nvidia
from autotune.hardware.cgroup import Cgroups
from autotune.hardware.cpu import read_cpu
from autotune.hardware.machine import Cpu, Gpu, Hardware, Memory, Node, Storage
from autotune.hardware.memory import read_memory
from autotune.hardware.nodes import read_nodes
from autotune.hardware.root import Root
from autotune.hardware.storage import read_storage

__all__ = [
    "Cpu",
    "Gpu",
    "Hardware",
    "Memory",
    "Node",
    "Root",
    "Storage",
    "detect_hardware",
    "gpu_is_reachable",
    "storage_of",
]


def detect_hardware(root: Root | None = None) -> Hardware:
    """Describe this machine, or the recorded one that `root` holds."""
    root = root or Root()
    return _detect_linux(root) if _speaks_linux(root) else _detect_elsewhere(root)


def gpu_is_reachable(root: Root | None = None) -> bool:
    """Some GPU can be used by a program here, as far as the system tells without being asked."""
    root = root or Root()
    # Elsewhere there is nothing to look at, and hardly a machine without one.
    return drm.is_reachable(root) if _speaks_linux(root) else True


def storage_of(path: str | os.PathLike[str], root: Root | None = None) -> Storage:
    """Tell what a path lies on; in a recorded machine it is an absolute path without links."""
    root = root or Root()
    # A model is often a link into a cache on another disk.
    place = os.path.realpath(path) if root.is_real else os.fspath(path)
    if _speaks_linux(root):
        return read_storage(place, root)
    from autotune.hardware import portable  # noqa: PLC0415 - loads psutil, 19 ms.

    return portable.read_storage(place)


def _speaks_linux(root: Root) -> bool:
    return not root.is_real or sys.platform == "linux"


def _detect_linux(root: Root) -> Hardware:
    notes: list[str] = []
    cgroups = Cgroups(root)
    memory, cpu = read_memory(root, cgroups, notes), read_cpu(root, cgroups, notes)
    kernel = root.read_text("proc/sys/kernel/osrelease") or ""
    intels = intel.read_gpus(root, memory)
    # Many a graphics core is slower than its processor, so an Intel one is used where an installed
    # llama.cpp drives it, and not for being there.
    cards = [gpu for gpu in intels if gpu.total_bytes and not gpu.integrated]
    return Hardware(
        operating_system="Linux",
        wsl="microsoft" in kernel.lower(),
        cpu=cpu,
        memory=memory,
        nodes=read_nodes(root, cpu),
        gpus=(
            *nvidia.read_gpus(root, memory, os.environ, notes),
            *amd.read_gpus(root, memory),
            *cards,
        ),
        idle_gpus=tuple(gpu for gpu in intels if gpu not in cards),
        notes=tuple(notes),
    )


def _detect_elsewhere(root: Root) -> Hardware:
    # psutil and ctypes take 19 ms to load, which Linux does without.
    import platform  # noqa: PLC0415

    from autotune.hardware import metal, portable, sysctl  # noqa: PLC0415

    notes: list[str] = []
    memory = portable.read_memory()
    mac = sysctl.SystemSysctl() if sys.platform == "darwin" else None
    gpus = metal.read_gpus(mac, memory, notes) if mac else []
    return Hardware(
        operating_system=platform.system(),
        wsl=False,
        cpu=portable.read_cpu(mac, notes),
        memory=memory,
        gpus=(*gpus, *nvidia.read_gpus(root, memory, os.environ, notes)),
        notes=tuple(notes),
    )
