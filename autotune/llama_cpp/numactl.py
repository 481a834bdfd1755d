"""Bind a program of llama.cpp to NUMA nodes: what stands before its command.

llama.cpp's own modes place threads only; where the pages of weights and cache come to lie is for
the kernel to say, and `numactl` tells it. With `--numa numactl`, llama.cpp keeps its threads to the
processors that it was given (`set_numa_thread_affinity`, ggml/src/ggml-cpu).
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping

PROGRAM = "numactl"
INTERLEAVED = "interleave"  # Threads everywhere, and pages on all nodes in turn.
_TIMEOUT_S = 10.0


def bound_to(node: int) -> str:
    """Threads and pages on one node, as one word."""
    return f"node{node}"


def prefix(binding: str | None, program: str = PROGRAM) -> tuple[str, ...]:
    """The words before a command; none, where nothing is bound."""
    if binding is None:
        return ()
    if binding == INTERLEAVED:
        return (program, "--interleave=all")
    node = binding.removeprefix("node")
    return (program, f"--cpunodebind={node}", f"--membind={node}")


def found(environ: Mapping[str, str] | None = None) -> str | None:
    """Where numactl is; None: it is not installed."""
    environ = os.environ if environ is None else environ
    return shutil.which(PROGRAM, path=environ.get("PATH", ""))


def lacking(binding: str | None) -> list[str]:
    """What stands in the way of a binding, in a line; nothing, where nothing does."""
    if binding is None or found():
        return []
    return [f"numactl={binding}: numactl is not installed"]


def working(nodes: Iterable[int], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The bindings that can be had: a container may forbid them, and a cpuset leave nodes out."""
    program, nodes = found(environ), [*nodes]
    if program is None or len(nodes) < 2:  # noqa: PLR2004 - one node is no choice
        return ()
    wanted = (INTERLEAVED, *map(bound_to, nodes))
    return tuple(binding for binding in wanted if _works(program, binding))


def _works(program: str, binding: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - an argument list, without a shell
            [*prefix(binding, program), program, "--show"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
