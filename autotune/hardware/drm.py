"""GPUs in `/sys/class/drm`: what the kernel shows of a card, whoever made it.

Its sensors are those of the kernel's hwmon interface: millidegrees, and hertz.
"""

from collections.abc import Iterator

from autotune.hardware.root import Root, to_int

AMD, INTEL = "0x1002", "0x8086"  # PCI vendor IDs; AMD's graphics have ATI's.

_DRM = "sys/class/drm"
# The package, or the edge of the die: temp1 of amdgpu and i915, temp2 of xe.
_TEMPERATURES = ("temp1_input", "temp2_input")
_CLOCK = "freq1_input"  # Of the shaders, where amdgpu shows it.
# How a process reaches a GPU: a render node, AMD's compute interface, Windows' from WSL, NVIDIA's.
_NODES = ("dev/kfd", "dev/dxg", "dev/nvidiactl")
_RENDER_NODES = "dev/dri"


def cards(root: Root, vendor: str) -> Iterator[str]:
    """Yield the folder of each card of a PCI vendor (`0x1002`), by the kernel's numbers.

    Beside card0 stand its connectors, such as card0-DP-1.
    """
    names = (name.removeprefix("card") for name in root.names(_DRM))
    for number in sorted(n for name in names if (n := to_int(name)) is not None):
        card = f"{_DRM}/card{number}"
        if (root.read_text(f"{card}/device/vendor") or "").strip() == vendor:
            yield card


def event(root: Root, card: str) -> dict[str, str]:
    """Read what the kernel tells of a card's device: DRIVER, PCI_SLOT_NAME, PCI_ID."""
    lines = (root.read_text(f"{card}/device/uevent") or "").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


class Sensors:
    """The sensors of one card, found once."""

    def __init__(self, root: Root, card: str) -> None:
        folder = f"{card}/device/hwmon"
        files = [f"{folder}/{chip}/{name}" for chip in root.names(folder) for name in _TEMPERATURES]
        clocks = [f"{folder}/{chip}/{_CLOCK}" for chip in root.names(folder)]
        self._root = root
        self._temperature = next(filter(root.exists, files), "")
        self._clock = next(filter(root.exists, clocks), "")

    def read(self) -> dict[str, float]:
        """Read `temperature_c` and `clock_mhz`; what is not shown, or hidden now, is left out."""
        known = {
            "temperature_c": self._number(self._temperature, unit=1000),
            "clock_mhz": self._number(self._clock, unit=1_000_000),
        }
        return {key: value for key, value in known.items() if value is not None}

    def _number(self, path: str, *, unit: int) -> float | None:
        number = self._root.read_int(path) if path else None
        return None if number is None else number / unit


def is_reachable(root: Root) -> bool:
    """Some GPU has a node by which a program could use it."""
    render = (name.startswith("renderD") for name in root.names(_RENDER_NODES))
    return any(root.exists(node) for node in _NODES) or any(render)
