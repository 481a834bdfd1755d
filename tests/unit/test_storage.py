"""Where a shared study is, as it is said, and that its password is shown to nobody."""

from pathlib import Path

import pytest

from autotune.cli.storage import storage_of
from autotune.errors import ConfigError, SurroundingsError
from autotune.llama_cpp.environment import clean
from autotune.tuning.study.address import address_of


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("postgresql://lcm@db/lcm", "postgresql+psycopg://lcm@db/lcm"),
        ("postgres://lcm@db:5433/lcm", "postgresql+psycopg://lcm@db:5433/lcm"),
        ("postgresql+psycopg2://db/lcm", "postgresql+psycopg2://db/lcm"),
        ("postgresql:///lcm?host=/run/x", "postgresql+psycopg:///lcm?host=/run/x"),
        ("mysql://lcm@db/lcm", "mysql+pymysql://lcm@db/lcm"),
        ("mariadb://lcm@db/lcm", "mysql+pymysql://lcm@db/lcm"),
        ("postgresql://db/lcm?passfile=/etc/lcm", "postgresql+psycopg://db/lcm?passfile=/etc/lcm"),
    ],
)
def test_a_url_is_taken_as_users_write_it(said: str, url: str) -> None:
    assert address_of(said).url == url


def test_the_password_stands_apart() -> None:
    address = address_of("postgresql://lcm:hunt%40er2@db/lcm")

    assert (address.password or "").split("@") == ["hunt", "er2"]
    assert address.url == "postgresql+psycopg://lcm@db/lcm"
    assert "hunt" not in repr(address)
    assert "hunt" not in address.where


@pytest.mark.parametrize(
    "said",
    [
        "lcm:hunter2@db/lcm",
        "oracle://lcm:hunter2@db/lcm",
        "sqlite:///hunter2.db",
        "postgresql://lcm:hunter2@db",
        "postgresql://lcm@db/lcm?password=hunter2",
        "postgresql://lcm:@db:hunter2/lcm",
        "postgresql://lcm:hunter2@[db/lcm",
        "postgresql://lcm:/hunter2@db/lcm",
        "postgresql://lcm:12/hunter2@db/lcm",
        "postgresql://lcm@db/lcm?host=postgresql://lcm:hunter2@db",
    ],
)
def test_what_is_no_database_is_refused_and_not_repeated(said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        address_of(said)

    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


def test_a_password_may_come_by_the_environment_or_a_file_and_not_by_an_option(
    tmp_path: Path,
) -> None:
    url = "postgresql://lcm:hunter2@db/lcm"
    file = tmp_path / "storage"
    file.write_text(f"\n{url}\n", encoding="utf-8")

    found = [
        storage_of(None, {"LCM_STORAGE": url}),
        storage_of(None, {"LCM_STORAGE": f"@{file}"}),
        storage_of(f"@{file}", {}),
    ]

    assert [address and address.password for address in found] == ["hunter2"] * 3
    with pytest.raises(ConfigError, match="list of processes"):
        storage_of(url, {})


def test_no_child_inherits_where_it_is() -> None:
    environ = {"LCM_STORAGE": "postgresql://lcm:hunter2@db/lcm", "PATH": "/bin"}

    storage_of("postgresql://lcm@db/lcm", environ)

    assert environ == {"PATH": "/bin"}


def test_an_option_wins_over_the_environment() -> None:
    address = storage_of("postgresql://lcm@db/one", {"LCM_STORAGE": "postgresql://lcm@db/two"})

    assert address is not None
    assert address.url.endswith("/one")


def test_without_either_the_study_is_a_file() -> None:
    assert storage_of(None, {}) is None


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SurroundingsError, match="@/nonexistent cannot be read"):
        storage_of("@/nonexistent", {})


def test_llama_cpp_is_not_handed_the_password() -> None:
    secrets = {"LCM_STORAGE": "x", "PGPASSWORD": "x", "MYSQL_PWD": "x"}

    assert clean({"PATH": "/bin", **secrets}).keys().isdisjoint(secrets)
