"""Models of two or three layers, 4 to 40 KB each: what a reader is shown broken copies of.

Together they have every kind of key and tensor name that `autotune.model` looks at. llama.cpp would
not load them all; `fakes.zoo` has those that it does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fakes.gguf_writer import GgufType, Typed, Value
from fakes.zoo import (
    Experts,
    Latent,
    Spec,
    StateSpace,
    Trunk,
    attention,
    dense,
    ffn,
    mamba2,
    nextn,
    spec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRUNK = Trunk("llama", vocab=64, ctx=4096, layers=2, embd=64, ff=64, heads=(2, 1, 32))
_STATE = StateSpace(inner=64, state=16, rank=4, groups=1)
_EXPERTS = Experts(4, used=2, ff=32)


def small_llama() -> Spec:
    """One of two shards, with a vocabulary, a template and an array that is jumped over."""
    bare = spec(_TRUNK, [dense(_TRUNK)] * 2, outside={"rope_freqs": (16,)})
    words: dict[str, Value] = {
        "general.name": "small",
        "tokenizer.ggml.tokens": [f"t{n}" for n in range(60)],
        "tokenizer.ggml.scores": [0.5] * 520,
        "tokenizer.chat_template": "{{ messages }}\n" * 10,
        "split.no": Typed(GgufType.UINT16, 0),
        "split.count": Typed(GgufType.UINT16, 2),
        "split.tensors.count": Typed(GgufType.INT32, len(bare.tensors)),
    }
    return Spec({**bare.metadata, **words}, bare.tensors)


def small_gemma() -> Spec:
    """A window by an array of flags, with heads of its own, and a layer without a cache."""
    t = replace(_TRUNK, arch="gemma4", layers=3)
    keys: dict[str, Value] = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False, True],
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 16,
        "attention.shared_kv_layers": 1,
        "rope.scaling": [0.5, 1.0],
    }
    return spec(t, [dense(t)] * t.layers, keys=keys, tied=True)


def small_deepseek() -> Spec:
    t = replace(_TRUNK, arch="deepseek2")
    latent = Latent(kv_rank=32, nope=16, rope=16, value=16)
    block = latent.block(t) | {"ffn_norm": (t.embd,)} | _EXPERTS.block(t)
    return spec(t, [block] * t.layers, keys=latent.keys() | _EXPERTS.keys())


def small_nemotron() -> Spec:
    """A state, attention and a feed-forward part, told apart by arrays."""
    t = replace(_TRUNK, arch="nemotron_h", layers=3)
    keys = {
        **_STATE.keys(),
        "attention.head_count_kv": [0, 1, 0],
        "feed_forward_length": [0, 0, 64],
    }
    return spec(t, [mamba2(t, _STATE), attention(t), ffn(t.embd, t.ff)], keys=keys)


def small_qwen() -> Spec:
    """Recurrent and full layers by an interval, experts, and a layer for further tokens."""
    t = replace(_TRUNK, arch="qwen35moe", layers=3)
    end = {"ffn_norm": (t.embd,)} | _EXPERTS.block(t)
    keys = {
        **_STATE.keys(),
        **_EXPERTS.keys(),
        "full_attention_interval": 2,
        "nextn_predict_layers": 1,
    }
    return spec(t, [mamba2(t, _STATE) | end, attention(t) | end, nextn(t)], keys=keys)


def small_unknown() -> Spec:
    t = replace(_TRUNK, arch="new-in-2027")
    return spec(t, [dense(t)] * t.layers)


SMALL: Mapping[str, Callable[[], Spec]] = {
    "llama": small_llama,
    "gemma": small_gemma,
    "deepseek": small_deepseek,
    "nemotron": small_nemotron,
    "qwen": small_qwen,
    "unknown": small_unknown,
}
