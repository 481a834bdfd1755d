"""The only file that prints: the answer on stdout, everything else on stderr."""

import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from autotune.errors import SurroundingsError, printable


def answer(value: Mapping[str, object]) -> None:
    """Print the answer as JSON."""
    text(json.dumps(value, indent=2))


def text(lines: str) -> None:
    """Print the answer as text.

    Raises:
        BrokenPipeError: the reader is gone, which is no error of ours.
        SurroundingsError: the disk that it is written to is full, or the like.
    """
    try:
        print(lines, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise SurroundingsError(
            f"the answer could not be written: {error.strerror}",
            hint="make room there, or send it elsewhere",
        ) from error


def command(argv: Sequence[str]) -> None:
    """Print a command as a shell reads it back: to the byte, whatever a file's name holds."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    text(shlex.join(argv))


def quoted(argv: Sequence[str]) -> str:
    """A command as one would type it."""
    return shlex.join(argv)


def warning(what: str) -> None:
    """Say what may be wrong, and go on."""
    _say(f"lcm: warning: {printable(what)}")


def note(what: str) -> None:
    """Say what is being done, beside the answer."""
    _say(f"lcm: {printable(what)}")


def lines(text_: str) -> None:
    """Say several lines beside the answer, a table for example."""
    for line in text_.splitlines():
        _say(printable(line))


def error(message: str, hint: str, details: Sequence[str] = ()) -> None:
    """Say what went wrong, and the next step."""
    _say(f"lcm: error: {printable(message)}")
    for detail in details:
        _say(f"  - {printable(detail)}")
    if hint:
        _say(f"hint: {printable(hint)}")


def _say(line: str) -> None:
    if sys.stderr is not None:  # Closed; print would take stdout instead.
        print(line, file=sys.stderr)


def table(rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Rows in columns; `alignment` has < or > for each: to the left or to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:{side}{width}}"
            for cell, side, width in zip(row, alignment, widths, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def discard_stdout() -> None:
    """Let the interpreter exit quietly when stdout takes nothing any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def size(n_bytes: float) -> str:
    """Bytes in the unit that reads best, of 1024."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def shown(value: object) -> str:
    """A parameter's value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
