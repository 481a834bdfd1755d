"""The database of a shared study: reached with care, waited for while it is away, and quiet.

A database is restarted, and a network has its bad minutes. What is asked of it is asked again for
some minutes, with one line that says so; what has been measured meanwhile is held until it can be
told. No error of SQLAlchemy's or a driver's is shown whole, and none is chained to one of ours:
their texts have the statement in them, and may have more.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from autotune.errors import SurroundingsError
from autotune.tuning.study.address import Address
from autotune.tuning.study.database import quiet

T = TypeVar("T")

# A restart takes seconds, a failover a minute or two.
PATIENCE_S = 300.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # The last again and again.
# Of those that make the tables at the same moment, all but one are told that they exist.
_MOST_AT_ONCE = 10
_ALREADY = re.compile("already exists|duplicate", re.IGNORECASE)
_TIMEOUT_S = 10
_OF_ZONE = frozenset({"options", "init_command"})
_DRIVERS = "pip install 'lcm-autotune[fleet]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """How often a worker says that it lives, and after what silence it is taken for dead."""

    interval_s: int = 10
    grace_s: int = 60


class Server:
    """A storage for studies that others use too.

    Args:
        storage: where they are.
        where: what it is called.
        say: is told when it does not answer, and when it does again.
        pulse: of the workers.
    """

    def __init__(
        self, storage: BaseStorage, *, where: str, say: Callable[[str], None], pulse: Pulse
    ) -> None:
        self.storage = optuna.storages.get_storage(storage)
        self.where = where
        self.pulse = pulse
        self.has_heartbeats = isinstance(storage, RDBStorage)
        self._raw = storage
        self._say = say
        self._steady_since = time.monotonic()
        self._patience_s = PATIENCE_S

    def hurry(self, seconds: float) -> None:
        """Wait for no answer longer than so many seconds. Safe in a signal handler."""
        self._patience_s = seconds

    @property
    def steady_s(self) -> float:
        """For how long it has answered without a break."""
        return time.monotonic() - self._steady_since

    def do(self, ask: Callable[[], T]) -> T:
        """Ask something that may be asked twice; where the database is away, again and again.

        Raises:
            SurroundingsError: it stays away, or refuses.
        """
        since_s, pauses = time.monotonic(), _pauses()
        told = False
        while True:
            try:
                with quiet():
                    result = ask()
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                why = _reason(error)
                self._steady_since = time.monotonic()
                waited_s = time.monotonic() - since_s
                if not _may_pass(error) or waited_s > self._patience_s:
                    raise self._away(why) from None
                if not told:
                    self._say(
                        f"{self.where} does not answer ({why}); "
                        f"trying again for {self._patience_s:.0f} s"
                    )
                    told = True
                time.sleep(next(pauses))
                continue
            if told:
                self._say(f"{self.where} answers again")
            return result

    def try_once(self, ask: Callable[[], object]) -> None:
        """Ask what need not be, from any thread: where it fails, somebody will find out soon."""
        try:
            ask()
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
            self._steady_since = time.monotonic()

    def leave_thread(self) -> None:
        """This thread asks for nothing more."""
        if isinstance(self._raw, RDBStorage):
            self._raw.remove_session()

    def close(self) -> None:
        """Nothing more is asked."""
        if isinstance(self._raw, RDBStorage):
            self._raw.remove_session()
            self._raw.engine.dispose()

    def _away(self, why: str) -> SurroundingsError:
        return SurroundingsError(
            f"{self.where} cannot be used: {why}",
            hint="is the database up, and may this user write there?",
        )


def connect(
    address: Address, *, say: Callable[[str], None] = lambda _: None, pulse: Pulse | None = None
) -> Server:
    """Reach a database, and make Optuna's tables where there are none.

    Raises:
        SurroundingsError: it cannot be reached, or its driver is not installed.
    """
    pulse = pulse or Pulse()
    for attempt in range(_MOST_AT_ONCE):
        try:
            with quiet():
                storage = RDBStorage(
                    # Optuna takes what stands in braces for a name of its own.
                    address.url.replace("{", "{{").replace("}", "}}"),
                    engine_kwargs={"pool_pre_ping": True, "connect_args": _arguments(address)},
                    heartbeat_interval=pulse.interval_s,
                    grace_period=pulse.grace_s,
                )
            return Server(storage, where=address.where, say=say, pulse=pulse)
        except (ImportError, sqlalchemy.exc.NoSuchModuleError):
            raise SurroundingsError(
                f"there is no driver for {address.url.partition(':')[0]}", hint=_DRIVERS
            ) from None
        except sqlalchemy.exc.ArgumentError:
            raise SurroundingsError(
                f"{address.where} is no address that its driver understands",
                hint="see docs/fleet.md for examples",
            ) from None
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            why = _reason(error)
            if _ALREADY.search(why) and attempt + 1 < _MOST_AT_ONCE:
                time.sleep(0.1 * (attempt + 1))
                continue
            raise SurroundingsError(
                f"{address.where} cannot be used: {why}",
                hint="is the database up, is its name right, and may this user write there?",
            ) from None
    raise AssertionError


def _arguments(address: Address) -> dict[str, Any]:
    """What the driver is told beside the URL: the password stands in no text that is shown.

    All sessions count time alike, whatever their machines think the zone is: Optuna compares a
    heartbeat with the session's own time.
    """
    said: dict[str, Any] = {"connect_timeout": _TIMEOUT_S}
    if address.is_mysql:
        said["init_command"] = "SET time_zone = '+00:00'"
    elif "+psycopg" in address.url:  # libpq's.
        said |= {"options": "-c timezone=UTC", "application_name": "lcm"}
        said |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    own = address.parameters  # What the URL says of the same wins, but for the zone.
    if "options" in own and "options" in said:
        said["options"] = f"{own['options']} {said['options']}"
    said = {key: value for key, value in said.items() if key not in own or key in _OF_ZONE}
    if address.password is not None:
        said["password"] = address.password
    return said


def _pauses() -> Iterator[float]:
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]


def _reason(error: BaseException) -> str:
    """The first line of what the database itself says."""
    deepest: BaseException | None = error
    while deepest is not None and not isinstance(deepest, sqlalchemy.exc.DBAPIError):
        deepest = deepest.__cause__ or deepest.__context__
    said = deepest.orig if isinstance(deepest, sqlalchemy.exc.DBAPIError) else error
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return (lines[0] if lines else type(said).__name__)[:200]


def _may_pass(error: BaseException) -> bool:
    """It is away, or two were in each other's way: not a word against what was asked."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, sqlalchemy.exc.DBAPIError):
            temporary = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
            return below.connection_invalidated or isinstance(below, temporary)
        below = below.__cause__ or below.__context__
    return False
