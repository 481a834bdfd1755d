"""The compute buffer: what a graph of one ubatch needs at its fullest moment, by place.

llama.cpp's allocator (`ggml/src/ggml-alloc.c`) reuses the memory of finished tensors, so the buffer
is the largest sum of tensors alive at once. That moment is in the feed-forward part of a layer, in
its attention, among its experts, or at the logits; each method here adds up one such moment, in
elements per token. How tightly the allocator packs them depends on their sizes and order, and no
sum foresees it: what is left beside a moment's own tensors was fitted to `llama-fit-params`, within
-2 % and +15 % of it over the architectures of `tests/e2e/test_memory.py`, further off on others.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from autotune.model.architecture import LayerCache
from autotune.model.gguf import padded
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
        return padded(cells, WINDOW_PADDING)


def compute_bytes(
    model: Model, params: Params, batch: Batch, devices: Devices, n_devices: int
) -> dict[int | None, int]:
    """Bytes of the compute buffer by device; None is the host.

    Args:
        model: what is loaded.
        params: how.
        batch: what one call of the graph works on.
        devices: of each block and the output.
        n_devices: as many there are, with and without blocks.
    """
    used = sorted({device for device in devices if device is not None})
    n_cpu_moe = params.n_cpu_moe or 0
    # Several devices that hold everything between them work on several ubatches at once.
    whole = None not in devices and not n_cpu_moe and not params.no_kv_offload
    whole = whole and params.split_mode in (None, "layer")
    # So do several of which one has them all: llama.cpp looks at how many there are.
    copies = PIPELINE_COPIES if whole and n_devices > 1 else 1
    graph = _Graph(model, batch, devices, n_cpu_moe, copies)
    copied_cache = graph.widest_cache_bytes() if params.no_kv_offload else 0
    on_devices: dict[int | None, int] = {
        device: graph.device_bytes(device) + copied_cache for device in used
    }
    return {None: graph.host_bytes(), **on_devices}


PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES, ggml/src/ggml-backend.cpp

# Fitted: what the allocator loses to gaps within the layers, 0 to 5 % over the memory table.
PACKING_PERCENT = 3
# Fitted: rows of n_embd that stay beside the experts' own tensors.
ROWS_BESIDE_EXPERTS_ON_HOST = 3.0
ROWS_BESIDE_EXPERTS_ON_DEVICE = 3.5
ROWS_BESIDE_LENT_EXPERTS = 2.75  # On the host, between layers that are on a device.


class _Kind(NamedTuple):
    """What the blocks of a model differ in; a model of 80 blocks has a handful of kinds."""

    cache: LayerCache
    heads: int
    feed_forward: int  # 0 where experts take its place.
    has_experts: bool


@dataclass(frozen=True, slots=True)
class _Graph:
    """One ubatch through the model, laid out over host and devices."""

    model: Model
    batch: Batch
    devices: Devices
    n_cpu_moe: int
    copies: int  # Ubatches in flight.

    def host_bytes(self) -> int:
        """The host fills in embeddings and masks, wherever the layers are, and computes its own."""
        row, masks = self._row_bytes(), self._masks(set(self.model.caches))
        held = self._held(None)
        if held:
            elements = self._layers_elements(held, ROWS_BESIDE_EXPERTS_ON_HOST)
            in_layers = sum(masks.values()) + 2 * row + self._per_token(elements)
            at_output = self._output_bytes(on_host=True) if self.devices[-1] is None else 0
            return max(in_layers, at_output)
        inputs = self.copies * (sum(masks.values()) + row) + row
        if any(layer.expert_bytes for layer in self.model.layers[: self.n_cpu_moe]):
            return max(inputs, self._lent_experts_bytes(masks))
        return inputs

    def device_bytes(self, device: int) -> int:
        row, held = self._row_bytes(), self._held(device)
        masks = self._masks({kind.cache for kind in held})
        inputs = self.copies * (sum(masks.values()) + row)
        pipeline = row if self.copies > 1 else 0
        in_layers = 0
        if held:
            elements = self._layers_elements(held, ROWS_BESIDE_EXPERTS_ON_DEVICE)
            in_layers = inputs + self._per_token(elements) + pipeline
        if self.devices[-1] != device:
            return in_layers
        output = self._output_bytes(after_layers=bool(held))
        return max(in_layers, output + inputs + 2 * pipeline if pipeline else output)

    def widest_cache_bytes(self) -> int:
        """A device that attends over a cache on the host takes a copy of one layer's."""
        cells = self.batch.n_streams * self.batch.n_ctx_seq
        return max(2 * cells * (cache.k_elements + cache.v_elements) for cache in self.model.caches)

    def _lent_experts_bytes(self, masks: dict[int, int]) -> int:
        """The host computes experts between layers on a device.

        A mask whose first layer has been reached is on the device by then, and its memory is free,
        if not always of the right size.
        """
        shape, first = self.model.shape, self.model.caches[0]
        free = masks.pop(first.window, 0) if first.k_elements else 0
        elements = self._experts_elements() + int(ROWS_BESIDE_LENT_EXPERTS * shape.n_embd)
        experts = self._per_token(elements)
        return sum(masks.values()) + max(experts, free + experts * 2 // 3)

    def _per_token(self, elements: int) -> int:
        return 4 * self.batch.n_ubatch * elements  # Activations are f32.

    def _row_bytes(self) -> int:
        """One hidden state of the ubatch."""
        return self._per_token(self.model.shape.n_embd)

    def _held(self, place: int | None) -> set[_Kind]:
        """The kinds of blocks that are computed at `place`."""
        model, shape = self.model, self.model.shape
        return {
            _Kind(cache, heads, 0 if layer.expert_bytes else feed_forward, bool(layer.expert_bytes))
            for layer, cache, heads, feed_forward, device in zip(
                model.layers,
                model.caches,
                shape.heads,
                shape.feed_forward,
                self.devices,
                strict=False,
            )
            if device == place
        }

    def _masks(self, caches: Iterable[LayerCache]) -> dict[int, int]:
        """Bytes of the attention masks by window; 0 is the mask of full attention."""
        element = 2 if self.batch.flash_attn else 4  # f16 for flash attention, otherwise f32.
        windows = {cache.window for cache in caches if cache.k_elements}
        return {
            window: element * self.batch.n_ubatch * self.batch.cells(window) for window in windows
        }

    def _layers_elements(self, kinds: Collection[_Kind], rows_beside_experts: float) -> int:
        """The fullest moment within the layers, beside their inputs."""
        shape = self.model.shape
        moments = [self._feed_forward_elements(kinds)]
        moments += [self._attention_elements(kind) for kind in kinds if kind.cache.k_elements]
        if any(kind.has_experts for kind in kinds):
            beside = int(rows_beside_experts * shape.n_embd)
            moments.append(self._experts_elements() + beside)
        if any(kind.cache.state_elements for kind in kinds):
            moments.append(2 * shape.n_embd + 9 * shape.ssm_inner // 2)
        return max(moments) * (100 + PACKING_PERCENT) // 100

    def _feed_forward_elements(self, kinds: Iterable[_Kind]) -> int:
        """Up, gate and their product, beside residual, norm and the gap that wide queries leave."""
        shape = self.model.shape
        widest = max(kind.feed_forward for kind in kinds)
        excess = max(shape.heads[0] * shape.key_length - shape.n_embd, 0)
        gap = excess // 2 if shape.key_length_mla else 2 * excess
        return 3 * widest + 2 * shape.n_embd + gap

    def _experts_elements(self) -> int:
        """The chosen experts' up, gate and product, and their outputs where these fit in no gap."""
        shape = self.model.shape
        inner, outer = shape.n_expert_used * shape.n_ff_expert, shape.n_expert_used * shape.n_embd
        return 3 * inner + (outer + shape.n_embd // 2 if outer > 2 * inner else 0)

    def _attention_elements(self, kind: _Kind) -> int:
        """Queries, keys, values, result, residual; without flash attention, the scores as well."""
        shape, cache = self.model.shape, kind.cache
        elements = 2 * shape.n_embd + kind.heads * (shape.key_length + shape.key_length_mla)
        elements += cache.k_elements + (cache.v_elements or kind.heads * shape.value_length)
        if not self.batch.flash_attn:
            elements += kind.heads * self.batch.cells(cache.window)
        return elements

    def _output_bytes(self, *, after_layers: bool = True, on_host: bool = False) -> int:
        """The logits beside the hidden state, when the layers' tensors and the masks are gone.

        The logits fit in no gap that the layers leave, so what these leave last lies below them.
        """
        shape, model = self.model.shape, self.model
        left = (3 if after_layers or shape.ssm_inner else 2) * shape.n_embd
        if model.is_moe:
            left = int(max(shape.n_expert_used + 2.5, 4.5) * shape.n_embd)
            left += int(1.5 * shape.n_embd) if on_host else 0
        elif shape.fused_gate and after_layers:
            left += max(shape.feed_forward) - shape.n_embd
        return 4 * self.batch.n_outputs * (model.n_vocab + left)
