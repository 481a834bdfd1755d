"""Files that anybody may have written: read up to a limit, and only if they are files.

To open a named pipe waits for somebody to write into it, a device may never end, and a file may be
larger than memory.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_MIB, _KIB = 1 << 20, 1 << 10


def read(path: Path, most_bytes: int) -> bytes:
    """Everything in a file of at most `most_bytes`.

    Raises:
        FileNotFoundError: there is none, or none can have such a name.
        OSError: it cannot be read, is no regular file, or is larger; `strerror` says it.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise too_large(path, most_bytes)
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:  # It grew, or says nothing of its size.
        raise too_large(path, most_bytes)
    return content


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read, without waiting for anybody.

    Raises:
        OSError: as `read` does.
    """
    try:
        _check(path, os.stat(path).st_mode)  # noqa: PTH116 - a device may act on being opened
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except ValueError:  # A zero byte, or half of a character.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    file = open(number, "rb")  # noqa: PTH123, SIM115 - the caller closes it
    try:
        _check(path, os.fstat(number).st_mode)
    except OSError:
        file.close()
        raise
    return file


def is_own(path: Path) -> bool:
    """Nothing is there yet, or a regular file that is no link to another place."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def too_large(path: Path, most_bytes: int) -> OSError:
    """What `read` raises, for whoever reads a file in parts."""
    limit = f"{most_bytes // _MIB} MiB" if most_bytes >= _MIB else f"{most_bytes // _KIB} KiB"
    return OSError(errno.EFBIG, f"it is larger than {limit}", str(path))
