r"""JSON as every program reads it, written and read: valid UTF-8, no NaN, bounded in every way.

A file's name may be any bytes. Python has those that are no UTF-8 as lone surrogates, which JSON
can write and strict readers refuse. Here such a byte is written as a NUL and its two hexadecimal
digits, `\u0000ff`: no path and no argument can hold a NUL, so it stands for nothing else, is read
back to the byte, and whoever takes it for a path is refused by the system instead of given another
file.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# Deeper than anything that is written here; what is deeper cannot be written again.
MOST_LEVELS = 64
_LONGEST_INTEGER = 300  # Digits; every one that is shorter is a finite float too.
_SHOWN = 20

# One escape after the other, so that a backslash that is one of two begins none.
_ESCAPE = re.compile(r"\\(?:u(d[89ab]..)\\u(d[c-f]..)|u(dc[89a-f].)|u(d[89a-f]..)|.)")
_BYTE = re.compile("\0([89a-f][0-9a-f])")
_REPLACEMENT = r"\ufffd"


def dumps(value: object, *, indent: int | None = None) -> str:
    """Write a value in ASCII; half a character that is no byte of a name becomes U+FFFD.

    Raises:
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, indent=indent, allow_nan=False)
    return _ESCAPE.sub(_valid, text) if r"\ud" in text else text


def _valid(escape: re.Match[str]) -> str:
    _, _, byte, half = escape.groups()
    if byte:
        return rf"\u0000{byte[2:]}"
    return _REPLACEMENT if half else escape[0]


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - whatever stands there
    """Read what `dumps` or anybody has written.

    Raises:
        ValueError: it is no JSON, no UTF-8, has a number that is not finite or has hundreds of
            digits, or is deeper than `MOST_LEVELS`.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _check_depth(value)
    return _with_bytes(value) if r"\u0000" in text else value


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise ValueError(f"the number {digits[:_SHOWN]}... is too large")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:_SHOWN]} is too large")
    return value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_no_number)


def _too_deep() -> ValueError:
    return ValueError(f"it is deeper than {MOST_LEVELS} levels")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise _too_deep()


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [one for one in value.values() if isinstance(one, dict | list)]
    return [one for one in value if isinstance(one, dict | list)] if isinstance(value, list) else []


def _with_bytes(value: object) -> Any:  # noqa: ANN401
    """Put the bytes of names back, as Python has them."""
    if isinstance(value, str):
        return _BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), value)
    if isinstance(value, Mapping):
        return {_with_bytes(key): _with_bytes(one) for key, one in value.items()}
    return [_with_bytes(one) for one in value] if isinstance(value, list) else value
