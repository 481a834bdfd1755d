"""What each NVIDIA GPU is doing right now, and what it uses, through NVML."""

import os
from collections.abc import Collection
from contextlib import suppress
from types import ModuleType
from typing import Any

from autotune.hardware.nvidia import Device, driver_is_visible, visible
from autotune.hardware.root import Root


class WatchedGpu:
    """An NVIDIA GPU that CUDA would show this process, opened."""

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        self._nvml = nvml
        self._handle = handle
        # What newer versions of pynvml raise where a driver has an older list of processes; it is
        # no NVMLError.
        mismatch = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
        self._errors: tuple[type[Exception], ...] = (nvml.NVMLError, mismatch)

    def read(self, ours: Collection[int], known: Collection[int]) -> dict[str, float]:
        """What it does now; what it does not say is left out.

        Args:
            ours: this process and all below it.
            known: every process that /proc shows.
        """
        nvml = self._nvml
        readings = {
            "temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "clock_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "throttle_reasons": self._read_reasons(),
            "power_capped_s": self._read_capped_s(),
            "foreign_processes": self._count_foreign(ours, known),
        }
        return {key: float(value) for key, value in readings.items() if value is not None}

    def joules(self) -> float | None:
        """Since its driver was loaded; GPUs before Volta do not count."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def watts(self) -> float | None:
        """What it takes now, or took in the last moment."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def _read_reasons(self) -> float | None:
        """By the name that NVML has for them since 12.2, or by the older one."""
        reasons: float | None = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return reasons

    def _read_capped_s(self) -> float | None:
        policy = getattr(self._nvml, "NVML_PERF_POLICY_POWER", None)
        status = self._ask("nvmlDeviceGetViolationStatus", policy)
        return None if status is None else status.violationTime / 1e9

    def _count_foreign(self, ours: Collection[int], known: Collection[int]) -> float | None:
        computing = self._ask("nvmlDeviceGetComputeRunningProcesses")
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        if computing is None or drawing is None:
            return None
        users = {user.pid for user in (*computing, *drawing)}
        # A container has numbers of its own, and a driver may give the host's: whose process one
        # is that /proc does not know cannot be told.
        return len(users.difference(ours)) if users <= set(known) else None

    def _ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - NVML has no types.
        """Call a function of the GPU; None where it, the driver or this build cannot answer."""
        call = getattr(self._nvml, function, None)  # Older versions of pynvml have fewer.
        try:
            return None if call is None else call(self._handle, *arguments)
        except self._errors:
            return None


def open_gpus(root: Root) -> list[WatchedGpu]:
    """Start NVML and open the GPUs; it stays started, because a start takes too long."""
    if not driver_is_visible(root):
        return []
    import pynvml  # noqa: PLC0415 - costs 23 ms, and most machines do without.

    devices = []
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):
                gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(gpu)
                devices.append(Device(gpu, uuid, gpu, is_instance=False))
    return [WatchedGpu(pynvml, device.handle) for device in visible(devices, os.environ, [])]
