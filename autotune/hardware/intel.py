"""Intel GPUs from what the i915 and xe drivers show in `/sys/class/drm`.

What they show is little: which GPU it is, and of a card how much memory it has, if that. What is
free, only llama.cpp itself can tell, and whether a GPU inside the processor is worth using.
"""

from collections.abc import Iterator

from autotune.hardware import drm
from autotune.hardware.machine import Gpu, Memory
from autotune.hardware.root import Root

_DRIVERS = frozenset({"i915", "xe"})
# Where every processor of Intel's has its graphics.
_IN_PROCESSOR = "0000:00:02.0"
_MOST_TILES = 8  # Ponte Vecchio has two, and none has more.


def read_gpus(root: Root, memory: Memory) -> list[Gpu]:
    """List the GPUs that i915 and xe run; 0 bytes where the driver does not tell of memory."""
    cards = [(card, drm.event(root, card)) for card in drm.cards(root, drm.INTEL)]
    driven = [(card, told) for card, told in cards if told.get("DRIVER") in _DRIVERS]
    return [_gpu(root, card, told, index, memory) for index, (card, told) in enumerate(driven)]


def _gpu(root: Root, card: str, told: dict[str, str], index: int, memory: Memory) -> Gpu:
    integrated = told.get("PCI_SLOT_NAME") == _IN_PROCESSOR
    total = memory.total_bytes if integrated else _own_bytes(root, card)
    device = (root.read_text(f"{card}/device/device") or "").strip().removeprefix("0x").upper()
    return Gpu(
        backend="Vulkan",  # Which SYCL also drives, in fewer builds.
        index=index,
        name=f"Intel GPU {device}",
        total_bytes=total,
        free_bytes=memory.available_bytes if integrated else total,
        integrated=integrated,
        driver=told.get("DRIVER", ""),
        compute_capability="",
        sources=("sysfs",),
    )


def _own_bytes(root: Root, card: str) -> int:
    """Add up a card's memory: of its tiles under xe; i915 shows it in Intel's own package only."""
    return sum(_tiles(root, card)) or root.read_int(f"{card}/lmem_total_bytes") or 0


def _tiles(root: Root, card: str) -> Iterator[int]:
    for tile in range(_MOST_TILES):
        yield root.read_int(f"{card}/device/tile{tile}/physical_vram_size_bytes") or 0
