"""What the kernel of macOS says about the machine, by name."""

import ctypes
from typing import Protocol

_WIDEST_INT_BYTES = 8


class Sysctl(Protocol):
    """Named values; None where there is no such name."""

    def read_int(self, name: str) -> int | None:
        """Read a whole number."""

    def read_text(self, name: str) -> str | None:
        """Read a string."""


class SystemSysctl:
    """The values of this machine, through `sysctlbyname(3)`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)

    def read_int(self, name: str) -> int | None:
        """Read a whole number of any width."""
        value = self._read(name)
        return None if value is None else int.from_bytes(value[:_WIDEST_INT_BYTES], "little")

    def read_text(self, name: str) -> str | None:
        """Read a string."""
        value = self._read(name)
        return None if value is None else value.rstrip(b"\0").decode(errors="replace")

    def _read(self, name: str) -> bytes | None:
        size = ctypes.c_size_t(0)
        known = self._call(name, None, size)
        value = ctypes.create_string_buffer(size.value)
        return value.raw[: size.value] if known and self._call(name, value, size) else None

    def _call(
        self, name: str, value: ctypes.Array[ctypes.c_char] | None, size: ctypes.c_size_t
    ) -> bool:
        status = self._libc.sysctlbyname(
            name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)
        )
        return bool(status == 0)
