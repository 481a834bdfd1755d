"""A PostgreSQL of the tests' own, from Debian's packages, that can be stopped and started again."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from programs_here import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEBIAN = Path("/usr/lib/postgresql")
USER = "lcm"
_WAIT_S = "60"


def _programs() -> Path:
    """The folder of its programs, the newest there is: Debian has them in none of PATH's."""
    found = sorted(_DEBIAN.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else Path(needed("pg_ctl")).parent


class Postgres:
    """One server, on loopback, whose user has a password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.password = f"it's {secrets.token_urlsafe(12)}/:@%"  # Nothing in it is easily quoted.
        self._programs = programs
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        word = folder / "password"
        word.write_text(self.password, encoding="utf-8")
        self._give_away()
        self._run(
            "initdb", "--pgdata", str(folder / "data"), "--username", USER, "--no-sync",
            "--pwfile", str(word), "--auth", "scram-sha-256", "--encoding", "UTF8",
            "--locale", "C",
        )  # fmt: skip
        word.unlink()

    @property
    def url(self) -> str:
        """Of the database, without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def url_with(self, password: str) -> str:
        """Of the database, with a password."""
        from urllib.parse import quote  # noqa: PLC0415 - used here alone

        return self.url.replace("@", f":{quote(password, safe='')}@", 1)

    def start(self) -> None:
        """Until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run(
            "pg_ctl", "start", "--wait", "--timeout", _WAIT_S, "--pgdata",
            str(self._folder / "data"), "--log", log, "--options", options,
        )  # fmt: skip

    def stop(self) -> None:
        """At once, as a server that crashes: whoever is connected is cut off."""
        data = str(self._folder / "data")
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", data)

    def _give_away(self) -> None:
        """It refuses to run as root."""
        if os.geteuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        command = [*(as_user if os.geteuid() == 0 else []), str(self._programs / program)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} failed: {done.stdout or ''}\n{said}")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start one, and leave nothing of it."""
    programs = _programs()
    # Short, for the socket's path, and where the user postgres may go.
    with tempfile.TemporaryDirectory(prefix="lcm-pg-", dir="/tmp") as folder:
        server = Postgres(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
