"""The mount table of this process, from `/proc/self/mountinfo`."""

from typing import NamedTuple

from autotune.hardware.root import Root

# The kernel writes these four characters of a path as octal: mangle() in fs/proc_namespace.c.
_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
_FIELDS_BEFORE_OPTIONAL = 6
_FIELDS_AFTER_SEPARATOR = 3


class Mount(NamedTuple):
    """One line of the mount table."""

    device: str  # "8:1": the block device's major and minor number; "0:x" where there is none.
    top: str  # The folder of the file system that is mounted; "/" for the whole of it.
    point: str
    filesystem: str
    source: str
    options: tuple[str, ...]  # Of the file system; cgroup v1 names its controllers here.


def read_mounts(root: Root) -> list[Mount]:
    """Read the mount table in order: of two mounts at one point, the later hides the earlier."""
    lines = (root.read_text("proc/self/mountinfo") or "").splitlines()
    return [mount for mount in map(_parse, lines) if mount is not None]


def _parse(line: str) -> Mount | None:
    # 36 35 98:0 /top /point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue
    fixed, _, rest = line.partition(" - ")
    before, after = fixed.split(" "), rest.split(" ")
    if len(before) < _FIELDS_BEFORE_OPTIONAL or len(after) < _FIELDS_AFTER_SEPARATOR:
        return None
    return Mount(
        device=before[2],
        top=_unescape(before[3]),
        point=_unescape(before[4]),
        filesystem=after[0],
        source=_unescape(after[1]),
        options=tuple(after[2].split(",")),
    )


def _unescape(path: str) -> str:
    if "\\" in path:
        for escape, character in _ESCAPES.items():
            path = path.replace(escape, character)
    return path
