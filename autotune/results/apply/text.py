"""Quoting for each format, and a refusal of what the format cannot hold."""

import os

from autotune.errors import ConfigError

# What systemd, Docker and a shell all read as it stands, at every place of a value.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:=+@%^-")
_SHELL_SPECIAL = frozenset('"\\`$')  # Inside of double quotes, in POSIX shells and in systemd.


def holding(text: str, target: str, *, forbidden: str = "") -> str:
    """The same text, which a format holds.

    Args:
        text: a value; of a path, for example.
        target: the format's name, for the message.
        forbidden: characters that it cannot hold, beside those that end a line or are no text.

    Raises:
        ConfigError: it does not; the message says at what.
    """
    for letter in text:
        # Python reads a byte that is no UTF-8 as a lone surrogate.
        if letter in forbidden or ord(letter) < ord(" ") or "\x7f" <= letter < "\xa0":
            raise _cannot(text, target, f"the character {letter!r}")
        if "\ud800" <= letter <= "\udfff":
            raise _cannot(text, target, "bytes that are not UTF-8")
    return text


def _cannot(text: str, target: str, what: str) -> ConfigError:
    return ConfigError(
        f"{target} cannot say {text!r}: its format has no place for {what}",
        hint="give the file another name, or take --for sh, which can say any",
    )


def variable(text: str) -> str:
    """A value in a file of variables, for systemd and shells; plain where all readers agree."""
    if text and set(text) <= _PLAIN:
        return text
    escaped = "".join(f"\\{letter}" if letter in _SHELL_SPECIAL else letter for letter in text)
    return f'"{escaped}"'


def unit_word(text: str, *, program: bool = False) -> str:
    """A word of systemd's ExecStart.

    Args:
        text: the word; any bytes, as Python decodes them.
        program: it is the first one, in which $ stands for itself.
    """
    specifiers = text.replace("%", "%%")
    letters = specifiers if program else specifiers.replace("$", "$$")
    if letters and all(letter.isalnum() or letter in "_./,:=+@%^-$" for letter in letters):
        return letters
    return f'"{"".join(map(_unit_letter, letters))}"'


def _unit_letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
