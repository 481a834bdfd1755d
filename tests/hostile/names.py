"""Names that a file or a folder may have, and what must hold of whatever is printed of them."""

from __future__ import annotations

import json
import os
import re
import subprocess

from fuzz.invariants import check_whole

# By what each is nasty for. No byte but a slash and a NUL is forbidden in a name.
NAMES = {
    "spaces": b" my own  model ",
    "quotes": b"it's \"quoted\" \\' \\",
    "newlines": b"new\nline\r\n[Service]\nExecStart=id",
    "dash": b"-rf",
    "flag": b"--help",
    "no UTF-8": b"\xff\xfe\x80 \xc3(",
    "substitution": b"$(touch pwned)`touch pwned`${HOME}$0",
    "commands": b"a;touch pwned&touch pwned|touch pwned>pwned",
    "url": b"%41%s%n?mode=memory&cache=shared#frag",
    "escapes": b"\x1b[2J\x1b]0;title\x07\x1b[31m\x9b31m",
    "turned": "\u202emoc.gnp\u202c \u200b\u00a0".encode(),
    "html": b"<script>alert(1)<!-- &amp; {{7*7}} {% x %}",
    "formula": b"=cmd|' C'!A0",
    "dots": b"..",
    "braces": b"*?[a-z]{a,b}~".replace(b",", b"."),  # llama-bench reads a comma as a path's end.
    "long": b"n" * 200,
}
# Two of a kind in one name: as hostile as one name can be.
WORST = b"-\x1b[2J\xff'\"$(touch pwned)\n;`id` %s?#<script>"


def named(name: bytes, ending: str = "") -> str:
    """Give it as Python has it; one that is a folder's own becomes the beginning of another."""
    return os.fsdecode((name if name != b".." else b"..x") + ending.encode())


def no_control_characters(text: bytes) -> bool:
    """Nothing but the ends of lines, and all of it UTF-8."""
    return all(letter.isprintable() or letter == "\n" for letter in text.decode())


def strict_json(text: bytes) -> object:
    """Read JSON as a program of another language does: UTF-8, no NaN, no half a character."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    value = json.loads(text.decode("utf-8", "strict"), parse_constant=refuse)
    check_whole(value)
    return value


def restored(text: str) -> bytes:
    r"""Undo what docs/json.md says of a byte that is no UTF-8: a NUL and two digits."""
    return b"".join(
        bytes.fromhex(part[1:]) if part.startswith("\0") else part.encode()
        for part in re.findall("\0[0-9a-f]{2}|[^\0]+", text)
    )


def words_in_sh(command: bytes, shell: str = "sh") -> list[bytes]:
    """Let a real shell read a command, and give the words that a program gets from it."""
    script = b"set -- " + command + b"\nprintf '%s\\0' \"$@\""
    done = subprocess.run(
        [shell], input=script, capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.stderr == b""
    return done.stdout.split(b"\0")[:-1]
