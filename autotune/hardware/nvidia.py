"""NVIDIA GPUs through NVML, as far as CUDA would show them to llama.cpp."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import ModuleType
from typing import NamedTuple, TypeVar

from autotune.hardware.machine import Gpu, Memory
from autotune.hardware.root import Root, to_int

_DRIVER = "proc/driver/nvidia/version"
_WINDOWS_DRIVER = "dev/dxg"  # In WSL, and the way to a GPU of any vendor.
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_DEVICE_ORDER = "CUDA_DEVICE_ORDER"
# How the note begins that says that CUDA may number them otherwise.
OTHER_ORDER = "The NVIDIA GPUs differ"

_T = TypeVar("_T")


class Device(NamedTuple):
    """What CUDA can run on: a GPU, or an instance of one that MIG has divided."""

    handle: object
    uuid: str
    gpu: object  # The handle of the whole GPU, which knows what an instance does not.
    is_instance: bool


def read_gpus(
    root: Root, memory: Memory, environ: Mapping[str, str], notes: list[str]
) -> list[Gpu]:
    """List the GPUs; none where no driver is visible, which keeps 15 ms off the quick path."""
    if not driver_is_visible(root):
        return []
    import pynvml  # noqa: PLC0415 - costs 23 ms, and most machines do without.

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        # In WSL and on Windows the library comes with the driver: without it there is no GPU.
        if root.exists(_DRIVER) or not isinstance(error, pynvml.NVMLError_LibraryNotFound):
            notes.append(f"NVML could not be started ({error}); no NVIDIA GPU is used.")
        return []
    try:
        return _Nvml(pynvml, memory, notes).read_gpus(environ)
    except pynvml.NVMLError as error:
        notes.append(f"NVML could not list the GPUs ({error}); none is used.")
        return []
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def driver_is_visible(root: Root) -> bool:
    """An NVIDIA driver can be reached: without one, loading NVML is not worth its time."""
    on_windows = root.is_real and sys.platform == "win32"
    return root.exists(_DRIVER) or root.exists(_WINDOWS_DRIVER) or on_windows


class _Nvml:
    """NVML, started."""

    def __init__(self, nvml: ModuleType, memory: Memory, notes: list[str]) -> None:
        self._nvml = nvml
        self._memory = memory
        self._notes = notes

    def read_gpus(self, environ: Mapping[str, str]) -> list[Gpu]:
        devices = visible(list(self._devices()), environ, self._notes)
        gpus: list[Gpu] = []
        for device in devices:
            gpu = self._read_gpu(device, index=len(gpus))
            gpus.extend([gpu] if gpu else [])
        if len({gpu.name for gpu in gpus}) > 1 and environ.get(_DEVICE_ORDER) != "PCI_BUS_ID":
            self._notes.append(
                f"{OTHER_ORDER}: they are listed in the order of their PCI bus, "
                f"and CUDA puts the fastest first unless {_DEVICE_ORDER}=PCI_BUS_ID is set."
            )
        return gpus

    def _devices(self) -> Iterator[Device]:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
            except self._nvml.NVMLError as error:
                self._notes.append(f"NVIDIA GPU {index} could not be opened ({error}).")
                continue
            if self._is_divided(gpu):
                yield from self._instances(gpu)
            else:
                yield Device(gpu, self._uuid(gpu), gpu, is_instance=False)

    def _is_divided(self, gpu: object) -> bool:
        # Not supported by most GPUs, and unknown to drivers before 450.
        current, _ = self._ask((0, 0), "nvmlDeviceGetMigMode", gpu)
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _instances(self, gpu: object) -> Iterator[Device]:
        for slot in range(self._ask(0, "nvmlDeviceGetMaxMigDeviceCount", gpu)):
            with suppress(self._nvml.NVMLError):  # An empty slot is an error to NVML.
                handle = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
                yield Device(handle, self._uuid(handle), gpu, is_instance=True)

    def _read_gpu(self, device: Device, index: int) -> Gpu | None:
        name = self._ask("NVIDIA GPU", "nvmlDeviceGetName", device.handle)
        try:
            total, free = self._read_memory(device)
        except self._nvml.NVMLError as error:
            self._notes.append(f"The memory of {name} could not be read ({error}); it is left out.")
            return None
        if total == 0:
            self._notes.append(
                f"NVML reports no memory of its own for {name}; it is assumed to share the host's."
            )
        major, minor = self._ask((0, 0), "nvmlDeviceGetCudaComputeCapability", device.gpu)
        return Gpu(
            backend="CUDA",
            index=index,
            name=name,
            total_bytes=total or self._memory.total_bytes,
            free_bytes=free if total else self._memory.available_bytes,
            integrated=total == 0,
            driver=self._ask("", "nvmlSystemGetDriverVersion"),
            compute_capability=f"{major}.{minor}" if major else "",
            sources=("NVML",),
        )

    def _read_memory(self, device: Device) -> tuple[int, int]:
        """Return total and free bytes; 0 of both for a GPU without memory of its own."""
        try:
            info = self._nvml.nvmlDeviceGetMemoryInfo(device.handle)
        except self._nvml.NVMLError_NotSupported:
            # The answer of unified memory (GB10 in the DGX Spark); an instance has memory.
            if device.is_instance:
                raise
            return 0, 0
        return info.total, info.free

    def _uuid(self, handle: object) -> str:
        return self._ask("", "nvmlDeviceGetUUID", handle)

    def _ask(self, default: _T, function: str, *arguments: object) -> _T:
        """Call a function whose answer the rest can do without."""
        try:
            answer: _T = getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError:
            return default
        return answer


def visible(devices: list[Device], environ: Mapping[str, str], notes: list[str]) -> list[Device]:
    """Leave what CUDA would show to a process with this environment."""
    chosen = (
        devices if _VISIBLE_DEVICES not in environ else _listed(devices, environ[_VISIBLE_DEVICES])
    )
    if devices and not chosen:
        notes.append(f"{_VISIBLE_DEVICES}={environ[_VISIBLE_DEVICES]!r} hides every NVIDIA GPU.")
    instances = [device for device in chosen if device.is_instance]
    if len(instances) > 1:
        notes.append("CUDA gives a process one MIG instance; the others are left out.")
    return instances[:1] or chosen


def _listed(devices: list[Device], tokens: str) -> list[Device]:
    chosen: list[Device] = []
    for token in tokens.split(","):
        device = _named(devices, token.strip())
        if device is None:  # CUDA ignores what follows the first name that it does not know.
            break
        chosen.append(device)
    return chosen


def _named(devices: list[Device], token: str) -> Device | None:
    """Find a device by its index, or by as much of its UUID as is unique."""
    index = to_int(token)
    if index is not None:
        return devices[index] if 0 <= index < len(devices) else None
    matches = [device for device in devices if token and device.uuid.startswith(token)]
    return matches[0] if len(matches) == 1 else None
