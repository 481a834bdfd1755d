r"""Commands as people type them into a shell, whatever a file's name in them holds.

Nothing here runs one: what is started gets an argument list, and no shell is ever asked.
"""

import os
import shlex
from collections.abc import Sequence

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:=+@^")


def quoted(argv: Sequence[str]) -> str:
    r"""The command on one line without a control character, which a shell reads to the byte.

    A word that cannot be shown becomes `"$(printf 'a\033b')"`, which every POSIX shell reads. It
    takes away newlines at the end, so a word that ends so is written as `$'a\012'`: POSIX has that
    since 2024, bash and zsh always had.
    """
    return " ".join(map(_word, argv))


def operand(path: str) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        chr(byte) if byte in _PLAIN else f"\\{byte:03o}"
        for byte in os.fsencode(word.encode(errors="surrogateescape"))
    )
    return f"$'{escaped}'" if word.endswith("\n") else f"\"$(printf '{escaped}')\""
