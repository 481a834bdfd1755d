"""AMD GPUs from what the amdgpu driver shows in `/sys/class/drm`."""

from collections.abc import Iterator
from typing import NamedTuple

from autotune.hardware.machine import Gpu, Memory
from autotune.hardware.root import Root

_DRM = "sys/class/drm"
_AMD = "0x1002"  # The PCI vendor ID of AMD's graphics, ATI's once.
# What firmware sets aside at least for a GPU inside the processor, and less than any card has that
# llama.cpp is worth running on.
_CARVE_OUT_BYTES = 1 << 30
_NAMES = "usr/share/libdrm/amdgpu.ids"


class _Pool(NamedTuple):
    total_bytes: int
    free_bytes: int


def read_gpus(root: Root, memory: Memory) -> list[Gpu]:
    """List the GPUs that the amdgpu driver runs."""
    return [_read_gpu(root, device, index, memory) for index, device in enumerate(_devices(root))]


def _devices(root: Root) -> Iterator[str]:
    # Beside card0 stand its connectors: card0-DP-1.
    numbers = [name.removeprefix("card") for name in root.names(_DRM)]
    for number in sorted(int(number) for number in numbers if number.isdecimal()):
        device = f"{_DRM}/card{number}/device"
        vendor = (root.read_text(f"{device}/vendor") or "").strip()
        if vendor == _AMD and root.read_int(f"{device}/mem_info_vram_total"):
            yield device


def _read_gpu(root: Root, device: str, index: int, memory: Memory) -> Gpu:
    own, shared = _read_pool(root, device, "vram"), _read_pool(root, device, "gtt")
    # For a GPU inside the processor the kernel takes the larger pool, since Linux 6.10; a carve-out
    # larger than that is memory that the host does not have, as on a card.
    integrated = _is_in_processor(root, device, own) and shared.total_bytes > own.total_bytes
    pool = shared if integrated else own
    return Gpu(
        # /dev/kfd is the kernel's way for compute; without it only Vulkan reaches the GPU.
        backend="ROCm" if root.exists("dev/kfd") else "Vulkan",
        index=index,
        name=_read_name(root, device),
        total_bytes=pool.total_bytes,
        free_bytes=min(pool.free_bytes, memory.available_bytes) if integrated else pool.free_bytes,
        integrated=integrated,
        driver=(root.read_text("sys/module/amdgpu/version") or "").strip(),
        compute_capability="",
    )


def _read_pool(root: Root, device: str, pool: str) -> _Pool:
    total = root.read_int(f"{device}/mem_info_{pool}_total") or 0
    used = root.read_int(f"{device}/mem_info_{pool}_used") or 0
    return _Pool(total, max(total - used, 0))


def _is_in_processor(root: Root, device: str, own: _Pool) -> bool:
    # Only a GPU inside a processor measures the voltage of the north bridge: the kernel's
    # documentation of amdgpu, "hwmon interfaces".
    hwmon = f"{device}/hwmon"
    labels = (root.read_text(f"{hwmon}/{name}/in1_label") or "" for name in root.names(hwmon))
    return own.total_bytes < _CARVE_OUT_BYTES or "vddnb" in map(str.strip, labels)


def _read_name(root: Root, device: str) -> str:
    """Return the name it is sold under, from libdrm's table, or its PCI device ID."""
    ids = [root.read_text(f"{device}/{name}") or "" for name in ("device", "revision")]
    wanted = [
        text.strip().removeprefix("0x").upper().zfill(size)
        for text, size in zip(ids, (4, 2), strict=True)
    ]
    # 744C,	C8,	AMD Radeon RX 7900 XTX
    for line in (root.read_text(_NAMES) or "").splitlines():
        row = [cell.strip() for cell in line.split(",", maxsplit=2)]
        if row[:2] == wanted:
            return row[-1]
    return f"AMD GPU {wanted[0]}"
