"""Which configurations fit: by the bytes that llama.cpp will allocate, and by what has failed.

A configuration must fit twice: as it will be served, with the whole context, and in llama-bench,
whose context is no longer than its test but which keeps the logits of a whole ubatch. Where one
fails for memory all the same, the true limit is lower than the free bytes said: every configuration
that takes as much is kept out from then on.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import starmap

from autotune.errors import ConfigError
from autotune.hardware import Gpu, Hardware
from autotune.llama_cpp.numactl import bound_to
from autotune.model import Model
from autotune.model.footprint import Footprint, Place
from autotune.params import ALL_LAYERS, Params, Program
from autotune.recommend.answer import PROCESS_BYTES
from autotune.recommend.placement import (
    DRIVER_BYTES,
    SPARE_BYTES,
    device_name,
    footprint_on,
    staging_bytes,
    taken,
)

# Threads, and switches that move no bytes.
_OF_SPEED = (
    "n_threads",
    "n_threads_batch",
    "load_mode",
    "numa",
    "numactl",
    "repack",
    "no_op_offload",
    "cache_ram",
)
# Between what has worked and what has failed, no more halves are taken within this share.
_CLOSE = 0.03


@dataclass(slots=True, kw_only=True)
class _Edge:
    """Where the memory of one place ends: what it should hold, what it held, and what it did not.

    It is approached from below. Where something has failed, the next goes half of the way from what
    has worked: so the edge is found by halves, and not by one crash after another.
    """

    limit: float
    worked: float = 0.0
    failed: float = math.inf  # The least bytes that were too many.

    def allows(self, n_bytes: float, *, spare_bytes: float = 0) -> bool:
        """So much may be tried next."""
        return n_bytes + spare_bytes <= self.limit and n_bytes <= max(self._next, self.worked)

    def may_hold(self, n_bytes: float) -> bool:
        """Nothing speaks against it: it may be tried at some time."""
        return n_bytes <= self.limit and (n_bytes < self.failed or n_bytes <= self.worked)

    @property
    def _next(self) -> float:
        if self.failed - self.worked <= _CLOSE * self.worked:
            return self.failed - 1
        return (self.failed + self.worked) / 2

    def fill(self, n_bytes: float) -> float:
        """The share that is filled of what may be planned with."""
        return n_bytes / max(min(self.limit, self.failed), 1)


class Memory:
    """One model on one machine.

    Args:
        hardware: with the devices that are used, and no others.
        model: what is loaded.
        n_ctx: tokens of context to be served.
        n_tested: tokens of llama-bench's longest test, its depth included; None where what
            measures makes the context that is served.
    """

    def __init__(
        self, hardware: Hardware, model: Model, *, n_ctx: int, n_tested: int | None
    ) -> None:
        self.n_gpus = len(hardware.gpus)
        self.is_moe = model.is_moe
        self.n_layers = len(model.layers)
        self.n_offloadable = model.n_offloadable
        self._model = model
        self._served: tuple[tuple[Program, int], ...] = (("server", n_ctx),)
        if n_tested is not None:
            self._served += (("bench", n_tested),)
        self._gpus = hardware.gpus
        # Of the host first, then of each GPU.
        self._edges = [_Edge(limit=hardware.memory.available_bytes - PROCESS_BYTES)]
        self._edges += [_Edge(limit=gpu.free_bytes - DRIVER_BYTES) for gpu in hardware.gpus]
        self._nodes = {bound_to(node.number): node.free_bytes for node in hardware.nodes}
        self._footprints = lru_cache(maxsize=4096)(self._counted)

    def fits(self, params: Params, *, spare_bytes: int = 0) -> bool:
        """There is room for it on every device and in the host's memory.

        Args:
            params: the configuration; its own context is not looked at.
            spare_bytes: to be left free on every GPU.
        """
        spare = (0, *(spare_bytes,) * self.n_gpus)
        return self._has_room(
            params, lambda at, n_bytes: self._edges[at].allows(n_bytes, spare_bytes=spare[at])
        )

    def _has_room(self, params: Params, in_place: Callable[[int, int], bool]) -> bool:
        try:
            needed = self._needed(params)
        except ConfigError:  # llama.cpp refuses it.
            return False
        fits = all(in_place(at, n_bytes) for at, n_bytes in enumerate(needed))
        return fits and self._is_held_by_its_node(params)

    def _is_held_by_its_node(self, params: Params) -> bool:
        """What is bound to a node has its weights there too, and nowhere to go beyond it."""
        if params.numactl not in self._nodes:
            return True
        needed = max(m.host.total_bytes for m in self._footprints(_memory_key(params)))
        return needed + PROCESS_BYTES <= self._nodes[params.numactl]

    def fitted(self, params: Params, *, spare_bytes: int = 0) -> Params | None:
        """The same with as much on the GPUs as it asks for and as fits; None: nothing helps.

        A dense model gives up layers; a mixture of experts the experts of its first layers, and
        only then layers.
        """
        return self._most(params, lambda p: self.fits(p, spare_bytes=spare_bytes))

    def hoped_for(self, params: Params) -> Params | None:
        """As `fitted`, but with as much as may still prove to fit: up to what has failed."""
        may_hold = [edge.may_hold for edge in self._edges]
        return self._most(params, lambda p: self._has_room(p, lambda at, n: may_hold[at](n)))

    def _most(self, params: Params, fits: Callable[[Params], bool]) -> Params | None:
        if not self.n_gpus:
            return params if fits(params) else None
        for candidates in self._retreats(params):
            found = _first_that(fits, candidates)
            if found:
                return found
        return None

    def as_by_default(self, params: Params) -> Params | None:
        """The placement that llama.cpp's `--fit` takes: all that leaves 1024 MiB of every GPU."""
        everything = replace(params, n_gpu_layers=ALL_LAYERS if self.n_gpus else None)
        return self.fitted(everything, spare_bytes=SPARE_BYTES)

    def remember_failure(self, params: Params, place: str | None = None) -> None:
        """It ran out of memory: whatever takes as much there does too, but for what has worked.

        Args:
            params: what has failed, of any devices, split, batch, context and type of cache.
            place: whose memory was full, as ggml names it (`failures.full_place`), if it said so.
        """
        if place == "CPU":  # What the host needs is about the same for all: it was short for once.
            return
        needed = self._needed(params)
        at = self._at(place) or self._suspect(needed)
        if at is not None:
            edge = self._edges[at]
            edge.failed = min(edge.failed, needed[at])

    def remember_success(self, params: Params) -> None:
        """It ran: what takes no more does too."""
        for edge, n_bytes in zip(self._edges, self._needed(params), strict=True):
            edge.worked = max(edge.worked, n_bytes)

    def _at(self, place: str | None) -> int | None:
        """Of the places, the GPU that is named."""
        names = [_as_ggml_names(gpu) for gpu in self._gpus]
        found = [at for at, name in enumerate(names, 1) if place and re.fullmatch(name, place)]
        return found[0] if len(found) == 1 else None

    def _suspect(self, needed: Sequence[float]) -> int | None:
        """The fullest GPU, of those that had to hold more than they ever did."""
        suspects = [n for n in range(1, len(needed)) if needed[n] > self._edges[n].worked]
        return max(suspects, key=lambda n: self._edges[n].fill(needed[n]), default=None)

    def gpu_bytes(self, params: Params) -> int:
        """What it takes on all GPUs."""
        return sum(self._needed(params)[1:])

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

    def _needed(self, params: Params) -> list[int]:
        """Bytes of the host and of each GPU, by the larger of what serving and measuring take.

        Weights on the host are mapped, and may come from the disk; caches and buffers may not.
        """
        footprints = self._footprints(_memory_key(params))
        host = max(m.host.total_bytes - m.host.weights_bytes for m in footprints)
        gpus = list(starmap(max, zip(*(map(_total, m.gpus) for m in footprints), strict=True)))
        used = taken(params, self._gpus)
        if used and not params.no_op_offload:
            gpus[used[0]] += staging_bytes(self._model, _layers(params), params.n_cpu_moe or 0)
        return [host, *gpus]

    def _counted(self, params: Params) -> tuple[Footprint, ...]:
        return tuple(
            footprint_on(self._gpus, self._model, replace(params, n_ctx=n_ctx), program)
            for program, n_ctx in self._served
        )


def _first_that(fits: Callable[[Params], bool], candidates: Sequence[Params]) -> Params | None:
    """Each later one takes no more than those before it."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            high = middle
        else:
            low = middle + 1
    return candidates[low] if low < len(candidates) else None


def _as_ggml_names(gpu: Gpu) -> str:
    """The pattern of a device's buffer; a server is known by its address, once its own name."""
    if gpu.backend == "RPC" and gpu.device != gpu.name:
        return rf"RPC\d+\[{re.escape(gpu.name)}\]"
    return re.escape(device_name(gpu))


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
