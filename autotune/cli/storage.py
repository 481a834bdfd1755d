"""Where a shared study is, as the command line or the environment says it, and its password."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from autotune import files
from autotune.cli import console
from autotune.errors import ConfigError, SurroundingsError
from autotune.llama_cpp.environment import STORAGE
from autotune.tuning.study.address import Address, address_of
from autotune.tuning.study.server import Pulse, Server, connect

_MOST_BYTES = 1 << 12
_HEARTBEAT = "LCM_HEARTBEAT_S"
# Taken for dead is who has been silent for so many heartbeats.
_BEATS_MISSED = 6


def storage_of(
    option: str | None, environ: MutableMapping[str, str] = os.environ
) -> Address | None:
    """The database that was named, if one was; no child of this process inherits it.

    Args:
        option: `--storage`, which wins: a URL without a password, or @FILE.
        environ: may have the same in LCM_STORAGE, where the URL may have its password.

    Raises:
        ConfigError: it is no URL of a database, or has a password that everybody can see.
        SurroundingsError: the file cannot be read.
    """
    of_environment = environ.pop(STORAGE, None)
    said = option or of_environment
    if not said:
        return None
    if said.startswith("@"):
        return address_of(_first_line(said[1:]))
    address = address_of(said)
    if option and address.password is not None:
        raise ConfigError(
            "--storage has a password, which every user of this machine can see in the list of "
            "processes",
            hint=f"put the URL into {STORAGE} or a file (--storage @FILE), or leave the password "
            "to PGPASSFILE or ~/.pgpass; and change it, for it was seen",
        )
    return address


def server_of(address: Address, environ: Mapping[str, str] = os.environ) -> Server:
    """Reach the database.

    Raises:
        ConfigError: the time between heartbeats is none.
        SurroundingsError: it cannot be reached.
    """
    seconds = environ.get(_HEARTBEAT) or str(Pulse().interval_s)
    if not seconds.isdecimal() or not int(seconds):
        raise ConfigError(
            f"{_HEARTBEAT} is {seconds!r}, not a number of seconds", hint="for example 10"
        )
    pulse = Pulse(interval_s=int(seconds), grace_s=_BEATS_MISSED * int(seconds))
    return connect(address, say=console.warning, pulse=pulse)


def _first_line(path: str) -> str:
    try:
        content = files.read(Path(path).expanduser(), _MOST_BYTES)
        lines = content.decode().splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text of a few lines"
        raise SurroundingsError(
            f"--storage @{path} cannot be read: {why}", hint="a file with the URL in it"
        ) from None
    return next((line for line in lines if line.strip()), "")
