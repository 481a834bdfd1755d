"""Models of real shape without their weights, for the real llama.cpp to load.

`ZOO` names a function for each model; what it returns can be written as a sparse GGUF file that
`llama-fit-params` loads. The shapes are those of the published models and the tensor names those of
`load_arch_tensors` in llama.cpp's `src/models/ARCH.cpp`.

To add an architecture, write down its `Trunk`, put a `Block` together for each layer from the
helpers below (a block is a dictionary from tensor name to shape), and pass what else its
`load_arch_hparams` asks for as `keys`. Tensor types follow from names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from fakes.gguf_writer import TYPES, TensorSpec, Value, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

Dims: TypeAlias = tuple[int, ...]
Block: TypeAlias = Mapping[str, Dims]
"""The tensors of a layer: names without `blk.N.`, and without `.weight` where that follows."""

Mix: TypeAlias = Callable[[str, Dims, int, int], str]
"""Choose a tensor's type from its name, shape, layer and the number of layers."""


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
        return self._count("block_count")

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


@dataclass(frozen=True)
class Trunk:
    """The numbers that nearly every architecture has."""

    arch: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx: int
    n_ff: int = 0
    n_head: int = 0
    n_head_kv: int = 0
    head_dim: int = 0

    def keys(self) -> dict[str, Value]:
        keys: dict[str, Value] = {
            "block_count": self.n_layer,
            "embedding_length": self.n_embd,
            "vocab_size": self.n_vocab,
            "context_length": self.n_ctx,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "attention.layer_norm_rms_epsilon": 1e-6,
        }
        # Converters leave the head size out where it follows, and readers must do without it.
        if self.n_head and self.head_dim * self.n_head != self.n_embd:
            keys |= {
                "attention.key_length": self.head_dim,
                "attention.value_length": self.head_dim,
            }
        return keys


# --- parts of a block ----------------------------------------------------------------------------


def vectors(size: int, *names: str) -> Block:
    """Norms and biases: one row each."""
    return dict.fromkeys(names, (size,))


def attention(t: Trunk, *, fused: bool = False) -> Block:
    """Query, key, value and output, with the norm before them."""
    q, kv = t.n_head * t.head_dim, t.n_head_kv * t.head_dim
    ends: Block = {"attn_norm": (t.n_embd,), "attn_output": (q, t.n_embd)}
    if fused:
        return {**ends, "attn_qkv": (t.n_embd, q + 2 * kv)}
    return {
        **ends,
        "attn_q": (t.n_embd, q),
        "attn_k": (t.n_embd, kv),
        "attn_v": (t.n_embd, kv),
    }


def qk_norm(t: Trunk) -> Block:
    return vectors(t.head_dim, "attn_q_norm", "attn_k_norm")


def ffn(n_embd: int, n_ff: int, suffix: str = "") -> Block:
    """A gated feed-forward network; `suffix` tells a shared expert's from a dense one's."""
    return {
        f"ffn_gate{suffix}": (n_embd, n_ff),
        f"ffn_up{suffix}": (n_embd, n_ff),
        f"ffn_down{suffix}": (n_ff, n_embd),
    }


def experts(n_embd: int, n_ff: int, n_expert: int) -> Block:
    """A router and the experts that it chooses from."""
    stacks = {name: (*shape, n_expert) for name, shape in ffn(n_embd, n_ff, "_exps").items()}
    return {"ffn_gate_inp": (n_embd, n_expert), **stacks}


# --- tensor types --------------------------------------------------------------------------------

# What llama-quant.cpp leaves unquantised, by the start of the name.
_KEPT_F32 = ("ffn_gate_inp", "ssm_conv1d", "ssm_a", "ssm_d")
# What it falls back to where rows do not divide into blocks of 256.
_FALLBACK = {"q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}


def _stays_f32(name: str, shape: Dims) -> bool:
    is_matrix = len(shape) > 1 and not name.endswith(".bias")
    return not is_matrix or "norm" in name or name.startswith(_KEPT_F32)


def _gets_more_bits(layer: int, n_layer: int) -> bool:
    """Name the layers whose values and down projections Q4_K_M gives six bits."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2


def q4_k_m(name: str, shape: Dims, layer: int, n_layer: int) -> str:
    """Mix types as `llama-quantize` does for Q4_K_M, in what matters for memory."""
    if _stays_f32(name, shape):
        return "f32"
    wanted = "q4_K"
    if name.startswith("output") or (
        name.startswith(("attn_v", "ffn_down")) and _gets_more_bits(layer, n_layer)
    ):
        wanted = "q6_K"
    elif name.startswith("attn_qkv"):
        wanted = "q5_K"
    if shape[0] % TYPES[wanted].block == 0:
        return wanted
    fallback = _FALLBACK[wanted]
    return fallback if shape[0] % TYPES[fallback].block == 0 else "f16"


# --- putting a model together --------------------------------------------------------------------


def spec(
    t: Trunk,
    blocks: Sequence[Block],
    *,
    keys: Mapping[str, Value] | None = None,
    outside: Block | None = None,
    tied: bool = False,
    mix: Mix = q4_k_m,
) -> Spec:
    """Assemble a model; `outside` holds the tensors that belong to no layer."""
    ends: dict[str, Dims] = {
        "token_embd": (t.n_embd, t.n_vocab),
        "output_norm": (t.n_embd,),
        **(outside or {}),
    }
    if not tied:
        ends["output"] = (t.n_embd, t.n_vocab)
    # An embedding that serves as output too is given the output's type.
    roles = {"token_embd": "output"} if tied else {}
    tensors = [
        _tensor("", name, shape, mix(roles.get(name, name), shape, 0, 1))
        for name, shape in ends.items()
    ]
    for layer, block in enumerate(blocks):
        for name, shape in block.items():
            kind = mix(name, shape, layer, len(blocks))
            tensors.append(_tensor(f"blk.{layer}.", name, shape, kind))
    of_arch = {f"{t.arch}.{key}": value for key, value in {**t.keys(), **(keys or {})}.items()}
    metadata: dict[str, Value] = {
        "general.architecture": t.arch,
        "general.file_type": 15,
        "tokenizer.ggml.model": "no_vocab",
        **of_arch,
    }
    return Spec(metadata, tuple(tensors))


# The parameters of a state-space layer that have no `.weight` to their name.
_BARE = frozenset({"ssm_a", "ssm_d"})


def _tensor(prefix: str, name: str, shape: Dims, kind: str) -> TensorSpec:
    suffix = "" if name in _BARE or name.endswith((".bias", ".weight")) else ".weight"
    return TensorSpec(f"{prefix}{name}{suffix}", shape, kind)


# --- dense transformers --------------------------------------------------------------------------


def _dense(t: Trunk) -> Block:
    return {**attention(t), "ffn_norm": (t.n_embd,), **ffn(t.n_embd, t.n_ff)}


def llama3_8b() -> Spec:
    t = Trunk("llama", 32, 4096, 128256, 131072, 14336, 32, 8, 128)
    return spec(t, [_dense(t)] * t.n_layer, outside={"rope_freqs": (64,)})


def llama3_70b() -> Spec:
    t = Trunk("llama", 80, 8192, 128256, 131072, 28672, 64, 8, 128)
    return spec(t, [_dense(t)] * t.n_layer, outside={"rope_freqs": (64,)})


def qwen3_4b() -> Spec:
    t = Trunk("qwen3", 36, 2560, 151936, 40960, 9728, 32, 8, 128)
    return spec(t, [{**_dense(t), **qk_norm(t)}] * t.n_layer, tied=True)


def qwen3_32b() -> Spec:
    t = Trunk("qwen3", 64, 5120, 151936, 40960, 25600, 64, 8, 128)
    return spec(t, [{**_dense(t), **qk_norm(t)}] * t.n_layer)


def _gemma3(t: Trunk, window: int) -> Spec:
    block = {
        **_dense(t),
        **qk_norm(t),
        **vectors(t.n_embd, "post_attention_norm", "post_ffw_norm"),
    }
    keys: dict[str, Value] = {"attention.sliding_window": window}
    return spec(t, [block] * t.n_layer, keys=keys, tied=True)


def gemma3_27b() -> Spec:
    return _gemma3(Trunk("gemma3", 62, 5376, 262208, 131072, 21504, 32, 16, 128), 1024)


def gemma3_270m() -> Spec:
    return _gemma3(Trunk("gemma3", 18, 640, 262144, 32768, 2048, 4, 1, 256), 512)


# --- mixtures of experts -------------------------------------------------------------------------


def qwen3moe_30b() -> Spec:
    t = Trunk("qwen3moe", 48, 2048, 151936, 40960, 6144, 32, 4, 128)
    block = {
        **attention(t),
        **qk_norm(t),
        "ffn_norm": (t.n_embd,),
        **experts(t.n_embd, 768, 128),
    }
    keys: dict[str, Value] = {
        "expert_count": 128,
        "expert_used_count": 8,
        "expert_feed_forward_length": 768,
    }
    return spec(t, [block] * t.n_layer, keys=keys)


ZOO: Mapping[str, Callable[[], Spec]] = {
    "llama3-8b": llama3_8b,
    "llama3-70b": llama3_70b,
    "qwen3-4b": qwen3_4b,
    "qwen3-32b": qwen3_32b,
    "gemma3-27b": gemma3_27b,
    "gemma3-270m": gemma3_270m,
    "qwen3moe-30b-a3b": qwen3moe_30b,
}
