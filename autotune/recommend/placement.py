"""Where weights and caches go: the most on the GPUs that fits in their free memory.

llama.cpp decides what each layer takes (`autotune.model.footprint`) and which devices there are
(`taken`); beyond that, this module only searches over `n_gpu_layers`, `n_cpu_moe` and
`tensor_split`, and never goes past a GPU's budget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.model import Model
from autotune.model.footprint import Footprint, Place, footprint
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
    return [device_name(gpu) for gpu in used] if len(used) < len(cards) else []


def device_name(gpu: Gpu) -> str:
    """As `--list-devices` names it, and `--device` takes it."""
    return gpu.device


def _cards(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those that llama.cpp takes by itself, in its order: servers first, cards or else integrated.

    Of integrated ones those of one backend, because others may show the same
    (`llama_prepare_model_devices` in src/llama.cpp).
    """
    servers = [gpu for gpu in gpus if gpu.backend == "RPC"]
    local = [gpu for gpu in gpus if gpu.backend != "RPC"]
    cores = [gpu for gpu in local if gpu.backend == local[0].backend]
    return servers + ([gpu for gpu in local if not gpu.integrated] or cores)


def taken(params: Params, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Which of the devices llama.cpp uses under some parameters, in the order of their layers.

    Raises:
        ConfigError: the parameters name one that is not there.
    """
    used = tuple(range(len(gpus)))
    if params.devices is not None:
        numbers = {device_name(gpu): n for n, gpu in enumerate(gpus)}
        names = [name for name in params.devices if name != "none"]
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise ConfigError(
                f"there is no device {', '.join(unknown)}",
                hint=f"llama.cpp has {', '.join(numbers) or 'none'} here",
            )
        used = tuple(numbers[name] for name in names)
    if params.split_mode != "none" or not used:
        return used
    alone = params.main_gpu or 0
    if alone >= len(used):
        raise ConfigError(
            f"there is no main GPU {alone}", hint=f"there are {len(used)}, counted from 0"
        )
    return (used[alone],)


def footprint_on(gpus: Sequence[Gpu], model: Model, params: Params, program: Program) -> Footprint:
    """What each of the devices holds, in their own order; those that are left alone hold nothing.

    Raises:
        ConfigError: `params` asks for what llama.cpp cannot do, or for a device that is not there.
    """
    used = taken(params, gpus)
    if len(used) == 1:
        params = replace(params, tensor_split=None)
    free = [float(gpus[n].free_bytes) for n in used]
    memory = footprint(model, params, program=program, gpus=free)
    places = dict(zip(used, memory.gpus, strict=True))
    return replace(memory, gpus=tuple(places.get(n, Place()) for n in range(len(gpus))))


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
    search = _Search(model, params, tuple(gpus), program)
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


def in_proportion(n_layers: int, parts: Sequence[int]) -> list[int]:
    """Whole layers for each part; together they are all."""
    total = sum(parts)
    ends = [round(n_layers * end / total) if total else 0 for end in accumulate(parts)]
    return [end - start for start, end in pairwise([0, *ends])]


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
    gpus: tuple[Gpu, ...]
    program: Program

    @property
    def budgets(self) -> list[int]:
        return [budget_bytes(gpu) for gpu in self.gpus]

    def attempt(self, n_gpu_layers: int, n_cpu_moe: int = 0) -> Placement | None:
        """The placement of so many layers, if there is a way that keeps to every budget."""
        budgets = self.budgets
        if not any(budgets):
            return None
        everything = n_gpu_layers == self.model.n_offloadable
        params = replace(
            self.params,
            n_gpu_layers=ALL_LAYERS if everything else n_gpu_layers,
            n_cpu_moe=n_cpu_moe or None,
        )
        staging = staging_bytes(self.model, n_gpu_layers, n_cpu_moe)
        for placed in self._ways(params, n_gpu_layers):
            memory = self._memory(placed)
            needed = [gpu.total_bytes for gpu in memory.gpus]
            needed[taken(placed, self.gpus)[0]] += staging
            if all(n <= budget for n, budget in zip(needed, budgets, strict=True)):
                complete = everything and not n_cpu_moe
                return Placement(params=placed, memory=memory, complete=complete)
            if sum(needed) > sum(budgets):  # No other way could help.
                return None
        return None

    def _memory(self, params: Params) -> Footprint:
        return footprint_on(self.gpus, self.model, params, self.program)

    def _ways(self, params: Params, n_offloaded: int) -> Iterator[Params]:
        """Ways to give the devices their layers, best first; a split counts them.

        One device alone, where it holds them: a token goes through all layers in turn, so a second
        device adds no speed and may be the slower one; a server behind a network is one only where
        no device of this machine holds them. It is named, because llama.cpp would keep several
        ubatches in flight for a second one that has no layers. Otherwise in proportion to
        free memory. But layers differ, and the last device holds the output as well: where one
        overflows, they are filled one after the other.
        """
        if len(self.gpus) == 1:
            yield params
            return
        local = [gpu for gpu in self.gpus if gpu.backend != "RPC"]
        for gpus in filter(None, (local, self.gpus)):
            yield replace(params, devices=(device_name(max(gpus, key=budget_bytes)),))
        split = in_proportion(n_offloaded, self.budgets)
        yield replace(params, tensor_split=tuple(map(float, split)))
        yield replace(params, tensor_split=self._filled(params, n_offloaded))

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
