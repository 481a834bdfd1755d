"""Every error a user can meet, each with its exit code and its next step.

    AutotuneError
    ├── ConfigError             2   a command, flag or file of settings is wrong
    └── SurroundingsError       3   something this run needs is not there or not usable
        ├── ModelNotFound           no file at the path
        ├── ModelUnreadable         a file that may not or cannot be read, or a directory
        └── GGUFInvalid             the file is empty, not GGUF, truncated or malformed

What the user sees is `lcm: error: <message>` and then `hint: <hint>`.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_BUG = 70  # EX_SOFTWARE in BSD's sysexits.h


class AutotuneError(Exception):
    """An error with a cause the user can act on; never shown with a traceback."""

    exit_code: ClassVar[int]

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(AutotuneError):
    """The command line or a settings file asks for something that cannot be."""

    exit_code = 2


class SurroundingsError(AutotuneError):
    """What the command stands on is missing or unusable."""

    exit_code = 3


class ModelNotFound(SurroundingsError):
    """There is no file at the model's path, or a shard of it is missing."""


class ModelUnreadable(SurroundingsError):
    """The model's path is a directory, is not permitted, or fails while it is read."""


class GGUFInvalid(SurroundingsError):
    """The bytes are not a GGUF that llama.cpp could load."""


def printable(text: str) -> str:
    """One line that commands no terminal: a file's name and metadata can hold any character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
