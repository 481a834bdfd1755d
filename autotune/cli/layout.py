"""Text in columns of a terminal, where a character takes none, one or two of them."""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from autotune.errors import printable

_GAP = "  "
# A column narrower than this is no longer read, however narrow the terminal.
_LEAST = 8
# Of a cell; a model's name can be as long as its author likes.
_MOST_LINES = 3


def in_columns(rows: Sequence[Sequence[str]], alignment: str, width: int) -> str:
    """Align cells; those to the left are parted where the whole would be wider than `width`."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = _narrowed([max(map(columns, c)) for c in zip(*cells, strict=True)], alignment, width)
    lines = [line for row in cells for line in _parted(row, widths, alignment)]
    return "\n".join(_GAP.join(map(_aligned, line, alignment, widths)).rstrip() for line in lines)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns_of, text))


def wrapped(text: str, width: int) -> list[str]:
    """Part a text between its words, and inside one that is wider than a line."""
    lines, line = [], ""
    for word in _pieces(text, width):
        if line and columns(line) + columns(word.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
    return [*lines, line.rstrip()]


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:  # An accent on the character before it.
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _narrowed(widths: list[int], alignment: str, width: int) -> list[int]:
    """Let the widest of those to the left give way until the whole fits, or none can."""
    widths = list(widths)
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        to_the_left = [i for i, side in enumerate(alignment) if side == "<" and widths[i] > _LEAST]
        if not to_the_left:
            break
        widths[max(to_the_left, key=lambda i: (widths[i], -i))] -= 1
    return widths


def _parted(row: Sequence[str], widths: Sequence[int], alignment: str) -> Iterator[Sequence[str]]:
    """The lines of a row."""
    parts = [
        _few(wrapped(cell, width), width) if side == "<" else [cell]
        for cell, side, width in zip(row, alignment, widths, strict=True)
    ]
    yield from zip_longest(*parts, fillvalue="")


def _few(lines: list[str], width: int) -> list[str]:
    """Where there are too many, the last one that is shown says so."""
    if len(lines) <= _MOST_LINES:
        return lines
    last = lines[_MOST_LINES - 1]
    while columns(last) > width - 3:
        last = last[:-1]
    return [*lines[: _MOST_LINES - 1], f"{last}..."]


def _pieces(text: str, width: int) -> Iterator[str]:
    """Words, each with a space behind it; what is wider than a line in pieces that are not."""
    for word in text.split(" "):
        piece = ""
        for character in word:
            if columns(piece + character) > width:
                yield piece
                piece = ""
            piece += character
        yield piece + " "


def _aligned(text: str, side: str, width: int) -> str:
    room = " " * (width - columns(text))
    return text + room if side == "<" else room + text
