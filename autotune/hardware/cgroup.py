"""What the control groups of this process grant it: v1, v2 and the two side by side.

A limit binds everything below the group that carries it, so each question is asked of the process's
own group and of every group above it that is visible, and the tightest answer counts. A container
with a cgroup namespace sees its own group as the root; what its host set above it stays hidden.
"""

from collections.abc import Iterator
from typing import NamedTuple

from autotune.hardware.mounts import Mount, read_mounts
from autotune.hardware.root import Root, to_int

_UNIFIED = ""  # /proc/self/cgroup names no controllers for v2: "0::/user.slice".
# v1 writes "no limit" as the largest signed long, rounded down to a page: 0x7ffffffffffff000.
_V1_UNLIMITED = 1 << 62


class MemoryBound(NamedTuple):
    """The memory limit of one group, and what is used of it."""

    limit_bytes: int
    used_bytes: int  # Without page cache that the kernel can drop at once.


class _Group(NamedTuple):
    folder: str
    unified: bool


class Cgroups:
    """The groups this process is in, found once from the mount table."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._paths = _read_paths(root)
        self._mounts = _read_cgroup_mounts(root)

    def cpu_quota(self) -> float | None:
        """CPUs' worth of time per period; None where nothing limits it."""
        quotas = (self._quota(group) for group in self._groups("cpu"))
        return min((quota for quota in quotas if quota is not None), default=None)

    def cpus(self) -> tuple[int, ...] | None:
        """CPUs that the nearest cpuset leaves; None where there is no cpuset."""
        for group in self._groups("cpuset"):
            name = "cpuset.cpus.effective" if group.unified else "cpuset.effective_cpus"
            if cpus := self._root.read_cpus(f"{group.folder}/{name}"):
                return cpus
        return None

    def memory_bounds(self) -> list[MemoryBound]:
        """List the limits that apply, nearest group first."""
        bounds = (self._memory_bound(group) for group in self._groups("memory"))
        return [bound for bound in bounds if bound is not None]

    def _groups(self, controller: str) -> Iterator[_Group]:
        for key in (_UNIFIED, controller):
            if key in self._mounts:
                for folder in _folders(self._mounts[key], self._paths.get(key, "/")):
                    yield _Group(folder, unified=key == _UNIFIED)

    def _quota(self, group: _Group) -> float | None:
        if group.unified:
            text = self._root.read_text(f"{group.folder}/cpu.max") or ""
            quota, _, period = text.partition(" ")
        else:
            quota = self._root.read_text(f"{group.folder}/cpu.cfs_quota_us") or ""
            period = self._root.read_text(f"{group.folder}/cpu.cfs_period_us") or ""
        share, whole = to_int(quota), to_int(period)
        # "max" in v2 and -1 in v1 mean no limit.
        return share / whole if share and whole and share > 0 and whole > 0 else None

    def _memory_bound(self, group: _Group) -> MemoryBound | None:
        if group.unified:
            # Above memory.high a process is throttled until it hardly runs, so it is a limit too.
            return self._bound(group, ("memory.max", "memory.high"), "memory.current", "")
        # In v1 the usage includes the groups below, and only the total_ values do so as well.
        return self._bound(group, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")

    def _bound(
        self, group: _Group, limits: tuple[str, ...], usage: str, prefix: str
    ) -> MemoryBound | None:
        values = (self._root.read_int(f"{group.folder}/{name}") for name in limits)
        known = [value for value in values if value is not None and value < _V1_UNLIMITED]
        if not known:
            return None
        used = self._root.read_int(f"{group.folder}/{usage}") or 0
        stat = self._root.read_fields(f"{group.folder}/memory.stat")
        dropped = to_int(stat.get(f"{prefix}inactive_file", "0")) or 0
        return MemoryBound(min(known), max(used - dropped, 0))


def _read_paths(root: Root) -> dict[str, str]:
    paths = {}
    for line in (root.read_text("proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _read_cgroup_mounts(root: Root) -> dict[str, Mount]:
    found: dict[str, Mount] = {}
    for mount in read_mounts(root):
        if mount.filesystem == "cgroup2":
            found.setdefault(_UNIFIED, mount)
        elif mount.filesystem == "cgroup":
            for option in mount.options:
                found.setdefault(option, mount)
    return found or _usual_mounts()


def _usual_mounts() -> dict[str, Mount]:
    top = "/sys/fs/cgroup"
    places = {_UNIFIED: top} | {name: f"{top}/{name}" for name in ("cpu", "cpuset", "memory")}
    return {key: Mount("", "/", place, "", "", ()) for key, place in places.items()}


def _folders(mount: Mount, path: str) -> Iterator[str]:
    """Yield the group's folder and those above it, up to the mount point."""
    point = mount.point.strip("/")
    folder = (point + _below(mount.top, path)).rstrip("/")
    while len(folder) > len(point):
        yield folder
        folder = folder.rpartition("/")[0]
    yield point


def _below(top: str, path: str) -> str:
    """Return the part of `path` under the mounted folder; "" where it lies outside."""
    top = top.rstrip("/")
    inside = path == top or path.startswith(f"{top}/")
    # "/.." is how the kernel writes a group above the root of this cgroup namespace.
    return path[len(top) :] if inside and ".." not in path.split("/") else ""
