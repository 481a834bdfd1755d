"""Host memory from `/proc/meminfo`, under the limits of the control groups."""

from autotune.hardware.cgroup import Cgroups, MemoryBound
from autotune.hardware.machine import Memory
from autotune.hardware.root import Root, to_int

_KIB = 1024
_CAP_IPC_LOCK = 14  # include/uapi/linux/capability.h

# User 0 of the first user namespace is user 0 of the machine, and so is everyone else.
_EVERY_USER_HERE = ["0", "0", "4294967295"]


def read_memory(root: Root, cgroups: Cgroups, notes: list[str]) -> Memory:
    """Read what there is, what is free, and what may be locked."""
    meminfo = _read_meminfo(root)
    if not meminfo.get("MemTotal"):
        notes.append("/proc/meminfo could not be read; no memory is assumed to be there.")
    bounds = cgroups.memory_bounds()
    return Memory(
        total_bytes=meminfo.get("MemTotal", 0),
        available_bytes=_available(meminfo, bounds, notes),
        limit_bytes=min((bound.limit_bytes for bound in bounds), default=None),
        swap_total_bytes=meminfo.get("SwapTotal", 0),
        swap_free_bytes=meminfo.get("SwapFree", 0),
        memlock_bytes=_read_memlock(root, notes),
    )


def _read_meminfo(root: Root) -> dict[str, int]:
    fields = root.read_fields("proc/meminfo").items()
    values = {name: to_int(text.removesuffix(" kB")) for name, text in fields}
    return {name: value * _KIB for name, value in values.items() if value is not None}


def _available(meminfo: dict[str, int], bounds: list[MemoryBound], notes: list[str]) -> int:
    free = meminfo.get("MemAvailable")
    if free is None:
        free = sum(meminfo.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
        if free:
            notes.append(
                "/proc/meminfo has no MemAvailable; free memory, buffers and cache stand in for it."
            )
    left = (bound.limit_bytes - bound.used_bytes for bound in bounds)
    return max(min((free, *left)), 0)


def _read_memlock(root: Root, notes: list[str]) -> int | None:
    if _may_lock_everything(root):
        return None
    # Max locked memory         8388608              8388608              bytes
    _, _, row = (root.read_text("proc/self/limits") or "").partition("Max locked memory")
    soft, *_ = row.split(maxsplit=1) or [""]
    limit = to_int(soft)
    if limit is None and soft != "unlimited":
        notes.append("/proc/self/limits has no locked memory; none is assumed to be lockable.")
        return 0
    return limit


def _may_lock_everything(root: Root) -> bool:
    """Tell whether CAP_IPC_LOCK lifts the limit, which only the first user namespace can grant."""
    capabilities = root.read_fields("proc/self/status").get("CapEff", "")
    try:
        capable = bool(int(capabilities, base=16) >> _CAP_IPC_LOCK & 1)
    except ValueError:
        return False
    return capable and (root.read_text("proc/self/uid_map") or "").split() == _EVERY_USER_HERE
