"""Breaks texts: bytes, words and numbers, of one file or between two; the same ones for a seed."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORDS: tuple[bytes, ...] = (
    *(b"null", b"true", b"NaN", b"Infinity", b"-1", b"0", b"1e400", b"1e-400", b"9" * 400, b"0.5"),
    *(b'""', b"[]", b"{}", b"[[[]]]", b'"\\u0000ff"', b'"\\ud800"', b'"\x1b[2J"', b'"=1+1"'),
    *(b'"--rpc"', b'"../../x"', b'"<script>"', b'"$x$"', b"\xff\xfe", b"\n", b"\r", b"\x00"),
    *(b"18446744073709551616", b"2147483648", b"-9223372036854775809", b"1.7976931348623157e308"),
)
# A number, a word in quotes, or what holds others together.
_TOKEN = re.compile(rb'-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|"[^"\n]{0,60}"|true|false|null|[\[\]{},:]')


def mutated(originals: Sequence[bytes], number: int, seed: int) -> list[bytes]:
    """Break one of the originals in one to three ways, so many times."""
    chance = random.Random(seed)  # noqa: S311 - broken files, not secrets
    return [broken(chance, originals) for _ in range(number)]


def broken(chance: random.Random, originals: Sequence[bytes]) -> bytes:
    """Break one of the originals once."""
    data = bytearray(chance.choice(originals))
    keep = data[:1]  # What it is read as.
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice((_token, _token, _token, _flip, _cut, _double, _splice))(
            chance, data, originals
        )
    return bytes(keep + data[1:])


def _token(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    found = [match.span() for match in _TOKEN.finditer(data)]
    if found:
        start, end = chance.choice(found)
        data[start:end] = chance.choice(_WORDS)


def _flip(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _cut(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 4, 30, 300, len(data)))]


def _double(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start, at = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    data[at:at] = data[start : start + chance.choice((1, 10, 100))] * chance.choice((1, 2, 50))


def _splice(chance: random.Random, data: bytearray, originals: Sequence[bytes]) -> None:
    other = chance.choice(originals)
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]
