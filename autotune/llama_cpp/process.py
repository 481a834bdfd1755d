"""One child process, from which no output is lost and of which nothing is left behind.

It has a process group of its own, so that it is stopped with all of its children, and its stdin is
closed. A thread owns it: that starts it, drains both of its pipes from the first byte on, because a
full pipe would block the program, and be measured, and takes its exit code. Ctrl-C is raised in the
main thread only, so it can never come between the start of a program and the note that it runs.
"""

import atexit
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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp import environment

# Longer than any line that llama.cpp prints; a program that prints more without an end is broken.
MAX_LINE_BYTES = 1 << 20
# Output that nobody has read yet: beyond it, a program that floods its pipes has to wait.
MAX_WAITING_BYTES = 1 << 24
# More than any help text. What prints on is no program of llama.cpp.
MAX_ANSWER_BYTES = 1 << 22

# How long each signal may take to end the group before the next one is sent, in seconds.
STOP_LADDER = ((signal.SIGINT, 2.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0))

# An end that no closed pipe tells of is seen this much later: something else holds the pipes open.
_POLL_S = 0.25
# Where nothing is printed for so long, the meter is read all the same: of a counter that nobody has
# looked at for a minute, nobody knows whether it has wrapped around twice (`hardware.energy`).
_METERED_EVERY_S = 10.0
# How long what has left the group may hold the pipes open after the program's end.
_LAST_WORDS_S = 1.0
_LINE_OVERHEAD_BYTES = 200  # A `Line` beside its text.

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line that the child printed, and when it arrived (time.monotonic)."""

    stream: Stream
    text: str
    at: float
    whole: bool = True  # False: the output broke off in it, or it was too long to keep.
    joules: float | None = None  # What the meter said then.


@dataclass(frozen=True, slots=True)
class Exit:
    """The child has ended and all that it printed has been handed out."""

    code: int  # Negative: the signal that ended it.


class NotStarted(LlamaCppUnusable):
    """The program cannot be executed."""

    def __init__(self, command: Sequence[str], why: str | None) -> None:
        super().__init__(
            f"{command[0]} cannot be executed: {why}",
            hint="is it built for this system and processor?",
        )


class Child:
    """A program that runs as long as this context manager is open.

    Entering starts it and raises `NotStarted` where it cannot; leaving stops the whole group.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        meter: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.command = tuple(command)
        self.started_at = 0.0
        self.in_hand: Line | Exit | None = None  # The event that was given last.
        self.n_read = 0  # Bytes of output, also of lines that are too long to be given.
        self._environ = environment.clean(os.environ if environ is None else environ)
        self._meter = meter
        self._process: subprocess.Popen[bytes] | None = None
        self._error: NotStarted | None = None
        self._unwanted = False
        self._reaped = False
        self._signalling = threading.Lock()  # Between a signal and the end of its target's number.
        self._begun, self._ended = threading.Event(), threading.Event()
        self._events: deque[Line | Exit] = deque()
        self._arrivals: queue.SimpleQueue[None] = queue.SimpleQueue()  # At least one for each.
        self._bytes_put = self._bytes_got = 0  # Each is written by one thread only.
        self._owner = threading.Thread(target=self._own, name="llama.cpp's output", daemon=True)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> Self:
        _open.add(self)
        try:
            self._owner.start()
            self._begun.wait()
        except BaseException:
            self.__exit__()
            raise
        if self._error:
            _open.discard(self)
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            _open.discard(self)

    def next_event(self, timeout: float) -> Line | Exit | None:
        """The next line, the end, or None when `timeout` seconds have passed without either."""
        # An interrupt may come wherever something was called. So an event stays in the queue until
        # the next is asked for, and between these three lines nothing is called.
        done, self.in_hand = self.in_hand, None
        if done and self._events[0] is done and not isinstance(done, Exit):
            self._events.popleft()
            self._bytes_got += _size(done)
        deadline = time.monotonic() + timeout
        while not self._events:
            left = min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
            try:
                self._arrivals.get(timeout=left)
            except queue.Empty:
                return None
        self.in_hand = self._events[0]
        return self.in_hand

    def stop(self) -> None:
        """End the whole group, politely at first; what it has printed can still be read."""
        self._unwanted = True
        try:
            for signal_number, patience in STOP_LADDER:
                if self._owner.ident is None or self._ended.is_set():
                    break
                self._signal_group(signal_number)
                self._signal_group(signal.SIGCONT)  # A stopped program takes no other but SIGKILL.
                self._ended.wait(patience)
        finally:  # At once, where an impatient user presses Ctrl-C a second time.
            self._signal_group(signal.SIGKILL)
        if self._owner.ident is not None:
            self._owner.join(timeout=STOP_LADDER[-1][1])

    def cpu_seconds(self) -> float | None:
        """CPU time that the program has used so far; None where that cannot be read."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
                fields = stat.read().rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])
        except (OSError, IndexError, ValueError):
            return None
        return ticks / os.sysconf("SC_CLK_TCK")

    def _signal_group(self, signal_number: signal.Signals) -> None:
        with self._signalling:
            # Until it is reaped, its number cannot be given to a stranger.
            if self._process and not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal_number)

    def _own(self) -> None:
        """The thread: start, drain, reap."""
        try:
            process = self._started()
        finally:
            self._begun.set()
        if process is None:
            self._ended.set()
            self._give(Exit(-signal.SIGTERM))
            return
        code = -signal.SIGKILL
        try:
            self._drain(process)
            code = self._reap(process)
        finally:
            self._ended.set()
            self._give(Exit(code))

    def _started(self) -> subprocess.Popen[bytes] | None:
        with self._signalling:
            if self._unwanted:
                return None
            self.started_at = time.time()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=self._environ,
                    start_new_session=True,
                    preexec_fn=_before_it_starts(),  # noqa: PLW1509 - system calls, no Python lock
                )
            except OSError as error:
                self._error = NotStarted(self.command, error.strerror)
            except (ValueError, subprocess.SubprocessError) as error:
                self._error = NotStarted(self.command, str(error))
            return self._process

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Read both pipes until both are closed, or the program's end has closed what it could."""
        assert process.stdout  # noqa: S101 - both are pipes
        assert process.stderr  # noqa: S101
        splitters = {
            process.stdout.fileno(): _Splitter("stdout"),
            process.stderr.fileno(): _Splitter("stderr"),
        }
        with (
            process.stdout,
            process.stderr,
            selectors.DefaultSelector() as selector,
        ):
            for number in splitters:
                selector.register(number, selectors.EVENT_READ)
            deadline, metered_at = float("inf"), time.monotonic()
            while selector.get_map() and time.monotonic() < deadline:
                if time.monotonic() - metered_at > _METERED_EVERY_S:
                    metered_at = time.monotonic()
                    self._meter()
                for key, _ in selector.select(_POLL_S):
                    chunk = os.read(key.fd, 1 << 16)
                    self.n_read += len(chunk)
                    # Here, where nothing else is done: who reads the lines may be busy with others.
                    self._hand_out(splitters[key.fd].feed(chunk, self._meter()))
                    if not chunk:
                        selector.unregister(key.fd)
                if deadline == float("inf") and _has_ended(process):
                    # Children of its own hold the pipes open, or all that is left is in them.
                    self._signal_group(signal.SIGKILL)
                    deadline = time.monotonic() + _LAST_WORDS_S
            for splitter in splitters.values():
                self._hand_out(splitter.feed(b""))

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the program, end what it leaves behind, and only then give up its number."""
        if sys.platform == "linux":
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
        self._signal_group(signal.SIGKILL)
        with self._signalling:
            code = process.wait()
            self._reaped = True
        return code

    def _hand_out(self, lines: Iterator[Line]) -> None:
        for line in lines:
            while self._is_flooded() and not self._unwanted:
                time.sleep(0.05)
            if self._is_flooded():  # It is being stopped; nobody will read all of this.
                continue
            self._bytes_put += _size(line)
            self._give(line)

    def _give(self, event: Line | Exit) -> None:
        self._events.append(event)
        self._arrivals.put(None)

    def _is_flooded(self) -> bool:
        return self._bytes_put - self._bytes_got > MAX_WAITING_BYTES


class _Splitter:
    """Cuts what arrives in pieces into lines."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = bytearray()
        self._skips = False  # The rest of a line that was too long.

    def feed(self, chunk: bytes, joules: float | None = None) -> Iterator[Line]:
        """The lines that are complete by now; an empty chunk is the end."""
        *lines, rest = chunk.split(b"\n")
        for end in lines:
            line = bytes(self._rest + end)
            self._rest.clear()
            if line and not self._skips:
                yield self._line(line, joules)
            self._skips = False
        self._rest += rest  # In place: a long line may come in very small pieces.
        if self._rest and (not chunk or len(self._rest) > MAX_LINE_BYTES):
            if not self._skips:
                yield self._line(bytes(self._rest), joules, whole=False)
            self._skips = True
            self._rest.clear()

    def _line(self, line: bytes, joules: float | None, *, whole: bool = True) -> Line:
        text = line.rstrip(b"\r").decode(errors="replace")
        return Line(self._stream, text, time.monotonic(), whole, joules)


def lines_of(stream: Stream, chunks: Iterable[bytes]) -> list[Line]:
    """The lines in what arrives in pieces; an empty piece is the end."""
    splitter = _Splitter(stream)
    return [line for chunk in chunks for line in splitter.feed(chunk)]


def _size(line: Line) -> int:
    return len(line.text) + _LINE_OVERHEAD_BYTES


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """It has ended; on Linux its number is still its own, because it is not reaped by this."""
    if sys.platform != "linux":
        return process.poll() is not None
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # Someone ignores SIGCHLD: the kernel reaps.
        return True
    return ended is not None


_open: set[Child] = set()


@atexit.register
def _stop_all() -> None:
    """For runs that an exception has left open, where no kernel kills them with their parent."""
    for child in list(_open):
        child.stop()


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
        NotStarted: it cannot be executed.
    """
    lines: dict[Stream, list[str]] = {"stdout": [], "stderr": []}
    deadline, left, timed_out = time.monotonic() + timeout, MAX_ANSWER_BYTES, False
    with Child(command) as child:
        while not isinstance(event := child.next_event(_A_MOMENT_S), Exit):
            over = time.monotonic() > deadline or left < 0 or child.n_read > 2 * MAX_ANSWER_BYTES
            if over and not timed_out:
                timed_out = True
                child.stop()
            if event is not None:
                left -= _size(event)
                if left >= 0:
                    lines[event.stream].append(event.text)
    return Finished(
        code=event.code,
        stdout="\n".join(lines["stdout"]),
        stderr="\n".join(lines["stderr"]),
        timed_out=timed_out,
    )


_A_MOMENT_S = 0.25  # A line that never ends is no event, and is noticed after this.
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _before_it_starts() -> Callable[[], None]:
    """What the child does between fork and exec; no more than system calls, as threads may run."""
    on_linux = sys.platform == "linux"
    prctl = ctypes.CDLL(None).prctl if on_linux else None
    parent = os.getpid()

    def prepare() -> None:
        # Whoever was started in the background of a script ignores SIGINT, and so would it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if prctl is None:
            return
        # The kernel kills it with the thread that started it: with its owner, or this process.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died in between.
            os._exit(1)
        # Where memory runs out, the kernel shall take it and not the user's other programs.
        with contextlib.suppress(OSError):
            file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            os.write(file, b"1000")
            os.close(file)

    return prepare


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("oom_kill "))
    return int(next(counts, "0"))
