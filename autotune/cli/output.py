"""A file that a command was asked to write: whole or not at all."""

from pathlib import Path

from autotune.cli import console
from autotune.errors import SurroundingsError
from autotune.results.profile import write_whole


def write_file(file: Path, content: str | bytes) -> None:
    """Write what `-o FILE` asks for; what was there before is replaced, with its permissions.

    Raises:
        SurroundingsError: it cannot be written.
    """
    try:
        _write(file.resolve(), content)  # A link stays, and what it leads to is replaced.
    except OSError as error:
        raise SurroundingsError(
            f"{file} cannot be written: {error.strerror}",
            hint="make room there, or name another file with -o",
        ) from error
    console.note(f"written to {file}")


def _write(path: Path, content: str | bytes) -> None:
    if path.exists() and not path.is_file():  # A pipe or a terminal: there is nothing to replace.
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        write_whole(path, content)
