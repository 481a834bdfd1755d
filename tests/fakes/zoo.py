"""Models of real shape without their weights, for the real llama.cpp to load.

`ZOO` names a function for each model; what it returns can be written as a sparse GGUF file that
`llama-fit-params` loads. The shapes are those of the published models and the tensor names those of
`load_arch_tensors` in llama.cpp's `src/models/ARCH.cpp`.

To add an architecture, write down its `Trunk`, put a `Block` together for each layer from the
helpers below (a block is a dictionary from tensor name to shape), and pass what else its
`load_arch_hparams` asks for as `keys`. Tensor types follow from names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from fakes.gguf_writer import TYPES, GgufType, TensorSpec, Typed, Value, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

Dims: TypeAlias = tuple[int, ...]
Block: TypeAlias = dict[str, Dims]
"""The tensors of a layer: names without `blk.N.`, and without `.weight` where that follows."""

Mix: TypeAlias = Callable[[str, Dims, int, int], str]
"""Choose a tensor's type from its name, its shape, its layer and the number of layers."""


@dataclass(frozen=True)
class Spec:
    """A model by its metadata and its tensor table."""

    metadata: Mapping[str, Value]
    tensors: tuple[TensorSpec, ...]

    @property
    def arch(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def n_layer(self) -> int:
        """The layers that are loaded; `-ngl` counts those that predict further tokens too."""
        return self._count("block_count") - self._count("nextn_predict_layers")

    @property
    def n_expert(self) -> int:
        return self._count("expert_count")

    @property
    def n_ctx_train(self) -> int:
        return self._count("context_length")

    def _count(self, key: str) -> int:
        value = self.metadata.get(f"{self.arch}.{key}", 0)
        if not isinstance(value, int):
            raise TypeError(f"{key} is no count")
        return value

    def write(self, path: Path) -> None:
        write_gguf(path, metadata=self.metadata, tensors=self.tensors)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """The numbers that nearly every architecture has."""

    arch: str = field(kw_only=False)
    vocab: int
    ctx: int
    layers: int
    embd: int
    ff: int = 0
    heads: tuple[int, int, int] = (0, 0, 0)
    """The number of query heads, of key and value heads, and the size of a head."""

    @property
    def n_head(self) -> int:
        return self.heads[0]

    @property
    def n_head_kv(self) -> int:
        return self.heads[1]

    @property
    def head_dim(self) -> int:
        return self.heads[2]

    @property
    def q(self) -> int:
        return self.n_head * self.head_dim

    @property
    def kv(self) -> int:
        return self.n_head_kv * self.head_dim

    def keys(self) -> dict[str, Value]:
        keys: dict[str, Value] = {
            "block_count": self.layers,
            "embedding_length": self.embd,
            "vocab_size": self.vocab,
            "context_length": self.ctx,
            "feed_forward_length": self.ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "attention.layer_norm_rms_epsilon": 1e-6,
        }
        # Converters leave the head size out where it follows, and readers must do without it.
        if self.n_head and self.q != self.embd:
            keys["attention.key_length"] = keys["attention.value_length"] = self.head_dim
        return keys


@dataclass(frozen=True, kw_only=True)
class StateSpace:
    """The numbers of a recurrent layer; `rank` counts heads where the layer has heads."""

    inner: int
    state: int
    rank: int
    groups: int = 0
    conv: int = 4

    @property
    def conv_width(self) -> int:
        return self.inner + 2 * self.groups * self.state

    def keys(self) -> dict[str, Value]:
        keys: dict[str, Value] = {
            "ssm.conv_kernel": self.conv,
            "ssm.inner_size": self.inner,
            "ssm.state_size": self.state,
            "ssm.time_step_rank": self.rank,
        }
        return {**keys, "ssm.group_count": self.groups} if self.groups else keys


# --- parts of a block ----------------------------------------------------------------------------


def vectors(size: int, *names: str) -> Block:
    """Norms and biases: one row each."""
    return dict.fromkeys(names, (size,))


def attention(t: Trunk, *, gated: bool = False) -> Block:
    """Query, key, value and output, with the norm before them; a gate doubles the query."""
    return {
        "attn_norm": (t.embd,),
        "attn_q": (t.embd, 2 * t.q if gated else t.q),
        "attn_k": (t.embd, t.kv),
        "attn_v": (t.embd, t.kv),
        "attn_output": (t.q, t.embd),
    }


def qkv_bias(t: Trunk) -> Block:
    return {"attn_q.bias": (t.q,), **vectors(t.kv, "attn_k.bias", "attn_v.bias")}


def qk_norm(t: Trunk) -> Block:
    return vectors(t.head_dim, "attn_q_norm", "attn_k_norm")


def ffn(embd: int, ff: int, suffix: str = "") -> Block:
    """A gated feed-forward network; `suffix` tells a shared expert's from a dense one's."""
    return {
        f"ffn_gate{suffix}": (embd, ff),
        f"ffn_up{suffix}": (embd, ff),
        f"ffn_down{suffix}": (ff, embd),
    }


def dense(t: Trunk) -> Block:
    """What most dense models have in every layer."""
    return attention(t) | {"ffn_norm": (t.embd,)} | ffn(t.embd, t.ff)


def mamba(t: Trunk, s: StateSpace) -> Block:
    return {
        "attn_norm": (t.embd,),
        "ssm_in": (t.embd, 2 * s.inner),
        "ssm_conv1d": (s.conv, s.inner),
        "ssm_x": (s.inner, s.rank + 2 * s.state),
        "ssm_dt": (s.rank, s.inner),
        "ssm_a": (s.state, s.inner),
        "ssm_out": (s.inner, t.embd),
        **vectors(s.inner, "ssm_conv1d.bias", "ssm_dt.bias", "ssm_d"),
    }


def mamba2(t: Trunk, s: StateSpace) -> Block:
    return {
        "attn_norm": (t.embd,),
        "ssm_in": (t.embd, s.inner + s.conv_width + s.rank),
        "ssm_conv1d": (s.conv, s.conv_width),
        "ssm_conv1d.bias": (s.conv_width,),
        "ssm_dt.bias": (s.rank,),
        "ssm_a": (1, s.rank),
        "ssm_d": (1, s.rank),
        "ssm_norm": (s.inner // s.groups, s.groups),
        "ssm_out": (s.inner, t.embd),
    }


def delta_net(t: Trunk, s: StateSpace) -> Block:
    """Gated linear attention, less the one or two tensors that make its beta and alpha."""
    return {
        "attn_norm": (t.embd,),
        "attn_qkv": (t.embd, s.conv_width),
        "attn_gate": (t.embd, s.inner),
        "ssm_conv1d": (s.conv, s.conv_width),
        "ssm_norm": (s.state,),
        "ssm_out": (s.inner, t.embd),
        **vectors(s.rank, "ssm_dt.bias", "ssm_a"),
    }


@dataclass(frozen=True)
class Experts:
    """The experts of a layer, of which the router uses some for each token."""

    count: int
    used: int
    ff: int
    shared_ff: int = 0

    def block(self, t: Trunk) -> Block:
        stacks = {name: (*dims, self.count) for name, dims in ffn(t.embd, self.ff, "_exps").items()}
        shared = ffn(t.embd, self.shared_ff, "_shexp") if self.shared_ff else {}
        return {"ffn_gate_inp": (t.embd, self.count)} | stacks | shared

    def keys(self) -> dict[str, Value]:
        return {
            "expert_count": self.count,
            "expert_used_count": self.used,
            "expert_feed_forward_length": self.ff,
        }


def nextn(t: Trunk) -> Block:
    """What a layer for predicting further tokens has besides a layer's own tensors."""
    norms = vectors(t.embd, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return {"nextn.eh_proj": (2 * t.embd, t.embd)} | norms


# --- tensor types --------------------------------------------------------------------------------

# What `tensor_allows_quantization` in src/llama-quant.cpp leaves as it is.
_KEPT = re.compile(
    r"norm|ffn_gate_inp|ssm_conv1d|ssm_[ad]$|shortconv\.conv|altup|laurel|per_layer_model_proj"
    r"|time_mix_([wavg]\d|lerp)|channel_mix_lerp"
)
# What `tensor_type_fallback` takes where rows do not divide into blocks of 256.
_FALLBACK = {"q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}


def _stays_f32(name: str, shape: Dims) -> bool:
    return len(shape) == 1 or name.endswith(".bias") or bool(_KEPT.search(name))


def _gets_more_bits(layer: int, n_layer: int) -> bool:
    """Name the layers whose values and down projections Q4_K_M gives six bits."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def q4_k_m(name: str, shape: Dims, layer: int, n_layer: int) -> str:
    """Mix types as `llama-quantize` does for Q4_K_M, less its rules for single models."""
    if _stays_f32(name, shape):
        return "f32"
    wanted = "q4_K"
    if name == "output" or (
        name.startswith(("attn_v", "ffn_down")) and _gets_more_bits(layer, n_layer)
    ):
        wanted = "q6_K"
    elif name == "attn_qkv":
        wanted = "q5_K"
    return next((kind for kind in (wanted, _FALLBACK[wanted]) if _divides(shape, kind)), "f16")


def mxfp4_moe(name: str, shape: Dims, _layer: int, _n_layer: int) -> str:
    """Mix types as OpenAI published them: experts in four bits, the rest in eight."""
    if _stays_f32(name, shape):
        return "f32"
    return "mxfp4" if "_exps" in name else "q8_0"


# `enum llama_ftype` in include/llama.h.
_FILE_TYPES: Mapping[Mix, int] = {q4_k_m: 15, mxfp4_moe: 38}


def _divides(shape: Dims, kind: str) -> bool:
    return shape[0] % TYPES[kind].block == 0


# --- putting a model together --------------------------------------------------------------------

# The parameters of a state-space layer have no `.weight` to their name.
_BARE = frozenset({"ssm_a", "ssm_d"})


def spec(
    t: Trunk,
    blocks: Sequence[Block],
    *,
    keys: Mapping[str, Value] | None = None,
    outside: Block | None = None,
    tied: bool = False,
    mix: Mix = q4_k_m,
    bare: frozenset[str] = _BARE,
    last_norm: str = "output_norm",
) -> Spec:
    """Assemble a model.

    `outside` holds the tensors that belong to no layer, besides the embedding and the output;
    a `tied` model has no tensor for the output. Names in `bare` get no `.weight`.
    """

    def tensor(prefix: str, name: str, dims: Dims, kind: str) -> TensorSpec:
        suffix = "" if name in bare or name.endswith((".bias", ".scale")) else ".weight"
        return TensorSpec(f"{prefix}{name}{suffix}", dims, kind)

    ends: Block = {"token_embd": (t.embd, t.vocab), last_norm: (t.embd,)}
    if not tied:
        ends["output"] = (t.embd, t.vocab)
    # An embedding that serves as output too is given the output's type.
    role = {"token_embd": "output"} if tied else {}
    tensors = [
        tensor("", name, dims, mix(role.get(name, name), dims, 0, 1))
        for name, dims in (ends | (outside or {})).items()
    ] + [
        tensor(f"blk.{layer}.", name, dims, mix(name, dims, layer, len(blocks)))
        for layer, block in enumerate(blocks)
        for name, dims in block.items()
    ]
    metadata: dict[str, Value] = {
        "general.architecture": t.arch,
        "general.file_type": _FILE_TYPES[mix],
        "general.quantization_version": 2,
        "tokenizer.ggml.model": "no_vocab",
    }
    of_arch = t.keys() | dict(keys or {})
    metadata |= {f"{t.arch}.{key}": value for key, value in of_arch.items()}
    return Spec(metadata, tuple(tensors))


# --- dense transformers --------------------------------------------------------------------------


def llama3_8b() -> Spec:
    t = Trunk("llama", vocab=128256, ctx=131072, layers=32, embd=4096, ff=14336, heads=(32, 8, 128))
    return spec(t, [dense(t)] * t.layers, outside={"rope_freqs": (64,)})


def llama3_70b() -> Spec:
    t = Trunk("llama", vocab=128256, ctx=131072, layers=80, embd=8192, ff=28672, heads=(64, 8, 128))
    return spec(t, [dense(t)] * t.layers, outside={"rope_freqs": (64,)})


def llama32_1b() -> Spec:
    t = Trunk("llama", vocab=128256, ctx=131072, layers=16, embd=2048, ff=8192, heads=(32, 8, 64))
    return spec(t, [dense(t)] * t.layers, outside={"rope_freqs": (32,)}, tied=True)


def qwen3_4b() -> Spec:
    t = Trunk("qwen3", vocab=151936, ctx=40960, layers=36, embd=2560, ff=9728, heads=(32, 8, 128))
    return spec(t, [dense(t) | qk_norm(t)] * t.layers, tied=True)


def qwen3_32b() -> Spec:
    t = Trunk("qwen3", vocab=151936, ctx=40960, layers=64, embd=5120, ff=25600, heads=(64, 8, 128))
    return spec(t, [dense(t) | qk_norm(t)] * t.layers)


def _phi3(t: Trunk) -> Spec:
    block = {
        "attn_norm": (t.embd,),
        "attn_qkv": (t.embd, t.q + 2 * t.kv),
        "attn_output": (t.q, t.embd),
        "ffn_norm": (t.embd,),
        "ffn_up": (t.embd, 2 * t.ff),
        "ffn_down": (t.ff, t.embd),
    }
    # The window is in the file, and llama.cpp ignores it.
    keys: dict[str, Value] = {
        "rope.dimension_count": t.head_dim,
        "rope.scaling.original_context_length": 4096,
        "attention.sliding_window": 262144,
    }
    factors = vectors(t.head_dim // 2, "rope_factors_long", "rope_factors_short")
    return spec(t, [block] * t.layers, keys=keys, outside=factors)


def phi3_mini() -> Spec:
    t = Trunk("phi3", vocab=32064, ctx=131072, layers=32, embd=3072, ff=8192, heads=(32, 32, 96))
    return _phi3(t)


def phi3_medium() -> Spec:
    t = Trunk("phi3", vocab=32064, ctx=131072, layers=40, embd=5120, ff=17920, heads=(40, 10, 128))
    return _phi3(t)


# --- sliding windows -----------------------------------------------------------------------------


def _gemma(t: Trunk) -> Block:
    return dense(t) | vectors(t.embd, "post_attention_norm", "post_ffw_norm")


def gemma2_9b() -> Spec:
    t = Trunk("gemma2", vocab=256000, ctx=8192, layers=42, embd=3584, ff=14336, heads=(16, 8, 256))
    keys: dict[str, Value] = {
        "attention.sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    return spec(t, [_gemma(t)] * t.layers, keys=keys, tied=True)


def gemma3_27b() -> Spec:
    t = Trunk(
        "gemma3", vocab=262208, ctx=131072, layers=62, embd=5376, ff=21504, heads=(32, 16, 128)
    )
    keys: dict[str, Value] = {"attention.sliding_window": 1024}
    return spec(t, [_gemma(t) | qk_norm(t)] * t.layers, keys=keys, tied=True)


def gemma3_270m() -> Spec:
    t = Trunk("gemma3", vocab=262144, ctx=32768, layers=18, embd=640, ff=2048, heads=(4, 1, 256))
    keys: dict[str, Value] = {"attention.sliding_window": 512}
    return spec(t, [_gemma(t) | qk_norm(t)] * t.layers, keys=keys, tied=True)


_GEMMA_PER_LAYER = 256
"""The width of the embedding that each layer of the small Gemmas has of its own."""


def _per_layer_input(t: Trunk) -> Block:
    return {
        "inp_gate": (t.embd, _GEMMA_PER_LAYER),
        "proj": (_GEMMA_PER_LAYER, t.embd),
        "post_norm": (t.embd,),
    }


def _per_layer_outside(t: Trunk) -> Block:
    return {
        "per_layer_token_embd": (_GEMMA_PER_LAYER * t.layers, t.vocab),
        "per_layer_model_proj": (t.embd, _GEMMA_PER_LAYER * t.layers),
        "per_layer_proj_norm": (_GEMMA_PER_LAYER,),
    }


def gemma3n_e4b() -> Spec:
    t = Trunk("gemma3n", vocab=262144, ctx=32768, layers=35, embd=2048, ff=16384, heads=(8, 2, 256))
    altup, laurel = 4, 64
    extra: Block = {
        "altup_correct_coef": (altup, altup),
        "altup_predict_coef": (altup, altup**2),
        "altup_router": (t.embd, altup),
        "laurel_l": (t.embd, laurel),
        "laurel_r": (laurel, t.embd),
        **vectors(t.embd, "altup_correct_scale", "altup_router_norm", "laurel_post_norm"),
    }
    block = _gemma(t) | qk_norm(t) | _per_layer_input(t) | extra
    merge = (t.embd, t.embd, altup - 1)
    outside = _per_layer_outside(t) | {"altup_proj": merge, "altup_unembd_proj": merge}
    keys: dict[str, Value] = {"attention.sliding_window": 512}
    return spec(t, [block] * t.layers, keys=keys, outside=outside, tied=True)


def gemma4_e4b() -> Spec:
    """Windows with heads of 256, full layers with heads of 512, the last 18 without a cache."""
    windowed = Trunk(
        "gemma4", vocab=262144, ctx=131072, layers=42, embd=2560, ff=10240, heads=(8, 2, 256)
    )
    full = replace(windowed, heads=(8, 2, 512))
    pattern = [layer % 6 < 5 for layer in range(full.layers)]
    blocks = [
        _gemma(t) | qk_norm(t) | _per_layer_input(t) | {"layer_output_scale": (1,)}
        for t in (windowed if is_windowed else full for is_windowed in pattern)
    ]
    keys: dict[str, Value] = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": pattern,
        "attention.shared_kv_layers": 18,
        "attention.key_length_swa": windowed.head_dim,
        "attention.value_length_swa": windowed.head_dim,
        "embedding_length_per_layer_input": _GEMMA_PER_LAYER,
    }
    outside = _per_layer_outside(full) | {"rope_freqs": (full.head_dim // 2,)}
    return spec(full, blocks, keys=keys, outside=outside, tied=True)


def cohere2_7b() -> Spec:
    t = Trunk(
        "cohere2", vocab=256000, ctx=132096, layers=32, embd=4096, ff=14336, heads=(32, 8, 128)
    )
    keys: dict[str, Value] = {
        "attention.sliding_window": 4096,
        "attention.layer_norm_epsilon": 1e-5,
        "logit_scale": 0.25,
    }
    return spec(t, [attention(t) | ffn(t.embd, t.ff)] * t.layers, keys=keys, tied=True)


# --- mixtures of experts -------------------------------------------------------------------------


def mixtral_8x7b() -> Spec:
    t = Trunk("llama", vocab=32000, ctx=32768, layers=32, embd=4096, ff=14336, heads=(32, 8, 128))
    experts = Experts(8, used=2, ff=t.ff)
    block = attention(t) | {"ffn_norm": (t.embd,)} | experts.block(t)
    return spec(t, [block] * t.layers, keys=experts.keys())


def qwen3moe_30b() -> Spec:
    t = Trunk(
        "qwen3moe", vocab=151936, ctx=40960, layers=48, embd=2048, ff=6144, heads=(32, 4, 128)
    )
    experts = Experts(128, used=8, ff=768)
    block = attention(t) | qk_norm(t) | {"ffn_norm": (t.embd,)} | experts.block(t)
    return spec(t, [block] * t.layers, keys=experts.keys())


def gpt_oss_20b() -> Spec:
    t = Trunk("gpt-oss", vocab=201088, ctx=131072, layers=24, embd=2880, heads=(64, 8, 64))
    experts = Experts(32, used=4, ff=2880)
    biases: Block = {
        **qkv_bias(t),
        "attn_output.bias": (t.embd,),
        "attn_sinks": (t.n_head,),
        "ffn_gate_inp.bias": (experts.count,),
        "ffn_gate_exps.bias": (experts.ff, experts.count),
        "ffn_up_exps.bias": (experts.ff, experts.count),
        "ffn_down_exps.bias": (t.embd, experts.count),
    }
    block = attention(t) | {"post_attention_norm": (t.embd,)} | experts.block(t) | biases
    keys = experts.keys() | {"attention.sliding_window": 128}
    return spec(t, [block] * t.layers, keys=keys, mix=mxfp4_moe)


def llama4_scout() -> Spec:
    t = Trunk(
        "llama4", vocab=202048, ctx=10 * 2**20, layers=48, embd=5120, ff=16384, heads=(40, 8, 128)
    )
    experts = Experts(16, used=1, ff=8192, shared_ff=8192)
    block = attention(t) | {"ffn_norm": (t.embd,)} | experts.block(t)
    keys = experts.keys() | {"interleave_moe_layer_step": 1}
    return spec(t, [block] * t.layers, keys=keys, outside={"rope_freqs": (64,)})


def minimax_m2() -> Spec:
    t = Trunk(
        "minimax-m2", vocab=200064, ctx=196608, layers=62, embd=3072, ff=1536, heads=(48, 8, 128)
    )
    experts = Experts(256, used=8, ff=t.ff)
    own: Block = {
        "attn_q_norm": (t.q,),
        "attn_k_norm": (t.kv,),
        "ffn_norm": (t.embd,),
        "exp_probs_b.bias": (experts.count,),
    }
    keys = experts.keys() | {"rope.dimension_count": 64, "expert_gating_func": 2}
    return spec(t, [attention(t) | own | experts.block(t)] * t.layers, keys=keys)


def glm4_moe_air() -> Spec:
    """One dense layer at the start, and one for predicting further tokens at the end."""
    t = Trunk(
        "glm4moe", vocab=151552, ctx=131072, layers=47, embd=4096, ff=10944, heads=(96, 8, 128)
    )
    experts = Experts(128, used=8, ff=1408, shared_ff=1408)
    start = attention(t) | qkv_bias(t) | {"post_attention_norm": (t.embd,)}
    sparse = start | {"exp_probs_b.bias": (experts.count,)} | experts.block(t)
    blocks = [start | ffn(t.embd, t.ff), *[sparse] * (t.layers - 2), sparse | nextn(t)]
    keys = experts.keys() | {
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
        "nextn_predict_layers": 1,
        "rope.dimension_count": 64,
    }
    return spec(t, blocks, keys=keys)


# --- latent attention ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The ranks and head sizes of multi-head latent attention."""

    q_rank: int = 0
    kv_rank: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128

    def block(self, t: Trunk, *, legacy: bool = False) -> Block:
        """Keys and values come from a latent; old files have the matrices for both in one."""
        head = self.nope + self.rope
        query: Block = {"attn_q": (t.embd, t.n_head * head)}
        if self.q_rank:
            query = {
                "attn_q_a": (t.embd, self.q_rank),
                "attn_q_a_norm": (self.q_rank,),
                "attn_q_b": (self.q_rank, t.n_head * head),
            }
        decompress: Block = {
            "attn_k_b": (self.nope, self.kv_rank, t.n_head),
            "attn_v_b": (self.kv_rank, self.value, t.n_head),
        }
        if legacy:
            decompress = {"attn_kv_b": (self.kv_rank, t.n_head * (self.nope + self.value))}
        return {
            **query,
            **decompress,
            "attn_norm": (t.embd,),
            "attn_kv_a_mqa": (t.embd, self.kv_rank + self.rope),
            "attn_kv_a_norm": (self.kv_rank,),
            "attn_output": (t.n_head * self.value, t.embd),
        }

    def keys(self, *, legacy: bool = False) -> dict[str, Value]:
        head = self.nope + self.rope
        keys: dict[str, Value] = {
            "attention.kv_lora_rank": self.kv_rank,
            "rope.dimension_count": self.rope,
            "attention.key_length": head,
            "attention.value_length": self.value,
        }
        if self.q_rank:
            keys["attention.q_lora_rank"] = self.q_rank
        if legacy:
            return keys
        return keys | {
            "attention.head_count_kv": 1,
            "attention.key_length": self.kv_rank + self.rope,
            "attention.value_length": self.kv_rank,
            "attention.key_length_mla": head,
            "attention.value_length_mla": self.value,
        }


def _deepseek2(
    t: Trunk, latent: Latent, experts: Experts, *, n_dense: int, legacy: bool = False
) -> Spec:
    start = latent.block(t, legacy=legacy) | {"ffn_norm": (t.embd,)}
    n_sparse = t.layers - n_dense
    blocks = [start | ffn(t.embd, t.ff)] * n_dense + [start | experts.block(t)] * n_sparse
    keys = {
        **latent.keys(legacy=legacy),
        **experts.keys(),
        "leading_dense_block_count": n_dense,
        "expert_shared_count": experts.shared_ff // experts.ff,
    }
    return spec(t, blocks, keys=keys)


_DEEPSEEK_V2_LITE = Trunk(
    "deepseek2", vocab=102400, ctx=163840, layers=27, embd=2048, ff=10944, heads=(16, 16, 128)
)
_V2_LITE_EXPERTS = Experts(64, used=6, ff=1408, shared_ff=2816)


def deepseek_v2_lite() -> Spec:
    return _deepseek2(_DEEPSEEK_V2_LITE, Latent(), _V2_LITE_EXPERTS, n_dense=1)


def deepseek_v2_lite_legacy() -> Spec:
    return _deepseek2(_DEEPSEEK_V2_LITE, Latent(), _V2_LITE_EXPERTS, n_dense=1, legacy=True)


def deepseek_v3() -> Spec:
    t = Trunk(
        "deepseek2", vocab=129280, ctx=163840, layers=61, embd=7168, ff=18432, heads=(128, 128, 56)
    )
    experts = Experts(256, used=8, ff=2048, shared_ff=2048)
    return _deepseek2(t, Latent(q_rank=1536), experts, n_dense=3)


# --- recurrent and hybrid models -----------------------------------------------------------------


def mamba_28b() -> Spec:
    t = Trunk("mamba", vocab=50280, ctx=2**20, layers=64, embd=2560)
    s = StateSpace(inner=5120, state=16, rank=160)
    return spec(t, [mamba(t, s)] * t.layers, keys=s.keys(), tied=True)


def mamba2_codestral_7b() -> Spec:
    t = Trunk("mamba2", vocab=32768, ctx=2**20, layers=64, embd=4096)
    s = StateSpace(inner=8192, state=128, rank=128, groups=8)
    return spec(t, [mamba2(t, s)] * t.layers, keys=s.keys())


def rwkv7_29b() -> Spec:
    t = Trunk("rwkv7", vocab=65536, ctx=2**20, layers=32, embd=2560, ff=10240)
    decay, iclr, value_mix, gate = 96, 96, 64, 320
    low_rank = {"w": decay, "a": iclr, "g": gate}
    shared: Block = {
        **vectors(t.embd, "attn_norm", "attn_norm.bias", "attn_norm_2", "attn_norm_2.bias"),
        **vectors(t.embd, "time_mix_ln", "time_mix_ln.bias"),
        **vectors(
            t.embd, *(f"time_mix_{part}" for part in ("w0", "a0", "v0", "k_k", "k_a", "r_k"))
        ),
        **{f"time_mix_{part}1": (t.embd, rank) for part, rank in low_rank.items()},
        **{f"time_mix_{part}2": (rank, t.embd) for part, rank in low_rank.items()},
        "time_mix_lerp_fused": (t.embd, 1, 1, 6),
        **{
            f"time_mix_{part}": (t.embd, t.embd)
            for part in ("key", "value", "receptance", "output")
        },
        "channel_mix_lerp_k": (t.embd, 1, 1),
        "channel_mix_key": (t.embd, t.ff),
        "channel_mix_value": (t.ff, t.embd),
    }
    # The first layer mixes no values in; llama.cpp wants the tensors all the same, in its ranks.
    ranks = [iclr] + [value_mix] * (t.layers - 1)
    blocks = [
        shared | {"time_mix_v1": (t.embd, rank), "time_mix_v2": (rank, t.embd)} for rank in ranks
    ]
    keys: dict[str, Value] = {
        "attention.layer_norm_epsilon": 1e-5,
        "attention.decay_lora_rank": decay,
        "attention.iclr_lora_rank": iclr,
        "attention.value_residual_mix_lora_rank": value_mix,
        "attention.gate_lora_rank": gate,
        "wkv.head_size": 64,
    }
    outside = vectors(t.embd, "token_embd_norm", "token_embd_norm.bias", "output_norm.bias")
    return spec(t, blocks, keys=keys, outside=outside)


def _kv_heads(t: Trunk, attends: Sequence[bool]) -> list[int]:
    """Hybrid models tell their recurrent layers by a count of no heads."""
    return [t.n_head_kv if here else 0 for here in attends]


def jamba_mini() -> Spec:
    t = Trunk("jamba", vocab=65536, ctx=262144, layers=32, embd=4096, ff=14336, heads=(32, 8, 128))
    s = StateSpace(inner=8192, state=16, rank=256)
    experts = Experts(16, used=2, ff=t.ff)
    attends = [layer % 8 == 4 for layer in range(t.layers)]
    inner_norms = {"ssm_dt_norm": (s.rank,)} | vectors(s.state, "ssm_b_norm", "ssm_c_norm")
    blocks = [
        (attention(t) if attends[layer] else mamba(t, s) | inner_norms)
        | {"ffn_norm": (t.embd,)}
        | (experts.block(t) if layer % 2 else ffn(t.embd, t.ff))
        for layer in range(t.layers)
    ]
    keys = s.keys() | experts.keys() | {"attention.head_count_kv": _kv_heads(t, attends)}
    return spec(t, blocks, keys=keys)


def granite4_h_small() -> Spec:
    t = Trunk(
        "granitehybrid", vocab=100352, ctx=131072, layers=40, embd=4096, ff=768, heads=(32, 8, 128)
    )
    s = StateSpace(inner=8192, state=128, rank=128, groups=1)
    experts = Experts(72, used=10, ff=t.ff, shared_ff=1536)
    attends = [layer % 10 == 5 for layer in range(t.layers)]
    end = {"ffn_norm": (t.embd,)} | experts.block(t)
    blocks = [(attention(t) if here else mamba2(t, s)) | end for here in attends]
    keys = {
        **s.keys(),
        **experts.keys(),
        "attention.head_count_kv": _kv_heads(t, attends),
        "expert_shared_feed_forward_length": experts.shared_ff,
        "rope.scaling.finetuned": False,
    }
    return spec(t, blocks, keys=keys, tied=True)


def falcon_h1_7b() -> Spec:
    """Attention and a state side by side in every layer."""
    t = Trunk(
        "falcon-h1", vocab=130048, ctx=262144, layers=44, embd=3072, ff=12288, heads=(12, 2, 128)
    )
    s = StateSpace(inner=3072, state=256, rank=24, groups=1)
    block = mamba2(t, s) | dense(t)
    return spec(t, [block] * t.layers, keys=s.keys(), bare=_BARE | {"ffn_norm"})


def lfm2_1b() -> Spec:
    """Short convolutions, and attention in six layers of sixteen."""
    t = Trunk("lfm2", vocab=65536, ctx=128000, layers=16, embd=2048, ff=8192, heads=(32, 8, 64))
    attends = [layer in {2, 5, 8, 10, 12, 14} for layer in range(t.layers)]
    conv: Block = {
        "attn_norm": (t.embd,),
        "shortconv.conv": (3, t.embd),
        "shortconv.in_proj": (t.embd, 3 * t.embd),
        "shortconv.out_proj": (t.embd, t.embd),
    }
    end = {"ffn_norm": (t.embd,)} | ffn(t.embd, t.ff)
    blocks = [(attention(t) | qk_norm(t) if here else conv) | end for here in attends]
    keys: dict[str, Value] = {
        "attention.head_count_kv": _kv_heads(t, attends),
        "shortconv.l_cache": 3,
    }
    return spec(t, blocks, keys=keys, tied=True, last_norm="token_embd_norm")


def _nemotron_h(t: Trunk, s: StateSpace, pattern: str, experts: Experts | None = None) -> Spec:
    """A layer does one thing: M for a state, * for attention, - for dense and E for experts."""
    plain: Block = {"ffn_up": (t.embd, t.ff), "ffn_down": (t.ff, t.embd)}
    parts = {"M": mamba2(t, s), "*": attention(t), "-": {"attn_norm": (t.embd,)} | plain}
    keys = s.keys() | {"attention.layer_norm_epsilon": 1e-5}
    if experts:
        # These experts have no gate: one matrix up, one down.
        routed = {name: dims for name, dims in experts.block(t).items() if "gate_" not in name}
        parts["E"] = routed | {
            "attn_norm": (t.embd,),
            "ffn_gate_inp": (t.embd, experts.count),
            "exp_probs_b.bias": (experts.count,),
        }
        keys |= experts.keys() | {"expert_shared_feed_forward_length": experts.shared_ff}
    keys |= {
        "attention.head_count_kv": _kv_heads(t, [part == "*" for part in pattern]),
        "feed_forward_length": [t.ff if part in "-E" else 0 for part in pattern],
    }
    return spec(t, [parts[part] for part in pattern], keys=keys)


def nemotron_h_9b() -> Spec:
    t = Trunk(
        "nemotron_h", vocab=131072, ctx=131072, layers=56, embd=4480, ff=15680, heads=(40, 8, 128)
    )
    s = StateSpace(inner=10240, state=128, rank=128, groups=8)
    return _nemotron_h(t, s, "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-")


def nemotron3_nano_30b() -> Spec:
    t = Trunk(
        "nemotron_h_moe", vocab=131072, ctx=2**20, layers=52, embd=2688, ff=1856, heads=(32, 2, 128)
    )
    s = StateSpace(inner=4096, state=128, rank=64, groups=8)
    experts = Experts(128, used=6, ff=t.ff, shared_ff=3712)
    return _nemotron_h(t, s, "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", experts)


_DELTA_NET = StateSpace(inner=4096, state=128, rank=32, groups=16)


def _qwen_experts(t: Trunk, experts: Experts) -> Block:
    return vectors(t.embd, "post_attention_norm", "ffn_gate_inp_shexp") | experts.block(t)


def qwen3next_80b() -> Spec:
    """Every fourth layer is attention, by a rule that is not in the file."""
    t = Trunk(
        "qwen3next", vocab=151936, ctx=262144, layers=48, embd=2048, ff=5120, heads=(16, 2, 256)
    )
    experts = Experts(512, used=10, ff=512, shared_ff=512)
    recurrent = delta_net(t, _DELTA_NET) | {"ssm_ba": (t.embd, 2 * _DELTA_NET.rank)}
    full = attention(t, gated=True) | qk_norm(t)
    end = _qwen_experts(t, experts)
    blocks = [(recurrent if (layer + 1) % 4 else full) | end for layer in range(t.layers)]
    keys = {
        **_DELTA_NET.keys(),
        **experts.keys(),
        "expert_shared_feed_forward_length": experts.shared_ff,
        "rope.dimension_count": 64,
    }
    return spec(t, blocks, keys=keys)


def qwen35moe_35b() -> Spec:
    """As qwen3next, with the interval in the file and a layer for predicting further tokens."""
    t = Trunk("qwen35moe", vocab=248320, ctx=262144, layers=41, embd=2048, heads=(16, 2, 256))
    experts = Experts(256, used=8, ff=512, shared_ff=512)
    beta_alpha = dict.fromkeys(("ssm_beta", "ssm_alpha"), (t.embd, _DELTA_NET.rank))
    full = attention(t, gated=True) | qk_norm(t)
    end = _qwen_experts(t, experts)
    blocks = [
        (delta_net(t, _DELTA_NET) | beta_alpha if (layer + 1) % 4 else full) | end
        for layer in range(t.layers - 1)
    ]
    keys = {
        **_DELTA_NET.keys(),
        **experts.keys(),
        "expert_shared_feed_forward_length": experts.shared_ff,
        "full_attention_interval": 4,
        "nextn_predict_layers": 1,
        "rope.dimension_count": 64,
        "rope.dimension_sections": Typed(GgufType.INT32, [11, 11, 10, 0]),
    }
    return spec(t, [*blocks, full | end | nextn(t)], keys=keys)


ZOO: Mapping[str, Callable[[], Spec]] = {
    "llama3-8b": llama3_8b,
    "llama3-70b": llama3_70b,
    "llama3.2-1b": llama32_1b,
    "qwen3-4b": qwen3_4b,
    "qwen3-32b": qwen3_32b,
    "phi3-mini": phi3_mini,
    "phi3-medium": phi3_medium,
    "gemma2-9b": gemma2_9b,
    "gemma3-27b": gemma3_27b,
    "gemma3-270m": gemma3_270m,
    "gemma3n-e4b": gemma3n_e4b,
    "gemma4-e4b": gemma4_e4b,
    "cohere2-7b": cohere2_7b,
    "mixtral-8x7b": mixtral_8x7b,
    "qwen3moe-30b-a3b": qwen3moe_30b,
    "gpt-oss-20b": gpt_oss_20b,
    "llama4-scout": llama4_scout,
    "minimax-m2": minimax_m2,
    "glm4.5-air": glm4_moe_air,
    "deepseek-v2-lite": deepseek_v2_lite,
    "deepseek-v2-lite-legacy": deepseek_v2_lite_legacy,
    "deepseek-v3": deepseek_v3,
    "mamba-2.8b": mamba_28b,
    "mamba2-codestral-7b": mamba2_codestral_7b,
    "rwkv7-2.9b": rwkv7_29b,
    "jamba-mini": jamba_mini,
    "granite4-h-small": granite4_h_small,
    "falcon-h1-7b": falcon_h1_7b,
    "lfm2-1.2b": lfm2_1b,
    "nemotron-h-9b": nemotron_h_9b,
    "nemotron3-nano-30b-a3b": nemotron3_nano_30b,
    "qwen3-next-80b-a3b": qwen3next_80b,
    "qwen3.5-35b-a3b": qwen35moe_35b,
}
