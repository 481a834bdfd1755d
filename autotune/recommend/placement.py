"""Where weights and caches go: the most on the GPUs that fits in their free memory.

llama.cpp decides what each layer takes (`autotune.model.footprint`); this module only searches over
`n_gpu_layers`, `n_cpu_moe` and `tensor_split`, and never goes past a GPU's budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autotune.hardware import Gpu
from autotune.model import Model
from autotune.model.footprint import Footprint, footprint
from autotune.params import ALL_LAYERS, Params, Program

MIB = 1 << 20

# What a driver takes for a process before llama.cpp allocates anything, which llama.cpp does not
# count. 120 MiB was measured on an RTX 4060, 457 MiB is what Ollama reserves for CUDA and ROCm and
# 512 MiB for Metal (its `ml/device.go`); the larger one errs on the side that starts.
DRIVER_BYTES = 457 * MIB

# llama.cpp's own `--fit` leaves 1024 MiB free on every device (`--fit-target`). It covers the driver
# as well, so this is the rest of it: room for a desktop, a browser, fragmentation.
SPARE_BYTES = 1024 * MIB - DRIVER_BYTES


def budget_bytes(gpu: Gpu) -> int:
    """The bytes of `gpu` that may be planned with."""
    return max(gpu.free_bytes - DRIVER_BYTES - SPARE_BYTES, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A configuration that keeps to every GPU's budget, and the memory it takes."""

    params: Params
    memory: Footprint
    complete: bool  # Every layer, experts included, is on a GPU.


def place(model: Model, params: Params, gpus: Sequence[Gpu], program: Program) -> Placement:
    """Put as much of `model` on `gpus` as fits beside caches and compute buffers.

    A dense model gives up its first layers; a mixture of experts gives up the experts of its first
    layers, and only then layers, because attention runs on every token and an expert on few.
    """
    budgets = [budget_bytes(gpu) for gpu in gpus]

    def attempt(n_gpu_layers: int, n_cpu_moe: int = 0) -> Placement | None:
        return _attempt(model, params, budgets, program, n_gpu_layers, n_cpu_moe)

    everything = attempt(model.n_offloadable)
    if everything:
        return everything
    n_layers = len(model.layers)
    if model.is_moe:
        with_experts = _first(range(1, n_layers + 1), lambda n: attempt(model.n_offloadable, n))
        if with_experts:
            return with_experts
    n_cpu_moe = n_layers if model.is_moe else 0
    fewer = _first(range(n_layers, 0, -1), lambda n: attempt(n, n_cpu_moe))
    return fewer or on_cpu(model, params, program, len(gpus))


def on_cpu(model: Model, params: Params, program: Program, n_gpus: int = 0) -> Placement:
    """Everything in the host's memory."""
    params = replace(params, n_gpu_layers=0, n_cpu_moe=None, tensor_split=None)
    memory = footprint(model, params, program=program, gpus=(1.0,) * n_gpus)
    return Placement(params=params, memory=memory, complete=False)


def _first(
    candidates: range, attempt: Callable[[int], Placement | None]
) -> Placement | None:
    """The first candidate that fits, where each later one takes no more than those before it."""
    low, high, found = 0, len(candidates), None
    while low < high:
        middle = (low + high) // 2
        placement = attempt(candidates[middle])
        if placement:
            found, high = placement, middle
        else:
            low = middle + 1
    return found


def _attempt(
    model: Model,
    params: Params,
    budgets: Sequence[int],
    program: Program,
    n_gpu_layers: int,
    n_cpu_moe: int,
) -> Placement | None:
    if not any(budgets):
        return None
    complete = n_gpu_layers == model.n_offloadable and not n_cpu_moe
    params = replace(
        params,
        n_gpu_layers=ALL_LAYERS if n_gpu_layers == model.n_offloadable else n_gpu_layers,
        n_cpu_moe=n_cpu_moe or None,
    )
    for shares in _shares(model, params, budgets, program):
        split = replace(params, tensor_split=shares if len(budgets) > 1 else None)
        memory = footprint(model, split, program=program, gpus=shares)
        needed = [gpu.total_bytes for gpu in memory.gpus]
        needed[0] += staging_bytes(model, n_gpu_layers, n_cpu_moe)
        if all(n <= budget for n, budget in zip(needed, budgets, strict=True)):
            return Placement(params=split, memory=memory, complete=complete)
    return None


def staging_bytes(model: Model, n_gpu_layers: int, n_cpu_moe: int) -> int:
    """What the first GPU needs to compute prompts with weights that stay on the host.

    llama.cpp copies each such matrix over for batches of 32 tokens and more (`op_offload`), one at a
    time (`ggml_backend_sched_split_graph`), into the compute buffer. An RPC device does not do this,
    so no number of `footprint` holds it.
    """
    n_on_host = model.n_offloadable - min(n_gpu_layers, model.n_offloadable)
    dense = [layer.largest_dense_bytes for layer in model.layers[:n_on_host]]
    experts = [layer.largest_expert_bytes for layer in model.layers[: max(n_on_host, n_cpu_moe)]]
    return max(dense + experts, default=0)


def _shares(
    model: Model, params: Params, budgets: Sequence[int], program: Program
) -> list[tuple[float, ...]]:
    """Ways to split the offloaded layers over the devices, best first, as numbers of layers.

    llama.cpp gives the devices runs of layers in order. A layer's bytes differ, and the last device
    holds the output as well, so a split in proportion to free memory can overflow one of them while
    another has room: fill the devices one after the other instead.
    """
    if len(budgets) == 1:
        return [(1.0,)]
    n_offloaded = min(params.n_gpu_layers or 0, model.n_offloadable)
    filled = _filled(model, params, budgets, program, n_offloaded)
    total = sum(budgets)
    proportional = tuple(float(round(n_offloaded * budget / total)) for budget in budgets)
    return [shares for shares in (proportional, filled) if sum(shares) > 0]


def _filled(
    model: Model, params: Params, budgets: Sequence[int], program: Program, n_offloaded: int
) -> tuple[float, ...]:
    """Fill the devices from the last to the first, each with as many layers as it holds."""
    counts = [0] * len(budgets)
    left = n_offloaded
    for device in reversed(range(len(budgets))):
        # With `left - n` layers on the device before it, device `device` holds the next n.
        def holds(n: int, device: int = device) -> bool:
            trial = [*counts]
            trial[device] = n
            trial[max(device - 1, 0)] += left - n if device else 0
            split = replace(params, tensor_split=tuple(map(float, trial)))
            memory = footprint(model, split, program=program, gpus=[1.0] * len(budgets))
            return memory.gpus[device].total_bytes <= budgets[device]

        low, high = 0, left
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if holds(middle) else (low, middle - 1)
        counts[device] = low
        left -= low
    counts[0] += left  # What is left fits nowhere; the caller finds the first device too full.
    return tuple(map(float, counts))
