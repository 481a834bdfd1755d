"""A build of llama.cpp is asked for its devices, and its answer is read, whatever it is."""

import re
from pathlib import Path

import pytest
from fakes.listings import recorded_devices, recorded_text
from fakes.programs import BENCH_HELP, OLD_BENCH_HELP, write_program

from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.devices import Device, backends_beside, list_devices, parse_devices
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.records import parse_record


def device(name: str, description: str, total_mib: int, free_mib: int) -> Device:
    return Device(name=name, description=description, total_mib=total_mib, free_mib=free_mib)


@pytest.mark.parametrize(
    ("recording", "devices"),
    [
        (
            "cuda-two-cards",
            [
                device("CUDA0", "NVIDIA GeForce RTX 3080 Ti", 11909, 11650),
                device("CUDA1", "NVIDIA RTX PRO 4000 Blackwell SFF Edition", 24026, 23795),
            ],
        ),
        (
            "vulkan-radv",
            [device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24560, 12861)],
        ),
        (
            "sycl-card-and-core",
            [
                device("SYCL0", "Intel(R) Arc(TM) A770 Graphics", 15473, 15473),
                device("SYCL1", "Intel(R) UHD Graphics 770", 59675, 44986),
            ],
        ),
        ("rocm-strix-halo", [device("ROCm0", "AMD Radeon(TM) 8060S Graphics", 110456, 110301)]),
        (
            "metal-2025",
            [
                device("Metal", "Apple M4 Max", 98304, 98303),
                device("BLAS", "Accelerate", 0, 0),
            ],
        ),
        (
            "metal-rpc",
            [
                device("MTL0", "Apple M4", 18186, 18185),
                device("BLAS", "Accelerate", 0, 0),
                device("RPC0", "192.168.1.39:50052", 18186, 18185),
                device("RPC1", "192.168.1.39:50052", 0, 0),
            ],
        ),
        ("none", []),
    ],
)
def test_the_list_of_every_backend_is_read(recording: str, devices: list[Device]) -> None:
    assert list(recorded_devices(recording)) == devices


@pytest.mark.parametrize(("uma", "shares"), [("0", False), ("1", True)])
def test_vulkan_tells_whether_memory_is_shared(uma: str, *, shares: bool) -> None:
    (found,) = parse_devices(
        "  Vulkan0: AMD Radeon 780M Graphics (RADV PHOENIX) (28000 MiB, 27000 MiB free)\n",
        f"ggml_vulkan: 0 = AMD Radeon 780M Graphics (RADV PHOENIX) (radv) | uma: {uma} | fp16: 1",
    )
    assert found.shares_memory is shares


def test_what_is_recorded_of_vulkan_on_freebsd_tells_it() -> None:
    assert [one.shares_memory for one in recorded_devices("vulkan-nvidia")] == [False]


def program(folder: Path, lines: str, *, help_text: str = BENCH_HELP) -> Program:
    """Give a program that says `lines` of shell when it is asked for its devices."""
    before = f'case "$*" in *--list-devices*) {lines} ;; esac'
    path = write_program(folder / "llama-bench", help_text=help_text, before=before)
    return Program(name="llama-bench", command=(str(path),), found_by="the test")


def listed(one: Program, *arguments: str) -> tuple[Device, ...] | None:
    return list_devices(one, ask(one), *arguments)


def test_a_program_is_asked_with_its_servers(tmp_path: Path) -> None:
    says = 'echo "Available devices:"; echo "  RPC0: $2 (100 MiB, 90 MiB free)"; exit'
    one = program(tmp_path, says)
    assert listed(one, "--rpc", "127.0.0.1:50052") == (device("RPC0", "127.0.0.1:50052", 100, 90),)


@pytest.mark.parametrize(
    "lines",
    [
        "echo 'terminate called without an active exception' >&2; exit 134",
        "echo 'Available devices:'; kill -ABRT $$",
        "exit 0",
    ],
    ids=["died at once", "died under way", "says nothing"],
)
def test_a_program_that_falls_has_not_said_that_there_is_none(lines: str, tmp_path: Path) -> None:
    assert listed(program(tmp_path, lines)) is None


def test_an_old_program_cannot_tell(tmp_path: Path) -> None:
    assert listed(program(tmp_path, "exit 9", help_text=OLD_BENCH_HELP)) is None


def test_an_endless_list_ends(tmp_path: Path) -> None:
    endless = 'echo "Available devices:"; echo "  A0: x (1 MiB, 1 MiB free)"; yes aaaaaaaaaa'
    with pytest.raises(Exception, match="did not answer"):
        listed(program(tmp_path, endless))


def test_the_backends_of_a_build_are_its_libraries(tmp_path: Path) -> None:
    one = program(tmp_path, "")
    for name in ("ggml", "ggml-base", "ggml-cpu-haswell", "ggml-vulkan", "ggml-hip", "llama"):
        (tmp_path / f"lib{name}.so").touch()
    assert backends_beside(one) == ("CPU", "ROCm", "Vulkan")


# --- Mesa's lavapipe, a device of Vulkan without a GPU, recorded by `nox -s vulkan -- record` -----


def test_lavapipe_is_listed_with_what_it_says_of_its_memory() -> None:
    """It calls the host's memory its own (`uma: 0`), which hardware/listed knows better."""
    assert recorded_devices("vulkan-lavapipe") == (
        Device(
            name="Vulkan0",
            description="llvmpipe (LLVM 15.0.6, 256 bits)",
            total_mib=2048,
            free_mib=2048,
            shares_memory=False,
        ),
    )


def test_vulkan_itself_calls_lavapipe_a_processor() -> None:
    summary = recorded_text("vulkan-lavapipe.vulkaninfo")
    facts = dict(re.findall(r"^\t(\w+) += (.*)$", summary, re.MULTILINE))
    assert (facts["deviceType"], facts["deviceName"]) == (
        "PHYSICAL_DEVICE_TYPE_CPU",
        recorded_devices("vulkan-lavapipe")[0].description,
    )


def test_the_records_of_a_device_of_vulkan_are_read() -> None:
    records = [parse_record(line) for line in recorded_text("vulkan-lavapipe.jsonl").splitlines()]

    assert [(r.settings["n_gpu_layers"], r.test.n_prompt, r.test.n_gen) for r in records] == [
        (layers, *test) for layers in (0, 4, 99) for test in ((32, 0), (0, 4))
    ]
    assert {record.raw["backends"] for record in records} == {"Vulkan"}
