"""The NUMA nodes that have both processors and memory: what a process can be bound to."""

from autotune.hardware.machine import Cpu, Node
from autotune.hardware.root import Root, to_int

_NODES = "sys/devices/system/node"
_KIB = 1024
# Pages of files are given up for others, and are what mapped weights are made of themselves.
_CAN_BE_HAD = ("MemFree", "Active(file)", "Inactive(file)")


def read_nodes(root: Root, cpu: Cpu) -> tuple[Node, ...]:
    """Those that this process may use; none where there is one, and nothing to be bound to."""
    numbers = root.read_cpus(f"{_NODES}/has_cpu") or ()
    if len(numbers) < 2:  # noqa: PLR2004
        return ()
    nodes = (_read_node(root, number, cpu) for number in numbers)
    return tuple(node for node in nodes if node.cpus and node.total_bytes)


def _read_node(root: Root, number: int, cpu: Cpu) -> Node:
    cpus = root.read_cpus(f"{_NODES}/node{number}/cpulist") or ()
    usable = tuple(sorted(set(cpus).intersection(cpu.usable_cpus)))
    memory = _read_memory(root, number)
    return Node(
        number=number,
        cpus=usable,
        cores=round(len(usable) * cpu.usable_cores / max(len(cpu.usable_cpus), 1)),
        total_bytes=memory.get("MemTotal", 0),
        free_bytes=sum(memory.get(name, 0) for name in _CAN_BE_HAD),
    )


def _read_memory(root: Root, number: int) -> dict[str, int]:
    # Node 0 MemTotal:       263915122 kB
    lines = (root.read_text(f"{_NODES}/node{number}/meminfo") or "").splitlines()
    words = (line.split() for line in lines)
    found = {w[2].rstrip(":"): to_int(w[3]) for w in words if len(w) == 5 and w[4] == "kB"}  # noqa: PLR2004
    return {name: value * _KIB for name, value in found.items() if value is not None}
