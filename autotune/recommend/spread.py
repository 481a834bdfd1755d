"""How the layers may be spread over several unequal devices, so that each has room for its part.

Generating, a token goes through all layers in turn: then the fastest device is to have as many as
it holds. A prompt is worked on by all devices at once: then the slowest is to have few. Which of
them is how fast can only be measured. So the ways that are worth it lie between two ends, where one
device is full, and the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.hardware import Gpu
from autotune.model import Model
from autotune.params import ALL_LAYERS, Params
from autotune.recommend.placement import DRIVER_BYTES, device_name, footprint_on, in_proportion

# Steps from one end to the other; between neighbours, a search can see no more than noise.
_STEPS = 6

Split = tuple[float, ...]


def kind_of(gpu: Gpu) -> tuple[str, int]:
    """What cards are alike by; of those, one stands for the others."""
    return gpu.name, gpu.total_bytes


def _free_bytes(gpus: Sequence[Gpu]) -> int:
    return sum(gpu.free_bytes for gpu in gpus)


def device_choices(gpus: Sequence[Gpu]) -> tuple[tuple[str, ...], ...]:
    """The devices that are worth trying beside all in llama.cpp's order, by their names.

    Each alone; all but one, where that is not one alone; and the other way around, because the
    first computes prompts for layers of the host, and the last has the output.
    """
    alone = [(gpu,) for gpu in gpus]
    without = [tuple(other for other in gpus if other != gpu) for gpu in gpus]
    choices = [*alone, *without, tuple(reversed(gpus))]
    unlike = {tuple(map(kind_of, gpus)): tuple(gpus)}
    for choice in choices:
        # Of cards that are alike, some may be full of another program's.
        kinds = tuple(map(kind_of, choice))
        unlike[kinds] = max(unlike.get(kinds, choice), choice, key=_free_bytes)
    return tuple(tuple(map(device_name, choice)) for choice in [*unlike.values()][1:])


def splits(model: Model, params: Params, gpus: Sequence[Gpu]) -> tuple[Split, ...]:
    """Layers by device, in the order of the first device's part; each fits, where all layers do.

    Args:
        model: what is loaded.
        params: beside the placement, with the context that is served.
        gpus: the devices, in llama.cpp's order, with the memory that is free.
    """
    room = _Room(model, params, tuple(gpus))
    capacities = [room.most(device) for device in range(len(gpus))]
    n_layers = min(model.n_offloadable, sum(capacities))
    if min(capacities, default=0) == 0 or n_layers < len(gpus):
        return ()
    steps = _STEPS if len(gpus) == 2 else 2  # noqa: PLR2004 - of three and more there are many ways
    found = {tuple(in_proportion(n_layers, (1,) * len(gpus)))}
    for device, capacity in enumerate(capacities):
        others = capacities[:device] + capacities[device + 1 :]
        least, most = max(n_layers - sum(others), 0), min(capacity, n_layers)
        for step in range(steps + 1):
            count = round(least + (most - least) * step / steps)
            rest = in_proportion(n_layers - count, others)
            found.add((*rest[:device], count, *rest[device:]))
    fitting = [
        split
        for split in found
        if all(0 < n <= most for n, most in zip(split, capacities, strict=True))
    ]
    return tuple(tuple(map(float, split)) for split in sorted(fitting))


@dataclass(frozen=True, slots=True)
class _Room:
    """What devices hold of a model."""

    model: Model
    params: Params
    gpus: tuple[Gpu, ...]

    def most(self, device: int) -> int:
        """The most layers that a device holds, the others being on another."""
        low, high = 0, self.model.n_offloadable
        while low < high:
            middle = (low + high + 1) // 2
            if self._holds(device, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _holds(self, device: int, count: int) -> bool:
        split = [0.0] * len(self.gpus)
        split[device - 1] = float(self.model.n_offloadable - count)
        split[device] = float(count)
        placed = replace(
            self.params,
            n_gpu_layers=ALL_LAYERS,
            tensor_split=tuple(split),
            devices=None,
            split_mode=None,
        )
        needed = footprint_on(self.gpus, self.model, placed, "server").gpus[device].total_bytes
        return needed <= self.gpus[device].free_bytes - DRIVER_BYTES
