"""One child process, from which no output is lost and of which nothing is left behind.

It has a process group of its own, so that it is stopped with all of its children; its stdin is
closed; a thread drains both of its pipes from the first byte on, because a full pipe would block
the program, and be measured. On Linux the kernel kills it when this process dies.
"""

import contextlib
import ctypes
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from autotune.llama_cpp import environment

# Longer than any line that llama.cpp prints; a program that prints more without an end is broken.
MAX_LINE_BYTES = 1 << 20

# How long each signal may take to end the group before the next one is sent, in seconds.
STOP_LADDER = ((signal.SIGINT, 2.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0))

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line that the child printed, and when it arrived (time.monotonic)."""

    stream: Stream
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class Exit:
    """The child has ended and all that it printed has been handed out."""

    code: int  # Negative: the signal that ended it.


class Child:
    """A running program. Use it as a context manager: leaving it stops the whole group."""

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.started_at = time.time()
        self._queue: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment.clean(os.environ if environ is None else environ),
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - it calls one system call, no Python lock
        )
        self._reader = threading.Thread(target=self._drain, name="llama.cpp's output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def next_event(self, timeout: float) -> Line | Exit | None:
        """The next line, the end, or None when `timeout` seconds have passed without either."""
        try:
            line = self._queue.get(timeout=max(timeout, 0))
        except queue.Empty:
            return None
        if line is not None:
            return line
        self._queue.put(None)  # Whoever asks again gets the same answer.
        return Exit(self._process.wait())

    def stop(self) -> int:
        """End the whole group, politely at first, and give the exit code."""
        for signal_number, patience in STOP_LADDER:
            if self._process.poll() is not None:
                break
            self._signal_group(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=patience)
        self._signal_group(signal.SIGKILL)  # Children that outlived it; it cannot be caught.
        self._reader.join(timeout=STOP_LADDER[-1][1])
        return self._process.wait()

    def cpu_seconds(self) -> float | None:
        """CPU time that the program has used so far; None where that cannot be read."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _signal_group(self, signal_number: signal.Signals) -> None:
        # The group is there as long as any member is; its number is not given to another before.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal_number)

    def _drain(self) -> None:
        """Read both pipes until both are closed, and hand out what arrived line by line."""
        names: dict[int, Stream] = {}
        rest: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        with selectors.DefaultSelector() as selector:
            for stream, name in (
                (self._process.stdout, "stdout"),
                (self._process.stderr, "stderr"),
            ):
                assert stream is not None  # noqa: S101 - both are pipes
                selector.register(stream, selectors.EVENT_READ)
                names[stream.fileno()] = "stdout" if name == "stdout" else "stderr"
            while selector.get_map():
                for key, _ in selector.select():
                    name_ = names[key.fd]
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fileobj)
                        self._hand_out(name_, rest[name_])
                        continue
                    *lines, rest[name_] = (rest[name_] + chunk).split(b"\n")
                    for line in lines:
                        self._hand_out(name_, line)
                    if len(rest[name_]) > MAX_LINE_BYTES:
                        self._hand_out(name_, rest[name_])
                        rest[name_] = b""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._queue.put(None)

    def _hand_out(self, stream: Stream, line: bytes) -> None:
        if line:
            text = line.rstrip(b"\r").decode(errors="replace")
            self._queue.put(Line(stream, text, time.monotonic()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A short command's end."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False


def run(command: Sequence[str], *, timeout: float) -> Finished:
    """Run a short command to its end, or stop it after `timeout` seconds.

    Raises:
        OSError: it cannot be started.
    """
    lines: dict[Stream, list[str]] = {"stdout": [], "stderr": []}
    deadline = time.monotonic() + timeout
    with Child(command) as child:
        for event in _events_until(child, deadline):
            if isinstance(event, Exit):
                return Finished(
                    code=event.code,
                    stdout="\n".join(lines["stdout"]),
                    stderr="\n".join(lines["stderr"]),
                )
            lines[event.stream].append(event.text)
        code = child.stop()
    return Finished(
        code=code,
        stdout="\n".join(lines["stdout"]),
        stderr="\n".join(lines["stderr"]),
        timed_out=True,
    )


def _events_until(child: Child, deadline: float) -> Iterator[Line | Exit]:
    while (left := deadline - time.monotonic()) > 0:
        event = child.next_event(left)
        if event is None:
            return
        yield event
        if isinstance(event, Exit):
            return


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes the program: ask the kernel to kill it with its parent.

    The kernel counts the *thread* that started the child as its parent, so only a thread that lives
    as long as the measurement may start one.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died in between.
            os._exit(1)

    return ask
