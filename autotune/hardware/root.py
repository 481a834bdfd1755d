"""The one door to the file system: everything Linux says about a machine is a file under a root."""

import os
from collections.abc import Iterator

_CHUNK_BYTES = 65536
# No kernel configuration has more: NR_CPUS_RANGE_END in arch/x86/Kconfig with MAXSMP is 8192.
_MOST_CPUS = 8192


class Root:
    """A folder that stands for `/`: the real one, or one that holds a recorded machine.

    Paths are given without the leading slash. What is missing, unreadable or garbled is None, so
    that a caller decides what to assume; no method raises.
    """

    # Plain strings and file descriptors: a machine with 256 CPUs has a thousand files to read, and
    # pathlib with text files takes three times as long for each.

    def __init__(self, folder: str | os.PathLike[str] = "/") -> None:
        self._prefix = os.fspath(folder).rstrip("/") + "/"

    @property
    def is_real(self) -> bool:
        """The files describe the machine this process runs on."""
        return self._prefix == "/"

    def path_of(self, path: str) -> str:
        """Say where a file really lies."""
        return self._prefix + path

    def read_text(self, path: str, *, most_bytes: int | None = None) -> str | None:
        """Read a file, or its first `most_bytes` or a little more."""
        try:
            descriptor = os.open(self._prefix + path, os.O_RDONLY)
        except (OSError, ValueError):  # A name out of another file may hold a zero byte.
            return None
        try:
            return b"".join(_chunks(descriptor, most_bytes)).decode(errors="replace")
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def read_int(self, path: str) -> int | None:
        """Read a file that holds one whole number."""
        text = self.read_text(path)
        return None if text is None else to_int(text)

    def read_cpus(self, path: str) -> tuple[int, ...] | None:
        """Read a file that holds a list of CPUs, such as `0-3,8-11`."""
        text = self.read_text(path)
        return None if text is None else to_cpus(text)

    def read_fields(self, path: str) -> dict[str, str]:
        """Read a file of `name: value` or `name value` lines; empty where it cannot be read."""
        pairs = (line.split(maxsplit=1) for line in (self.read_text(path) or "").splitlines())
        return {pair[0].rstrip(":"): pair[1] for pair in pairs if len(pair) > 1}

    def names(self, folder: str) -> list[str]:
        """List what a folder holds, in order; empty where it cannot be read."""
        try:
            return sorted(os.listdir(self._prefix + folder))  # noqa: PTH208 - see the class.
        except (OSError, ValueError):
            return []

    def link_target(self, path: str) -> str | None:
        """Return what a symbolic link points to, as it is written."""
        try:
            return os.readlink(self._prefix + path)  # noqa: PTH115 - see the class.
        except (OSError, ValueError):
            return None

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or folder."""
        return "\0" not in path and os.access(self._prefix + path, os.F_OK)


def _chunks(descriptor: int, most_bytes: int | None) -> Iterator[bytes]:
    size = 0
    while most_bytes is None or size < most_bytes:
        chunk = os.read(descriptor, _CHUNK_BYTES if most_bytes is None else most_bytes - size)
        if not chunk:
            return
        size += len(chunk)
        yield chunk


def to_int(text: str) -> int | None:
    """Parse a whole number; None for anything else."""
    try:
        return int(text)
    except ValueError:
        return None


def to_cpus(text: str) -> tuple[int, ...] | None:
    """Parse the kernel's list of CPUs (`0-3,8-11`) in order; None where it is garbled."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        low, high = to_int(first), to_int(last if dash else first)
        if low is None or high is None or not 0 <= low <= high < _MOST_CPUS:
            return None
        cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))
