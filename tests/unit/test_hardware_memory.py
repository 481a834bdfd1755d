"""Memory of the recorded machines, under the limits of their control groups."""

from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from fakes.machine import unfold, write

from autotune.hardware import Memory, Root, detect_hardware

KIB = 1024
GIB = 1 << 30

DESKTOP = Memory(
    total_bytes=32776436 * KIB,
    available_bytes=24518032 * KIB,
    limit_bytes=None,
    swap_total_bytes=8388604 * KIB,
    swap_free_bytes=8380412 * KIB,
    memlock_bytes=4197711360,
)
CLOUD = replace(
    DESKTOP,
    total_bytes=65812340 * KIB,
    available_bytes=50120448 * KIB,
    swap_total_bytes=0,
    swap_free_bytes=0,
    memlock_bytes=8388608,
)

MEMORIES = {
    "one-socket-smt": DESKTOP,
    "restricted": CLOUD,
    "container-quota": replace(CLOUD, total_bytes=259812340 * KIB, available_bytes=250120448 * KIB),
    "container-memory": replace(
        CLOUD,
        total_bytes=263812340 * KIB,
        # 4 GiB, of which 3.9 are charged and 3.2 of these are page cache.
        available_bytes=4294967296 - (4187593113 - 3435973836),
        limit_bytes=4 * GIB,
        memlock_bytes=65536,
    ),
    "nested-cgroup": replace(
        CLOUD,
        total_bytes=131812340 * KIB,
        # 10 GiB for all burstable pods, of which they use 8, and 2 of these are page cache.
        available_bytes=4 * GIB,
        limit_bytes=10 * GIB,
    ),
    "cgroup-v1": replace(
        CLOUD,
        # 8 GiB, of which 3 are charged and 2 of these are page cache.
        available_bytes=7 * GIB,
        limit_bytes=8 * GIB,
        memlock_bytes=65536,
    ),
    "two-socket-numa": Memory(
        total_bytes=527830244 * KIB,
        available_bytes=501004312 * KIB,
        limit_bytes=None,
        swap_total_bytes=4194300 * KIB,
        swap_free_bytes=4194300 * KIB,
        memlock_bytes=None,
    ),
    # Free memory, buffers and cache, where the kernel does not add them up.
    "sandbox": replace(
        CLOUD,
        total_bytes=8 * GIB,
        available_bytes=(4194304 + 524288 + 1048576) * KIB,
        memlock_bytes=65536,
    ),
    "missing-files": Memory(
        total_bytes=0,
        available_bytes=0,
        limit_bytes=None,
        swap_total_bytes=0,
        swap_free_bytes=0,
        memlock_bytes=0,
    ),
}


def memory_of(root: Root) -> Memory:
    return detect_hardware(root).memory


@pytest.mark.parametrize("name", MEMORIES)
def test_the_memory_is_what_the_machine_grants(name: str, tmp_path: Path) -> None:
    assert memory_of(unfold(name, tmp_path)) == MEMORIES[name]


@pytest.mark.parametrize(
    ("name", "usable"), [("container-memory", 4 * GIB), ("one-socket-smt", 32776436 * KIB)]
)
def test_the_usable_total_is_the_limit_or_the_machine(
    name: str, usable: int, tmp_path: Path
) -> None:
    assert memory_of(unfold(name, tmp_path)).usable_total_bytes == usable


def test_a_throttled_group_is_limited_before_its_maximum(tmp_path: Path) -> None:
    root = unfold("container-memory", tmp_path)
    write(tmp_path, "sys/fs/cgroup/memory.high", str(3 * GIB))
    assert memory_of(root).limit_bytes == 3 * GIB


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = unfold("container-memory", tmp_path)
    write(tmp_path, "sys/fs/cgroup/memory.current", str(9 * GIB))
    assert memory_of(root).available_bytes == 0


def test_a_limit_above_what_is_free_does_not_add_to_it(tmp_path: Path) -> None:
    root = unfold("container-memory", tmp_path)
    write(tmp_path, "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 1048576 kB")
    assert memory_of(root).available_bytes == GIB


@pytest.mark.parametrize("path", ["/", "/../../other", "/elsewhere"])
def test_a_group_outside_of_what_is_mounted_is_asked_at_the_mount(
    path: str, tmp_path: Path
) -> None:
    """In a namespace the kernel writes the path of a group above the root as `/..`."""
    root = unfold("container-memory", tmp_path)
    write(tmp_path, "proc/self/cgroup", f"0::{path}")
    assert memory_of(root).limit_bytes == 4 * GIB


@pytest.mark.parametrize("missing", ["proc/self/mountinfo", "proc/self/cgroup"])
def test_without_its_tables_the_group_is_looked_for_at_the_usual_place(
    missing: str, tmp_path: Path
) -> None:
    root = unfold("container-memory", tmp_path)
    (tmp_path / missing).unlink()
    assert memory_of(root).limit_bytes == 4 * GIB


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        pytest.param("50000", "100000", 0.5, id="half a CPU"),
        pytest.param("-1", "100000", None, id="none"),
        pytest.param("150000", "0", None, id="no period"),
        pytest.param("", "100000", None, id="empty"),
    ],
)
def test_a_v1_quota_is_time_per_period(
    quota: str, period: str, expected: float | None, tmp_path: Path
) -> None:
    root = unfold("cgroup-v1", tmp_path)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota)
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", period)
    assert detect_hardware(root).cpu.quota == expected


def test_the_superuser_of_the_machine_may_lock_everything(tmp_path: Path) -> None:
    root = unfold("one-socket-smt", tmp_path)
    write(tmp_path, "proc/self/status", "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-15")
    assert memory_of(root).memlock_bytes is None


@pytest.mark.parametrize(
    ("capabilities", "users"),
    [
        pytest.param("000001ffffffffff", "0 1000 1", id="root of a user namespace"),
        pytest.param("00000000a80425fb", "0 0 4294967295", id="root in a container of Docker's"),
        pytest.param("nonsense", "0 0 4294967295", id="garbled"),
    ],
)
def test_no_other_user_is_above_the_lock_limit(
    capabilities: str, users: str, tmp_path: Path
) -> None:
    root = unfold("one-socket-smt", tmp_path)
    write(tmp_path, "proc/self/status", f"CapEff:\t{capabilities}\nCpus_allowed_list:\t0-15")
    write(tmp_path, "proc/self/uid_map", users)
    assert memory_of(root).memlock_bytes == 4197711360


@pytest.mark.parametrize("row", ["", "Max locked memory", "Max locked memory  many"])
def test_a_lock_limit_that_is_garbled_locks_nothing(row: str, tmp_path: Path) -> None:
    root = unfold("one-socket-smt", tmp_path)
    write(tmp_path, "proc/self/limits", row)
    assert memory_of(root).memlock_bytes == 0


def test_this_machine_has_the_memory_that_psutil_counts() -> None:
    assert memory_of(Root()).total_bytes == psutil.virtual_memory().total
