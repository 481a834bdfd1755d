"""Ctrl-C and SIGTERM while measuring: a wish to come to an end, and then the command to go on."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from autotune.cli import console
from autotune.errors import Interrupted, Terminated

# How long a user who has pressed Ctrl-C waits for what can still be verified.
PATIENCE_S = 10.0


@contextmanager
def interruptible(*hurry: Callable[[float], None]) -> Iterator[list[int]]:
    """The first signal asks for an end, the second makes it; gives those that have come.

    Args:
        hurry: what is asked, with the seconds that are left; safe in a signal handler.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        for asked in hurry:
            asked(PATIENCE_S)
        with contextlib.suppress(RuntimeError):  # It may have come in the middle of a line.
            console.note(
                f"ending within about {PATIENCE_S:.0f} s, with what can still be verified; "
                "again: now"
            )

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            # What remains after an interrupt is to write it down, which another must not prevent.
            signal.signal(number, signal.SIG_IGN if received else handler)


def interrupted(number: int, hint: str) -> Interrupted:
    """What the user is told who has ended a study, with how to go on."""
    kind = Terminated if number == signal.SIGTERM else Interrupted
    return kind("interrupted; everything that was measured is kept", hint=hint)


def resume_hint() -> str:
    """How to go on with the study that this process measures."""
    return f"go on with: {console.quoted(_resuming(sys.argv[1:]))}"


def _resuming(arguments: list[str]) -> list[str]:
    """The command that goes on with what was interrupted."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [word for word in arguments[:end] if word not in ("--fresh", "--resume")]
    return ["lcm", *own, "--resume", *arguments[end:]]
