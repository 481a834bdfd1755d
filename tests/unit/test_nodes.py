"""Machines of several NUMA nodes: what there is, what it can be bound to, and what that means."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hosts import GIB, recorded
from fakes.machine import unfold, write
from fakes.simulated_hosts import dense_8b
from fakes.spaces import DEFAULTS, NONE, TODAY, Wish, space_of
from recorded_builds import capabilities_of

from autotune.errors import ConfigError
from autotune.hardware import Hardware, detect_hardware
from autotune.llama_cpp.dialect import render
from autotune.llama_cpp.launch import launch_of
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.numactl import prefix, working
from autotune.params import Params, params_from_json, params_to_json
from autotune.tuning.memory import Memory
from autotune.tuning.space import Space

ALL_CORES = replace(DEFAULTS, n_threads=64, n_threads_batch=64)
BINDINGS = ("interleave", "node0", "node1")
# Runs a command for any node but 1, and writes down what it was asked for.
NUMACTL = """#!/bin/sh
echo "$@" >>"$0.log"
case "$1" in --cpunodebind=1) echo '<1> is invalid' >&2; exit 1;; esac
while :; do case "$1" in --show) exit 0;; -*) shift;; *) break;; esac; done
exec "$@"
"""


def two_sockets() -> Hardware:
    return recorded("two-socket-numa")


def space_on(
    machine: Hardware, *, bindings: tuple[str, ...] = BINDINGS, wish: Wish = NONE
) -> Space:
    seed = replace(ALL_CORES, n_ctx=4096)
    return space_of(machine=machine, defaults=ALL_CORES, seed=seed, wish=wish, bindings=bindings)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A numactl that cannot bind to node 1."""
    program = tmp_path / "numactl"
    program.write_text(NUMACTL, encoding="utf-8")
    program.chmod(0o755)
    return program


# --- what there is -------------------------------------------------------------------------------


def test_a_node_has_its_processors_and_the_memory_that_can_be_had() -> None:
    first, second = two_sockets().nodes

    assert [(n.number, n.cores, len(n.cpus)) for n in (first, second)] == [(0, 32, 64), (1, 32, 64)]
    assert [n.free_bytes // GIB for n in (first, second)] == [243, 7]


def test_a_node_that_this_process_may_not_compute_on_is_none(tmp_path: Path) -> None:
    root = unfold("two-socket-numa", tmp_path)
    write(tmp_path, "proc/self/status", "Cpus_allowed_list:	0-31")

    assert [(n.number, n.cores) for n in detect_hardware(root).nodes] == [(0, 32)]


def test_one_node_is_none_to_choose() -> None:
    assert recorded("one-socket-smt").nodes == ()


# --- what it can be bound to ---------------------------------------------------------------------


def test_what_binds_stands_before_a_command() -> None:
    said = [prefix(binding) for binding in (None, "interleave", "node1")]

    assert said == [
        (),
        ("numactl", "--interleave=all"),
        ("numactl", "--cpunodebind=1", "--membind=1"),
    ]


def test_only_bindings_that_work_here_are_had(stand_in: Path) -> None:
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"

    assert working((0, 1), {"PATH": path}) == ("interleave", "node0")


def test_without_numactl_nothing_is_bound(tmp_path: Path) -> None:
    assert working((0, 1), {"PATH": str(tmp_path)}) == ()


# --- the space -----------------------------------------------------------------------------------


def test_nodes_are_searched_with_llama_cpps_own_modes() -> None:
    values = space_on(two_sockets()).values_of("numa")

    assert values == ("off", "distribute", "isolate", "interleave", "node0", "node1")


def test_a_node_that_does_not_hold_the_weights_is_left_out() -> None:
    machine = two_sockets()
    full = replace(machine, nodes=(machine.nodes[0], replace(machine.nodes[1], free_bytes=GIB)))

    assert "node1" not in space_on(full).values_of("numa")


def test_what_is_bound_is_told_to_llama_cpp_and_has_no_more_threads_than_the_nodes_cores() -> None:
    space = space_on(two_sockets())

    bound = space.with_value(space.fixed, "numa", "node0")

    assert (bound.numa, bound.numactl, bound.n_threads, bound.n_threads_batch) == (
        "numactl", "node0", 32, 32,
    )  # fmt: skip
    assert space.point(bound)["numa"] == "node0"
    assert "--numa numactl" in " ".join(render(bound, "bench", capabilities_of(TODAY)).arguments)


def test_what_was_bound_can_be_let_go() -> None:
    space = space_on(two_sockets())

    free = space.with_value(space.with_value(space.fixed, "numa", "node0"), "numa", "off")

    assert (free.numa, free.numactl) == (None, None)


@pytest.mark.parametrize("wished", ["node7", "interleave"])
def test_a_binding_that_cannot_be_had_is_refused(wished: str) -> None:
    with pytest.raises(ConfigError, match=f"numa={wished}: nothing can be bound so here"):
        space_on(two_sockets(), bindings=("node0",), wish={"numa": (wished,)})


def test_a_binding_that_is_wished_for_is_for_every_configuration() -> None:
    fixed = space_on(two_sockets(), wish={"numa": ("node0",)}).fixed

    assert (fixed.numa, fixed.numactl) == ("numactl", "node0")


def test_what_is_bound_to_a_node_must_have_room_there() -> None:
    machine = two_sockets()
    memory = Memory(machine, dense_8b(), n_ctx=32768, n_tested=512)
    bound = [replace(ALL_CORES, numa="numactl", numactl=f"node{n}") for n in (0, 1)]

    assert [memory.fits(p) for p in (ALL_CORES, *bound)] == [True, True, False]


# --- and what is started -------------------------------------------------------------------------


def bound_launch() -> tuple[tuple[str, ...], tuple[str, ...]]:
    program = Program(name="llama-server", command=("/opt/llama-server",), found_by="tests")
    params = Params(n_threads=32, numa="numactl", numactl="node0")
    launch = launch_of(program, None, "server", Path("m.gguf"), params)
    return launch.argv, launch.unsupported


def test_what_was_measured_bound_is_started_bound(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(stand_in.parent))

    argv, unsupported = bound_launch()

    assert argv[:4] == (str(stand_in), "--cpunodebind=0", "--membind=0", "/opt/llama-server")
    assert (argv[-2:], unsupported) == (("--numa", "numactl"), ())


def test_where_numactl_is_gone_it_is_started_without_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    argv, unsupported = bound_launch()

    assert (argv[0], "--numa" in argv) == ("/opt/llama-server", False)
    assert unsupported == ("numactl=node0: numactl is not installed",)


def test_a_binding_is_kept_and_read_again() -> None:
    bound = Params(numa="numactl", numactl="node0")

    assert params_from_json(params_to_json(bound)) == bound


@pytest.mark.parametrize("wrong", ["--all", "node", "node1234", "node0 --all", "nodes"])
def test_nothing_else_is_taken_for_a_binding(wrong: str) -> None:
    with pytest.raises(ValueError, match="numactl is"):
        params_from_json({"numactl": wrong})
