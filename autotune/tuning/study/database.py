"""The file of a study: an Optuna study in SQLite, which anybody may have written."""

import contextlib
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

from autotune import files
from autotune.errors import SurroundingsError
from autotune.tuning.study.rows import Row, read_rows

NAME = "lcm"
FORMAT_VERSION = 1

# Ten thousand trials take 100 MB; SQLite itself would allow a value of 1 GB.
MOST_BYTES = 1 << 28
_LONGEST_VALUE = 1 << 22
_COMPUTES = re.compile(r"\b(GENERATED|VIRTUAL|AS\s*\(|WHERE)", re.IGNORECASE)
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # At the end of such a journal: pager.c.


def load(path: Path) -> tuple[BaseStorage, Mapping[str, Any]]:
    """The storage of a study, and what it says of itself."""
    try:
        _check(path)
        with quiet():
            opened = storage(path)
            kept = opened.get_study_user_attrs(opened.get_study_id_from_name(NAME))
            version = kept["format_version"]
    except Exception as error:  # SQLAlchemy's, sqlite's and Optuna's: whatever a bad file brings.
        raise unreadable(path, str(error)) from error
    if version != FORMAT_VERSION:
        raise unreadable(path, f"its format is {version}, not {FORMAT_VERSION}")
    return opened, kept


def rows(path: Path) -> list[Row]:
    """Every trial in a file, in the order of their numbers."""
    with contextlib.closing(_connection(path)) as connection:
        return read_rows(connection, NAME)


def storage(path: Path) -> RDBStorage:
    """SQLite is given the path itself: a URL cannot say every name."""
    creator = partial(_connection, path)
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": creator})


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)  # SQLAlchemy's pool sees to it.
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    return connection


def _check(path: Path) -> None:
    """A file that anybody may have made: no query in it is run, and no more is read than fits.

    Raises:
        OSError, ValueError, sqlite3.Error: it is not what is written here.
    """
    with files.open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise files.too_large(path, MOST_BYTES)
    for name in (f"{path.name}-journal", f"{path.name}-wal", f"{path.name}-shm"):
        beside = path.with_name(name)
        if not files.is_own(beside):
            raise ValueError(f"{name} is no regular file")
        if beside.exists() and _names_another(beside):
            raise ValueError(f"{name} names another database")
    with contextlib.closing(_connection(path)) as connection:
        made = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, text in made:
        # A view, a trigger or a computed column may compute for ever.
        if kind not in {"table", "index"} or _COMPUTES.search(text or ""):
            raise ValueError(f"it has the {kind} {name}, which no study has")


def _names_another(journal: Path) -> bool:
    """A journal of a transaction over several databases, whose other file SQLite would remove."""
    with journal.open("rb") as file:
        file.seek(-min(len(_SUPER_JOURNAL), file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read() == _SUPER_JOURNAL


@contextmanager
def as_kept(path: Path) -> Iterator[None]:
    """What stands in a study may have been changed by hand, and is read when it is asked for."""
    try:
        yield
    except Exception as error:  # As in `load`, and what `trials.reading` does not find.
        raise unreadable(path, f"a trial is none of ours: {error}") from error


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Write without a word, or say in ours why that cannot be."""
    try:
        with quiet():
            yield
    except Exception as error:
        reason = _of_the_file(error)
        if reason is None:
            raise
        raise SurroundingsError(
            f"{path} cannot be written: {str(reason).splitlines()[0][:200]}",
            hint="make room there, or see its permissions",
        ) from error


def _of_the_file(error: BaseException) -> BaseException | None:
    """What SQLite or the system says, below what SQLAlchemy and Optuna make of that."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, (sqlite3.Error, OSError)):
        below = below.__cause__ or below.__context__
    return below


def unreadable(path: Path, why: str) -> SurroundingsError:
    """What is said of a file that is no study, with the first line of the reason."""
    first = (why.splitlines() or ["for no reason that is told"])[0][:200]
    return SurroundingsError(
        f"{path} cannot be read as a study: {first}",
        hint="--fresh begins a new one; this one stays as it is",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own log and warnings: what happens is told by our own events."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
