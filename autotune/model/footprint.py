"""Bytes by part and place, for one configuration: what llama.cpp will allocate, and where.

Weights, attention cache and recurrent state are counted the way llama.cpp allocates them and are
exact; the compute buffer (`autotune.model.compute`) is an estimate within -2 % and +15 %. Both are
checked against the real `llama-fit-params` in `tests/e2e/test_memory.py`. Formulas are from
llama.cpp 0.5.0-dev; the place of each stands beside it.

Not counted, because llama.cpp does not allocate it: what a GPU driver takes for itself (see
`recommend.placement`), and llama-server's prompt cache.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from autotune.errors import ConfigError
from autotune.model.architecture import LayerCache
from autotune.model.compute import Batch, Devices, compute_bytes
from autotune.model.gguf import TENSOR_TYPES, padded
from autotune.model.reader import Model
from autotune.params import (
    DEFAULT_CACHE_TYPE,
    DEFAULT_N_BATCH,
    DEFAULT_N_UBATCH,
    Params,
    Program,
)

CONTEXT_PADDING = 256  # llama_context pads the context to this.
MOST_SLOTS = 256  # LLAMA_MAX_SEQ, src/llama-cparams.h
SERVER_SLOTS = 4  # llama-server with `--parallel` unset: 4 slots that share one cache.

# What `--cache-type-k` and `-v` accept: kv_cache_types in common/arg.cpp.
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_CACHE_TYPE = {t.name: t for t in TENSOR_TYPES.values() if t.name in CACHE_TYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The bytes that one place holds: the host's memory, or one GPU's."""

    weights_bytes: int = 0
    kv_cache_bytes: int = 0
    recurrent_bytes: int = 0
    compute_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.recurrent_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one configuration takes, by place."""

    host: Place
    gpus: tuple[Place, ...]
    weights_exact: bool
    caches_exact: bool  # Of the attention cache and the recurrent state.

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.host, *self.gpus)

    @property
    def kv_cache_bytes(self) -> int:
        return sum(place.kv_cache_bytes for place in self.places)

    @property
    def total_bytes(self) -> int:
        return sum(place.total_bytes for place in self.places)


def footprint(
    model: Model, params: Params, *, program: Program, gpus: Sequence[float] = ()
) -> Footprint:
    """The memory that `program` takes for `model` under `params`.

    Args:
        model: what `analyze_model` read.
        params: unset fields mean llama.cpp's defaults, except `n_gpu_layers`: unset offloads all.
        program: bench keeps the logits of a whole ubatch, cli and server those of one token a slot.
        gpus: one number a device, in proportion to which layers are split when `params` has no
            `tensor_split`: its free bytes, as llama.cpp does. Empty: no device. They are those that
            are used: `devices` and `main_gpu` are not looked at.

    Raises:
        ConfigError: `params` asks for what llama.cpp cannot do.
    """
    batch = resolve_batch(model, params, program)
    _check_cache_types(model, batch)
    devices = place_layers(model, params, gpus)
    ledger = _Ledger(len(gpus))
    _add_weights(ledger, model, devices, n_cpu_moe=params.n_cpu_moe or 0)
    _add_caches(ledger, model, batch, devices, offload=not params.no_kv_offload)
    compute = compute_bytes(model, params, batch, devices, len(gpus))
    for device in (None, *range(len(gpus))):
        ledger.compute[device] = compute.get(device, 0)
    shared_out = len(gpus) > 1 and params.split_mode in {"row", "tensor"}
    if shared_out:
        _share_out(ledger, params, gpus)
    return Footprint(
        host=ledger.place(None),
        gpus=tuple(ledger.place(device) for device in range(len(gpus))),
        weights_exact=model.weights_exact and not shared_out,
        caches_exact=model.caches_exact and params.split_mode != "tensor",
    )


class _Ledger:
    """Bytes by part and device while they are added up; device None is the host."""

    def __init__(self, n_gpus: int) -> None:
        empty: dict[int | None, int] = dict.fromkeys((None, *range(n_gpus)), 0)
        self.weights = dict(empty)
        self.kv_cache = dict(empty)
        self.recurrent = dict(empty)
        self.compute = dict(empty)

    def place(self, device: int | None) -> Place:
        return Place(
            weights_bytes=self.weights[device],
            kv_cache_bytes=self.kv_cache[device],
            recurrent_bytes=self.recurrent[device],
            compute_bytes=self.compute[device],
        )


def _add_weights(ledger: _Ledger, model: Model, devices: Devices, *, n_cpu_moe: int) -> None:
    weights, output = ledger.weights, devices[-1]
    weights[None] += model.input_bytes
    weights[output] += model.output_bytes
    if output is not None or model.tied_twice:  # Otherwise the embedding itself is the output.
        weights[output] += model.tied_bytes
    for device in {devices[il] for il in model.rope_layers}:
        weights[device] += model.rope_bytes
    for il, (layer, device) in enumerate(zip(model.layers, devices, strict=False)):
        weights[device] += layer.dense_bytes
        weights[None if il < n_cpu_moe else device] += layer.expert_bytes


def _add_caches(
    ledger: _Ledger, model: Model, batch: Batch, devices: Devices, *, offload: bool
) -> None:
    cache_bytes = {cache: _cache_bytes(cache, model, batch) for cache in {*model.caches}}
    for cache, layer_device in zip(model.caches, devices, strict=False):
        device = layer_device if offload else None
        kv_cache, recurrent = cache_bytes[cache]
        ledger.kv_cache[device] += kv_cache
        ledger.recurrent[device] += recurrent


def _share_out(ledger: _Ledger, params: Params, gpus: Sequence[float]) -> None:
    """Every device has a part of every layer, instead of some layers as a whole.

    Of rows, llama.cpp splits the weights alone, by the devices' memory; of tensors also the caches,
    in equal parts where nothing is said, and every device works on whole activations. Both round to
    what a matrix can be cut into, so this is an estimate.
    """
    whole = params.split_mode == "tensor"
    split = params.tensor_split or ()
    shares = split if any(split) else (1.0,) * len(gpus) if whole else gpus
    total = sum(shares) or 1.0
    caches = (ledger.kv_cache, ledger.recurrent) if whole else ()
    for bytes_by_place in (ledger.weights, *caches):
        on_devices = sum(bytes_by_place[device] for device in range(len(gpus)))
        for device, share in enumerate(shares):
            bytes_by_place[device] = int(on_devices * share / total)
    if whole:
        most = max(ledger.compute[device] for device in range(len(gpus)))
        ledger.compute.update(dict.fromkeys(range(len(gpus)), most))


def resolve_batch(model: Model, params: Params, program: Program) -> Batch:
    """The sizes that llama.cpp derives from what it is asked for (`llama_context`)."""
    unset_server = program == "server" and params.n_parallel is None
    n_seqs = params.n_parallel or (SERVER_SLOTS if unset_server else 1)
    unified = unset_server if params.kv_unified is None else params.kv_unified
    asked = params.n_ctx or model.shape.n_ctx_train
    if min(asked, n_seqs) < 1 or n_seqs > MOST_SLOTS:
        raise ConfigError(
            f"a context of {asked} tokens for {n_seqs} slots cannot be",
            hint=f"ask for at least 256 tokens, and for 1 to {MOST_SLOTS} slots",
        )
    n_batch = min(asked, params.n_batch or DEFAULT_N_BATCH)
    n_ubatch = min(n_batch, params.n_ubatch or DEFAULT_N_UBATCH)
    n_ctx = padded(asked, CONTEXT_PADDING)
    return Batch(
        n_ctx_seq=n_ctx if unified else padded(n_ctx // n_seqs, CONTEXT_PADDING),
        n_seqs=n_seqs,
        n_streams=1 if unified else n_seqs,
        n_ubatch=n_ubatch,
        n_outputs=n_ubatch if program == "bench" else min(n_seqs, n_ubatch),
        flash_attn=params.flash_attn is not False,
        type_k=params.type_k or DEFAULT_CACHE_TYPE,
        type_v=params.type_v or DEFAULT_CACHE_TYPE,
    )


def _cache_bytes(cache: LayerCache, model: Model, batch: Batch) -> tuple[int, int]:
    """One layer's attention cache and state (`llama_kv_cache`, `llama_memory_recurrent`)."""
    v_elements = cache.v_elements
    if v_elements and not batch.flash_attn:  # Transposed, V is as wide as the widest layer's.
        v_elements = max(other.v_elements for other in model.caches)
    row = _row_bytes(batch.type_k, cache.k_elements) + _row_bytes(batch.type_v, v_elements)
    state = 4 * cache.state_elements * batch.n_seqs  # f32
    return batch.n_streams * batch.cells(cache.window) * row, state


def _row_bytes(type_name: str, n_elements: int) -> int:
    _, block_elements, block_bytes = _CACHE_TYPE[type_name]
    return n_elements // block_elements * block_bytes


def _check_cache_types(model: Model, batch: Batch) -> None:
    """Refuse what `llama_init_from_model` refuses (src/llama-context.cpp)."""
    for type_name in (batch.type_k, batch.type_v):
        if type_name not in _CACHE_TYPE:
            raise ConfigError(
                f"{type_name!r} is no type that llama.cpp has for its cache",
                hint=f"choose one of {', '.join(CACHE_TYPES)}",
            )
    if _CACHE_TYPE[batch.type_v].block_elements > 1 and not batch.flash_attn:
        raise ConfigError(
            f"a V cache of {batch.type_v} needs flash attention",
            hint="switch flash attention on, or use --cache-type-v f16",
        )
    if batch.type_k != batch.type_v and any(
        c.k_elements and not c.v_elements for c in model.caches
    ):
        raise ConfigError(
            f"this model keeps K and V in one cache, which cannot be {batch.type_k} and "
            f"{batch.type_v} at once",
            hint="give --cache-type-k and --cache-type-v the same type",
        )
    for n_heads, cache in {*zip(model.shape.kv_heads, model.caches, strict=False)}:
        _check_head(batch.type_k, cache.k_elements // max(n_heads, 1))
        _check_head(batch.type_v, cache.v_elements // max(n_heads, 1))


def _check_head(type_name: str, n_elements: int) -> None:
    block_elements = _CACHE_TYPE[type_name].block_elements
    if n_elements % block_elements:
        raise ConfigError(
            f"this model's heads of {n_elements} elements cannot be {type_name}, which packs "
            f"{block_elements} together",
            hint="use --cache-type-k f16 --cache-type-v f16",
        )


def place_layers(model: Model, params: Params, gpus: Sequence[float]) -> Devices:
    """The device of each block and, last, of the output layer; None is the host.

    The rule of `llama_model_base::load_tensors`: the last `n_gpu_layers` of blocks and output go to
    the devices, split in proportion to `tensor_split` or to the devices' free memory.
    """
    n_all = model.n_offloadable
    asked = n_all if params.n_gpu_layers is None else params.n_gpu_layers
    asked = n_all if asked < 0 else asked  # llama_model::n_gpu_layers
    n_offloaded = min(asked, n_all) if gpus else 0
    first = n_all - n_offloaded
    split = params.tensor_split or ()
    shares = split if any(split) else gpus  # Nothing but zeros asks for the default.
    if split and len(split) != len(gpus):
        raise ConfigError(
            f"a tensor split of {len(split)} parts does not fit {len(gpus)} devices",
            hint="give one part for each device",
        )
    if not all(0 <= share < _LARGEST_SHARE for share in shares):
        raise ConfigError(
            f"a tensor split of {', '.join(map(str, shares))} cannot be",
            hint="give each device its part as a number from 0 on",
        )
    ends = list(accumulate(map(_f32, shares), lambda a, b: _f32(a + b)))
    normalised = [_f32(end / ends[-1]) for end in ends] if gpus and ends[-1] > 0 else []

    def device(il: int) -> int | None:
        if il < first or not normalised:
            return None
        position = _f32((il - first) / n_offloaded)
        return next((i for i, end in enumerate(normalised) if position < end), len(gpus) - 1)

    return tuple(device(il) for il in range(n_all))


_LARGEST_SHARE = 1e30  # Sums of these are still C floats.


def _f32(value: float) -> float:
    """Rounded to a C float, in which llama.cpp splits layers: one bit can move a layer."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
