"""The only file that prints: the answer on stdout, everything else on stderr."""

import contextlib
import io
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum, auto

from autotune import json_text, shell
from autotune.errors import SurroundingsError, printable


class Voice(Enum):
    """Whom stderr speaks to."""

    PEOPLE = auto()
    NOBODY = auto()  # Only what is wrong is said.
    PROGRAMS = auto()  # One JSON object on each line, and nothing else.


class _Stderr:
    """What this process has been asked for."""

    voice = Voice.PEOPLE


@contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """Speak so until it is left."""
    before, _Stderr.voice = _Stderr.voice, voice
    try:
        yield
    finally:
        _Stderr.voice = before


def voice() -> Voice:
    """How it speaks now."""
    return _Stderr.voice


def answer(value: Mapping[str, object]) -> None:
    """Print the answer as JSON."""
    text(json_text.dumps(value, indent=2))


def text(lines: str) -> None:
    """Print the answer as text; a letter that stdout has not is shown by its number.

    Raises:
        BrokenPipeError: the reader is gone, which is no error of ours.
        SurroundingsError: the disk that it is written to is full, or the like.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with _answering():
        print(lines, flush=True)


@contextmanager
def _answering() -> Iterator[None]:
    """Say why where stdout takes nothing."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise SurroundingsError(
            f"the answer could not be written: {error.strerror}",
            hint="make room there, or send it elsewhere",
        ) from error


def command(argv: Sequence[str]) -> None:
    """Print a command as a shell reads it back: to the byte, or so that it commands no terminal."""
    exactly(quoted(argv) if is_shown() else shlex.join(argv))


def is_shown() -> bool:
    """What is printed is looked at, and not read by a program."""
    return sys.stdout is not None and sys.stdout.isatty()


def path(value: str) -> None:
    """Print a file's name: to the byte, or so that it commands no terminal."""
    exactly(printable(value) if is_shown() else value)


def exactly(lines: str) -> None:
    """Print the answer to the byte, whatever a file's name in it holds.

    Raises:
        BrokenPipeError, SurroundingsError: as `text` does.
    """
    try:
        content = os.fsencode(lines)
    except UnicodeEncodeError:  # A model's name may have letters that no file's name has here.
        content = lines.encode(errors="surrogateescape")
    _bytes(content + b"\n")


def utf8(lines: Iterable[str]) -> None:
    """Print an answer of many lines in UTF-8, whatever stdout is set to, one after the other.

    Raises:
        BrokenPipeError, SurroundingsError: as `text` does.
    """
    if sys.stdout is None:  # Closed.
        return
    with _answering():
        sys.stdout.flush()
        for line in lines:
            sys.stdout.buffer.write(line.encode())
        sys.stdout.buffer.flush()


def _bytes(content: bytes) -> None:
    if sys.stdout is None:  # Closed.
        return
    with _answering():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def quoted(argv: Sequence[str]) -> str:
    """A command as one would type it, on one line that commands no terminal."""
    return shell.quoted(argv)


def warning(what: str) -> None:
    """Say what may be wrong, and go on."""
    if voice() is Voice.PROGRAMS:
        event("warning", {"message": what})
    else:
        _say(f"lcm: warning: {printable(what)}")


def note(what: str) -> None:
    """Say what is being done, beside the answer."""
    if voice() is Voice.PROGRAMS:
        event("note", {"message": what})
    elif voice() is Voice.PEOPLE:
        _say(f"lcm: {printable(what)}")


def lines(text_: str) -> None:
    """Say several lines beside the answer to people, a table for example.

    On a terminal they are parted between words.
    """
    from autotune.cli.layout import wrapped  # noqa: PLC0415 - --help does without

    if voice() is not Voice.PEOPLE:
        return
    for line in map(printable, text_.splitlines()):
        for part in wrapped(line, terminal_width()) if _is_terminal() else [line]:
            _say(part)


def error(message: str, hint: str, details: Sequence[str] = (), *, exit_code: int) -> None:
    """Say what went wrong, and the next step."""
    if voice() is Voice.PROGRAMS:
        told = {"message": message, "details": details, "hint": hint, "exit_code": exit_code}
        event("error", told)
        return
    _say(f"lcm: error: {printable(message)}")
    for detail in details:
        _say(f"  - {printable(detail)}")
    if hint:
        _say(f"hint: {printable(hint)}")


def event(name: str, facts: Mapping[str, object]) -> None:
    """Tell a program what has happened."""
    _say(json_text.dumps({"event": name, **facts}))


def _say(line: str) -> None:
    # Closed, and print would take stdout instead; or its reader is gone, which ends no work.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def table(rows: Sequence[Sequence[str]], alignment: str, *, width: int | None = None) -> str:
    """Rows in columns, with room for the widest cell of each, and no wider than the terminal.

    Args:
        rows: of cells; what could command a terminal is made visible.
        alignment: < or > for each column: to the left or to the right. Where the terminal is too
            narrow, those to the left give way, the widest first; a number stays whole.
        width: of the terminal, if it is known.
    """
    from autotune.cli.layout import in_columns  # noqa: PLC0415 - --help does without

    return in_columns(rows, alignment, terminal_width() if width is None else width)


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return shutil.get_terminal_size().columns  # COLUMNS, or 80.


def discard_stdout() -> None:
    """Let the interpreter exit quietly when stdout takes nothing any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(value: object) -> str:
    """A parameter's value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
