"""llama.cpp's own list of devices is put over what the system tells of its GPUs."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hosts import GIB, MIB, card, host
from fakes.listings import recorded_devices
from fakes.machine import unfold

from autotune.hardware import Gpu, Hardware, detect_hardware
from autotune.hardware.listed import ASSUMED, is_software, with_listed
from autotune.hardware.nvidia import OTHER_ORDER
from autotune.llama_cpp.devices import Device

PROGRAM = "/opt/llama/llama-server"


def listed(hardware: Hardware, *devices: Device) -> Hardware:
    return with_listed(hardware, devices, asked=PROGRAM)


def device(
    name: str,
    description: str,
    total_gib: float,
    free_gib: float | None = None,
    *,
    shares_memory: bool | None = None,
) -> Device:
    return Device(
        name=name,
        description=description,
        total_mib=int(total_gib * 1024),
        free_mib=int((total_gib if free_gib is None else free_gib) * 1024),
        shares_memory=shares_memory,
    )


def nvidia(name: str, total_gib: float, free_gib: float, index: int = 0) -> Gpu:
    gpu = card(free_gib, total_gib, index=index)
    return replace(gpu, name=f"NVIDIA {name}", sources=("NVML",), compute_capability="8.9")


RTX_4090 = nvidia("GeForce RTX 4090", 24, 23)
RTX_3060 = nvidia("GeForce RTX 3060", 12, 11, index=1)
BOTH = host([RTX_4090, RTX_3060])


def test_a_gpu_that_both_tell_of_is_one_with_two_witnesses() -> None:
    there = listed(host([RTX_4090]), device("CUDA0", RTX_4090.name, 23.5, 22.5))

    assert there.gpus == (
        replace(
            RTX_4090,
            free_bytes=int(22.5 * GIB),
            sources=("NVML", "llama.cpp"),
            listed_as="CUDA0",
        ),
    )
    assert (there.idle_gpus, there.asked) == ((), PROGRAM)


def test_cuda_may_number_the_cards_otherwise_than_nvml() -> None:
    there = listed(BOTH, device("CUDA0", RTX_3060.name, 12), device("CUDA1", RTX_4090.name, 23.5))

    assert [(gpu.device, gpu.name, gpu.free_bytes) for gpu in there.gpus] == [
        ("CUDA0", RTX_3060.name, 11 * GIB),
        ("CUDA1", RTX_4090.name, 23 * GIB),
    ]


def test_an_nvidia_card_of_a_build_with_vulkan_only_is_driven_by_vulkan() -> None:
    there = listed(host([RTX_4090]), device("Vulkan0", RTX_4090.name, 24.2, 23.7))

    (gpu,) = there.gpus
    assert (gpu.backend, gpu.own_backend, gpu.device) == ("Vulkan", "CUDA", "Vulkan0")
    assert gpu.compute_capability == "8.9"


def test_a_card_that_two_backends_list_is_one_and_the_first_drives_it() -> None:
    there = listed(
        BOTH,
        device("CUDA0", RTX_4090.name, 23.5),
        device("CUDA1", RTX_3060.name, 12),
        device("Vulkan0", RTX_4090.name, 24.2),
        device("Vulkan1", RTX_3060.name, 12.2),
    )

    assert [gpu.device for gpu in there.gpus] == ["CUDA0", "CUDA1"]


def test_of_two_equal_cards_vulkan_adds_the_one_that_cuda_does_not_list() -> None:
    there = listed(
        host([RTX_4090]),
        device("CUDA0", RTX_4090.name, 23.5),
        device("Vulkan0", RTX_4090.name, 24.2),
        device("Vulkan1", RTX_4090.name, 24.2),
    )

    assert [gpu.device for gpu in there.gpus] == ["CUDA0", "Vulkan1"]


def test_a_card_that_two_backends_list_is_one_where_the_system_says_nothing() -> None:
    there = listed(
        host(),
        device("CUDA0", RTX_4090.name, 23.5),
        device("Vulkan0", RTX_4090.name, 24.2),
    )

    assert [gpu.device for gpu in there.gpus] == ["CUDA0"]


def test_a_card_that_two_backends_list_is_not_the_core_beside_it(tmp_path: Path) -> None:
    """A core's name is often not known, and its memory tells nothing."""
    desktop = detect_hardware(unfold("amd-gpu", tmp_path))
    core = "AMD Ryzen 9 7950X Graphics (RADV RAPHAEL_MENDOCINO)"

    there = listed(
        desktop,
        device("ROCm0", "AMD Radeon RX 7900 XTX", 24),
        device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24, shares_memory=False),
        device("Vulkan1", core, 31, shares_memory=True),
    )

    assert [(gpu.device, gpu.name, gpu.integrated) for gpu in there.gpus] == [
        ("ROCm0", "AMD Radeon RX 7900 XTX", False),
        ("Vulkan1", core, True),
    ]


def test_a_card_that_is_not_listed_is_idle() -> None:
    there = listed(BOTH, device("CUDA0", RTX_4090.name, 23.5))

    assert [gpu.name for gpu in there.gpus] == [RTX_4090.name]
    assert there.idle_gpus == (RTX_3060,)


def test_with_an_empty_list_every_gpu_is_idle() -> None:
    there = listed(BOTH)

    assert (there.gpus, there.idle_gpus) == ((), (RTX_4090, RTX_3060))


def test_servers_are_devices_and_a_library_is_none() -> None:
    there = with_listed(host(), recorded_devices("metal-rpc"), asked=PROGRAM)

    assert [(gpu.device, gpu.backend, gpu.total_bytes, gpu.integrated) for gpu in there.gpus] == [
        ("MTL0", "Metal", 18186 * MIB, True),
        ("RPC0", "RPC", 18186 * MIB, False),
    ]


def test_a_server_is_one_by_its_older_name_too() -> None:
    """Until llama.cpp listed several devices of one server, it was named by its address."""
    name = "RPC[127.0.0.1:50052]"

    (server,) = listed(host(), device(name, name, 8)).gpus

    assert (server.backend, server.device) == ("RPC", name)


def test_which_card_cuda_counts_first_is_known_from_its_list() -> None:
    differing = f"{OTHER_ORDER}: they are listed in the order of their PCI bus"
    machine = replace(BOTH, notes=("another", differing))

    there = listed(machine, device("CUDA0", RTX_3060.name, 12), device("CUDA1", RTX_4090.name, 24))

    assert there.notes == ("another",)
    assert listed(machine).notes == machine.notes


def test_what_llama_cpp_says_of_metal_is_no_longer_assumed() -> None:
    assumed = f"{ASSUMED} to be 2/3 of the memory"
    m4 = replace(card(21, integrated=True, backend="Metal"), name="Apple M4", sources=("sysctl",))
    mac = replace(host([m4]), notes=("another", assumed))

    there = with_listed(mac, recorded_devices("metal-rpc")[:1], asked=PROGRAM)

    (gpu,) = there.gpus
    assert (gpu.total_bytes, gpu.free_bytes) == (18186 * MIB, 18185 * MIB)
    assert gpu.sources == ("sysctl", "llama.cpp")
    assert there.notes == ("another",)


def test_the_older_name_of_metal_is_kept_for_device() -> None:
    there = with_listed(host(), recorded_devices("metal-2025"), asked=PROGRAM)

    assert [(gpu.backend, gpu.device) for gpu in there.gpus] == [("Metal", "Metal")]


@pytest.mark.parametrize("backend", ["ROCm", "Vulkan"])
def test_a_radeon_is_known_by_whichever_backend_lists_it(backend: str, tmp_path: Path) -> None:
    """sysfs tells what other programs use, the list does not where the driver has no budget."""
    desktop = detect_hardware(unfold("amd-gpu", tmp_path))
    name = "AMD Radeon RX 7900 XTX (RADV NAVI31)"

    there = listed(desktop, device(f"{backend}0", name, 24))

    (gpu,) = there.gpus
    assert (gpu.name, gpu.backend, gpu.free_bytes) == (
        "AMD Radeon RX 7900 XTX",
        backend,
        desktop.gpus[0].free_bytes,
    )
    assert gpu.own_backend == ("ROCm" if backend == "Vulkan" else "")
    assert [(idle.name, idle.integrated) for idle in there.idle_gpus] == [("AMD GPU 164E", True)]


def test_a_card_that_is_full_is_full_whatever_the_backend_says() -> None:
    """Without a driver's budget, Vulkan calls all of a card's memory free."""
    full = replace(RTX_4090, free_bytes=0)

    (gpu,) = listed(host([full]), device("Vulkan0", RTX_4090.name, 24.2)).gpus

    assert (gpu.total_bytes, gpu.free_bytes) == (24 * GIB, 0)


def test_a_name_that_was_only_a_number_is_the_one_in_the_list(tmp_path: Path) -> None:
    desktop = detect_hardware(unfold("amd-gpu", tmp_path))
    core = "AMD Ryzen 9 7950X Graphics (RADV RAPHAEL_MENDOCINO)"
    radeon = device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24)

    there = listed(desktop, radeon, device("Vulkan1", core, 31, shares_memory=True))

    assert [(gpu.name, gpu.integrated) for gpu in there.gpus] == [
        ("AMD Radeon RX 7900 XTX", False),
        (core, True),
    ]


def test_shared_memory_is_as_large_as_the_backend_says_and_free_as_the_host_has() -> None:
    core = card(20, 20, integrated=True, backend="ROCm")
    machine = host([replace(core, name="AMD GPU 1586")], available_gib=12)

    there = listed(machine, device("ROCm0", "AMD Radeon(TM) 8060S Graphics", 28, 27.5))

    (gpu,) = there.gpus
    assert (gpu.total_bytes, gpu.free_bytes, gpu.integrated) == (28 * GIB, 12 * GIB, True)


def test_a_device_that_computes_on_the_cpu_shares_its_memory() -> None:
    there = with_listed(host(available_gib=1.5), recorded_devices("vulkan-lavapipe"), asked=PROGRAM)

    (gpu,) = there.gpus
    assert (gpu.integrated, gpu.total_bytes, gpu.free_bytes) == (True, 2 * GIB, int(1.5 * GIB))
    assert is_software(gpu)
    assert not is_software(RTX_4090)


@pytest.mark.parametrize(
    ("description", "integrated"),
    [
        ("Intel(R) UHD Graphics 770", True),
        ("Intel(R) Iris(R) Xe Graphics (ADL GT2)", True),
        ("Intel(R) Arc(TM) Graphics", True),
        ("Intel(R) Arc(TM) 140V GPU (16GB)", True),
        ("Intel(R) Graphics", True),
        ("AMD Radeon(TM) Graphics", True),
        ("AMD Radeon(TM) 890M Graphics", True),
        ("AMD Radeon(TM) 8060S Graphics", True),
        ("Intel(R) Arc(TM) A770 Graphics", False),
        ("Intel(R) Arc(TM) Pro B70 Graphics", False),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", False),
        ("Radeon RX 580 Series", False),
        ("NVIDIA GeForce RTX 2060", False),
        ("127.0.0.1:50052", False),
    ],
)
def test_where_nobody_tells_the_name_says_what_is_inside_a_processor(
    description: str, *, integrated: bool
) -> None:
    """As on Windows, where there is no sysfs."""
    (gpu,) = listed(host(), device("SYCL0", description, 12)).gpus

    assert gpu.integrated is integrated


def test_what_vulkan_says_of_memory_wins_over_the_name() -> None:
    device_with_own = device("Vulkan0", "AMD Radeon(TM) Graphics", 12, shares_memory=False)
    assert [gpu.integrated for gpu in listed(host(), device_with_own).gpus] == [False]


def test_another_vendors_card_of_the_same_size_is_another_card() -> None:
    there = listed(host([RTX_4090]), device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24))

    assert [gpu.own_backend for gpu in there.gpus] == [""]
    assert there.idle_gpus == (RTX_4090,)
