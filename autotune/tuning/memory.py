"""Which configurations fit: by the bytes that llama.cpp will allocate, and by what has failed.

A configuration must fit twice: as it will be served, with the whole context, and in llama-bench,
whose context is no longer than its test but which keeps the logits of a whole ubatch. Where one
fails for memory all the same, the true limit is lower than the free bytes said: every configuration
that takes as much is kept out from then on.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import starmap

from autotune.errors import ConfigError
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.model.footprint import Footprint, Place, footprint
from autotune.params import ALL_LAYERS, Params, Program
from autotune.recommend.answer import PROCESS_BYTES
from autotune.recommend.placement import DRIVER_BYTES, SPARE_BYTES, staging_bytes

# Threads, and switches that move no bytes.
_OF_SPEED = (
    "n_threads",
    "n_threads_batch",
    "load_mode",
    "numa",
    "repack",
    "no_op_offload",
    "cache_ram",
)
# Between what has worked and what has failed, no more halves are taken within this share.
_CLOSE = 0.03


class Memory:
    """One model on one machine.

    Args:
        hardware: with the devices that are used, and no others.
        model: what is loaded.
        n_ctx: tokens of context to be served.
        n_tested: tokens of llama-bench's longest test, its depth included.
    """

    def __init__(self, hardware: Hardware, model: Model, *, n_ctx: int, n_tested: int) -> None:
        self.n_gpus = len(hardware.gpus)
        self.is_moe = model.is_moe
        self.n_layers = len(model.layers)
        self.n_offloadable = model.n_offloadable
        self._model = model
        self._served: tuple[tuple[Program, int], ...] = (("server", n_ctx), ("bench", n_tested))
        self._free = tuple(float(gpu.free_bytes) for gpu in hardware.gpus)
        self._limits = [gpu.free_bytes - DRIVER_BYTES for gpu in hardware.gpus]
        self._failed: list[float] = [math.inf] * self.n_gpus  # The least bytes that were too many.
        self._worked: list[int] = [0] * self.n_gpus  # The most that were not.
        # Weights are mapped, and may come from the disk; caches and buffers may not.
        self._host_limit = hardware.memory.available_bytes - PROCESS_BYTES
        self._footprints = lru_cache(maxsize=4096)(self._counted)

    def fits(self, params: Params, *, spare_bytes: int = 0) -> bool:
        """There is room for it on every device and in the host's memory.

        Args:
            params: the configuration; its own context is not looked at.
            spare_bytes: to be left free on every GPU.
        """
        try:
            footprints = self._footprints(_memory_key(params))
        except ConfigError:  # llama.cpp refuses it.
            return False
        for memory in footprints:
            if memory.host.total_bytes - memory.host.weights_bytes > self._host_limit:
                return False
        needed = self._needed(params)
        return all(
            n + spare_bytes <= limit and (n <= edge or n <= worked)
            for n, limit, edge, worked in zip(
                needed, self._limits, self._edges(), self._worked, strict=True
            )
        )

    def _edges(self) -> list[float]:
        """How far to go where something has failed: half of the way from what has worked.

        So the edge is found by halves, and not by one crash after another.
        """
        return [
            failed - 1 if failed - worked <= _CLOSE * worked else (failed + worked) / 2
            for failed, worked in zip(self._failed, self._worked, strict=True)
        ]

    def fitted(self, params: Params, *, spare_bytes: int = 0) -> Params | None:
        """The same with as much on the GPUs as it asks for and as fits; None: nothing helps.

        A dense model gives up layers; a mixture of experts the experts of its first layers, and
        only then layers.
        """
        if not self.n_gpus:
            return params if self.fits(params) else None
        for candidates in self._retreats(params):
            found = self._first_that_fits(candidates, spare_bytes)
            if found:
                return found
        return None

    def as_by_default(self, params: Params) -> Params | None:
        """The placement that llama.cpp's `--fit` takes: all that leaves 1024 MiB of every GPU."""
        everything = replace(params, n_gpu_layers=ALL_LAYERS if self.n_gpus else None)
        return self.fitted(everything, spare_bytes=SPARE_BYTES)

    def remember_failure(self, params: Params) -> None:
        """It ran out of memory: whatever takes as much does too, but for what has worked."""
        needed = self._needed(params)
        if not needed:
            return
        fullest = max(range(self.n_gpus), key=lambda i: needed[i] / max(self._limits[i], 1))
        self._failed[fullest] = min(self._failed[fullest], needed[fullest])

    def remember_success(self, params: Params) -> None:
        """It ran: what takes no more does too."""
        self._worked = [max(w, n) for w, n in zip(self._worked, self._needed(params), strict=True)]

    def gpu_bytes(self, params: Params) -> int:
        """What it takes on all GPUs."""
        return sum(self._needed(params))

    def layers_on_host(self, params: Params) -> int:
        """Layers, or layers' experts, that the CPU computes."""
        n_off = self.n_offloadable - min(_layers(params), self.n_offloadable)
        return max(n_off, params.n_cpu_moe or 0) if self.is_moe else n_off

    def _retreats(self, params: Params) -> Iterable[list[Params]]:
        asked = min(_layers(params), self.n_offloadable)
        if self.is_moe:
            first = params.n_cpu_moe or 0
            yield [_with(params, asked, n, self) for n in range(first, self.n_layers + 1)]
            params = replace(params, n_cpu_moe=self.n_layers)
        yield [_with(params, n, params.n_cpu_moe or 0, self) for n in range(asked, -1, -1)]

    def _first_that_fits(self, candidates: list[Params], spare_bytes: int) -> Params | None:
        """Each later one takes no more than those before it."""
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            if self.fits(candidates[middle], spare_bytes=spare_bytes):
                high = middle
            else:
                low = middle + 1
        return candidates[low] if low < len(candidates) else None

    def _needed(self, params: Params) -> list[int]:
        """Bytes on each GPU, by the larger of what serving and measuring take."""
        footprints = self._footprints(_memory_key(params))
        needed = list(starmap(max, zip(*(map(_total, m.gpus) for m in footprints), strict=True)))
        if needed and not params.no_op_offload:
            needed[0] += staging_bytes(self._model, _layers(params), params.n_cpu_moe or 0)
        return needed

    def _counted(self, params: Params) -> tuple[Footprint, ...]:
        return tuple(
            footprint(self._model, replace(params, n_ctx=n_ctx), program=program, gpus=self._free)
            for program, n_ctx in self._served
        )


def _total(place: Place) -> int:
    return place.total_bytes


def _layers(params: Params) -> int:
    return ALL_LAYERS if params.n_gpu_layers is None else params.n_gpu_layers


def _with(params: Params, n_gpu_layers: int, n_cpu_moe: int, memory: Memory) -> Params:
    everything = n_gpu_layers >= memory.n_offloadable
    return replace(
        params,
        n_gpu_layers=ALL_LAYERS if everything else n_gpu_layers,
        n_cpu_moe=n_cpu_moe or None,  # One spelling for none, so that equals are equal.
    )


def _memory_key(params: Params) -> Params:
    """The fields that move memory."""
    return replace(params, **dict.fromkeys(_OF_SPEED))
