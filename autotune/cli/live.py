"""The view on a terminal while tuning, and its plain lines elsewhere; all of it on stderr.

The machine is being measured, so nothing ticks: the view is drawn when something is told, at most
four times a second.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from autotune.cli import console
from autotune.cli.progress import Progress
from autotune.tuning import events

Tell: TypeAlias = Callable[[events.Event], None]

_LEAST_S = 0.25  # Between two drawings.
_STYLES = {"best": "green", "verifying": "bold", "waiting": "yellow", "failures": "yellow"}


@contextmanager
def watch(progress: Progress, *, stderr_is_terminal: bool) -> Iterator[Tell]:
    """Give what takes the events of a session and shows them, until it is left."""
    if stderr_is_terminal and os.environ.get("TERM", "") not in {"dumb", "unknown"}:
        with _View(progress, Console(stderr=True)) as view:
            yield view.tell
    else:
        yield lambda event: _note(progress.take(event))


def _note(line: str | None) -> None:
    if line:
        console.note(line)


def drawn(progress: Progress) -> RenderableType:
    """The state of a session; what is too long for the terminal is cut off."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for label, text in progress.rows():
        table.add_row(Text(label), Text(text, style=_STYLES.get(label, "")))
    return Group(Rule(style="dim"), table)


class _View:
    """Draws at once or, where that would be too often, once a little later."""

    def __init__(self, progress: Progress, terminal: Console) -> None:
        self._progress = progress
        # What is printed on stdout is the answer, and no part of the view.
        self._live = Live(
            console=terminal, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._lock = threading.RLock()
        self._later: threading.Timer | None = None
        self._drawn_at = -_LEAST_S

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._later:
                self._later.cancel()
            with suppress(OSError):
                self._live.stop()

    def tell(self, event: events.Event) -> None:
        """Show an event."""
        with self._lock, suppress(OSError):  # A terminal that is gone ends no measurement.
            line = self._progress.take(event)
            if line and not _is_routine(event):
                self._draw(above=line)
                return
            due_s = self._drawn_at + _LEAST_S - time.monotonic()
            if due_s <= 0:
                self._draw()
            elif not self._later:
                self._later = threading.Timer(due_s, self._draw_late)
                self._later.daemon = True
                self._later.start()

    def _draw_late(self) -> None:
        with self._lock, suppress(OSError):
            if self._later:
                self._draw()

    def _draw(self, *, above: str = "") -> None:
        if self._later:
            self._later.cancel()
            self._later = None
        self._drawn_at = time.monotonic()
        with self._live.console:  # Both in one write.
            if above:
                console.note(above)  # rich takes what goes to stderr, and puts it above the view.
            self._live.update(drawn(self._progress), refresh=True)


def _is_routine(event: events.Event) -> bool:
    """The view says it, and the next one takes its place."""
    return isinstance(event, events.Measured) and event.reading.failure is None
