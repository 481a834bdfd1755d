"""GPUs without a vendor's library: AMD through sysfs, Apple through sysctl."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.machine import RecordedSysctl, unfold, write

from autotune.hardware import Gpu, Memory, Root, detect_hardware, metal

GIB = 1 << 30
MIB = 1 << 20

CARD = Gpu(
    backend="ROCm",
    index=0,
    name="AMD Radeon RX 7900 XTX",
    total_bytes=25753026560,
    free_bytes=25753026560 - 1610612736,
    integrated=False,
    driver="",
    compute_capability="",
    sources=("sysfs",),
)
IN_PROCESSOR = Gpu(
    backend="ROCm",
    index=1,
    name="AMD GPU 164E",
    total_bytes=33296033792,
    free_bytes=33296033792 - 268435456,
    integrated=True,
    driver="",
    compute_capability="",
    sources=("sysfs",),
)
SECOND = "sys/class/drm/card2/device"


def gpus_of(root: Root) -> tuple[Gpu, ...]:
    return detect_hardware(root).gpus


def test_a_card_has_memory_of_its_own_and_a_graphics_core_the_hosts(tmp_path: Path) -> None:
    assert gpus_of(unfold("amd-gpu", tmp_path)) == (CARD, IN_PROCESSOR)


def test_the_driver_has_a_version_where_it_was_not_built_with_the_kernel(tmp_path: Path) -> None:
    root = unfold("amd-gpu", tmp_path)
    write(tmp_path, "sys/module/amdgpu/version", "6.10.5")
    assert gpus_of(root)[0].driver == "6.10.5"


def test_without_the_compute_interface_only_vulkan_is_left(tmp_path: Path) -> None:
    root = unfold("amd-gpu", tmp_path)
    (tmp_path / "dev/kfd").unlink()
    assert [gpu.backend for gpu in gpus_of(root)] == ["Vulkan", "Vulkan"]


def test_shared_memory_is_free_only_as_far_as_the_host_has_it(tmp_path: Path) -> None:
    root = unfold("amd-gpu", tmp_path)
    write(tmp_path, "proc/meminfo", "MemTotal: 65031316 kB\nMemAvailable: 8388608 kB")
    assert [gpu.free_bytes for gpu in gpus_of(root)] == [CARD.free_bytes, 8 * GIB]


def test_a_large_carve_out_is_memory_that_the_host_does_not_have(tmp_path: Path) -> None:
    """96 of 128 GiB can be given to the graphics core of a Ryzen AI Max."""
    root = unfold("amd-gpu", tmp_path)
    write(tmp_path, f"{SECOND}/mem_info_vram_total", str(96 * GIB))
    write(tmp_path, f"{SECOND}/mem_info_vram_used", str(GIB))
    expected = replace(IN_PROCESSOR, total_bytes=96 * GIB, free_bytes=95 * GIB, integrated=False)
    assert gpus_of(root)[1] == expected


def test_a_carve_out_of_two_gib_is_told_from_a_card_by_its_voltages(tmp_path: Path) -> None:
    root = unfold("amd-gpu", tmp_path)
    write(tmp_path, f"{SECOND}/mem_info_vram_total", str(2 * GIB))
    assert gpus_of(root)[1].integrated
    (tmp_path / SECOND / "hwmon/hwmon5/in1_label").unlink()
    assert not gpus_of(root)[1].integrated


@pytest.mark.parametrize(
    ("file", "content"),
    [("vendor", "0x10de"), ("mem_info_vram_total", "0"), ("mem_info_vram_total", "nonsense")],
)
def test_what_is_no_usable_amd_gpu_is_left_out(file: str, content: str, tmp_path: Path) -> None:
    root = unfold("amd-gpu", tmp_path)
    write(tmp_path, f"{SECOND}/{file}", content)
    assert gpus_of(root) == (CARD,)


M2_MAX: dict[str, int | str] = {
    "hw.optional.arm64": 1,
    "machdep.cpu.brand_string": "Apple M2 Max",
    "iogpu.wired_limit_mb": 0,
}


def mac_memory(gib: int, available_gib: int) -> Memory:
    return Memory(
        total_bytes=gib * GIB,
        available_bytes=available_gib * GIB,
        limit_bytes=None,
        swap_total_bytes=0,
        swap_free_bytes=0,
        memlock_bytes=None,
    )


@pytest.mark.parametrize(
    ("gib", "working_set"),
    [
        pytest.param(32, 22906492245, id="two thirds of 32 GiB"),
        pytest.param(64, 48 * GIB, id="three quarters of 64 GiB"),
    ],
)
def test_metal_takes_a_share_of_the_memory(gib: int, working_set: int) -> None:
    notes: list[str] = []
    gpus = metal.read_gpus(RecordedSysctl(M2_MAX), mac_memory(gib, available_gib=gib), notes)
    assert gpus == [
        Gpu(
            backend="Metal",
            index=0,
            name="Apple M2 Max",
            total_bytes=working_set,
            free_bytes=working_set,
            integrated=True,
            driver="",
            compute_capability="",
            sources=("sysctl",),
        )
    ]
    assert len(notes) == 1


def test_a_working_set_that_was_chosen_is_no_assumption() -> None:
    notes: list[str] = []
    sysctl = RecordedSysctl(M2_MAX | {"iogpu.wired_limit_mb": 57344})
    (gpu,) = metal.read_gpus(sysctl, mac_memory(64, available_gib=20), notes)
    assert (gpu.total_bytes, gpu.free_bytes) == (57344 * MIB, 20 * GIB)
    assert notes == []


def test_a_mac_with_an_intel_processor_has_no_gpu_for_llama_cpp() -> None:
    assert metal.read_gpus(RecordedSysctl({}), mac_memory(16, available_gib=8), []) == []
