"""Small file systems of their own, that can be full and read-only."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def only_root_mounts() -> None:
    """Skip where that is not ours to do; fail where nobody reads the list of what was skipped."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root may mount a file system")


def _call(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@contextmanager
def disk(at: Path, size: str) -> Iterator[Path]:
    """Have a disk of its own at a folder, which is made."""
    only_root_mounts()
    at.mkdir()
    _call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at)
    try:
        yield at
    finally:
        _call("umount", "--lazy", at)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing be opened for writing there; what is open stays so."""
    only_root_mounts()
    with tempfile.TemporaryDirectory() as aside:
        # Made read-only before anybody can open a file in it: the kernel does not take back a file
        # that is being written to. What is mounted from it is as it is.
        _call("mount", "--bind", folder, aside)
        try:
            _call("mount", "-o", "remount,ro,bind", aside)
            _call("mount", "--bind", aside, folder)
        finally:
            _call("umount", "--lazy", aside)
        try:
            yield
        finally:
            _call("umount", "--lazy", folder)


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@contextmanager
def filled(folder: Path, left_bytes: int) -> Iterator[None]:
    """Leave only so many bytes free."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while (more := _free_bytes(folder) - left_bytes) > 0:
                with suppress(OSError):  # Somebody wrote there in between: it is fuller than that.
                    os.posix_fallocate(file.fileno(), 0, more)
                    break
        yield
    finally:
        filler.unlink()
