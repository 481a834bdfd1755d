"""Processors, memory and disks where there is no `/proc`: macOS, Windows and the BSDs, by psutil.

None of them has control groups, so what a process may use is what the machine has.
"""

import os
import platform
import sys

import psutil  # type: ignore[import-untyped]

from autotune.hardware.machine import Cpu, Memory, Storage
from autotune.hardware.storage import is_under
from autotune.hardware.sysctl import Sysctl

# macOS's name of each instruction set that ggml-cpu has kernels for, and the name it has here.
_ISA_BY_SYSCTL = {
    "hw.optional.sse3": "sse3",
    "hw.optional.supplementalsse3": "ssse3",
    "hw.optional.avx1_0": "avx",
    "hw.optional.f16c": "f16c",
    "hw.optional.fma": "fma",
    "hw.optional.bmi2": "bmi2",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16_va",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
}
_NETWORK_FILESYSTEMS = frozenset({"afpfs", "nfs", "smbfs", "webdav"})


def read_cpu(sysctl: Sysctl | None, notes: list[str]) -> Cpu:
    """Read the processors; `sysctl` where the system is macOS."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    performance = (sysctl and sysctl.read_int("hw.perflevel0.physicalcpu")) or physical
    usable = _read_affinity() or tuple(range(logical))
    if sysctl is None:
        notes.append(
            f"{platform.system()} does not tell instruction sets, sockets and kinds of core; "
            "one socket with equal cores is assumed."
        )
    return Cpu(
        name=(sysctl and sysctl.read_text("machdep.cpu.brand_string")) or platform.processor(),
        architecture=platform.machine(),
        isa=_read_isa(sysctl) if sysctl else (),
        sockets=(sysctl and sysctl.read_int("hw.packages")) or 1,
        numa_nodes=1,
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=performance,
        smt=logical > physical,
        usable_cpus=usable,
        usable_cores=min(physical, len(usable)),
        usable_performance_cores=min(performance, len(usable)),
        quota=None,
    )


def _read_affinity() -> tuple[int, ...]:
    # macOS has no affinity, and psutil there no such method.
    if sys.platform == "darwin":
        return ()
    return tuple(psutil.Process().cpu_affinity() or ())


def _read_isa(sysctl: Sysctl) -> tuple[str, ...]:
    return tuple(isa for name, isa in _ISA_BY_SYSCTL.items() if sysctl.read_int(name))


def read_memory() -> Memory:
    """Read what there is and what is free."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(
        total_bytes=memory.total,
        available_bytes=memory.available,
        limit_bytes=None,
        swap_total_bytes=swap.total,
        swap_free_bytes=swap.free,
        memlock_bytes=_read_memlock(),
    )


def _read_memlock() -> int | None:
    if sys.platform == "win32":
        return None  # Bounded by the working set, which llama.cpp raises before it locks.
    import resource  # noqa: PLC0415 - Windows has no such module.

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def read_storage(path: str) -> Storage:
    """Tell what an absolute path lies on; whether its disk spins is not known here."""
    parts = psutil.disk_partitions(all=True)
    over = [part for part in parts if is_under(path, part.mountpoint, os.sep)]
    if not over:
        return Storage(filesystem="", device="", rotational=None, network=False)
    part = max(over, key=lambda candidate: len(candidate.mountpoint))
    remote = "remote" in part.opts.split(",")  # How Windows marks a network drive.
    network = remote or part.fstype in _NETWORK_FILESYSTEMS
    return Storage(filesystem=part.fstype, device=part.device, rotational=None, network=network)
