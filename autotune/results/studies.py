"""A folder for each study: its Optuna database, its best profile so far, and what it is of.

<results>/studies/<model>-<workload>-<when>/
    study.db        everything that was measured, an Optuna study in SQLite
    study.json      of which model and workload it is, and how far it got
    profile.json    the best so far, at any moment
    lock            held by the process that writes
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from autotune.errors import ConfigError, SurroundingsError
from autotune.results.profile import results_folder, write_whole

if os.name == "posix":
    import fcntl

FORMAT_VERSION = 1

State = Literal["running", "interrupted", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One study on the disk."""

    path: Path
    model: str
    workload: str
    started: str  # ISO 8601, UTC.
    state: State = "running"

    @property
    def database(self) -> Path:
        """The Optuna study."""
        return self.path / "study.db"

    @property
    def profile(self) -> Path:
        """The best so far."""
        return self.path / "profile.json"

    def in_state(self, state: State) -> "Folder":
        """The same, with how far it got, which is written down."""
        folder = replace(self, state=state)
        folder.write()
        return folder

    def write(self) -> None:
        """Keep what the study is of.

        Raises:
            SurroundingsError: it cannot be written.
        """
        kept = {**asdict(self), "format_version": FORMAT_VERSION}
        del kept["path"]
        try:
            write_whole(self.path / "study.json", json.dumps(kept, indent=2) + "\n")
        except OSError as error:
            raise SurroundingsError(
                f"{self.path} cannot be written: {error.strerror}", hint="make room there"
            ) from error


def new_folder(model: str, workload: str, environ: Mapping[str, str] | None = None) -> Folder:
    """Make a folder of its own for a new study.

    Raises:
        SurroundingsError: it cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model[:60]}-{workload[:30]}").strip(".-") or "study"
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    base = results_folder(environ) / "studies"
    try:
        base.mkdir(parents=True, exist_ok=True)
        path = _made(base, f"{name}-{when}")
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        folder = Folder(path=path, model=model, workload=workload, started=started)
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
        if (folder.model, folder.workload) == (model, workload)
        and folder.state != "finished"
        and folder.database.exists()
    ]
    return max(found, key=lambda folder: folder.started, default=None)


def all_folders(environ: Mapping[str, str] | None = None) -> list[Folder]:
    """Every study that can be read, oldest first."""
    found = []
    for file in (results_folder(environ) / "studies").glob("*/study.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept.pop("format_version") == FORMAT_VERSION:
                found.append(Folder(path=file.parent, **kept))
    return sorted(found, key=lambda folder: folder.started)


@contextmanager
def written_by_one(folder: Folder) -> Iterator[None]:
    """Hold the study's lock, which a crash releases.

    Raises:
        ConfigError: another process writes this study.
    """
    with (folder.path / "lock").open("w") as file:
        if os.name == "posix":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"another lcm is writing the study {folder.path}",
                    hint="wait for it to end, or begin another with --fresh",
                ) from None
        yield
