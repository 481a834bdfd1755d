"""llama.cpp is asked for its devices where that can matter, and what it says is used and told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hosts import card, host, zoo_model
from fakes.programs import BENCH_HELP, SERVER_HELP, write_program

from autotune.cli import machine
from autotune.cli.machine import NAMED_DEVICES, as_llama_cpp_sees_it
from autotune.hardware import Gpu, Hardware
from autotune.hardware.nvidia import OTHER_ORDER
from autotune.llama_cpp.locate import Program
from autotune.recommend import Recommendation, generate_recommendations

NVIDIA = replace(card(23, 24), name="NVIDIA GeForce RTX 4090", sources=("NVML",))
RADEON = replace(card(23, 24, backend="ROCm"), name="AMD Radeon RX 7900 XTX", sources=("sysfs",))
CORE = replace(
    card(20, 30, integrated=True, backend="Vulkan"), name="Intel GPU 4680", sources=("sysfs",)
)
LISTS = {
    "none": "  (none)",
    "CUDA": "  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23000 MiB free)",
    "unlike cards": (
        "  CUDA0: NVIDIA GeForce RTX 4090 (24080 MiB, 23000 MiB free)\n"
        "  CUDA1: NVIDIA GeForce RTX 3060 (11909 MiB, 11650 MiB free)"
    ),
    "Vulkan on NVIDIA": "  Vulkan0: NVIDIA GeForce RTX 4090 (24564 MiB, 23500 MiB free)",
    "Vulkan": "  Vulkan0: AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 12861 MiB free)",
    "llvmpipe": "  Vulkan0: llvmpipe (LLVM 15.0.6, 256 bits) (64000 MiB, 64000 MiB free)",
}

Install = Callable[..., Program]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Give what installs a llama-server that lists devices, and writes down that it was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(NAMED_DEVICES, raising=False)
    monkeypatch.setattr(machine, "gpu_is_reachable", lambda: False)

    def put(devices: str, *, libraries: tuple[str, ...] = (), ends: str = "exit") -> Program:
        says = f"touch {tmp_path}/asked; echo 'Available devices:'; echo '{LISTS[devices]}'; {ends}"
        before = f'case "$*" in *--list-devices*) {says} ;; esac'
        path = write_program(tmp_path / "llama-server", help_text=SERVER_HELP, before=before)
        for library in libraries:
            (tmp_path / f"libggml-{library}.so").touch()
        monkeypatch.setenv("LCM_LLAMA_DIR", str(tmp_path))
        return Program(name="llama-server", command=(str(path),), found_by="the test")

    return put


def was_asked(program: Program) -> bool:
    return program.path.with_name("asked").exists()


def recommended(hardware: Hardware) -> Recommendation:
    return generate_recommendations(hardware, zoo_model("llama3-8b"))


def why_layers(hardware: Hardware) -> str:
    return next(c.reason for c in recommended(hardware).choices if c.key == "--n-gpu-layers")


# --- whether it is asked -------------------------------------------------------------------------


def test_without_a_gpu_nothing_is_asked(install: Install) -> None:
    program, plain = install("Vulkan"), host()

    assert as_llama_cpp_sees_it(plain) is plain
    assert not was_asked(program)


def test_nvml_is_enough_for_a_build_with_cuda(install: Install) -> None:
    program, with_card = install("CUDA", libraries=("cuda", "cpu")), host([NVIDIA])

    assert as_llama_cpp_sees_it(with_card) is with_card
    assert not was_asked(program)


def test_of_cards_that_differ_a_build_with_cuda_tells_which_is_which(install: Install) -> None:
    """NVML counts by the bus, CUDA the fastest first: what is named CUDA1 would be the other."""
    install("unlike cards", libraries=("cuda", "cpu"))
    smaller = replace(card(11, 12), name="NVIDIA GeForce RTX 3060", sources=("NVML",))
    by_bus = host([smaller, replace(NVIDIA, index=1)])
    differing = replace(by_bus, notes=(f"{OTHER_ORDER}: they are listed by their bus.",))

    there = as_llama_cpp_sees_it(differing)

    assert recommended(there).params.devices == ("CUDA0",)
    assert there.gpus[0].name == NVIDIA.name
    assert there.notes == ()


@pytest.mark.parametrize(
    ("gpus", "libraries"),
    [((NVIDIA,), ("vulkan",)), ((NVIDIA,), ()), ((NVIDIA, RADEON), ("cuda",))],
    ids=["a build without CUDA", "a build that is one file", "another vendor's beside it"],
)
def test_the_build_is_asked_where_nvml_cannot_know(
    gpus: tuple[Gpu, ...], libraries: tuple[str, ...], install: Install
) -> None:
    program = install("none", libraries=libraries)

    assert as_llama_cpp_sees_it(host(gpus)).asked == str(program.path)
    assert was_asked(program)


def test_a_node_that_leads_to_a_gpu_is_reason_enough(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("Vulkan")
    monkeypatch.setattr(machine, "gpu_is_reachable", lambda: True)

    assert [gpu.device for gpu in as_llama_cpp_sees_it(host()).gpus] == ["Vulkan0"]


def test_so_is_a_variable_that_names_devices_of_vulkan(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("llvmpipe")
    monkeypatch.setenv(NAMED_DEVICES, "0")

    assert [gpu.device for gpu in as_llama_cpp_sees_it(host()).gpus] == ["Vulkan0"]


def test_llama_bench_is_asked_where_there_is_nothing_else(install: Install) -> None:
    program = install("none")
    bench = program.path.with_name("llama-bench")
    program.path.unlink()
    write_program(bench, help_text=BENCH_HELP)

    assert as_llama_cpp_sees_it(host([RADEON])).asked == str(bench)


def test_where_nothing_is_installed_the_machine_is_as_the_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with_card = host([RADEON])

    assert as_llama_cpp_sees_it(with_card) is with_card


def test_a_list_that_cannot_be_had_changes_nothing(install: Install) -> None:
    install("Vulkan", ends="exit 134")
    with_card = host([RADEON])

    assert as_llama_cpp_sees_it(with_card) is with_card


def test_a_program_that_cannot_be_executed_is_noted(install: Install) -> None:
    program = install("Vulkan")
    program.path.write_bytes(b"\x7fELF")

    (note,) = as_llama_cpp_sees_it(host([RADEON])).notes

    assert "which devices llama.cpp can use is not known" in note
    assert str(program.path) in note


# --- what is made of it --------------------------------------------------------------------------


def test_a_card_without_nvml_is_planned_with_where_the_build_lists_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("Vulkan")
    monkeypatch.setattr(machine, "gpu_is_reachable", lambda: True)

    there = as_llama_cpp_sees_it(host())

    assert recommended(there).params.n_gpu_layers == 999
    assert "every layer fits" in why_layers(there)


def test_the_reason_says_that_an_nvidia_card_is_driven_by_vulkan(install: Install) -> None:
    install("Vulkan on NVIDIA")

    there = as_llama_cpp_sees_it(host([NVIDIA]))

    assert [gpu.backend for gpu in there.gpus] == ["Vulkan"]
    assert "RTX 4090 is driven by Vulkan, as this llama.cpp does not list it by CUDA" in why_layers(
        there
    )
    assert recommended(there).warnings == recommended(host()).warnings


def test_a_card_that_no_build_lists_is_not_planned_with_and_the_remedy_is_named(
    install: Install,
) -> None:
    program = install("none")

    there = as_llama_cpp_sees_it(host([NVIDIA]))
    advice = recommended(there)

    assert advice.params.n_gpu_layers == 0
    assert why_layers(there) == (
        "The installed llama.cpp lists no device for NVIDIA GeForce RTX 4090; "
        "everything stays on the CPU."
    )
    (warning,) = advice.warnings
    assert (
        warning.what
        == f"NVIDIA GeForce RTX 4090 is not used: {program.path} lists no device for it"
    )
    assert warning.remedy == (
        "get a build of llama.cpp with CUDA (cmake -DGGML_CUDA=ON) or Vulkan "
        "(cmake -DGGML_VULKAN=ON), and see its driver"
    )


def test_a_graphics_core_that_no_build_lists_is_no_reason_to_warn(install: Install) -> None:
    install("none")

    there = as_llama_cpp_sees_it(replace(host([RADEON]), gpus=(), idle_gpus=(CORE,)))

    assert recommended(replace(there, asked="llama-server")).warnings == ()


def test_a_graphics_core_of_which_only_llama_cpp_could_tell_is_named_in_the_reason() -> None:
    assert why_layers(replace(host(), idle_gpus=(CORE,))) == (
        "Whether Intel GPU 4680 can be used, only an installed llama.cpp tells; "
        "everything stays on the CPU."
    )


def test_a_device_that_computes_on_the_cpu_is_called_that(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("llvmpipe")
    monkeypatch.setenv(NAMED_DEVICES, "0")

    (warning,) = recommended(as_llama_cpp_sees_it(host())).warnings

    assert warning.what.startswith("Vulkan0 (llvmpipe (LLVM 15.0.6, 256 bits)) is no GPU: ")
    assert warning.remedy == "unset GGML_VK_VISIBLE_DEVICES, which asks for it"


def test_a_card_is_named_to_llama_cpp_as_llama_cpp_names_it() -> None:
    full = replace(RADEON, index=1, free_bytes=0, listed_as="Vulkan1")
    empty = replace(RADEON, listed_as="Vulkan0")

    assert recommended(host([empty, full])).params.devices == ("Vulkan0",)
