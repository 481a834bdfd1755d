"""What is written in a folder, as it is written (Linux's inotify)."""

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/inotify.h: modified, moved here, created, deleted.
_EVENTS = 0x2 | 0x80 | 0x100 | 0x200
_HEAD = struct.Struct("iIII")  # Which folder, what, a number for renames, bytes of the name.


class Writes:
    """The writes in one folder, in their order."""

    def __init__(self, number: int) -> None:
        self._number = number

    def wait(self, seconds: float) -> list[str]:
        """The names of the files that were written to since the last call; waits for the first."""
        deadline = time.monotonic() + seconds
        if not select.select([self._number], [], [], max(deadline - time.monotonic(), 0))[0]:
            return []
        return list(_names(os.read(self._number, 1 << 16)))


def _names(events: bytes) -> Iterator[str]:
    while events:
        *_, length = _HEAD.unpack_from(events)
        yield events[_HEAD.size : _HEAD.size + length].rstrip(b"\0").decode()
        events = events[_HEAD.size + length :]


@contextmanager
def writes_in(folder: Path) -> Iterator[Writes]:
    """Watch a folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if number < 0 or libc.inotify_add_watch(number, os.fsencode(folder), _EVENTS) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(folder))
        yield Writes(number)
    finally:
        os.close(number)
