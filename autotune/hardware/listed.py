"""The machine as llama.cpp sees it: its own list of devices, put over what the system tells.

llama.cpp's list decides which GPUs count, what they are called and what is free. The system knows
what the list does not say: the address, the driver, and whether the memory is the host's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autotune.hardware.machine import Gpu, Hardware, Memory
from autotune.hardware.nvidia import OTHER_ORDER

SOURCE = "llama.cpp"
# How the note begins that stands in for llama.cpp's own word on a Mac.
ASSUMED = "Metal's recommended working set is assumed"

# By its list of each backend's devices, llama.cpp answers what a note says is not known.
_TELLS = {"Metal": ASSUMED, "CUDA": OTHER_ORDER}

_MIB = 1 << 20
# The name of a device in llama.cpp: a backend, and a number where there may be several; a server's
# was RPC[HOST:PORT], as its description still is then, until several devices of one were listed.
_NAME = re.compile(r"([A-Za-z]+)(\d*)(\[.+\])?$")
# llama.cpp's own short names, beside the ones that it gives its backends elsewhere.
_BACKENDS = {"MTL": "Metal"}
# Mesa's and Google's drivers that compute on the CPU.
_SOFTWARE = ("llvmpipe", "lavapipe", "swiftshader")
# Vendors, as their GPUs are described: "Radeon RX 580 Series" does not say who made it.
_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "radeon": "AMD", "intel": "Intel", "apple": "Apple"}
# The backend of each vendor's own tools.
_OWN = {"CUDA": "NVIDIA", "ROCm": "AMD", "Metal": "Apple"}
# How far two tools may differ in how large a card's memory is: what firmware and driver keep.
_MOST_KEPT = 0.15
# How a name is given where no table has it: by the device ID.
_ID_ONLY = re.compile(r"(AMD|Intel) GPU ?[0-9A-F]*$")
# How vendors name what is inside a processor: Intel(R) UHD Graphics 770, Arc(TM) Graphics, Arc(TM)
# 140V GPU, AMD Radeon(TM) 890M Graphics, Radeon(TM) Graphics. A card is an Arc(TM) A770 or an RX.
_CORE = re.compile(
    r"\b(uhd|hd|iris|vega \d+|\d{3,4}[ms]) .*graphics|\barc (graphics|\d{3}[a-z])|"
    r"\b(intel|radeon) graphics"
)


class Listed(Protocol):
    """A device in llama.cpp's own list."""

    @property
    def name(self) -> str:
        """CUDA0, RPC0, Vulkan1."""

    @property
    def description(self) -> str:
        """The name it is sold under, or a server's address."""

    @property
    def total_mib(self) -> int:
        """0 for what is no device, such as BLAS."""

    @property
    def free_mib(self) -> int:
        """As its driver tells, or all of it."""

    @property
    def shares_memory(self) -> bool | None:
        """The memory is the host's; None where llama.cpp does not say."""


@dataclass(frozen=True, slots=True)
class _Driven:
    """A GPU in the list, and the backends that have it there."""

    gpu: Gpu
    backends: set[str] = field(default_factory=set)


def with_listed(hardware: Hardware, listed: Sequence[Listed], asked: str) -> Hardware:
    """The machine with the GPUs that llama.cpp lists, which are what counts; the others are idle.

    A GPU that two backends list is one GPU, and the first drives it, as llama.cpp itself decides
    (`llama_prepare_model_devices` in src/llama.cpp).

    Args:
        hardware: as the system tells.
        listed: in llama.cpp's order.
        asked: the program that has listed them.
    """
    idle = [*hardware.gpus, *hardware.idle_gpus]
    driven: list[_Driven] = []
    for device in (one for one in listed if one.total_mib):
        backend, index = _parts(device.name)
        known, likeness = _best(idle, device)
        others = [one for one in driven if backend not in one.backends]
        twin, likeness_of_twin = _best([one.gpu for one in others], device)
        # A core of the same vendor could be anything, but not what another is by its name.
        if twin and likeness_of_twin > likeness:
            next(one for one in others if one.gpu is twin).backends.add(backend)
            continue
        if known:
            idle.remove(known)
        gpu = _joined(device, backend, index, known, hardware.memory)
        driven.append(_Driven(gpu, {backend}))
    gpus = tuple(one.gpu for one in driven)
    # llama.cpp tells what was assumed without it.
    told = tuple(_TELLS[gpu.backend] for gpu in gpus if gpu.backend in _TELLS)
    notes = tuple(note for note in hardware.notes if not note.startswith(told))
    return replace(hardware, gpus=gpus, idle_gpus=tuple(idle), asked=asked, notes=notes)


def is_software(gpu: Gpu) -> bool:
    """It is a driver that computes on the CPU."""
    return _is_software(gpu.name)


def _is_software(name: str) -> bool:
    return any(word in name.lower() for word in _SOFTWARE)


def _parts(name: str) -> tuple[str, int]:
    match = _NAME.match(name)
    word, number = (match[1], int(match[2] or 0)) if match else (name, 0)
    return _BACKENDS.get(word, word), number


def _joined(device: Listed, backend: str, index: int, known: Gpu | None, memory: Memory) -> Gpu:
    """One GPU out of both."""
    total, free = device.total_mib * _MIB, device.free_mib * _MIB
    gpu = known or Gpu(
        backend=backend,
        index=index,
        name=device.description,
        total_bytes=total,
        free_bytes=free,
        integrated=_shares_memory(device, backend),
        driver="",
        compute_capability="",
    )
    # Of shared memory, how much is for the GPU is the backend's own decision.
    total = total if gpu.integrated else gpu.total_bytes or total
    if gpu.integrated:
        free = min(free, memory.available_bytes)
    elif gpu.total_bytes:  # Else the system does not tell.
        free = min(free, gpu.free_bytes)
    return replace(
        gpu,
        backend=backend,
        index=index,
        name=device.description if _ID_ONLY.match(gpu.name) else gpu.name,
        total_bytes=total,
        free_bytes=min(free, total),
        sources=(*gpu.sources, SOURCE),
        listed_as=device.name,
        own_backend=gpu.backend if gpu.backend in _OWN and gpu.backend != backend else "",
    )


def _shares_memory(device: Listed, backend: str) -> bool:
    # Of a driver that computes on the CPU, Vulkan says that it had memory of its own.
    if _is_software(device.description) or backend == "Metal":
        return True
    named_as_core = bool(_CORE.search(_plain(device.description)))
    return named_as_core if device.shares_memory is None else device.shares_memory


def _best(gpus: Iterable[Gpu], device: Listed) -> tuple[Gpu | None, int]:
    """The one that most likely is the device, with its likeness; None where none can be."""
    backend, index = _parts(device.name)
    ranked = [
        (_likeness(gpu, device), (gpu.backend, gpu.index) == (backend, index), gpu) for gpu in gpus
    ]
    likeness, _, gpu = max(ranked, key=lambda one: one[:2], default=(0, False, None))
    return (gpu if likeness else None), likeness


def _likeness(gpu: Gpu, device: Listed) -> int:
    """0: another one; 1: of the same vendor, with as much memory; 2: of the same name as well."""
    difference = abs(gpu.total_bytes - device.total_mib * _MIB)
    as_large = gpu.integrated or not gpu.total_bytes or difference <= _MOST_KEPT * gpu.total_bytes
    if not as_large:
        return 0
    mine, its = _plain(gpu.name), _plain(device.description)
    if mine and its and (mine in its or its in mine):
        return 2
    return int(_vendor(gpu) in _VENDORS.values() and _vendor(gpu) == _vendor_of(its))


def _plain(name: str) -> str:
    return " ".join(re.sub(r"\((tm|r)\)", " ", name.lower()).split())


def _vendor(gpu: Gpu) -> str:
    return _vendor_of(_plain(gpu.name)) or _OWN.get(gpu.backend, "")


def _vendor_of(name: str) -> str:
    words = name.split()
    return next((vendor for word, vendor in _VENDORS.items() if word in words), "")
