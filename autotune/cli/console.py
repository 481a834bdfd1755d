"""The only file that prints: the answer on stdout, everything else on stderr."""

import json
import os
import sys
from collections.abc import Mapping, Sequence


def answer(value: Mapping[str, object]) -> None:
    """Print the answer as JSON."""
    text(json.dumps(value, indent=2))


def text(lines: str) -> None:
    """Print the answer as text."""
    print(lines)


def warning(what: str) -> None:
    """Say what may be wrong, and go on."""
    print(f"lcm: warning: {printable(what)}", file=sys.stderr)


def error(message: str, hint: str) -> None:
    """Say what went wrong, and the next step."""
    print(f"lcm: error: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)


def printable(what: str) -> str:
    """Without characters that would command a terminal: a file's name and metadata can hold any."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in what
    )


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


def silence_broken_pipe() -> None:
    """Let the interpreter exit quietly when the reader of stdout is gone."""
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
