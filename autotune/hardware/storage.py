"""What a path lies on, from the mount table and the block devices in `/sys`."""

from autotune.hardware.machine import Storage
from autotune.hardware.mounts import Mount, read_mounts
from autotune.hardware.root import Root

# 9p is also how WSL shows the drives of Windows: not a network, and no faster. virtiofs is shared
# memory with the host and left out.
_NETWORK_FILESYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
    | {f"fuse.{name}" for name in ("ceph", "gcsfuse", "glusterfs", "rclone", "s3fs", "sshfs")}
)
# Hypervisors give their disks no rotation rate, and the kernel then calls them rotational.
_EMULATED_DISKS = ("QEMU", "VBOX", "Virtual")
_UNKNOWN = Storage(filesystem="", device="", rotational=None, network=False)


def read_storage(path: str, root: Root) -> Storage:
    """Tell what an absolute path without symbolic links lies on."""
    # Of two mounts at one point the later hides the earlier, and max() would return the earlier.
    over = [mount for mount in reversed(read_mounts(root)) if is_under(path, mount.point)]
    if not over:
        return _UNKNOWN
    mount = max(over, key=lambda candidate: len(candidate.point))
    network = mount.filesystem in _NETWORK_FILESYSTEMS
    return Storage(
        filesystem=mount.filesystem,
        device=mount.source,
        rotational=None if network else _is_rotational(root, _block_device(root, mount)),
        network=network,
    )


def is_under(path: str, point: str, separator: str = "/") -> bool:
    """Tell whether a path is a folder or lies below it."""
    return path == point or path.startswith(point.rstrip(separator) + separator)


def _is_rotational(root: Root, device: str) -> bool | None:
    """Ask a block device, through the disks it is made of; None where one cannot tell."""
    uevent = root.read_text(f"{device}/uevent") or ""
    # A partition has no queue of its own; its parent folder is the disk.
    disk = f"{device}/.." if "DEVTYPE=partition" in uevent else device
    if slaves := root.names(f"{disk}/slaves"):
        answers = [_is_rotational(root, f"{disk}/slaves/{name}") for name in slaves]
        return None if None in answers else any(answers)
    rotational = root.read_int(f"{disk}/queue/rotational")
    if rotational and _is_emulated(root, disk):
        return None
    return None if rotational is None else rotational > 0


def _is_emulated(root: Root, disk: str) -> bool:
    uevent = root.read_text(f"{disk}/uevent") or ""
    identity = f"{root.read_text(f'{disk}/device/vendor')}{root.read_text(f'{disk}/device/model')}"
    # virtio_blk names its disks vda, vdb ... and gives them neither vendor nor model.
    return "DEVNAME=vd" in uevent or any(name in identity for name in _EMULATED_DISKS)


def _block_device(root: Root, mount: Mount) -> str:
    device = f"sys/dev/block/{mount.device}"
    if root.exists(device):
        return device
    # btrfs numbers its volumes itself; what it lies on is known by the name in the mount table.
    source = mount.source.lstrip("/")
    name = (root.link_target(source) or source).rpartition("/")[2]
    return f"sys/class/block/{name}"
