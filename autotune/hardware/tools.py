"""A vendor's tool, run where nothing else tells: it may hang, or talk without end."""

import contextlib
import os
import selectors
import signal
import subprocess
import time

from autotune.hardware.root import Root

# Such a tool is written in Python and takes half a second; where a driver hangs, it never ends.
TIMEOUT_S = 5.0
MOST_BYTES = 1 << 20
_CHUNK_BYTES = 65536
# Whoever waits for a driver inside the kernel dies only once that has answered.
_DYING_S = 1.0


def ask(root: Root, program: str, *arguments: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Run a program of this machine, or of the recorded one, and give what it prints to stdout.

    Args:
        root: whose program it is.
        program: its path under the root.
        arguments: what to ask it.
        timeout_s: how long to wait.

    Returns:
        None where it is not there, fails, takes too long or prints more than any such tool.
    """
    path = root.path_of(program)
    if timeout_s <= 0 or not os.access(path, os.X_OK):
        return None
    try:
        process = subprocess.Popen(  # noqa: S603 - a fixed path, without a shell
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    text = _read(process, time.monotonic() + timeout_s)
    if text is None or not _has_ended(process, timeout_s):
        _stop(process)
        return None
    return text if process.returncode == 0 else None


def _read(process: subprocess.Popen[bytes], deadline: float) -> str | None:
    """Read to the end of the output, unless that does not come in time or within reason."""
    pipe, chunks, size = process.stdout, list[bytes](), 0
    if pipe is None:
        return None
    with pipe, selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        while size <= MOST_BYTES and waiting.select(max(deadline - time.monotonic(), 0)):
            chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
            if not chunk:
                return b"".join(chunks).decode(errors="replace")
            chunks.append(chunk)
            size += len(chunk)
    return None


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
    return process.returncode is not None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it has started, which is a process group; in vain, it is left behind."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    if not _has_ended(process, _DYING_S):
        process.returncode = -signal.SIGKILL  # As it will be: Python would warn of what still runs.
