"""A command as it can be typed and shown, whatever a file's name holds."""

import os
import shlex
from collections.abc import Sequence

_PLAIN = range(0x20, 0x7F)


def typed(argv: Sequence[str]) -> str:
    r"""The command on one line; what cannot be shown is written as $'\x1b', as bash and zsh do."""
    return " ".join(map(_word, argv))


def _word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        chr(byte) if byte in _PLAIN and chr(byte) not in "\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return "$'" + "".join(escaped) + "'"
