"""What each layer of an architecture keeps in memory between tokens.

The facts are llama.cpp's: which layers attend to a window and which are recurrent is decided there
by the metadata for some architectures and by a line of C++ for others (`src/models/*.cpp`,
`load_arch_hparams`; `llama_model::create_memory`). Read from llama.cpp 0.5.0-dev, the tree that
llama-cpp-python 0.3.36 carries, and checked against its `llama-fit-params` in
`tests/e2e/test_memory.py`.

An architecture that is not listed here is counted as full attention in every layer, which never
says too little, and `Caches.exact` is False.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from autotune.errors import GGUFInvalid
from autotune.model.gguf import MAX_LAYERS, Array, Value


class LayerCache(NamedTuple):
    """What one layer keeps: elements per token of attention cache, and per sequence of state."""

    k_elements: int = 0
    v_elements: int = 0
    window: int = 0  # Tokens that the layer looks back; 0: the whole context.
    state_elements: int = 0  # Recurrent state, always f32.


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """The caches of all layers, and whether they are known to be llama.cpp's."""

    layers: tuple[LayerCache, ...]
    exact: bool
    note: str  # Why they are an estimate; "" where they are exact.


class SlidingWindow(NamedTuple):
    """How an architecture mixes windowed and full attention; `period` 0: by the array."""

    period: int
    full_first: bool = False  # The full layer leads its period; otherwise it closes it.
    default_tokens: int = 0  # Where the metadata has no `attention.sliding_window`.
    fixed_tokens: int = 0  # What llama.cpp takes whatever the metadata says.


_BY_ARRAY = 0

# `load_swa_pattern(ml, period, dense_first)` in src/models/<architecture>.cpp.
SLIDING_WINDOWS: Mapping[str, SlidingWindow] = {
    "afmoe": SlidingWindow(4),
    "cohere2": SlidingWindow(4),
    "cohere2moe": SlidingWindow(4, full_first=True),
    "exaone-moe": SlidingWindow(4, default_tokens=128),
    "exaone4": SlidingWindow(4, default_tokens=4096),
    "gemma2": SlidingWindow(2, default_tokens=4096),
    "gemma3": SlidingWindow(6),
    "gemma3n": SlidingWindow(5),
    "gemma4": SlidingWindow(_BY_ARRAY),
    "gpt-oss": SlidingWindow(2),
    "granite_swa": SlidingWindow(_BY_ARRAY),
    "laguna": SlidingWindow(4, full_first=True),
    "llama4": SlidingWindow(4, fixed_tokens=8192),
    "maple": SlidingWindow(_BY_ARRAY),
    "mellum": SlidingWindow(4),
    "mimo2": SlidingWindow(_BY_ARRAY),
    "muse-glimmer": SlidingWindow(4),
    "olmo2": SlidingWindow(4),
    "plamo3": SlidingWindow(8),
    "smallthinker": SlidingWindow(4, full_first=True, fixed_tokens=4096),
    "spark2_5": SlidingWindow(_BY_ARRAY),
    "step35": SlidingWindow(_BY_ARRAY),
}  # fmt: skip

# Every layer is recurrent (`llm_arch_is_recurrent`).
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})

# Recurrent where the layer has no K/V heads, attention elsewhere.
HYBRID_BY_HEADS = frozenset(
    {"bailingmoe3", "granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "plamo2"}
)

# Attention in every `full_attention_interval`th layer, recurrent elsewhere.
HYBRID_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_DEFAULT_INTERVAL = 4  # src/models/qwen3next.cpp

# A layer with a feed-forward part keeps nothing; the others are recurrent where they have no heads.
HYBRID_BY_FEED_FORWARD = frozenset({"nemotron_h", "nemotron_h_moe"})

HYBRID_EVERYWHERE = frozenset({"falcon-h1"})  # Attention and recurrent state in each layer.

HYBRIDS = HYBRID_BY_HEADS | HYBRID_BY_INTERVAL | HYBRID_BY_FEED_FORWARD | HYBRID_EVERYWHERE

# Encoders and diffusion models: `create_memory` gives them nothing.
CACHELESS = frozenset(
    """
    bert dream eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llada llada-moe modern-bert
    neo-bert nomic-bert nomic-bert-moe rnd1 t5encoder wavtokenizer-dec
    """.split()
)

# Full attention in every layer, by the generic keys alone. That includes architectures whose
# metadata carries a window that llama.cpp does not apply (phi3, mistral's llama, qwen2).
PLAIN = frozenset(
    """
    apertus arcee arctic baichuan bailingmoe bailingmoe2 bitnet bloom chameleon chatglm codeshell
    cogvlm command-r dbrx deci deepseek deepseek2 deepseek2-ocr dots1 ernie4_5 ernie4_5-moe exaone
    falcon gemma glm4 glm4moe gpt2 gptj gptneox granite granitemoe grok grovemoe hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 llama llama-embed maincoder minicpm minicpm3
    minimax-m2 mistral3 mistral4 mpt nemotron olmo olmoe openelm orion paddleocr pangu-embedded phi2
    phi3 phimoe plamo plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe refact
    seed_oss smollm3 stablelm starcoder starcoder2 talkie xverse
    """.split()
)

# One matrix holds the feed-forward's gate and up halves, and its product is twice as wide.
FUSED_GATE = frozenset({"chatglm", "glm4", "phi3"})


class Facts:
    """Typed access to the metadata of one architecture: `facts.integer("block_count")`."""

    def __init__(self, metadata: Mapping[str, Value], where: str) -> None:
        self._metadata = metadata
        self._where = where
        self.architecture = self.text("general.architecture")
        if not self.architecture:
            raise self.invalid("general.architecture", "is missing")

    def invalid(self, key: str, what: str) -> GGUFInvalid:
        return GGUFInvalid(
            f"{self._where}: the metadata key {key} {what}",
            hint="convert the model again with a current convert_hf_to_gguf.py",
        )

    def text(self, key: str) -> str:
        """A whole key's string, or ""."""
        value = self._metadata.get(key, "")
        return value if isinstance(value, str) else ""

    def _named(self, key: str) -> tuple[str, Value | None]:
        name = f"{self.architecture}.{key}"
        return name, self._metadata.get(name)

    def array(self, key: str) -> Array | None:
        value = self._named(key)[1]
        return value if isinstance(value, Array) else None

    def integer(self, key: str, default: int | None = None) -> int:
        """A non-negative integer of this architecture; an array gives its first value."""
        name, value = self._named(key)
        if isinstance(value, Array):
            if not value.values:
                raise self.invalid(name, "is an array without a number")
            value = value.values[0]
        if value is None:
            if default is None:
                raise self.invalid(name, "is missing")
            return default
        if not isinstance(value, int) or value < 0:
            raise self.invalid(name, f"is {value!r}, not a non-negative integer")
        return int(value)

    def per_layer(self, key: str, n_layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One integer a layer, from an array or from a number that counts for all of them."""
        name, value = self._named(key)
        if not isinstance(value, Array):
            return default if value is None else (self.integer(key),) * n_layers
        if value.values is None or len(value.values) < n_layers:
            raise self.invalid(
                name, f"has {value.count} values, not one number for each of {n_layers} layers"
            )
        numbers = [number for number in value.values[:n_layers] if isinstance(number, int)]
        if len(numbers) < n_layers or min(numbers) < 0:
            raise self.invalid(name, "has a value that is not a non-negative integer")
        return tuple(map(int, numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that the architecture's tensors and caches are built from."""

    n_layers: int  # As `block_count`, with the layers that predict further tokens.
    n_nextn: int  # The last layers, which only speculative decoding loads.
    n_ctx_train: int
    n_embd: int
    heads: tuple[int, ...]  # Query heads by layer.
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    key_length_mla: int  # Of the queries before they are compressed; 0 without MLA.
    feed_forward: tuple[int, ...]
    n_expert: int
    n_expert_used: int
    n_ff_expert: int
    n_ff_shared: int
    ssm_inner: int
    fused_gate: bool  # The feed-forward's gate is the second half of its up matrix.

    @property
    def n_trunk(self) -> int:
        """The layers that every token goes through."""
        return self.n_layers - self.n_nextn


def read_shape(facts: Facts) -> Shape:
    """The sizes, by the rules of `llama_model_base::load_hparams`."""
    n_layers = facts.integer("block_count")
    if not 1 <= n_layers <= MAX_LAYERS:
        raise facts.invalid(f"{facts.architecture}.block_count", f"is {n_layers}")
    n_nextn = facts.integer("nextn_predict_layers", 0)
    if n_nextn >= n_layers:
        raise facts.invalid(
            f"{facts.architecture}.nextn_predict_layers", f"is {n_nextn} of {n_layers} layers"
        )
    n_embd = facts.integer("embedding_length")
    none = (0,) * n_layers
    heads = facts.per_layer("attention.head_count", n_layers, none)
    head_length = n_embd // heads[0] if heads[0] else 0
    return Shape(
        n_layers=n_layers,
        n_nextn=n_nextn,
        n_ctx_train=facts.integer("context_length"),
        n_embd=n_embd,
        heads=heads,
        kv_heads=facts.per_layer("attention.head_count_kv", n_layers, heads),
        key_length=facts.integer("attention.key_length", head_length) if heads[0] else 0,
        value_length=facts.integer("attention.value_length", head_length) if heads[0] else 0,
        key_length_mla=facts.integer("attention.key_length_mla", 0),
        feed_forward=facts.per_layer("feed_forward_length", n_layers, none),
        n_expert=facts.integer("expert_count", 0),
        n_expert_used=facts.integer("expert_used_count", 0),
        n_ff_expert=facts.integer("expert_feed_forward_length", 0),
        n_ff_shared=facts.integer("expert_shared_feed_forward_length", 0),
        ssm_inner=facts.integer("ssm.inner_size", 0),
        fused_gate=facts.architecture in FUSED_GATE,
    )


def read_caches(facts: Facts, shape: Shape) -> Caches:
    """What each layer keeps, in the order of the layers."""
    name = facts.architecture
    if name in CACHELESS:
        return Caches(layers=(LayerCache(),) * shape.n_layers, exact=True, note="")
    known = name in PLAIN or name in SLIDING_WINDOWS or name in RECURRENT or name in HYBRIDS
    note = f"llama.cpp's cache for {name!r} is not known here; every layer is counted in full"
    windows = _windows(facts, shape)
    attends, recurs = _attends(facts, shape), _recurs(facts, shape)
    keeps_v = not _is_mla(facts)
    state = _state_elements(facts, shape) if any(recurs) else 0
    layers = tuple(
        LayerCache(
            *(
                _attention_elements(facts, shape, il, windows[il], keeps_v=keeps_v)
                if attends[il]
                else (0, 0)
            ),
            window=windows[il] if attends[il] else 0,
            state_elements=state if recurs[il] else 0,
        )
        for il in range(shape.n_layers)
    )
    return Caches(layers=layers, exact=known, note="" if known else note)


def _attention_elements(
    facts: Facts, shape: Shape, il: int, window: int, *, keeps_v: bool
) -> tuple[int, int]:
    """K and V elements per token; windowed layers may have heads of another length."""
    k_length, v_length = shape.key_length, shape.value_length
    if window:
        k_length = facts.integer("attention.key_length_swa", k_length)
        v_length = facts.integer("attention.value_length_swa", v_length)
    return k_length * shape.kv_heads[il], v_length * shape.kv_heads[il] if keeps_v else 0


def _is_mla(facts: Facts) -> bool:
    """Multi-head latent attention keeps one compressed row a token, from which V is rebuilt.

    GGUFs converted before llama.cpp b5189 lack these keys and keep full K and V.
    """
    return bool(
        facts.integer("attention.key_length_mla", 0)
        and facts.integer("attention.value_length_mla", 0)
    )


def _windows(facts: Facts, shape: Shape) -> tuple[int, ...]:
    """Tokens that each layer looks back; 0: all of them."""
    everywhere = (0,) * shape.n_layers
    if facts.architecture in {"lfm2", "lfm2moe"}:
        return (facts.integer("attention.sliding_window", 0),) * shape.n_layers
    rule = SLIDING_WINDOWS.get(facts.architecture)
    if rule is None or (facts.architecture == "exaone4" and shape.n_trunk != _EXAONE4_32B_LAYERS):
        return everywhere
    tokens = _window_tokens(facts, rule)
    if not tokens:
        return everywhere
    windowed = _windowed_layers(facts, shape, rule)
    return tuple(tokens if windowed[il] else 0 for il in range(shape.n_layers))


_EXAONE4_32B_LAYERS = 64  # The only size of EXAONE 4 with a window; src/models/exaone4.cpp


def _window_tokens(facts: Facts, rule: SlidingWindow) -> int:
    stated = facts.integer("attention.sliding_window", rule.fixed_tokens or rule.default_tokens)
    return rule.fixed_tokens if stated and rule.fixed_tokens else stated


def _windowed_layers(facts: Facts, shape: Shape, rule: SlidingWindow) -> tuple[bool, ...]:
    key = "attention.sliding_window_pattern"
    if facts.array(key):
        flags = facts.per_layer(key, shape.n_trunk, ())
        return tuple(map(bool, flags)) + (False,) * shape.n_nextn
    period = facts.integer(key, rule.period)

    def windowed(il: int) -> bool:
        if il >= shape.n_trunk or (rule.period == _BY_ARRAY and period == _BY_ARRAY):
            return False
        if period == 0:
            return True
        return il % period != 0 if rule.full_first else il % period < period - 1

    return tuple(windowed(il) for il in range(shape.n_layers))


def _attends(facts: Facts, shape: Shape) -> tuple[bool, ...]:
    """Which layers have an attention cache of their own."""
    name = facts.architecture
    with_cache = shape.n_trunk
    if name == "gemma3n":  # The later layers reuse the cache of an earlier one.
        with_cache = min(with_cache, 20)  # n_layer_kv_from_start, src/models/gemma3n.cpp
    if name == "gemma4":
        with_cache = min(
            with_cache, shape.n_layers - facts.integer("attention.shared_kv_layers", 0)
        )
    recurs = _recurs(facts, shape)

    def attends(il: int) -> bool:
        if il >= with_cache or name in RECURRENT:
            return False
        if name in HYBRID_BY_FEED_FORWARD and shape.feed_forward[il]:
            return False
        return name in HYBRID_EVERYWHERE or not recurs[il]

    return tuple(attends(il) for il in range(shape.n_layers))


def _recurs(facts: Facts, shape: Shape) -> tuple[bool, ...]:
    """Which layers keep a recurrent state."""
    name = facts.architecture
    trunk = range(shape.n_trunk)
    if name in RECURRENT or name in HYBRID_EVERYWHERE:
        flags = [True for _ in trunk]
    elif name in HYBRID_BY_HEADS:
        flags = [shape.kv_heads[il] == 0 for il in trunk]
    elif name in HYBRID_BY_FEED_FORWARD:
        flags = [shape.kv_heads[il] == 0 and shape.feed_forward[il] == 0 for il in trunk]
    elif name in HYBRID_BY_INTERVAL:
        interval = facts.integer("full_attention_interval", _DEFAULT_INTERVAL) or _DEFAULT_INTERVAL
        by_interval = tuple(int((il + 1) % interval != 0) for il in range(shape.n_layers))
        stated = facts.per_layer("attention.recurrent_layers", shape.n_layers, by_interval)
        flags = [bool(stated[il]) for il in trunk]
    else:
        flags = [False for _ in trunk]
    return (*flags, *(False for _ in range(shape.n_nextn)))


def _state_elements(facts: Facts, shape: Shape) -> int:
    """Elements of recurrent state a layer keeps for one sequence: `n_embd_r() + n_embd_s()`."""
    wkv_head = facts.integer("wkv.head_size", 0)
    if wkv_head:  # RWKV
        return shape.n_embd * (facts.integer("token_shift_count", 2) + wkv_head)
    short_convolution = facts.integer("shortconv.l_cache", 0)
    if short_convolution:  # LFM2
        return shape.n_embd * (short_convolution - 1)
    convolution = max(facts.integer("ssm.conv_kernel", 0) - 1, 0)
    kda_head = facts.integer("kda.head_dim", 0)
    if kda_head:  # Kimi Delta Attention
        return shape.heads[0] * kda_head * (3 * (convolution or 3) + kda_head)
    inner, state = facts.integer("ssm.inner_size"), facts.integer("ssm.state_size")
    groups = facts.integer("ssm.group_count", 0)
    return convolution * (inner + 2 * groups * state) + state * inner
