"""The processors, and how much of them this process may use."""

import os

from autotune.hardware.cgroup import Cgroups
from autotune.hardware.machine import Cpu
from autotune.hardware.root import Root, to_cpus
from autotune.hardware.topology import (
    count_numa_nodes,
    count_sockets,
    cpuinfo_fields,
    performance_cores,
    read_cores,
    read_online,
)

# /proc/cpuinfo describes every CPU in about 1.5 KB; the first one has the name and the flags, and
# on a machine with 256 CPUs the rest would cost milliseconds.
_ONE_CPU_BYTES = 8192
# The kernel's name of each instruction set that ggml-cpu has kernels for (ggml_cpu_has_* in
# ggml-cpu.h, and the scores in arch/*/cpu-feats.cpp), and the name it has here.
_ISA_BY_FLAG = {
    "pni": "sse3",
    "ssse3": "ssse3",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "bmi2": "bmi2",
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512vbmi": "avx512_vbmi",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16_va",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}


def read_cpu(root: Root, cgroups: Cgroups, notes: list[str]) -> Cpu:
    """Read the topology and what affinity, cpusets and quotas leave of it."""
    first = cpuinfo_fields(root.read_text("proc/cpuinfo", most_bytes=_ONE_CPU_BYTES) or "")
    online = read_online(root, notes)
    cores = read_cores(root, online, notes)
    fast = performance_cores(root, cores)
    usable = _read_usable(root, cgroups, online, notes)
    mine = set(usable)
    usable_cores = [core for core in cores if not mine.isdisjoint(core.cpus)]
    return Cpu(
        name=_name(root, first),
        architecture=_read_architecture(root),
        isa=_isa(first.get("flags") or first.get("Features") or ""),
        sockets=count_sockets(cores),
        numa_nodes=count_numa_nodes(root),
        physical_cores=len(cores),
        logical_cores=len(online),
        performance_cores=len(fast),
        smt=any(len(core.cpus) > 1 for core in cores),
        usable_cpus=usable,
        usable_cores=len(usable_cores),
        usable_performance_cores=len(set(usable_cores).intersection(fast)),
        quota=cgroups.cpu_quota(),
    )


def _read_usable(
    root: Root, cgroups: Cgroups, online: tuple[int, ...], notes: list[str]
) -> tuple[int, ...]:
    # The kernel has already taken affinity and cpusets together here. It lists CPUs that could be
    # plugged in, too, so what is online bounds it.
    allowed = to_cpus(root.read_fields("proc/self/status").get("Cpus_allowed_list", ""))
    if not allowed:
        notes.append(
            "/proc/self/status has no Cpus_allowed_list; "
            "every CPU of the cpuset is assumed to be usable."
        )
        allowed = cgroups.cpus() or online
    return tuple(sorted(set(allowed).intersection(online))) or online


def _name(root: Root, fields: dict[str, str]) -> str:
    # ARM has no "model name"; its boards carry their name in the device tree, ended by a NUL.
    board = root.read_text("proc/device-tree/model") or ""
    return fields.get("model name") or fields.get("Hardware") or board.strip("\0\n ")


def _read_architecture(root: Root) -> str:
    # Since Linux 6.1.
    if written := root.read_text("proc/sys/kernel/arch"):
        return written.strip()
    return os.uname().machine if root.is_real else ""


def _isa(flags: str) -> tuple[str, ...]:
    present = set(flags.split())
    return tuple(dict.fromkeys(isa for flag, isa in _ISA_BY_FLAG.items() if flag in present))
