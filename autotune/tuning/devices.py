"""Several devices in the space: which of them, how the layers are split, and what goes together.

One device alone is said by its name where llama-bench knows names (`-dev`), because `--split-mode
none --main-gpu` says the same, and is all that `--main-gpu` does in llama.cpp since 2024
(`llama_prepare_model_devices` in src/llama.cpp).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.llama_cpp.capabilities import Capabilities
from autotune.model import Model
from autotune.model.footprint import place_layers
from autotune.params import ALL_LAYERS, Params
from autotune.recommend.placement import device_name
from autotune.recommend.spread import Split, device_choices, splits
from autotune.tuning.workload import Value

AUTO = "auto"
# Backends that can cut a matrix into rows: they have a `ggml_backend_split_buffer_type`.
_SPLIT_ROWS = frozenset({"CUDA", "ROCm", "MUSA", "SYCL"})

# Parameters of several devices.
OF_DEVICES = frozenset({"devices", "split_mode", "main_gpu", "tensor_split"})
Wished = Mapping[str, tuple[Value, ...]]


def text_of(parts: Sequence[str | float]) -> str:
    """Names or shares as one value: CUDA0/CUDA1, 3/1."""
    return "/".join(part if isinstance(part, str) else f"{part:g}" for part in parts)


def names_in(value: Value) -> tuple[str, ...] | None:
    """The devices that a value names; None: llama.cpp's own choice."""
    return None if value == AUTO else tuple(str(value).split("/"))


def shares_in(value: Value) -> tuple[float, ...] | None:
    """The shares that a value gives; None: in proportion to free memory."""
    return None if value == AUTO else tuple(map(float, str(value).split("/")))


# How a value of several parts is read.
PARTS_IN: Mapping[str, Callable[[Value], tuple[str, ...] | tuple[float, ...] | None]] = {
    "devices": names_in,
    "tensor_split": shares_in,
}


def device_dimensions(
    gpus: Sequence[Gpu],
    model: Model,
    *,
    capabilities: Capabilities,
    defaults: Params,
    seed: Params,
    wished: Wished,
) -> dict[str, tuple[Value, ...]]:
    """The values of each dimension of several devices; none, where there is one to be used.

    Raises:
        ConfigError: a wish names a device that is not there, or one twice, or splits among too few
            or too many.
    """
    own = text_of(defaults.devices) if defaults.devices else AUTO
    used = _used(gpus, wished)
    _refuse_other_splits(used, wished)
    if len(used) < 2:  # noqa: PLR2004 - alone, a device has all
        return {"devices": (own, *map(device_name, used))} if len(gpus) > 1 else {}
    named = {"devices": (own, *map(text_of, device_choices(gpus)))}
    planned = replace(defaults, n_ctx=seed.n_ctx)
    split = {"tensor_split": _splits(used, model, planned, seed.tensor_split)}
    modes = _modes(used)
    wants_one = "none" in wished.get("split_mode", ()) or "main_gpu" in wished
    if capabilities.has("-dev") and not wants_one:
        return {**named, "split_mode": modes, **split}
    return {
        **named,
        "split_mode": ("layer", "none", *modes[1:]),
        "main_gpu": tuple(range(len(used))),
        **split,
    }


def _used(gpus: Sequence[Gpu], wished: Wished) -> list[Gpu]:
    """Those of the longest list that is wished for, in its order; all, where none is."""
    by_name = {device_name(gpu): gpu for gpu in gpus}
    lists = [names_in(value) or tuple(by_name) for value in wished.get("devices", ())]
    unknown = [name for names in lists for name in names if name not in by_name]
    if unknown:
        raise ConfigError(
            f"--param devices: there is no {unknown[0]} here",
            hint=f"llama.cpp has {', '.join(by_name) or 'no device'}; see `lcm doctor`",
        )
    twice = next((names for names in lists if len({*names}) < len(names)), None)
    if twice:
        raise ConfigError(
            f"--param devices={text_of(twice)} names a device twice",
            hint="give each device once, in the order of their layers",
        )
    longest = max(lists, key=len, default=tuple(by_name))
    return [by_name[name] for name in longest]


def _refuse_other_splits(used: Sequence[Gpu], wished: Wished) -> None:
    for value in wished.get("tensor_split", ()):
        shares = shares_in(value)
        if shares is not None and (len(shares) != len(used) or not any(shares)):
            raise ConfigError(
                f"--param tensor_split={value} does not fit {len(used)} devices",
                hint=f"give each of {', '.join(map(device_name, used)) or 'them'} its share: "
                f"{text_of([1.0] * max(len(used), 2))}",
            )


def _modes(gpus: Sequence[Gpu]) -> tuple[Value, ...]:
    """How several devices share the work; only those of one backend can share a layer."""
    backends = {gpu.backend for gpu in gpus}
    if len(backends) > 1:
        return ("layer",)
    return ("layer", "row", "tensor") if backends <= _SPLIT_ROWS else ("layer", "tensor")


def _splits(
    gpus: Sequence[Gpu], model: Model, params: Params, ruled: Split | None
) -> tuple[Value, ...]:
    """What fits, with what the rules say, and llama.cpp's own split in its place among them."""
    free = [float(gpu.free_bytes) for gpu in gpus]
    everything = replace(params, n_gpu_layers=ALL_LAYERS, tensor_split=None)
    own = place_layers(model, everything, free)
    found = {
        split
        for split in splits(model, params, gpus)
        if place_layers(model, replace(everything, tensor_split=split), free) != own
    }
    if ruled and len(ruled) == len(gpus):
        found.add(ruled)
    first = free[0] / (sum(free) or 1.0)
    ranked = [(split[0] / sum(split), text_of(split)) for split in found]
    return tuple(text for _, text in sorted([*ranked, (first, AUTO)]))


def towards_each(values: Sequence[Value], own: Sequence[float]) -> list[list[Value]]:
    """For each device the splits that give it more than it has, those that give it most first.

    Args:
        values: the splits to choose from.
        own: the shares that the devices have.
    """

    def part(shares: Sequence[float], device: int) -> float:
        return shares[device] / (sum(shares) or 1.0)

    shares = {v: s for v in values if (s := shares_in(v)) is not None and len(s) == len(own)}
    return [
        sorted(
            (v for v, s in shares.items() if part(s, device) > part(own, device)),
            key=lambda v: part(shares[v], device),
            reverse=True,
        )
        for device in range(len(own))
    ]


def settled(params: Params, changed: str, *, own: tuple[str, ...] | None, n_own: int) -> Params:
    """The same, where what was not changed goes with what was, and nothing is said that is idle.

    Args:
        params: with one dimension changed.
        changed: its name.
        own: the devices where nothing else is wanted; None: those that llama.cpp takes by itself.
        n_own: how many these are.
    """
    if changed == "main_gpu" and params.main_gpu:
        params = replace(params, split_mode="none")
    if changed == "tensor_split" and params.tensor_split and params.split_mode == "none":
        params = replace(params, split_mode=None)
    if not _has_enough(params, changed):
        params = replace(params, devices=own)
    n_used = n_own if params.devices is None else len(params.devices)
    if n_used == 1:
        params = replace(params, split_mode=None)
    if params.split_mode == "none" or len(params.tensor_split or ()) != n_used:
        params = replace(params, tensor_split=None)
    if params.split_mode != "none" or (params.main_gpu or 0) >= n_used:
        params = replace(params, main_gpu=None)
    return params


def _has_enough(params: Params, changed: str) -> bool:
    """The devices that are named are as many as what was changed speaks of."""
    n_named = len(params.devices or ())
    if not n_named:
        return True
    if changed == "tensor_split":
        return len(params.tensor_split or ()) in {0, n_named}
    if changed == "main_gpu":
        return (params.main_gpu or 0) < n_named
    return changed != "split_mode" or params.split_mode is None or n_named > 1
