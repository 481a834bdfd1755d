"""Where weights and caches go: the most on the GPUs that fits in their free memory.

llama.cpp decides what each layer takes (`autotune.model.footprint`); this module only searches over
`n_gpu_layers`, `n_cpu_moe` and `tensor_split`, and never goes past a GPU's budget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from autotune.hardware import Gpu
from autotune.model import Model
from autotune.model.footprint import Footprint, footprint
from autotune.params import ALL_LAYERS, Params, Program

MIB = 1 << 20

# What a driver takes for a process before llama.cpp allocates anything, which llama.cpp does not
# count. 120 MiB was measured on an RTX 4060; 457 MiB is what Ollama reserves (`MinimumMemory` in
# its ml/device.go), and errs on the side that starts.
DRIVER_BYTES = 457 * MIB

# llama.cpp's own `--fit` leaves 1024 MiB of every device (`--fit-target`), the driver included. The
# rest of it is room for a desktop, a browser, and what the estimates miss.
SPARE_BYTES = 1024 * MIB - DRIVER_BYTES


def budget_bytes(gpu: Gpu) -> int:
    """The bytes of `gpu` that may be planned with."""
    return max(gpu.free_bytes - DRIVER_BYTES - SPARE_BYTES, 0)


def used_gpus(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Those to plan with: no integrated one beside a card, and none without room beside another.

    llama.cpp itself leaves integrated ones out (`llama_prepare_model_devices` in src/llama.cpp). A
    full one must be left out by name, because prompts are computed on the first that is left.
    """
    cards = _cards(gpus)
    return tuple([gpu for gpu in cards if budget_bytes(gpu)] or cards)


def device_names(gpus: Sequence[Gpu], used: Sequence[Gpu], n_gpu_layers: int) -> list[str]:
    """What to tell llama.cpp of its devices; nothing where it takes the right ones by itself."""
    cards = _cards(gpus)
    if cards and not n_gpu_layers:
        return ["none"]
    return [f"{gpu.backend}{gpu.index}" for gpu in used] if len(used) < len(cards) else []


def _cards(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those that llama.cpp takes by itself."""
    return [gpu for gpu in gpus if not gpu.integrated] or [*gpus]


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
    search = _Search(model, params, tuple(budget_bytes(gpu) for gpu in gpus), program)
    n_layers, everything = len(model.layers), model.n_offloadable
    placement = search.attempt(everything)
    if not placement and model.is_moe:
        placement = _first(range(1, n_layers + 1), lambda n: search.attempt(everything, n))
    if not placement:
        n_cpu_moe = n_layers if model.is_moe else 0
        placement = _first(range(n_layers, 0, -1), lambda n: search.attempt(n, n_cpu_moe))
    return placement or on_cpu(model, params, program, len(gpus))


def on_cpu(model: Model, params: Params, program: Program, n_gpus: int = 0) -> Placement:
    """Everything in the host's memory."""
    params = replace(params, n_gpu_layers=0, n_cpu_moe=None, tensor_split=None)
    memory = footprint(model, params, program=program, gpus=(1.0,) * n_gpus)
    return Placement(params=params, memory=memory, complete=False)


def staging_bytes(model: Model, n_gpu_layers: int, n_cpu_moe: int) -> int:
    """What the first GPU needs to compute prompts with weights that stay on the host.

    llama.cpp copies each such matrix over for batches of 32 tokens and more (`op_offload`), one at
    a time (`ggml_backend_sched_split_graph`), into the compute buffer. An RPC device does not do
    this, so no number of `footprint` holds it.
    """
    n_on_host = model.n_offloadable - min(n_gpu_layers, model.n_offloadable)
    dense = [layer.largest_dense_bytes for layer in model.layers[:n_on_host]]
    experts = [layer.largest_expert_bytes for layer in model.layers[: max(n_on_host, n_cpu_moe)]]
    return max(dense + experts, default=0)


def _first(candidates: range, attempt: Callable[[int], Placement | None]) -> Placement | None:
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


@dataclass(frozen=True, slots=True)
class _Search:
    """One model and its parameters against the budgets of some GPUs."""

    model: Model
    params: Params
    budgets: tuple[int, ...]
    program: Program

    def attempt(self, n_gpu_layers: int, n_cpu_moe: int = 0) -> Placement | None:
        """The placement of so many layers, if there is a split that keeps to every budget."""
        if not any(self.budgets):
            return None
        everything = n_gpu_layers == self.model.n_offloadable
        params = replace(
            self.params,
            n_gpu_layers=ALL_LAYERS if everything else n_gpu_layers,
            n_cpu_moe=n_cpu_moe or None,
        )
        staging = staging_bytes(self.model, n_gpu_layers, n_cpu_moe)
        for split in self._splits(params, n_gpu_layers):
            placed = replace(params, tensor_split=split if len(split) > 1 else None)
            memory = self._memory(placed)
            needed = [gpu.total_bytes for gpu in memory.gpus]
            needed[0] += staging
            if all(n <= budget for n, budget in zip(needed, self.budgets, strict=True)):
                complete = everything and not n_cpu_moe
                return Placement(params=placed, memory=memory, complete=complete)
            if sum(needed) > sum(self.budgets):  # No other split could help.
                return None
        return None

    def _memory(self, params: Params) -> Footprint:
        return footprint(self.model, params, program=self.program, gpus=(1.0,) * len(self.budgets))

    def _splits(self, params: Params, n_offloaded: int) -> Iterator[tuple[float, ...]]:
        """Ways to give the devices their layers, as numbers of layers, best first.

        One device alone, where it holds them: a token goes through all layers in turn, so a second
        device adds no speed and may be the slower one. Otherwise in proportion to free memory. But
        layers differ, and the last device holds the output as well: where one overflows, they are
        filled one after the other.
        """
        devices = range(len(self.budgets))
        largest = max(devices, key=lambda device: self.budgets[device])
        yield tuple(float(n_offloaded if device == largest else 0) for device in devices)
        if len(devices) == 1:
            return
        total = sum(self.budgets)
        ends = [round(n_offloaded * end / total) for end in accumulate(self.budgets)]
        yield tuple(float(end - start) for start, end in pairwise([0, *ends]))
        yield self._filled(params, n_offloaded)

    def _filled(self, params: Params, n_offloaded: int) -> tuple[float, ...]:
        """From the last device to the second, each with as many layers as it holds."""
        counts, left = [0] * len(self.budgets), n_offloaded
        for device in range(len(self.budgets) - 1, 0, -1):
            counts[device] = self._most(params, device, counts, left)
            left -= counts[device]
        counts[0] = left  # Where that is too much, the caller finds the first device too full.
        return tuple(map(float, counts))

    def _most(self, params: Params, device: int, counts: Sequence[int], left: int) -> int:
        """The most of the `left` layers that `device` holds, the others being before it."""
        low, high = 0, left
        while low < high:
            middle = (low + high + 1) // 2
            trial = [*map(float, counts)]
            trial[device], trial[device - 1] = middle, left - middle
            memory = self._memory(replace(params, tensor_split=tuple(trial)))
            if memory.gpus[device].total_bytes <= self.budgets[device]:
                low = middle
            else:
                high = middle - 1
        return low
