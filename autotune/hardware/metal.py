"""The GPU of a Mac with Apple silicon: how much of the host's memory Metal lets it use."""

from autotune.hardware.listed import ASSUMED
from autotune.hardware.machine import Gpu, Memory
from autotune.hardware.sysctl import Sysctl

_MIB = 1 << 20
_GIB = 1 << 30
# What llama.cpp logs as recommendedMaxWorkingSetSize: 21845 MiB of 32 GiB (ollama issue 434),
# 49152 MiB of 64 GiB (llama.cpp issue 1870). Recent macOS gives large machines more, 107.5 of
# 128 GiB, so this errs on the safe side.
_SMALL_MACHINE_BYTES = 36 * _GIB
_SHARE_OF_SMALL = (2, 3)
_SHARE_OF_LARGE = (3, 4)


def read_gpus(sysctl: Sysctl, memory: Memory, notes: list[str]) -> list[Gpu]:
    """Describe the one GPU; none on a Mac with an Intel processor."""
    if not sysctl.read_int("hw.optional.arm64"):
        return []
    total = _working_set_bytes(sysctl, memory.total_bytes, notes)
    return [
        Gpu(
            backend="Metal",
            index=0,
            name=sysctl.read_text("machdep.cpu.brand_string") or "Apple GPU",
            total_bytes=total,
            free_bytes=min(total, memory.available_bytes),
            integrated=True,
            driver="",
            compute_capability="",
            sources=("sysctl",),
        )
    ]


def _working_set_bytes(sysctl: Sysctl, memory_bytes: int, notes: list[str]) -> int:
    # Set by whoever wants more for the GPU; 0 leaves it to macOS.
    if wired_mib := sysctl.read_int("iogpu.wired_limit_mb"):
        return wired_mib * _MIB
    small = memory_bytes <= _SMALL_MACHINE_BYTES
    part, whole = _SHARE_OF_SMALL if small else _SHARE_OF_LARGE
    notes.append(
        f"{ASSUMED} to be {part}/{whole} of the memory, as macOS sets it by default; "
        "an installed llama.cpp tells the exact one."
    )
    return memory_bytes * part // whole
