"""The database of a shared study: waited for while it is away, and never quoted whole."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from sqlalchemy.exc import DataError, OperationalError

from autotune.errors import SurroundingsError
from autotune.tuning.study import server as module
from autotune.tuning.study.address import Address, address_of
from autotune.tuning.study.server import Pulse, Server, connect

SECRET = "hunter2"  # noqa: S105 - what must not be told


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def server(clock: Clock, said: list[str]) -> Server:
    assert clock.now == 0
    return Server(InMemoryStorage(), where="postgresql://db/x", say=said.append, pulse=Pulse())


def away() -> StorageInternalError:
    """As Optuna tells that the database is gone: with the statement and its parameters."""
    cause = OperationalError(SECRET, {"x": SECRET}, Exception("server closed the connection\n"))
    error = StorageInternalError(f"{cause}")
    error.__cause__ = cause
    return error


def answering_at(nth: int, error: Callable[[], Exception]) -> Callable[[], str]:
    asked = count(1)

    def ask() -> str:
        if next(asked) < nth:
            raise error()
        return "an answer"

    return ask


def test_what_answers_at_once_is_said_nothing_of(server: Server, said: list[str]) -> None:
    assert server.do(lambda: 3) == 3
    assert said == []


def test_a_database_that_is_away_is_asked_again_and_that_is_said_once(
    server: Server, said: list[str]
) -> None:
    assert server.do(answering_at(9, away)) == "an answer"

    gone, back = said
    assert gone.startswith("postgresql://db/x does not answer (server closed the connection); ")
    assert back == "postgresql://db/x answers again"


def test_one_that_stays_away_is_an_error_after_some_minutes(server: Server, clock: Clock) -> None:
    with pytest.raises(SurroundingsError, match="server closed the connection") as refused:
        server.do(answering_at(10**6, away))

    assert 300 <= clock.now < 310
    assert SECRET not in f"{refused.value} {refused.value.hint}"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_who_wants_an_end_does_not_wait_for_minutes(server: Server, clock: Clock) -> None:
    server.hurry(10.0)

    with pytest.raises(SurroundingsError, match="server closed the connection"):
        server.do(answering_at(10**6, away))

    assert 10 <= clock.now < 20


def test_what_the_database_refuses_is_not_asked_again(server: Server, clock: Clock) -> None:
    refusal = DataError("INSERT", {}, Exception("value too long"))

    with pytest.raises(SurroundingsError, match="value too long"):
        server.do(answering_at(2, lambda: refusal))

    assert clock.now == 0


def test_who_was_cut_off_knows_since_when_it_is_not(server: Server, clock: Clock) -> None:
    clock.now = 100.0
    before = server.steady_s

    server.do(answering_at(3, away))
    clock.now += 7

    assert before == 100
    assert server.steady_s == pytest.approx(7, abs=1)


def test_what_need_not_be_is_tried_once(server: Server, clock: Clock, said: list[str]) -> None:
    server.try_once(answering_at(2, away))

    assert (clock.now, said) == (0, [])


def test_a_driver_that_is_missing_is_named_with_what_installs_it() -> None:
    with pytest.raises(SurroundingsError) as refused:
        connect(Address(url="postgresql+pg8000://db/x", password=SECRET))

    assert "no driver for postgresql+pg8000" in refused.value.message
    assert refused.value.hint == "pip install 'lcm-autotune[fleet]'"
    assert SECRET not in str(refused.value)


def test_what_the_url_says_to_the_driver_holds_and_all_count_time_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str]] = []

    def storage(url: str, *, engine_kwargs: dict[str, Any], **_: object) -> InMemoryStorage:
        assert "connect_timeout=60" in url
        seen.append(engine_kwargs["connect_args"])
        return InMemoryStorage()

    monkeypatch.setattr(module, "RDBStorage", storage)
    monkeypatch.setattr(Server, "__init__", lambda *_, **__: None)

    connect(address_of("postgresql://db/x?connect_timeout=60&options=-csearch_path%3Dlcm"))
    connect(address_of("mysql://db/x?connect_timeout=60"))

    assert ["connect_timeout" in one for one in seen] == [False, False]
    assert seen[0]["options"] == "-csearch_path=lcm -c timezone=UTC"
    assert "time_zone" in seen[1]["init_command"]
