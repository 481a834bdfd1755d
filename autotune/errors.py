"""Every error a user can meet, each with its exit code and its next step.

    AutotuneError
    ├── ConfigError             2   a command, flag or file of settings is wrong
    ├── SurroundingsError       3   something this run needs is not there or not usable
    │   ├── ModelNotFound           no file at the path
    │   ├── ModelUnreadable         a file that may not or cannot be read, or a directory
    │   ├── GGUFInvalid             the file is empty, not GGUF, truncated or malformed
    │   ├── LlamaCppNotFound        one of llama.cpp's programs is nowhere
    │   └── LlamaCppUnusable        it is there, but does not run, or cannot do what is needed
    ├── CouldNotMeasure         4   llama-bench gave nothing that an answer could rest on
    ├── OtherStudy              5   the study belongs to another machine, model, build or space
    └── Interrupted           130   the user has had enough; what was measured is kept
        └── Terminated        143   the system has

What the user sees is `lcm: error: <message>` and then `hint: <hint>`.
"""

from collections.abc import Sequence
from typing import ClassVar

EXIT_DONE = 0
EXIT_NO = 1  # A clean "no": nothing failed, and the answer is not the hoped-for one.
EXIT_BUG = 70  # EX_SOFTWARE in BSD's sysexits.h


class AutotuneError(Exception):
    """An error with a cause the user can act on; never shown with a traceback."""

    exit_code: ClassVar[int]

    def __init__(self, message: str, *, hint: str, details: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *details]))
        self.message = message
        self.details = tuple(details)  # Each is shown on a line of its own, below the message.
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


class LlamaCppNotFound(SurroundingsError):
    """One of llama.cpp's programs is in none of the places where it is looked for."""


class LlamaCppUnusable(SurroundingsError):
    """A program of llama.cpp does not run here, or cannot do what is needed."""


class CouldNotMeasure(AutotuneError):
    """llama-bench gave no measurement that an answer could rest on."""

    exit_code = 4


class OtherStudy(AutotuneError):
    """What a study has measured is not true of what is here now."""

    exit_code = 5


class Interrupted(AutotuneError):
    """The user has ended it (SIGINT); the hint goes on with it."""

    exit_code = 130  # 128 + SIGINT, as shells count it.


class Terminated(Interrupted):
    """The system has ended it (SIGTERM)."""

    exit_code = 143


def printable(text: str) -> str:
    """One line that commands no terminal: a file's name and metadata can hold any character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
