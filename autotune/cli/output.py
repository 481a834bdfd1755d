"""A file that a command was asked to write: whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.cli import console
from autotune.errors import SurroundingsError
from autotune.results.profile import Content, in_parts, write_whole


def write_file(file: Path, content: Content) -> None:
    """Write what `-o FILE` asks for; what was there before is replaced, with its permissions.

    Raises:
        SurroundingsError: it cannot be written.
    """
    with _named(file):
        _write(file.resolve(), content)  # A link stays, and what it leads to is replaced.
    console.note(f"written to {file}")


def replaced(file: Path, content: Content) -> None:
    """Write a file that nobody has named: where a link of its name is, that is replaced.

    Raises:
        SurroundingsError: it cannot be written.
    """
    with _named(file):
        write_whole(file, content)
    console.note(f"written to {file}")


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SurroundingsError(
            f"{file} cannot be written: {error.strerror}",
            hint="make room there, or name another file with -o",
        ) from error


def _write(path: Path, content: Content) -> None:
    if path.exists() and not path.is_file():  # A pipe or a terminal: there is nothing to replace.
        with path.open("wb") as file:
            file.writelines(in_parts(content))
    else:
        write_whole(path, content)
