"""Intel GPUs through sysfs, of which the drivers tell little."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.listings import recorded_devices
from fakes.machine import unfold, write

from autotune.hardware import Gpu, Root, detect_hardware, gpu_is_reachable
from autotune.hardware.listed import with_listed

GIB = 1 << 30
MIB = 1 << 20
HOST_BYTES = 65641120 * 1024
AVAILABLE_BYTES = 58004312 * 1024

ARC = Gpu(
    backend="Vulkan",
    index=0,
    name="Intel GPU 56A0",
    total_bytes=16 * GIB,
    free_bytes=16 * GIB,
    integrated=False,
    driver="xe",
    compute_capability="",
    sources=("sysfs",),
)
CORE = replace(
    ARC,
    index=1,
    name="Intel GPU 4680",
    total_bytes=HOST_BYTES,
    free_bytes=AVAILABLE_BYTES,
    integrated=True,
    driver="i915",
)


def test_a_card_is_used_and_a_graphics_core_waits_for_llama_cpp(tmp_path: Path) -> None:
    machine = detect_hardware(unfold("intel-arc", tmp_path))

    assert machine.gpus == (ARC,)
    assert machine.idle_gpus == (CORE,)


def test_intels_own_package_of_i915_shows_the_memory_elsewhere(tmp_path: Path) -> None:
    root = unfold("intel-arc", tmp_path)
    (tmp_path / "sys/class/drm/card0/device/tile0/physical_vram_size_bytes").unlink()
    write(tmp_path, "sys/class/drm/card0/lmem_total_bytes", str(16 * GIB))

    assert detect_hardware(root).gpus == (ARC,)


def test_a_card_of_unknown_memory_waits_for_llama_cpp(tmp_path: Path) -> None:
    """As i915 in the kernel itself has it."""
    root = unfold("intel-arc", tmp_path)
    (tmp_path / "sys/class/drm/card0/device/tile0/physical_vram_size_bytes").unlink()

    machine = detect_hardware(root)

    assert machine.gpus == ()
    assert machine.idle_gpus == (replace(ARC, total_bytes=0, free_bytes=0), CORE)
    listed = with_listed(machine, recorded_devices("sycl-card-and-core"), asked="llama-server")
    assert [(gpu.device, gpu.total_bytes) for gpu in listed.gpus] == [
        ("SYCL0", 15473 * MIB),
        ("SYCL1", 59675 * MIB),
    ]


def test_llama_cpp_names_them_and_tells_what_is_free(tmp_path: Path) -> None:
    machine = detect_hardware(unfold("intel-arc", tmp_path))

    there = with_listed(machine, recorded_devices("sycl-card-and-core"), asked="llama-server")

    assert there.gpus == (
        replace(
            ARC,
            backend="SYCL",
            name="Intel(R) Arc(TM) A770 Graphics",
            free_bytes=15473 * MIB,
            sources=("sysfs", "llama.cpp"),
            listed_as="SYCL0",
        ),
        replace(
            CORE,
            backend="SYCL",
            name="Intel(R) UHD Graphics 770",
            total_bytes=59675 * MIB,
            free_bytes=44986 * MIB,
            sources=("sysfs", "llama.cpp"),
            listed_as="SYCL1",
        ),
    )
    assert there.idle_gpus == ()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("card0/device/uevent", "DRIVER=vfio-pci"),
        ("card0/device/uevent", ""),
        ("card0/device/vendor", "0x1234"),
    ],
    ids=["given to a virtual machine", "without a driver", "of another vendor"],
)
def test_what_no_driver_of_intels_runs_is_no_gpu(path: str, content: str, tmp_path: Path) -> None:
    root = unfold("intel-arc", tmp_path)
    write(tmp_path, f"sys/class/drm/{path}", content)

    machine = detect_hardware(root)

    assert [gpu.name for gpu in (*machine.gpus, *machine.idle_gpus)] == ["Intel GPU 4680"]


@pytest.mark.parametrize("node", ["dev/dri/renderD128", "dev/kfd", "dev/dxg", "dev/nvidiactl"])
def test_a_gpu_is_reachable_by_its_node(node: str, tmp_path: Path) -> None:
    """A card without one, as in a container, is of no use to any program."""
    write(tmp_path, "sys/class/drm/card0/device/vendor", "0x8086")
    write(tmp_path, "dev/dri/card0", "")
    assert not gpu_is_reachable(Root(tmp_path))
    write(tmp_path, node, "")
    assert gpu_is_reachable(Root(tmp_path))
