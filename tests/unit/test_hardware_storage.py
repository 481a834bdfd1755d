"""What a path lies on: disks that spin, disks that do not, and servers."""

from pathlib import Path

import pytest
from fakes.machine import unfold, write

from autotune.hardware import Root, Storage, storage_of

NVME = Storage(filesystem="ext4", device="/dev/nvme0n1p2", rotational=False, network=False)

STORAGES = {
    "/usr/share/model.gguf": NVME,
    "/srv/models-of-others/model.gguf": NVME,
    "/srv/models/model.gguf": Storage(
        filesystem="ext4", device="/dev/sda1", rotational=True, network=False
    ),
    "/srv/models": Storage(filesystem="ext4", device="/dev/sda1", rotational=True, network=False),
    "/srv/models/host/model.gguf": Storage(
        filesystem="virtiofs", device="models", rotational=None, network=False
    ),
    "/home/me/model.gguf": Storage(
        filesystem="xfs", device="/dev/mapper/vg-home", rotational=False, network=False
    ),
    "/data/model.gguf": Storage(
        filesystem="btrfs", device="/dev/mapper/data", rotational=True, network=False
    ),
    "/mnt/share on server/model.gguf": Storage(
        filesystem="nfs4", device="server:/export", rotational=None, network=True
    ),
    "/mnt/box/model.gguf": Storage(
        filesystem="fuse.sshfs", device="user@box:/", rotational=None, network=True
    ),
    "/mnt/vm/model.gguf": Storage(
        filesystem="ext4", device="/dev/vda", rotational=None, network=False
    ),
    "/sys/kernel": Storage(filesystem="sysfs", device="sysfs", rotational=None, network=False),
}


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return unfold("one-socket-smt", tmp_path_factory.mktemp("desktop"))


@pytest.mark.parametrize("path", STORAGES)
def test_a_path_lies_on_the_longest_mount_above_it(path: str, desktop: Root) -> None:
    assert storage_of(path, desktop) == STORAGES[path]


@pytest.mark.parametrize(
    ("path", "storage"),
    [
        (
            "/home/me/m",
            Storage(filesystem="ext4", device="/dev/sdc", rotational=None, network=False),
        ),
        ("/mnt/c/m", Storage(filesystem="9p", device="C:\\", rotational=None, network=True)),
    ],
    ids=["the virtual disk", "drive C:"],
)
def test_wsl_has_a_virtual_disk_and_the_drives_of_windows(
    path: str, storage: Storage, tmp_path: Path
) -> None:
    assert storage_of(path, unfold("wsl", tmp_path)) == storage


@pytest.mark.parametrize(
    ("path", "slow"),
    [
        ("/srv/models/model.gguf", True),
        ("/mnt/box/model.gguf", True),
        ("/usr/model.gguf", False),
        ("/mnt/vm/model.gguf", False),
    ],
    ids=["spinning", "network", "NVMe", "not known"],
)
def test_storage_is_slow_that_spins_or_is_far(path: str, slow: bool, desktop: Root) -> None:  # noqa: FBT001 - a column of the table.
    assert storage_of(path, desktop).slow == slow


def test_of_two_mounts_at_one_point_the_later_counts(tmp_path: Path) -> None:
    root = unfold("missing-files", tmp_path)
    mounts = "28 1 0:1 / / rw - rootfs rootfs rw\n29 1 0:2 / / rw - overlay overlay rw"
    write(tmp_path, "proc/self/mountinfo", mounts)
    assert storage_of("/model.gguf", root).filesystem == "overlay"


def test_without_a_mount_table_nothing_is_known(tmp_path: Path) -> None:
    storage = storage_of("/model.gguf", unfold("missing-files", tmp_path))
    assert storage == Storage(filesystem="", device="", rotational=None, network=False)


def test_on_this_machine_a_link_lies_where_it_points(tmp_path: Path) -> None:
    link = tmp_path / "status"
    link.symlink_to("/proc/self/status")
    assert storage_of(link).filesystem == "proc"
