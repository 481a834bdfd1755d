"""What a command has said, to the byte."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Said(NamedTuple):
    code: int
    out: bytes
    err: bytes


class Lcm(Protocol):
    def __call__(self, *arguments: str) -> Said: ...
