"""Processes from outside, by Linux' /proc: whose they are, what they hold, and when they ran."""

import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

_PROC = Path("/proc")


def lcm() -> list[str]:
    """Find the installed command of this environment, which is what a user starts."""
    found = shutil.which("lcm", path=sysconfig.get_path("scripts"))
    if found is None:
        raise SystemExit("lcm is not installed here: `nox -s bench` does that.")
    return [found]


def descendants(pid: int) -> Iterator[int]:
    """The living processes that a process has started, and those that they have."""
    with suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def name_of(pid: int) -> str:
    """What a process runs; "" once it has ended."""
    with suppress(OSError):
        stat = (_PROC / str(pid) / "stat").read_text()
        name, _, rest = stat.partition("(")[2].rpartition(")")
        return "" if rest.split()[0] == "Z" else name
    return ""


def benches_of(pid: int) -> list[int]:
    """The llama-bench processes below a process."""
    return [child for child in descendants(pid) if name_of(child) == "llama-bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds at a moment."""

    at: float  # Seconds since the epoch.
    rss_mb: float
    fds: int
    threads: int
    children: int


def held_by(pid: int) -> Held | None:
    """Look at a process; None once it has ended."""
    folder = _PROC / str(pid)
    try:
        lines = (folder / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        return Held(
            at=time.time(),
            rss_mb=int(status["VmRSS"].split()[0]) / 1024,
            fds=len(list((folder / "fd").iterdir())),
            threads=int(status["Threads"]),
            children=len(list(descendants(pid))),
        )
    except (OSError, KeyError):
        return None


class Presence:
    """When a kind of process ran below another: looked for every 10 ms, by a thread of its own.

    It knows nothing of what the watched program writes down, and costs it nothing.

    Args:
        pid: of the one that starts them.
        running: gives those that run.
    """

    EVERY_S = 0.01

    def __init__(self, pid: int, running: Callable[[int], Sequence[int]] = benches_of) -> None:
        self._pid = pid
        self._running = running
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.spans: list[tuple[float, float]] = []  # From the first to the last that was seen.
        self._thread.start()

    def stop(self) -> None:
        """The watched one has ended."""
        self._ended.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """In which at least one ran."""
        return sum(end - start for start, end in self.spans)

    def _watch(self) -> None:
        since: float | None = None
        while not self._ended.wait(self.EVERY_S):
            now = time.monotonic()
            runs = bool(self._running(self._pid))
            if runs and since is None:
                since = now
            elif not runs and since is not None:
                self.spans.append((since, now))
                since = None
        if since is not None:
            self.spans.append((since, time.monotonic()))
