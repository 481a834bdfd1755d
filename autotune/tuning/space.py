"""The search space: its dimensions, and the way between their values and a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from autotune.params import ALL_LAYERS, DEFAULT_CACHE_TYPE, DEFAULTS, Params
from autotune.tuning.devices import OF_DEVICES, PARTS_IN, settled, text_of
from autotune.tuning.workload import Value

_MOVES_MEMORY = frozenset(
    (
        "n_ubatch n_batch no_kv_offload cache_type n_gpu_layers n_cpu_moe flash_attn "
        "devices split_mode main_gpu tensor_split n_parallel kv_unified"
    ).split()
)
# What every load is told: a default of these is not said at all, because old builds know no word
# for it. What may change within a load is always said, so that its values can stand in one list.
_OF_A_LOAD = frozenset({"load_mode", "repack", "numa", "n_cpu_moe", *OF_DEVICES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One parameter, and the values that it may take; what are neighbours stands side by side."""

    name: str  # As in `Params`; cache_type is type_k and type_v together.
    values: tuple[Value, ...]

    @property
    def is_range(self) -> bool:
        """Every whole number from the first to the last."""
        return len(self.values) > 2 and all(  # noqa: PLR2004 - of two, a list is as good
            type(a) is int and type(b) is int and b - a == 1 for a, b in pairwise(self.values)
        )

    @property
    def moves_memory(self) -> bool:
        return self.name in _MOVES_MEMORY

    def beside(self, value: Value) -> list[Value]:
        """The values next to one; of a long range also those a few steps away."""
        if value not in self.values:
            return []
        at = self.values.index(value)
        steps = (1, 2, 4) if self.is_range else (1,)
        near = [at + sign * step for step in steps for sign in (-1, 1)]
        return [self.values[i] for i in near if 0 <= i < len(self.values)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The dimensions, and the way between their values and a configuration."""

    dimensions: tuple[Dimension, ...]
    fixed: Params  # What is the same for every configuration.
    all_layers: int = ALL_LAYERS  # From so many `n_gpu_layers` on, they are all.
    n_devices: int = 1  # As many llama.cpp takes where none is named.
    cores: Mapping[str, int] = field(default_factory=dict)  # Of the nodes that it may be bound to.
    pinned: tuple[Dimension, ...] = ()  # Those that the user has fixed to one value.

    def has(self, name: str) -> bool:
        return any(d.name == name for d in self.dimensions)

    def values_of(self, name: str) -> tuple[Value, ...]:
        """The values of a dimension; none if it is not searched."""
        return next((d.values for d in self.dimensions if d.name == name), ())

    def point(self, params: Params) -> dict[str, Value]:
        """The value of each dimension in a configuration, unset ones as llama.cpp's defaults."""
        return {d.name: self._value_in(params, d.name) for d in self.dimensions}

    def _value_in(self, params: Params, name: str) -> Value:
        value = value_in(params, name)
        return min(value, self.all_layers) if name == "n_gpu_layers" else value

    def holds(self, params: Params) -> bool:
        """Each value is one of its dimension's, and what the user has fixed is as it is fixed."""
        return all(
            self._value_in(params, d.name) in d.values for d in (*self.dimensions, *self.pinned)
        )

    def with_value(self, params: Params, name: str, value: Value) -> Params:
        """`params` with one dimension at another value; a batch is never below its ubatch."""
        if name == "n_gpu_layers" and int(value) >= self.all_layers:
            value = ALL_LAYERS
        changed = with_field(params, name, value)
        if name in OF_DEVICES:
            return settled(changed, name, own=self.fixed.devices, n_own=self.n_devices)
        if name == "numa" and (n_cores := self.cores.get(changed.numactl or "")):
            return _with_at_most(changed, n_cores)
        return self._batch_above_ubatch(changed, name)

    def _batch_above_ubatch(self, params: Params, changed: str) -> Params:
        """The one that was not changed goes to its nearest value that leaves it so."""
        n_batch, n_ubatch = params.n_batch, params.n_ubatch
        if n_batch is None or n_ubatch is None or n_batch >= n_ubatch:
            return params
        if changed == "n_batch":
            below = [int(v) for v in self.values_of("n_ubatch") if int(v) <= n_batch]
            return replace(params, n_ubatch=max(below, default=n_batch))
        above = [int(v) for v in self.values_of("n_batch") if int(v) >= n_ubatch]
        return replace(params, n_batch=min(above, default=n_ubatch))

    def with_point(self, params: Params, point: Mapping[str, Value]) -> Params:
        """`params` with the values of a whole point."""
        for name, value in point.items():
            params = self.with_value(params, name, value)
        return params

    def onto(self, params: Params) -> Params:
        """The configuration of this space that has the values of `params`, as far as it has them.

        A value that the dimension does not have is left as it is by default.
        """
        point = self.point(params)
        known = {d.name: point[d.name] for d in self.dimensions if point[d.name] in d.values}
        return self.with_point(self.fixed, known)

    def distance(self, params: Params, defaults: Params) -> int:
        """How many parameters differ from the defaults."""
        return len(self.differing(params, defaults))

    def differing(self, one: Params, other: Params) -> set[str]:
        """The dimensions in which two configurations differ."""
        here, there = self.point(one), self.point(other)
        return {name for name in here if here[name] != there[name]}


def with_field(params: Params, name: str, value: Value) -> Params:
    """`params` with the value of one dimension, and all others as they are."""
    if name == "numa":
        return _bound(params, str(value))
    if name == "cache_type":
        return replace(params, type_k=str(value), type_v=str(value))
    said: object = None if name in _OF_A_LOAD and value == DEFAULTS[name] else value
    if said is not None and name in PARTS_IN:
        said = PARTS_IN[name](value)
    return replace(params, **{name: said})  # type: ignore[arg-type]


def _bound(params: Params, value: str) -> Params:
    """With a mode of llama.cpp's own, or bound by numactl, of which that is told as well."""
    own = {"off": None, "distribute": "distribute", "isolate": "isolate", "numactl": "numactl"}
    binding = None if value in own else value
    return replace(params, numa=own.get(value, "numactl"), numactl=binding)  # type: ignore[arg-type]


def _with_at_most(params: Params, n_threads: int) -> Params:
    """With no more threads than cores: those too many would only wait for the others."""
    return replace(
        params,
        n_threads=params.n_threads and min(params.n_threads, n_threads),
        n_threads_batch=params.n_threads_batch and min(params.n_threads_batch, n_threads),
    )


def value_in(params: Params, name: str) -> Value:
    """The value of a dimension in a configuration."""
    if name == "cache_type":
        return params.type_k or DEFAULT_CACHE_TYPE
    if name == "numa" and params.numactl:
        return params.numactl
    value: Value | None = getattr(params, name)
    if isinstance(value, tuple):
        return text_of(value)
    return DEFAULTS.get(name, 0) if value is None else value


_FLASH_ATTN: Mapping[object, Value] = {-1: "auto", 0: False, 1: True}


def explicit(params: Params, echoed: Mapping[str, int | str]) -> Params:
    """`params` with what llama-bench chose by itself said, as its record tells it.

    Args:
        params: what was asked for.
        echoed: the settings of a record (`records.ECHOED`).
    """
    names = ("n_threads", "n_batch", "n_ubatch")
    told = {n: echoed[n] for n in names if getattr(params, n) is None and n in echoed}
    told["flash_attn"] = _FLASH_ATTN.get(echoed.get("flash_attn"), "auto")
    said = replace(params, **told)  # type: ignore[arg-type]
    return replace(said, n_threads_batch=params.n_threads_batch or said.n_threads)
