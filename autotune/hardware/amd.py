"""AMD GPUs from what the amdgpu driver shows in `/sys/class/drm`; else from ROCm's own tool."""

from typing import TYPE_CHECKING, NamedTuple

from autotune.hardware import drm
from autotune.hardware.machine import Gpu, Memory
from autotune.hardware.root import Root

if TYPE_CHECKING:
    from autotune.hardware import rocm_smi

_COMPUTE = "dev/kfd"  # The kernel's way for compute; without it only Vulkan reaches the GPU.
# What firmware sets aside at least for a GPU inside the processor, and less than any card has that
# llama.cpp is worth running on.
_CARVE_OUT_BYTES = 1 << 30
_NAMES = "usr/share/libdrm/amdgpu.ids"


class Pool(NamedTuple):
    """One kind of memory that a GPU may use."""

    total_bytes: int
    free_bytes: int


class _Shown(NamedTuple):
    """A GPU as the kernel or a tool shows it."""

    name: str
    own: Pool
    shared: Pool
    in_processor: bool
    driver: str
    source: str


def read_gpus(root: Root, memory: Memory) -> list[Gpu]:
    """List the GPUs that the amdgpu driver runs.

    Where the kernel shows the way for compute, but no memory (a sandbox may hide sysfs), ROCm's
    tool is asked, which takes half a second.
    """
    shown = [
        _from_sysfs(root, card) for card in drm.cards(root, drm.AMD) if _has_memory(root, card)
    ]
    if not shown and root.exists(_COMPUTE):
        from autotune.hardware import rocm_smi  # noqa: PLC0415 - starts programs, and is rare

        shown = [_from_tool(card) for card in rocm_smi.read_cards(root)]
    backend = "ROCm" if root.exists(_COMPUTE) else "Vulkan"
    return [_gpu(one, backend, index, memory) for index, one in enumerate(shown)]


def _gpu(shown: _Shown, backend: str, index: int, memory: Memory) -> Gpu:
    # For a GPU inside the processor the kernel takes the larger pool, since Linux 6.10; a carve-out
    # larger than that is memory that the host does not have, as on a card.
    integrated = shown.in_processor and shown.shared.total_bytes > shown.own.total_bytes
    pool = shown.shared if integrated else shown.own
    return Gpu(
        backend=backend,
        index=index,
        name=shown.name,
        total_bytes=pool.total_bytes,
        free_bytes=min(pool.free_bytes, memory.available_bytes) if integrated else pool.free_bytes,
        integrated=integrated,
        driver=shown.driver,
        compute_capability="",
        sources=(shown.source,),
    )


def _has_memory(root: Root, card: str) -> bool:
    return bool(root.read_int(f"{card}/device/mem_info_vram_total"))


def _from_sysfs(root: Root, card: str) -> _Shown:
    own, shared = _read_pool(root, card, "vram"), _read_pool(root, card, "gtt")
    return _Shown(
        name=_read_name(root, card),
        own=own,
        shared=shared,
        in_processor=own.total_bytes < _CARVE_OUT_BYTES or _measures_north_bridge(root, card),
        driver=(root.read_text("sys/module/amdgpu/version") or "").strip(),
        source="sysfs",
    )


def _from_tool(card: "rocm_smi.Card") -> _Shown:
    own = Pool(card.vram_total, max(card.vram_total - card.vram_used, 0))
    return _Shown(
        name=card.name,
        own=own,
        shared=Pool(card.gtt_total, max(card.gtt_total - card.gtt_used, 0)),
        in_processor=own.total_bytes < _CARVE_OUT_BYTES,
        driver=card.driver,
        source="ROCm-SMI",
    )


def _read_pool(root: Root, card: str, pool: str) -> Pool:
    total = root.read_int(f"{card}/device/mem_info_{pool}_total") or 0
    used = root.read_int(f"{card}/device/mem_info_{pool}_used") or 0
    return Pool(total, max(total - used, 0))


def _measures_north_bridge(root: Root, card: str) -> bool:
    # Only a GPU inside a processor measures the voltage of the north bridge: the kernel's
    # documentation of amdgpu, "hwmon interfaces".
    hwmon = f"{card}/device/hwmon"
    labels = (root.read_text(f"{hwmon}/{name}/in1_label") or "" for name in root.names(hwmon))
    return "vddnb" in map(str.strip, labels)


def _read_name(root: Root, card: str) -> str:
    """Return the name it is sold under, from libdrm's table, or its PCI device ID."""
    ids = [root.read_text(f"{card}/device/{name}") or "" for name in ("device", "revision")]
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
