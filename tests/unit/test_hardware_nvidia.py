"""NVIDIA GPUs through the real pynvml, over a stand-in for NVIDIA's library."""

from pathlib import Path
from typing import Any

import pytest
from fakes import nvml
from fakes.machine import unfold, write

MIB = 1 << 20
HOST_BYTES = 32776436 * 1024
HOST_AVAILABLE_BYTES = 24518032 * 1024

ADA = "gpu 0 0 8.9 24564 23028 GPU-aaaa1111 NVIDIA GeForce RTX 4090"
ADA_TWIN = "gpu 0 0 8.9 24564 23028 GPU-bbbb2222 NVIDIA GeForce RTX 4090"
AMPERE = "gpu 0 0 8.6 12288 6144 GPU-cccc3333 NVIDIA GeForce RTX 3060"
UNIFIED = "gpu 0 3 12.1 0 0 GPU-dddd4444 NVIDIA GB10"
LOST = "gpu 15 0 8.6 12288 6144 GPU-eeee5555 NVIDIA GeForce RTX 3060"
LOST_LATER = "gpu 0 15 8.6 12288 6144 GPU-ffff6666 NVIDIA GeForce RTX 3060"
DIVIDED = (
    "gpu 0 0 8.0 40960 40000 GPU-9999 NVIDIA A100-SXM4-40GB\n"
    "instance 0 9856 9800 MIG-1111 NVIDIA A100-SXM4-40GB MIG 2g.10gb\n"
    "instance 0 4864 4800 MIG-2222 NVIDIA A100-SXM4-40GB MIG 1g.5gb"
)

DIFFERENT = (
    "The NVIDIA GPUs differ: they are listed in the order of their PCI bus, "
    "and CUDA puts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set."
)
NO_LIBRARY = "NVML could not be started (NVML Shared Library Not Found); no NVIDIA GPU is used."
NO_OWN_MEMORY = (
    "NVML reports no memory of its own for NVIDIA GB10; it is assumed to share the host's."
)
LOST_WHILE_ASKED = (
    "The memory of NVIDIA GeForce RTX 3060 could not be read (GPU is lost); it is left out."
)
INSTANCE_WITHOUT_ANSWER = (
    "The memory of NVIDIA A100-SXM4-40GB MIG 2g.10gb could not be read (Not Supported); "
    "it is left out."
)
ONE_INSTANCE = "CUDA gives a process one MIG instance; the others are left out."


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


def record(folder: Path, *drivers: str) -> Path:
    """Unfold a machine in which these files tell of a driver."""
    unfold("one-socket-smt", folder)
    for driver in drivers:
        write(folder, driver, "NVRM version: 570.124.06")
    return folder


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("linux"), "proc/driver/nvidia/version")


@pytest.fixture(scope="session")
def wsl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("wsl"), "dev/dxg")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("other"))


class Workstation:
    """A recorded machine, a library, and what it is to report."""

    def __init__(self, machine: Path, library: Path, state: Path) -> None:
        self.machine = machine
        self.library = library
        self.state = state

    def detect(self, *lines: str, **environ: str) -> dict[str, Any]:
        self.state.write_text("\n".join(("driver 570.124.06", *lines)))
        return nvml.detect(self.machine, self.library, self.state, environ)

    def log(self) -> list[str]:
        log = self.state.with_name("state.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def workstation(linux: Path, library: Path, tmp_path: Path) -> Workstation:
    return Workstation(linux, library, tmp_path / "state")


@pytest.fixture
def broken_library(tmp_path: Path) -> Path:
    library = tmp_path / "libnvidia-ml.so.1"
    library.touch()
    return library


def cuda(
    name: str, total_mib: int, free_mib: int, capability: str, index: int = 0
) -> dict[str, Any]:
    return {
        "backend": "CUDA",
        "index": index,
        "name": name,
        "total_bytes": total_mib * MIB,
        "free_bytes": free_mib * MIB,
        "integrated": False,
        "driver": "570.124.06",
        "compute_capability": capability,
        "sources": ["NVML"],
        "listed_as": "",
        "own_backend": "",
    }


RTX_4090 = cuda("NVIDIA GeForce RTX 4090", 24564, 23028, "8.9")
RTX_3060 = cuda("NVIDIA GeForce RTX 3060", 12288, 6144, "8.6")
GB10 = cuda("NVIDIA GB10", 0, 0, "12.1") | {
    "total_bytes": HOST_BYTES,
    "free_bytes": HOST_AVAILABLE_BYTES,
    "integrated": True,
}


@pytest.mark.parametrize(
    ("lines", "gpus", "notes"),
    [
        pytest.param([], [], [], id="none"),
        pytest.param([ADA], [RTX_4090], [], id="one"),
        pytest.param([AMPERE], [RTX_3060], [], id="half full"),
        pytest.param([ADA, ADA_TWIN], [RTX_4090, RTX_4090 | {"index": 1}], [], id="two alike"),
        pytest.param(
            [ADA, AMPERE], [RTX_4090, RTX_3060 | {"index": 1}], [DIFFERENT], id="two unequal"
        ),
        pytest.param(
            [UNIFIED],
            [GB10],
            [NO_OWN_MEMORY],
            id="unified memory",
        ),
        pytest.param(
            [LOST, ADA],
            [RTX_4090],
            ["NVIDIA GPU 0 could not be opened (GPU is lost)."],
            id="one lost",
        ),
        pytest.param(
            [LOST_LATER, ADA],
            [RTX_4090],
            [LOST_WHILE_ASKED],
            id="one lost while asked",
        ),
        pytest.param(
            [DIVIDED],
            [cuda("NVIDIA A100-SXM4-40GB MIG 2g.10gb", 9856, 9800, "8.0")],
            [ONE_INSTANCE],
            id="divided by MIG",
        ),
    ],
)
def test_gpus_are_those_that_cuda_would_show(
    lines: list[str], gpus: list[object], notes: list[str], workstation: Workstation
) -> None:
    hardware = workstation.detect(*lines)
    assert hardware["gpus"] == gpus
    assert hardware["notes"] == notes
    assert workstation.log() == ["started", "shut down"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param(9, "Driver Not Loaded", id="driver not loaded"),
        pytest.param(
            18, "RM has detected an NVML/RM version mismatch.", id="updated, not rebooted"
        ),
        pytest.param(4, "Insufficient Permissions", id="no permission"),
    ],
)
def test_a_driver_that_does_not_start_is_no_gpu_and_a_note(
    status: int, reason: str, workstation: Workstation
) -> None:
    hardware = workstation.detect(f"init {status}", ADA)
    assert hardware["gpus"] == []
    assert hardware["notes"] == [f"NVML could not be started ({reason}); no NVIDIA GPU is used."]
    assert workstation.log() == ["not started"]


def test_a_driver_that_fails_after_its_start_is_no_gpu_and_a_note(
    workstation: Workstation,
) -> None:
    hardware = workstation.detect("count 999", ADA)
    assert hardware["gpus"] == []
    assert hardware["notes"] == ["NVML could not list the GPUs (Unknown Error); none is used."]
    assert workstation.log() == ["started", "shut down"]


def test_a_library_that_does_not_load_is_no_gpu_and_a_note(
    linux: Path, broken_library: Path, tmp_path: Path
) -> None:
    """A container has the host's driver in /proc, and its library only by NVIDIA's runtime."""
    hardware = Workstation(linux, broken_library, tmp_path / "state").detect(ADA)
    assert hardware["gpus"] == []
    assert hardware["notes"] == [NO_LIBRARY]


def test_wsl_without_the_library_has_another_vendors_gpu(
    wsl: Path, broken_library: Path, tmp_path: Path
) -> None:
    hardware = Workstation(wsl, broken_library, tmp_path / "state").detect(ADA)
    assert hardware["gpus"] == []
    assert hardware["notes"] == []


def test_wsl_has_the_driver_of_windows(wsl: Path, library: Path, tmp_path: Path) -> None:
    assert Workstation(wsl, library, tmp_path / "state").detect(ADA)["gpus"] == [RTX_4090]


def test_without_a_visible_driver_nvml_is_not_tried(
    other: Path, library: Path, tmp_path: Path
) -> None:
    workstation = Workstation(other, library, tmp_path / "state")
    assert workstation.detect(ADA)["gpus"] == []
    assert workstation.log() == []


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        pytest.param("1", ["RTX 3060"], id="index"),
        pytest.param("1,0", ["RTX 3060", "RTX 4090"], id="order"),
        pytest.param("GPU-cccc3333", ["RTX 3060"], id="UUID"),
        pytest.param("GPU-c", ["RTX 3060"], id="start of a UUID"),
        pytest.param("GPU-", [], id="start of both UUIDs"),
        pytest.param("0,7,1", ["RTX 4090"], id="up to an index that is not there"),
        pytest.param("-1", [], id="minus one"),
        pytest.param("", [], id="empty"),
    ],
)
def test_cuda_visible_devices_is_followed(
    visible: str, names: list[str], workstation: Workstation
) -> None:
    hardware = workstation.detect(
        ADA, AMPERE, CUDA_VISIBLE_DEVICES=visible, CUDA_DEVICE_ORDER="PCI_BUS_ID"
    )
    found = hardware["gpus"]
    assert [gpu["name"].removeprefix("NVIDIA GeForce ") for gpu in found] == names
    assert [gpu["index"] for gpu in found] == list(range(len(names)))
    hidden = [f"CUDA_VISIBLE_DEVICES={visible!r} hides every NVIDIA GPU."]
    assert hardware["notes"] == ([] if names else hidden)


def test_a_mig_instance_without_a_memory_answer_does_not_share_the_hosts(
    workstation: Workstation,
) -> None:
    hardware = workstation.detect(DIVIDED.replace("instance 0", "instance 3"))
    assert hardware["gpus"] == []
    assert hardware["notes"] == [
        ONE_INSTANCE,
        INSTANCE_WITHOUT_ANSWER,
    ]


def test_a_mig_instance_can_be_chosen(workstation: Workstation) -> None:
    hardware = workstation.detect(DIVIDED, CUDA_VISIBLE_DEVICES="MIG-2222")
    assert hardware["gpus"] == [cuda("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, 4800, "8.0")]
    assert hardware["notes"] == []
