"""Files that anybody may have written are read up to a limit, and only if they are files."""

import os
from pathlib import Path

import pytest

from autotune import files


def test_a_file_of_the_greatest_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")

    assert files.read(tmp_path / "a", 4) == b"1234"


def test_a_larger_one_is_named_with_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2049))

    with pytest.raises(OSError, match="larger than 2 KiB") as raised:
        files.read(tmp_path / "a", 2048)

    assert raised.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
def test_what_is_no_regular_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")

    with pytest.raises(OSError, match=r"regular file|Is a directory"):
        files.read(path, 10)


@pytest.mark.parametrize("name", ["missing", "a\0b", "\ud800"])
def test_what_no_file_is_called_is_not_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / name, 10)


def test_a_link_is_nobodys_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")

    owned = [files.is_own(tmp_path / name) for name in ("file", "none", "link", "dangling")]

    assert owned == [True, True, False, False]
