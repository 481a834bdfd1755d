"""Machines without /proc: psutil and sysctl answer."""

import ctypes
import os
import sys

import psutil  # type: ignore[import-untyped]
import pytest
from fakes.machine import RecordedSysctl

from autotune.hardware import Storage, detect_hardware, portable, storage_of, sysctl

M4 = RecordedSysctl(
    {
        "hw.optional.arm64": 1,
        "hw.optional.AdvSIMD": 1,
        "hw.optional.arm.FEAT_DotProd": 1,
        "hw.optional.arm.FEAT_I8MM": 1,
        "hw.optional.arm.FEAT_SME": 1,
        "hw.packages": 1,
        "hw.perflevel0.physicalcpu": 1,
        "machdep.cpu.brand_string": "Apple M4",
    }
)


def test_a_mac_is_read_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sysctl, "SystemSysctl", lambda: M4)
    hardware = detect_hardware()
    assert hardware.cpu.name == "Apple M4"
    assert hardware.cpu.isa == ("neon", "dotprod", "i8mm", "sme")
    assert hardware.cpu.performance_cores == 1
    assert hardware.cpu.usable_cpus == tuple(range(hardware.cpu.logical_cores))
    assert [gpu.backend for gpu in hardware.gpus] == ["Metal"]
    assert len(hardware.notes) == 1


def test_another_system_has_equal_cores_and_a_note() -> None:
    notes: list[str] = []
    cpu = portable.read_cpu(None, notes)
    assert cpu.performance_cores == cpu.physical_cores
    assert set(cpu.usable_cpus) == os.sched_getaffinity(0)
    assert len(notes) == 1


def test_memory_is_what_psutil_counts() -> None:
    assert portable.read_memory().total_bytes == psutil.virtual_memory().total


def test_without_a_mount_table_psutil_tells_the_file_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert storage_of("/proc/self").filesystem == "proc"


def test_without_any_mount_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])
    storage = portable.read_storage("/proc/self")
    assert storage == Storage(filesystem="", device="", rotational=None, network=False)


def test_windows_has_no_lock_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert portable.read_memory().memlock_bytes is None


class Libc:
    """The one function of macOS's C library that is asked, with its calling convention."""

    VALUES = {b"hw.ncpu": b"\x0a\0\0\0", b"hw.model": b"Mac16,10\0"}  # noqa: RUF012 - never changed.

    def sysctlbyname(
        self,
        name: bytes,
        value: "ctypes.Array[ctypes.c_char] | None",
        size: "ctypes._Pointer[ctypes.c_size_t]",
        new: None,
        new_size: ctypes.c_size_t,
    ) -> int:
        assert (new, new_size.value) == (None, 0)
        if name not in self.VALUES:
            return -1
        if value is not None:
            value.raw = self.VALUES[name]
        ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t)).contents.value = len(self.VALUES[name])
        return 0


def test_sysctl_asks_for_the_size_and_then_for_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Libc())
    mac = sysctl.SystemSysctl()
    assert mac.read_int("hw.ncpu") == 10
    assert mac.read_text("hw.model") == "Mac16,10"
    assert mac.read_int("hw.unheard_of") is None
    assert mac.read_text("hw.unheard_of") is None
