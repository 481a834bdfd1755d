"""The door to the file system: what is missing, unreadable or garbled is None."""

from pathlib import Path

import pytest
from fakes.machine import write

from autotune.hardware import Root
from autotune.hardware.root import to_cpus


@pytest.fixture
def root(tmp_path: Path) -> Root:
    write(tmp_path, "number", "42")
    write(tmp_path, "cpus", "0-1,8")
    write(tmp_path, "words", "forty-two")
    write(tmp_path, "fields", "MemTotal:  16 kB\ninactive_file 7\nempty:")
    (tmp_path / "bytes").write_bytes(b"AMD\xff\n")
    (tmp_path / "link").symlink_to("words")
    return Root(tmp_path)


def test_a_file_is_read_as_what_it_holds(root: Root) -> None:
    assert root.read_text("words") == "forty-two\n"
    assert root.read_int("number") == 42
    assert root.read_cpus("cpus") == (0, 1, 8)
    assert root.read_fields("fields") == {"MemTotal": "16 kB", "inactive_file": "7"}


def test_bytes_that_are_no_text_are_replaced(root: Root) -> None:
    assert root.read_text("bytes") == "AMD\ufffd\n"


def test_only_the_start_of_a_long_file_is_read(root: Root) -> None:
    assert root.read_text("words", most_bytes=5) == "forty"


@pytest.mark.parametrize("path", ["missing", "missing/below", "number/below", "."])
def test_what_is_no_file_is_none(root: Root, path: str) -> None:
    assert root.read_text(path) is None
    assert root.read_int(path) is None
    assert root.read_cpus(path) is None
    assert root.read_fields(path) == {}


def test_what_is_no_number_is_none(root: Root) -> None:
    assert root.read_int("words") is None
    assert root.read_cpus("words") is None


def test_a_folder_is_listed_in_order(root: Root) -> None:
    assert root.names(".") == ["bytes", "cpus", "fields", "link", "number", "words"]
    assert root.names("missing") == []
    assert root.names("number") == []


def test_a_link_is_read_as_it_is_written(root: Root) -> None:
    assert root.link_target("link") == "words"
    assert root.link_target("words") is None
    assert root.link_target("missing") is None


def test_only_the_slash_is_the_real_root(tmp_path: Path) -> None:
    assert Root().is_real
    assert not Root(tmp_path).is_real


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        pytest.param("0-3,8-11\n", (0, 1, 2, 3, 8, 9, 10, 11), id="ranges"),
        pytest.param("5\n", (5,), id="one"),
        pytest.param("4,0-1\n", (0, 1, 4), id="out of order"),
        pytest.param("\n", (), id="none"),
        pytest.param("", (), id="empty"),
        pytest.param("0-", None, id="cut short"),
        pytest.param("3-0", None, id="backwards"),
        pytest.param("-1", None, id="negative"),
        pytest.param("0-99999999999", None, id="more than a kernel can have"),
        pytest.param("(null)", None, id="words"),
    ],
)
def test_a_list_of_cpus_is_parsed(text: str, cpus: tuple[int, ...] | None) -> None:
    assert to_cpus(text) == cpus
