"""The processors of the recorded machines, and what their processes may use."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import psutil  # type: ignore[import-untyped]
import pytest
from fakes.machine import NAMES, unfold, write

from autotune.hardware import Cpu, Hardware, detect_hardware

SSE_TO_AVX2 = ("sse3", "ssse3", "avx", "f16c", "fma", "bmi2", "avx2")
AVX512 = ("avx512f", "avx512_vbmi", "avx512_vnni")

DESKTOP = Cpu(
    name="AMD Ryzen 7 5800X 8-Core Processor",
    architecture="x86_64",
    isa=SSE_TO_AVX2,
    sockets=1,
    numa_nodes=1,
    physical_cores=8,
    logical_cores=16,
    performance_cores=8,
    smt=True,
    usable_cpus=tuple(range(16)),
    usable_cores=8,
    usable_performance_cores=8,
    quota=None,
)
CLOUD = replace(
    DESKTOP,
    name="Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
    isa=(*SSE_TO_AVX2, *AVX512),
)
HYBRID = replace(
    DESKTOP,
    name="12th Gen Intel(R) Core(TM) i7-12700K",
    isa=(*SSE_TO_AVX2, "avx_vnni"),
    physical_cores=12,
    logical_cores=20,
    usable_cpus=tuple(range(20)),
    usable_cores=12,
)

CPUS = {
    "one-socket-smt": DESKTOP,
    "hybrid-smt": HYBRID,
    "intel-arc": HYBRID,
    "hybrid-no-smt": replace(
        HYBRID,
        name="Intel(R) Core(TM) Ultra 7 265K",
        physical_cores=20,
        smt=False,
        usable_cores=20,
    ),
    "compact-cores": replace(
        DESKTOP,
        name="AMD Ryzen AI 9 HX 370 w/ Radeon 890M",
        isa=(*SSE_TO_AVX2, "avx_vnni", *AVX512, "avx512_bf16"),
        physical_cores=12,
        logical_cores=24,
        performance_cores=4,
        usable_cpus=tuple(range(24)),
        usable_cores=12,
        usable_performance_cores=4,
    ),
    "two-socket-numa": replace(
        CLOUD,
        name="Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
        sockets=2,
        numa_nodes=2,
        physical_cores=64,
        logical_cores=128,
        performance_cores=64,
        usable_cpus=tuple(range(128)),
        usable_cores=64,
        usable_performance_cores=64,
    ),
    "arm-big-little": replace(
        DESKTOP,
        name="Radxa ROCK 5B",
        architecture="aarch64",
        isa=("neon", "fp16_va", "dotprod"),
        logical_cores=8,
        performance_cores=4,
        smt=False,
        usable_cpus=tuple(range(8)),
        usable_performance_cores=4,
    ),
    "container-quota": replace(
        CLOUD,
        physical_cores=32,
        logical_cores=64,
        performance_cores=32,
        usable_cpus=tuple(range(64)),
        usable_cores=32,
        usable_performance_cores=32,
        quota=2.0,
    ),
    "container-memory": CLOUD,
    "nested-cgroup": replace(
        CLOUD,
        physical_cores=16,
        logical_cores=32,
        performance_cores=16,
        usable_cpus=tuple(range(32)),
        usable_cores=16,
        usable_performance_cores=16,
        quota=3.5,
    ),
    # Kernels before 6.1 do not say what they are built for; a real machine's `uname` does.
    "cgroup-v1": replace(CLOUD, architecture="", quota=1.5),
    "restricted": replace(
        CLOUD,
        architecture="",
        usable_cpus=(0, 1, 4, 5, 8, 9),
        usable_cores=4,
        usable_performance_cores=4,
    ),
    "wsl": replace(
        HYBRID,
        architecture="",
        isa=SSE_TO_AVX2,
        physical_cores=10,
        performance_cores=10,
        usable_cores=10,
        usable_performance_cores=10,
    ),
    "amd-gpu": replace(
        DESKTOP,
        name="AMD Ryzen 9 7950X 16-Core Processor",
        isa=(*SSE_TO_AVX2, *AVX512, "avx512_bf16"),
        physical_cores=16,
        logical_cores=32,
        performance_cores=16,
        usable_cpus=tuple(range(32)),
        usable_cores=16,
        usable_performance_cores=16,
    ),
    "sandbox": replace(
        DESKTOP,
        name="Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz",
        architecture="",
        physical_cores=2,
        logical_cores=4,
        performance_cores=2,
        usable_cpus=(0, 1, 2, 3),
        usable_cores=2,
        usable_performance_cores=2,
    ),
    "missing-files": Cpu(
        name="",
        architecture="",
        isa=(),
        sockets=1,
        numa_nodes=1,
        physical_cores=1,
        logical_cores=1,
        performance_cores=1,
        smt=False,
        usable_cpus=(0,),
        usable_cores=1,
        usable_performance_cores=1,
        quota=None,
    ),
}

NO_AFFINITY = (
    "/proc/self/status has no Cpus_allowed_list; every CPU of the cpuset is assumed to be usable."
)
NO_TOPOLOGY = (
    "Neither /sys/devices/system/cpu/cpu*/topology nor /proc/cpuinfo tells which CPUs share a core"
    "; each is counted as a core of its own."
)

MAX_THREADS = {
    "one-socket-smt": 16,
    "container-quota": 2,
    "nested-cgroup": 3,
    "cgroup-v1": 1,
    "restricted": 6,
    "missing-files": 1,
}


Detect: TypeAlias = Callable[[str], Hardware]


@pytest.fixture(scope="module")
def detect(tmp_path_factory: pytest.TempPathFactory) -> Detect:
    """Detect a machine as it was recorded; each is unfolded once, for 400 files take their time."""

    @cache
    def detect_recorded(name: str) -> Hardware:
        return detect_hardware(unfold(name, tmp_path_factory.mktemp(name)))

    return detect_recorded


@pytest.mark.parametrize("name", NAMES)
def test_the_processors_are_what_the_machine_has(name: str, detect: Detect) -> None:
    assert detect(name).cpu == CPUS[name]


@pytest.mark.parametrize(("name", "threads"), MAX_THREADS.items(), ids=MAX_THREADS)
def test_threads_are_bounded_by_affinity_and_the_quota_rounded_down(
    name: str, threads: int, detect: Detect
) -> None:
    assert detect(name).cpu.max_threads == threads


def test_efficiency_cores_are_those_that_are_no_performance_cores(detect: Detect) -> None:
    assert detect("hybrid-no-smt").cpu.efficiency_cores == 12


@pytest.mark.parametrize(
    ("name", "allowed", "cores", "performance_cores"),
    [
        pytest.param("hybrid-smt", "0-3,16-17", 4, 2, id="P-cores with both threads, and E-cores"),
        pytest.param("hybrid-smt", "16-19", 4, 0, id="only E-cores"),
        pytest.param("hybrid-smt", "0,2,4", 3, 3, id="one thread of each core"),
        pytest.param("arm-big-little", "3-4", 2, 1, id="one of each kind"),
    ],
)
def test_usable_cores_are_those_behind_the_usable_cpus(
    name: str, allowed: str, cores: int, performance_cores: int, tmp_path: Path
) -> None:
    root = unfold(name, tmp_path)
    write(tmp_path, "proc/self/status", f"Cpus_allowed_list:\t{allowed}")
    cpu = detect_hardware(root).cpu
    assert (cpu.usable_cores, cpu.usable_performance_cores) == (cores, performance_cores)


def test_cpus_that_are_offline_are_not_counted(tmp_path: Path) -> None:
    root = unfold("hybrid-smt", tmp_path)
    write(tmp_path, "sys/devices/system/cpu/online", "0,2,4-15,18-19")
    cpu = detect_hardware(root).cpu
    assert (cpu.physical_cores, cpu.logical_cores, cpu.performance_cores) == (10, 16, 8)


def test_without_an_affinity_the_cpuset_bounds_what_is_usable(tmp_path: Path) -> None:
    root = unfold("restricted", tmp_path)
    (tmp_path / "proc/self/status").unlink()
    hardware = detect_hardware(root)
    assert hardware.cpu.usable_cpus == (0, 1, 4, 5, 8, 9)
    assert hardware.notes == (NO_AFFINITY,)


@pytest.mark.parametrize("allowed", ["", "nonsense", "64-127"], ids=["empty", "garbled", "absent"])
def test_an_affinity_that_leaves_nothing_is_no_bound(allowed: str, tmp_path: Path) -> None:
    root = unfold("one-socket-smt", tmp_path)
    write(tmp_path, "proc/self/status", f"Cpus_allowed_list:\t{allowed}")
    assert detect_hardware(root).cpu.usable_cpus == tuple(range(16))


def test_without_core_types_the_frequency_tells_efficiency_cores(tmp_path: Path) -> None:
    root = unfold("compact-cores", tmp_path)
    assert detect_hardware(root).cpu.performance_cores == 4
    for cpu in range(24):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity", "1024")
    assert detect_hardware(root).cpu.performance_cores == 4


def test_with_every_performance_core_offline_the_others_are_the_fastest(tmp_path: Path) -> None:
    root = unfold("hybrid-smt", tmp_path)
    write(tmp_path, "sys/devices/system/cpu/online", "16-19")
    cpu = detect_hardware(root).cpu
    assert (cpu.performance_cores, cpu.usable_performance_cores) == (4, 4)


def test_a_speed_that_one_core_lacks_tells_nothing(tmp_path: Path) -> None:
    root = unfold("compact-cores", tmp_path)
    (tmp_path / "sys/devices/system/cpu/cpu5/cpufreq/cpuinfo_max_freq").unlink()
    assert detect_hardware(root).cpu.performance_cores == 12


def test_a_topology_with_a_gap_is_taken_from_elsewhere(tmp_path: Path) -> None:
    """One unreadable file makes the whole folder doubtful; counting on would mix two sources."""
    root = unfold("one-socket-smt", tmp_path)
    write(tmp_path, "sys/devices/system/cpu/cpu3/topology/core_cpus_list", "nonsense")
    hardware = detect_hardware(root)
    assert hardware.cpu.physical_cores == 16
    assert hardware.notes == (NO_TOPOLOGY,)


def test_what_stands_in_for_sysfs_is_named(detect: Detect) -> None:
    assert detect("sandbox").notes == (
        "/proc/meminfo has no MemAvailable; free memory, buffers and cache stand in for it.",
        "/sys/devices/system/cpu/online could not be read; /proc/cpuinfo stands in for it.",
        "/sys/devices/system/cpu/cpu*/topology could not be read; /proc/cpuinfo stands in for it.",
    )


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sandbox", "missing-files"}))
def test_a_machine_that_can_be_read_has_no_notes(name: str, detect: Detect) -> None:
    assert detect(name).notes == ()


def test_a_machine_of_which_nothing_can_be_read_is_one_core_and_says_so(detect: Detect) -> None:
    assert detect("missing-files").notes == (
        "/proc/meminfo could not be read; no memory is assumed to be there.",
        "/proc/self/limits has no locked memory; none is assumed to be lockable.",
        "Neither /sys/devices/system/cpu/online nor /proc/cpuinfo could be read; CPUs assumed: 1.",
        NO_TOPOLOGY,
        NO_AFFINITY,
    )


def test_this_machine_has_the_cpus_that_the_scheduler_gives() -> None:
    cpu = detect_hardware().cpu
    assert set(cpu.usable_cpus) == os.sched_getaffinity(0)
    assert cpu.logical_cores == psutil.cpu_count()
    assert cpu.physical_cores == psutil.cpu_count(logical=False)
    assert cpu.architecture == os.uname().machine
