"""What holds of everything that comes out, whatever went in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from autotune import json_text
from autotune.errors import AutotuneError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is written where nobody gave a path of their own; no message quotes more of a file.
_LONGEST_MESSAGE = 100_000


def check_error(error: AutotuneError) -> None:
    """A named error is one line with a next step, and not a book."""
    assert error.hint
    assert len(error.message) < _LONGEST_MESSAGE
    check_text(printable(error.message), *map(printable, error.details), printable(error.hint))


def check_text(*texts: str) -> None:
    """No character commands a terminal, or turns text around."""
    for text in texts:
        assert text.isprintable(), text


def check_lines(text: str) -> None:
    """The same of text in lines."""
    check_text(*text.split("\n"))


def check_json(value: Mapping[str, object]) -> None:
    """It is JSON that a strict reader takes: UTF-8, without NaN and without half a character."""
    text = json_text.dumps(value)
    json.loads(text, parse_constant=_refused)
    check_whole(json.loads(text))


def check_whole(value: object) -> None:
    """No text in it has half a character."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode()
            check_whole(inner)
    elif isinstance(value, list):
        for inner in value:
            check_whole(inner)


def _refused(word: str) -> None:
    raise AssertionError(word)
