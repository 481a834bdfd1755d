"""What is seen of tuning: a view on a terminal, lines elsewhere, JSON for programs; on stderr.

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
from rich.constrain import Constrain
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from autotune.cli import console, eta, json_progress
from autotune.cli.console import Voice
from autotune.cli.progress import Progress
from autotune.tuning import events

Tell: TypeAlias = Callable[[events.Event], None]

_LEAST_S = 0.25  # Between two drawings.
_LABEL_COLUMNS, _BAR_COLUMNS, _RULE_COLUMNS = 11, 20, 40
_ERASE_LINE = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
_STYLES = {"best": "green", "verifying": "bold", "waiting": "yellow", "failures": "yellow"}


@contextmanager
def watch(progress: Progress, *, stderr_is_terminal: bool) -> Iterator[Tell]:
    """Give what takes the events of a session and shows them, until it is left."""
    if console.voice() is Voice.PROGRAMS:
        yield lambda event: _tell_programs(event, progress)
    elif console.voice() is Voice.NOBODY:
        yield lambda _: None
    elif stderr_is_terminal and os.environ.get("TERM", "") not in {"dumb", "unknown"}:
        with _View(progress, Console(stderr=True)) as view:
            yield view.tell
    else:
        yield lambda event: _note(progress.take(event))


def _note(line: str | None) -> None:
    if line:
        console.note(line)


def _tell_programs(event: events.Event, progress: Progress) -> None:
    progress.take(event)
    told = json_progress.told(event, progress)
    if told:
        console.event(*told)


def drawn(progress: Progress) -> Group:
    """The state of a session; what is too long for the terminal is cut off."""
    rows: list[RenderableType] = [Constrain(Rule(style="dim"), _RULE_COLUMNS)]
    for label, text in progress.rows():
        start = Text(f"{label:<{_LABEL_COLUMNS}}", style="dim")
        if label == "progress":
            rows.append(_with_bar(start, text, eta.share(progress.course) or 0.0))
        else:
            said = Text(text, style=_STYLES.get(label, ""))
            rows.append(Text.assemble(start, said, no_wrap=True, overflow="ellipsis"))
    return Group(*rows)


def _with_bar(start: Text, text: str, done: float) -> RenderableType:
    row = Table.grid()
    row.add_column(width=_LABEL_COLUMNS, no_wrap=True)
    row.add_column(width=_BAR_COLUMNS, no_wrap=True)
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(start, ProgressBar(total=1, completed=done, width=_BAR_COLUMNS), f"  {text}")
    return row


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
        self._drawn, self._columns = Group(), terminal.width

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
        with self._live.console as terminal:  # All in one write.
            if terminal.width < self._columns:
                terminal.control(Control(*self._n_parted() * _ERASE_LINE))
            if above:
                console.note(above)  # rich takes what goes to stderr, and puts it above the view.
            self._drawn, self._columns = drawn(self._progress), terminal.width
            self._live.update(self._drawn, refresh=True)

    def _n_parted(self) -> int:
        """Lines that a narrower terminal has made of the view's, and rich does not know of."""
        terminal = self._live.console
        as_before = terminal.options.update(width=self._columns)
        lines = terminal.render_lines(self._drawn, as_before, pad=False)
        return sum((Segment.get_line_length(line) - 1) // terminal.width for line in lines)


def _is_routine(event: events.Event) -> bool:
    """The view says it, and the next one takes its place."""
    return isinstance(event, events.Measured) and event.reading.failure is None
