"""A folder for each study, with everything that belongs to it.

<results>/studies/<model>-<workload>-<when>/
    study.json        of which model, machine, build and workload it is, and what came of it
    environment.json  under which circumstances it was measured
    journal.jsonl     everything that was measured, as it came; only ever appended to
    records.csv       the same as a table, kept up to date
    study.db          the search's own memory, an Optuna study in SQLite
    profile.json      the best so far, at any moment
    report.html       what came of it, to look at
    lock              held by the process that writes
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, get_type_hints

from autotune import files, json_text
from autotune.errors import ConfigError, SurroundingsError
from autotune.results.profile import results_folder, write_whole
from autotune.results.typed import typed

if os.name == "posix":
    import fcntl

# 1 (issue 4): study.json, study.db and profile.json; no journal, no environment, no verdict.
# 2: the files above. Both are read; a study of format 1 that is resumed becomes one of format 2.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
MOST_BYTES = 1 << 18  # study.json is a few hundred.
# Every file that is written into a study; a link would lead the writing out of its folder.
_WRITTEN = (
    *("study.json", "environment.json", "journal.jsonl", "records.csv", "study.db"),
    *("study.db-journal", "study.db-wal", "study.db-shm", "profile.json", "report.html", "lock"),
)
# The study that was begun last, verifications aside, wherever a study is to be named.
LATEST = "latest"

_MOMENT_S = 0.1

State = Literal["running", "interrupted", "finished"]
Purpose = Literal["tune", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One study on the disk."""

    path: Path
    model: str
    workload: str
    started: str  # ISO 8601, UTC.
    state: State = "running"
    purpose: Purpose = "tune"
    machine: str = ""  # In words; "" in format 1, as are the next.
    build: str = ""  # Of llama.cpp, as that prints it.
    verdict: str = ""  # better, not shown, worse; "" until it is known.
    ratio: float | None = None  # How many times as fast as llama.cpp's defaults.
    low: float | None = None
    high: float | None = None
    fleet: str = ""  # Of the shared study that was measured for; written only where there is one.

    @property
    def name(self) -> str:
        """What the study is called on the command line."""
        return self.path.name

    @property
    def database(self) -> Path:
        """The Optuna study."""
        return self.path / "study.db"

    @property
    def journal(self) -> Path:
        """Everything that was measured."""
        return self.path / "journal.jsonl"

    @property
    def environment(self) -> Path:
        """Under which circumstances."""
        return self.path / "environment.json"

    @property
    def profile(self) -> Path:
        """The best so far."""
        return self.path / "profile.json"

    def in_state(self, state: State) -> None:
        """Write down how far it got; what was known of its verdict stays.

        Raises:
            SurroundingsError: it cannot be written.
        """
        replace(self, state=state).write()

    def concluded(
        self,
        state: State,
        *,
        verdict: str = "",
        ratio: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        """Write down that a session is over, and what came of it.

        Raises:
            SurroundingsError: it cannot be written.
        """
        replace(self, state=state, verdict=verdict, ratio=ratio, low=low, high=high).write()

    def keep_environment(self, environment: Mapping[str, Any]) -> None:
        """Write down under which circumstances is measured.

        Raises:
            SurroundingsError: it cannot be written.
        """
        self._write(self.environment, environment)

    def write(self) -> None:
        """Keep what the study is of.

        Raises:
            SurroundingsError: it cannot be written.
        """
        kept = {**asdict(self), "format_version": FORMAT_VERSION}
        del kept["path"]
        if not self.fleet:
            del kept["fleet"]
        self._write(self.path / "study.json", kept)

    def _write(self, file: Path, kept: Mapping[str, Any]) -> None:
        try:
            write_whole(file, json_text.dumps(kept, indent=2) + "\n")
        except OSError as error:
            raise SurroundingsError(
                f"{self.path} cannot be written: {error.strerror}", hint="make room there"
            ) from error


def new_folder(
    model: str,
    workload: str,
    environ: Mapping[str, str] | None = None,
    *,
    machine: str = "",
    build: str = "",
    purpose: Purpose = "tune",
) -> Folder:
    """Make a folder of its own for a new study.

    Raises:
        SurroundingsError: it cannot be written.
    """
    now = time.gmtime()
    words = (model[:60], workload[:30], *([] if purpose == "tune" else [purpose]))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words)).strip(".-") or "study"
    base = studies_folder(environ)
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = Folder(
            path=_made(base, f"{name}-{time.strftime('%Y%m%d-%H%M%S', now)}"),
            model=model,
            workload=workload,
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
            purpose=purpose,
            machine=machine,
            build=build,
        )
        folder.write()
    except OSError as error:
        raise SurroundingsError(
            f"no study can be written to {base}: {error.strerror}",
            hint="make room there, or name another folder: --results-dir or LCM_RESULTS_DIR",
        ) from error
    return folder


def _made(base: Path, name: str) -> Path:
    """Two that begin in the same second do not share a folder."""
    for n in range(100):
        path = base / (f"{name}-{n}" if n else name)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise FileExistsError(0, "too many studies begin at once", str(base))


def unfinished(
    model: str, workload: str, environ: Mapping[str, str] | None = None
) -> Folder | None:
    """The newest study of a model and workload that was not finished."""
    found = [
        folder
        for folder in all_folders(environ)
        if (folder.model, folder.workload, folder.purpose) == (model, workload, "tune")
        and folder.state != "finished"
        and folder.database.exists()
    ]
    return max(found, key=lambda folder: folder.started, default=None)


def shared_folder(name: str, environ: Mapping[str, str] | None = None) -> Folder | None:
    """The newest folder of this machine's part in a shared study that was not finished."""
    found = [f for f in all_folders(environ) if f.fleet == name and f.state == "interrupted"]
    return max(found, key=lambda folder: folder.started, default=None)


def studies_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where all studies are."""
    return results_folder(environ) / "studies"


def all_folders(environ: Mapping[str, str] | None = None) -> list[Folder]:
    """Every study that can be read, oldest first."""
    found = []
    for path in _paths(environ):
        with contextlib.suppress(ConfigError, SurroundingsError):
            found.append(read_folder(path))
    return sorted(found, key=lambda folder: (folder.started, folder.name))


def unreadable_folders(environ: Mapping[str, str] | None = None) -> list[Path]:
    """Those that say nothing that can be read: of a later version, or damaged."""
    readable = {folder.path for folder in all_folders(environ)}
    return sorted(path for path in _paths(environ) if path not in readable)


def _paths(environ: Mapping[str, str] | None) -> list[Path]:
    """Not those that are links: what is written into a study must stay in this folder."""
    files_ = studies_folder(environ).glob("*/study.json")
    return [file.parent for file in files_ if not file.parent.is_symlink()]


def read_folder(path: Path) -> Folder:
    """Read what a study is of.

    Raises:
        SurroundingsError: there is no study.json, or it cannot be read.
        ConfigError: it is none, or one of a later version.
    """
    file = path / "study.json"
    try:
        kept = json_text.loads(files.read(file, MOST_BYTES))
        strange = next((name for name in _WRITTEN if not files.is_own(path / name)), None)
    except OSError as error:
        raise SurroundingsError(
            f"{path} is no study: its study.json cannot be read: {error.strerror}",
            hint="lcm results list names those there are",
        ) from error
    except ValueError as error:
        raise _bad(file, f"it is not JSON: {error}") from error
    if strange:
        raise _bad(path / strange, "it is no regular file of the study's own")
    version = kept.pop("format_version", None) if isinstance(kept, dict) else None
    if version not in READABLE_VERSIONS:
        raise _bad(file, f"its format is {version!r}, and this lcm reads {READABLE_VERSIONS}")
    hints = get_type_hints(Folder)
    try:
        del hints["path"]
        facts = {name: typed(value, hints[name]) for name, value in kept.items()}
        folder = Folder(path=path, **facts)
    except KeyError as error:
        raise _bad(file, f"it has an unknown key {error}") from error
    except TypeError as error:
        raise _bad(file, str(error)) from error
    # Killed, or the power went: it could not write down its end.
    is_dead = folder.state == "running" and not _is_written(path)
    return replace(folder, state="interrupted") if is_dead else folder


def _bad(file: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{file} cannot be read: {what}",
        hint="it was written by another version of lcm, or changed by hand",
    )


def find_study(name: str, environ: Mapping[str, str] | None = None) -> Folder:
    """The study of a name, of the beginning of one, of a path; or the latest.

    Raises:
        ConfigError: there is none, or several begin like that.
        SurroundingsError: the folder that was named is no study.
    """
    if os.sep in name or (Path(name) / "study.json").exists():
        return read_folder(Path(name))
    folders = all_folders(environ)
    if name == LATEST and folders:
        tuned = [folder for folder in folders if folder.purpose == "tune"]
        return (tuned or folders)[-1]
    found = [folder for folder in folders if folder.name.startswith(name)]
    exactly = [folder for folder in found if folder.name == name]
    if len(exactly or found) != 1:
        raise _no_such(name, found, studies_folder(environ))
    return (exactly or found)[0]


def _no_such(name: str, found: Sequence[Folder], base: Path) -> ConfigError:
    if found:
        names = [folder.name for folder in found]
        return ConfigError(
            f"{name} is the beginning of {len(found)} studies", details=names, hint="name one whole"
        )
    return ConfigError(
        f"no study in {base} is named {name}",
        hint="lcm results list names those there are; --results-dir says where to look",
    )


@contextmanager
def written_by_one(folder: Folder) -> Iterator[None]:
    """Hold the study's lock, which a crash releases.

    Raises:
        ConfigError: another process writes this study.
    """
    with ExitStack() as stack:
        try:
            _lock(stack.enter_context(_lock_file(folder.path, os.O_CREAT | os.O_RDWR)))
        except BlockingIOError:
            raise ConfigError(
                f"another lcm is writing the study {folder.path}",
                hint="wait for it to end, or begin another with --fresh",
            ) from None
        except OSError as error:
            raise SurroundingsError(
                f"{folder.path} cannot be locked: {error.strerror}",
                hint="see its permissions, or name another folder: --results-dir",
            ) from error
        yield


def _lock_file(path: Path, flags: int) -> IO[str]:
    """Open a study's lock, and neither what it links to nor a pipe that nobody writes into."""
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    number = os.open(path / "lock", flags | careful, 0o666)
    return os.fdopen(number, "r+" if flags & os.O_RDWR else "r")


def _lock(file: IO[str]) -> None:
    """A reader that only asks who writes holds the lock for a moment."""
    if os.name != "posix":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_MOMENT_S)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_written(path: Path) -> bool:
    """A process holds the lock; where that cannot be told, one is believed to."""
    if os.name != "posix":
        return True
    try:
        with _lock_file(path, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # There is no lock yet, or none that may be read.
        return False
    return False
