"""The compute buffer: what a graph of one ubatch needs at its fullest moment, by place.

llama.cpp's allocator (`ggml/src/ggml-alloc.c`) reuses the memory of finished tensors, so the buffer
is the largest sum of tensors alive at once. That moment is in the feed-forward part of a layer, in
its attention, or at the logits; each function here adds up one such moment, in elements per token.
How tightly the allocator packs depends on sizes and order, so the sums are estimates: within -2 %
and +15 % of `llama-fit-params` over the architectures of `tests/e2e/test_memory.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.model.reader import Model
from autotune.params import Params

WINDOW_PADDING = 256  # llama_kv_cache_iswa pads a window's cells to this.

# The device of each block and, last, of the output layer; None is the host.
Devices = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one call of the graph works on, as llama_context resolves it."""

    n_ctx_seq: int  # Tokens of context a sequence sees.
    n_seqs: int
    n_streams: int  # Caches side by side: 1 where the sequences share one.
    n_ubatch: int
    n_outputs: int  # Tokens of a ubatch whose logits are kept.
    flash_attn: bool
    type_k: str
    type_v: str

    def cells(self, window: int) -> int:
        """Tokens that one stream of a layer's cache holds; `window` 0 means full attention."""
        if not window:
            return self.n_ctx_seq
        sharing = self.n_seqs if self.n_streams == 1 else 1
        cells = min(self.n_ctx_seq, window * sharing + self.n_ubatch)
        return -(-cells // WINDOW_PADDING) * WINDOW_PADDING


def compute_bytes(
    model: Model, params: Params, batch: Batch, devices: Devices
) -> dict[int | None, int]:
    """Bytes of the compute buffer by device; None is the host."""
    places = sorted({device for device in devices if device is not None})
    n_cpu_moe = params.n_cpu_moe or 0
    # Several devices that hold everything work on four ubatches at once.
    pipelined = len(places) > 1 and None not in devices and not (n_cpu_moe or params.no_kv_offload)
    copies = PIPELINE_COPIES if pipelined else 1
    sizes: dict[int | None, int] = {None: _host_bytes(model, batch, devices, n_cpu_moe, copies)}
    for device in places:
        sizes[device] = _device_bytes(model, batch, devices, device, n_cpu_moe, copies)
        if params.no_kv_offload:
            sizes[device] += _widest_cache_bytes(model, batch)
    return sizes


PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES, ggml/src/ggml-backend.cpp

# What the allocator loses to gaps within the layers: 0 to 5 % over the synthetic models.
PACKING_PERCENT = 3


def _host_bytes(
    model: Model, batch: Batch, devices: Devices, n_cpu_moe: int, copies: int
) -> int:
    """The host fills in embeddings and masks, wherever the layers are; and computes what it holds."""
    n_embd = model.shape.n_embd
    token = 4 * batch.n_ubatch
    masks = _masks(model, batch, range(len(model.layers)))
    held = _held(model, devices, None)
    if held:
        needed = sum(masks.values()) + token * (2 * n_embd + _layers_elements(model, batch, held, 6))
        return max(needed, _output_bytes(model, batch, on_host=True) if devices[-1] is None else 0)
    inputs = copies * (sum(masks.values()) + token * n_embd) + token * n_embd
    if not n_cpu_moe or not model.is_moe:
        return inputs
    # Between devices the host computes experts. A mask whose first layer has been reached is with
    # the device by then, and its memory is free, if not always of the right size.
    first_window = model.caches[0].window if model.caches[0].k_elements else -1
    early = masks.pop(first_window, 0)
    experts = token * (_experts_elements(model) + 11 * n_embd // 4)
    return max(inputs, sum(masks.values()) + max(experts, early + experts * 2 // 3))


def _device_bytes(
    model: Model, batch: Batch, devices: Devices, device: int, n_cpu_moe: int, copies: int
) -> int:
    held = _held(model, devices, device)
    token = 4 * batch.n_ubatch
    inputs = copies * (
        sum(_masks(model, batch, held).values()) + token * model.shape.n_embd
    )
    pipeline = token * model.shape.n_embd if copies > 1 else 0
    in_layers = inputs + token * _layers_elements(model, batch, held, 7) + pipeline if held else 0
    if devices[-1] != device:
        return in_layers
    output = _output_bytes(model, batch, after_layers=bool(held))
    return max(in_layers, output + inputs + 2 * pipeline if pipeline else output)


def _held(model: Model, devices: Devices, place: int | None) -> list[int]:
    """The blocks that are computed at `place`."""
    return [il for il in range(len(model.layers)) if devices[il] == place]


def _masks(model: Model, batch: Batch, layers: Iterable[int]) -> dict[int, int]:
    """Bytes of the attention masks by window; 0 is the mask of full attention."""
    element = 2 if batch.flash_attn else 4  # f16 for the flash attention kernels, otherwise f32.
    windows = {model.caches[il].window for il in layers if model.caches[il].k_elements}
    return {window: element * batch.n_ubatch * batch.cells(window) for window in windows}


def _layers_elements(
    model: Model, batch: Batch, layers: Iterable[int], halves_around_experts: int
) -> int:
    """The fullest moment within the layers, beside their inputs."""
    shape = model.shape
    layers = list(layers)
    moments = [_feed_forward_elements(model, layers), _attention_elements(model, batch, layers)]
    if any(model.layers[il].expert_bytes for il in layers):
        moments.append(_experts_elements(model) + halves_around_experts * shape.n_embd // 2)
    if any(model.caches[il].state_elements for il in layers):
        moments.append(2 * shape.n_embd + 9 * shape.ssm_inner // 2)
    return max(moments) * (100 + PACKING_PERCENT) // 100


def _feed_forward_elements(model: Model, layers: Iterable[int]) -> int:
    """Up, gate and their product, beside residual, norm and the gap that wider queries leave."""
    shape = model.shape
    widest = max(0 if model.layers[il].expert_bytes else shape.feed_forward[il] for il in layers)
    excess = max(shape.heads[0] * shape.key_length - shape.n_embd, 0)
    absorbed = any(cache.k_elements and not cache.v_elements for cache in model.caches)  # MLA
    return 3 * widest + 2 * shape.n_embd + (excess // 2 if absorbed else 2 * excess)


def _experts_elements(model: Model) -> int:
    """The chosen experts' up, gate and product, and their outputs where these fit in no gap."""
    shape = model.shape
    inner, outer = shape.n_expert_used * shape.n_ff_expert, shape.n_expert_used * shape.n_embd
    return 3 * inner + (outer + shape.n_embd // 2 if outer > 2 * inner else 0)


def _attention_elements(model: Model, batch: Batch, layers: Iterable[int]) -> int:
    """Queries, keys, values and result, beside the residual; without flash attention all scores."""
    shape = model.shape
    most = 0
    for il in layers:
        cache, heads = model.caches[il], shape.heads[il]
        if not cache.k_elements:
            continue
        elements = 2 * shape.n_embd + heads * shape.key_length
        elements += cache.k_elements + (cache.v_elements or heads * shape.value_length)
        if not batch.flash_attn:
            elements += heads * batch.cells(cache.window)
        most = max(most, elements)
    return most


def _widest_cache_bytes(model: Model, batch: Batch) -> int:
    """A device that attends over a cache on the host takes a copy of one layer's."""
    cells = batch.n_streams * batch.n_ctx_seq
    return max(2 * cells * (cache.k_elements + cache.v_elements) for cache in model.caches)


def _output_bytes(
    model: Model, batch: Batch, *, after_layers: bool = True, on_host: bool = False
) -> int:
    """The logits beside the hidden state, when the layers' tensors and the masks are gone.

    The logits fit in no gap that the layers leave, so what these leave last lies below them.
    """
    shape = model.shape
    left = (3 if after_layers else 2) * shape.n_embd
    if model.is_moe:
        left = (3 if on_host else 0) * shape.n_embd // 2
        left += max(5 + 2 * shape.n_expert_used, 9) * shape.n_embd // 2
    elif shape.fused_gate and after_layers:
        left += max(shape.feed_forward) - shape.n_embd
    return 4 * batch.n_outputs * (model.n_vocab + left)
