from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes.zoo import (
    Spec,
    deepseek_v2_lite,
    deepseek_v2_lite_legacy,
    gemma3_27b,
    gemma4_e4b,
    gpt_oss_20b,
    granite4_h_small,
    llama3_8b,
    mamba2_codestral_7b,
    mamba_28b,
    qwen3next_80b,
    rwkv7_29b,
)

from autotune.errors import GGUFInvalid
from autotune.model import Model, analyze_model
from autotune.model.architecture import (
    CACHELESS,
    HYBRIDS,
    PLAIN,
    RECURRENT,
    SLIDING_WINDOWS,
    Caches,
    Facts,
    LayerCache,
    Shape,
    read_caches,
    read_shape,
)
from autotune.model.footprint import footprint
from autotune.model.gguf import Array, Value
from autotune.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MEBI = 2**20
FULL, WINDOWED = 0, 512


def facts(architecture: str, n_layers: int, keys: Mapping[str, Value] | None = None) -> Facts:
    """Give a model of two heads of 64 and one of K and V, unless `keys` say otherwise."""
    usual: dict[str, Value] = {
        "block_count": n_layers,
        "embedding_length": 128,
        "context_length": 8192,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
    }
    named = {f"{architecture}.{key}": value for key, value in {**usual, **(keys or {})}.items()}
    return Facts({"general.architecture": architecture, **named}, "model.gguf")


def shape(architecture: str, n_layers: int, keys: Mapping[str, Value] | None = None) -> Shape:
    return read_shape(facts(architecture, n_layers, keys))


def caches(architecture: str, n_layers: int, keys: Mapping[str, Value] | None = None) -> Caches:
    given = facts(architecture, n_layers, keys)
    return read_caches(given, read_shape(given))


def flags(*numbers: float) -> Array:
    return Array(len(numbers), numbers)


def windows(
    architecture: str, n_layers: int, keys: Mapping[str, Value] | None = None
) -> tuple[int, ...]:
    window: dict[str, Value] = {"attention.sliding_window": WINDOWED}
    found = caches(architecture, n_layers, window | dict(keys or {}))
    return tuple(layer.window for layer in found.layers)


# --- shape ---------------------------------------------------------------------------------------


def test_a_head_is_as_long_as_the_embedding_divided_by_the_heads() -> None:
    read = shape("llama", 2)

    assert (read.key_length, read.value_length) == (64, 64)


def test_a_head_is_as_long_as_its_key_says() -> None:
    read = shape("llama", 2, {"attention.key_length": 96, "attention.value_length": 32})

    assert (read.key_length, read.value_length) == (96, 32)


def test_heads_may_be_given_layer_by_layer() -> None:
    read = shape("llama", 3, {"attention.head_count_kv": flags(1, 0, 2)})

    assert (read.heads, read.kv_heads) == ((2, 2, 2), (1, 0, 2))


def test_of_more_values_than_layers_the_first_are_taken() -> None:
    assert shape("llama", 2, {"attention.head_count_kv": flags(1, 2, 3)}).kv_heads == (1, 2)


def test_where_one_number_is_asked_for_an_array_gives_its_first() -> None:
    assert shape("llama", 2, {"expert_used_count": flags(4, 2)}).n_expert_used == 4


def test_without_kv_heads_every_head_has_its_own() -> None:
    metadata: dict[str, Value] = {
        "general.architecture": "gpt2",
        "gpt2.block_count": 2,
        "gpt2.embedding_length": 128,
        "gpt2.context_length": 1024,
        "gpt2.attention.head_count": 4,
    }

    assert read_shape(Facts(metadata, "model.gguf")).kv_heads == (4, 4)


def test_a_model_without_attention_has_no_heads() -> None:
    read = shape("mamba", 2, {"attention.head_count": 0})

    assert (read.key_length, read.value_length) == (0, 0)


def test_layers_for_further_tokens_are_no_trunk() -> None:
    assert shape("glm4moe", 47, {"nextn_predict_layers": 1}).n_trunk == 46


@pytest.mark.parametrize("n_layers", [1, 512])
def test_as_many_layers_as_llama_cpp_takes_are_taken(n_layers: int) -> None:
    assert shape("llama", n_layers).n_layers == n_layers


# --- attention -----------------------------------------------------------------------------------


def test_full_attention_keeps_keys_and_values_of_each_kv_head() -> None:
    assert caches("llama", 2, {"attention.head_count_kv": 2}) == Caches(
        layers=(LayerCache(k_elements=128, v_elements=128),) * 2, exact=True, note=""
    )


def test_keys_and_values_may_have_heads_of_another_length() -> None:
    keys: dict[str, Value] = {"attention.key_length": 192, "attention.value_length": 128}

    (layer,) = caches("deepseek2", 1, keys).layers

    assert (layer.k_elements, layer.v_elements) == (192, 128)


def test_latent_attention_keeps_one_row_without_values() -> None:
    keys: dict[str, Value] = {
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }

    assert caches("deepseek2", 2, keys).layers == (LayerCache(k_elements=576),) * 2


@pytest.mark.parametrize("name", sorted(CACHELESS))
def test_encoders_keep_nothing(name: str) -> None:
    assert caches(name, 2).layers == (LayerCache(),) * 2


def test_an_unknown_architecture_is_counted_in_full_and_called_an_estimate() -> None:
    found = caches("new-in-2027", 2, {"attention.sliding_window": WINDOWED})

    assert found == Caches(
        layers=(LayerCache(k_elements=64, v_elements=64),) * 2,
        exact=False,
        note="llama.cpp's cache for 'new-in-2027' is not known here; "
        "every layer is counted in full",
    )


def test_no_architecture_is_in_two_tables() -> None:
    tables = (CACHELESS, HYBRIDS, PLAIN, RECURRENT, frozenset(SLIDING_WINDOWS))

    assert sum(map(len, tables)) == len(frozenset().union(*tables))


@pytest.mark.parametrize("name", ["phi3", "qwen2", "llama"])
def test_a_window_that_llama_cpp_does_not_apply_is_not_applied(name: str) -> None:
    assert windows(name, 4) == (FULL,) * 4


# --- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemma2", "W.W.W.W.W.W."),
        ("gemma3", "WWWWW.WWWWW."),
        ("gpt-oss", "W.W.W.W.W.W."),
        ("cohere2", "WWW.WWW.WWW."),
        ("olmo2", "WWW.WWW.WWW."),
        ("plamo3", "WWWWWWW.WWWW"),
        ("cohere2moe", ".WWW.WWW.WWW"),
        ("laguna", ".WWW.WWW.WWW"),
    ],
)
def test_full_layers_close_a_period_or_lead_it(name: str, expected: str) -> None:
    found = "".join("W" if window == WINDOWED else "." for window in windows(name, 12))

    assert found == expected


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_the_files_own_pattern_comes_first(name: str) -> None:
    keys = {"attention.sliding_window_pattern": flags(1, 1, 0, 1)}

    assert windows(name, 4, keys) == (WINDOWED, WINDOWED, FULL, WINDOWED)


@pytest.mark.parametrize(
    ("period", "expected"), [(1, "...."), (2, "W.W."), (3, "WW.W"), (0, "WWWW")]
)
def test_the_files_own_period_comes_before_the_architectures(period: int, expected: str) -> None:
    found = windows("gemma3", 4, {"attention.sliding_window_pattern": period})

    assert "".join("W" if window else "." for window in found) == expected


def test_a_pattern_that_is_too_short_is_refused() -> None:
    with pytest.raises(GGUFInvalid, match="has 3 values, not one number for each of 4 layers"):
        windows("gemma4", 4, {"attention.sliding_window_pattern": flags(1, 1, 0)})


def test_without_a_pattern_that_it_needs_an_architecture_has_no_windows() -> None:
    assert windows("gemma4", 4) == (FULL,) * 4


def test_a_window_of_nothing_is_full_attention() -> None:
    assert windows("gemma3", 6, {"attention.sliding_window": 0}) == (FULL,) * 6


@pytest.mark.parametrize(
    ("name", "tokens"), [("gemma2", 4096), ("exaone-moe", 128), ("gemma3", 0), ("llama4", 8192)]
)
def test_a_window_that_the_file_does_not_give_is_the_architectures(name: str, tokens: int) -> None:
    assert caches(name, 4).layers[0].window == tokens


@pytest.mark.parametrize(("name", "tokens"), [("llama4", 8192), ("smallthinker", 4096)])
def test_some_windows_are_fixed_whatever_the_file_says(name: str, tokens: int) -> None:
    assert max(windows(name, 4)) == tokens


def test_only_one_size_of_exaone_4_has_windows() -> None:
    assert (windows("exaone4", 30), windows("exaone4", 64)[:4]) == (
        (FULL,) * 30,
        (WINDOWED, WINDOWED, WINDOWED, FULL),
    )


def test_windowed_layers_may_have_heads_of_another_length() -> None:
    keys: dict[str, Value] = {
        "attention.sliding_window": WINDOWED,
        "attention.sliding_window_pattern": flags(1, 0),
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 32,
    }

    assert caches("gemma4", 2, keys).layers == (
        LayerCache(k_elements=16, v_elements=32, window=WINDOWED),
        LayerCache(k_elements=64, v_elements=64),
    )


@pytest.mark.parametrize(("name", "n_layers", "n_with"), [("gemma3n", 35, 20), ("gemma4", 42, 24)])
def test_later_layers_may_use_the_cache_of_earlier_ones(
    name: str, n_layers: int, n_with: int
) -> None:
    found = caches(name, n_layers, {"attention.shared_kv_layers": 18}).layers

    assert [bool(layer.k_elements) for layer in found] == [il < n_with for il in range(n_layers)]


def test_layers_for_further_tokens_keep_nothing() -> None:
    assert caches("glm4moe", 3, {"nextn_predict_layers": 1}).layers[2] == LayerCache()


# --- recurrent states ----------------------------------------------------------------------------

MAMBA: Mapping[str, Value] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 16,
}
MAMBA_STATE = 3 * 256 + 16 * 256


def kinds(found: Caches) -> str:
    """Tell for each layer whether it attends (A), recurs (R), does both (B) or neither (-)."""
    letters = {(True, False): "A", (False, True): "R", (True, True): "B", (False, False): "-"}
    return "".join(letters[bool(c.k_elements), bool(c.state_elements)] for c in found.layers)


@pytest.mark.parametrize(
    ("keys", "elements"),
    [
        (MAMBA, MAMBA_STATE),
        ({**MAMBA, "ssm.group_count": 8}, 3 * (256 + 2 * 8 * 16) + 16 * 256),
        ({**MAMBA, "ssm.conv_kernel": 0}, 16 * 256),
        ({"wkv.head_size": 64}, 128 * (2 + 64)),
        ({"wkv.head_size": 64, "token_shift_count": 1}, 128 * (1 + 64)),
        ({"shortconv.l_cache": 3}, 128 * 2),
        ({"kda.head_dim": 32, "ssm.conv_kernel": 4}, 2 * 32 * (3 * 3 + 32)),
    ],
    ids=["mamba", "mamba2", "no convolution", "rwkv", "one shift", "lfm2", "kimi"],
)
def test_a_state_has_as_many_elements_as_its_kind_keeps(
    keys: Mapping[str, Value], elements: int
) -> None:
    assert caches("mamba", 2, keys).layers == (LayerCache(state_elements=elements),) * 2


@pytest.mark.parametrize("name", ["granitehybrid", "jamba", "plamo2", "bailingmoe3"])
def test_layers_without_heads_recur(name: str) -> None:
    found = caches(name, 4, {**MAMBA, "attention.head_count_kv": flags(0, 1, 0, 1)})

    assert kinds(found) == "RARA"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "RRRARRRA"),
        ({"full_attention_interval": 2}, "RARARARA"),
        ({"full_attention_interval": 0}, "RRRARRRA"),
        ({"attention.recurrent_layers": flags(0, 0, 1, 1, 0, 0, 1, 1)}, "AARRAARR"),
        ({"nextn_predict_layers": 2}, "RRRARR--"),
    ],
    ids=["by default", "by interval", "of nothing", "by array", "less the last two"],
)
@pytest.mark.parametrize("name", ["qwen3next", "qwen35moe"])
def test_layers_recur_but_for_one_in_each_interval(
    name: str, keys: Mapping[str, Value], expected: str
) -> None:
    assert kinds(caches(name, 8, {**MAMBA, **keys})) == expected


def test_a_layer_with_a_feed_forward_part_keeps_nothing() -> None:
    heads: Mapping[str, Value] = {
        "attention.head_count_kv": flags(0, 1, 0, 1),
        "feed_forward_length": flags(0, 0, 64, 64),
    }

    assert kinds(caches("nemotron_h", 4, {**MAMBA, **heads})) == "RA--"


def test_attention_and_a_state_may_be_in_one_layer() -> None:
    assert kinds(caches("falcon-h1", 2, MAMBA)) == "BB"


def test_a_state_of_unknown_size_is_refused() -> None:
    with pytest.raises(GGUFInvalid, match=r"mamba\.ssm\.inner_size is missing"):
        caches("mamba", 2)


# --- published models ----------------------------------------------------------------------------


def context_mib(model: Model, n_ctx: int, n_parallel: int = 1) -> float:
    """Give what is kept between tokens, in MiB, as llama-fit-params has it in one column."""
    params = Params(n_ctx=n_ctx, n_parallel=n_parallel)
    host = footprint(model, params, program="cli").host
    return (host.kv_cache_bytes + host.recurrent_bytes) / MEBI


@pytest.mark.parametrize(
    ("model", "at_8k", "at_128k"),
    [
        # 32 layers x 2 x 8 heads of 128.
        (llama3_8b, 1024, 16384),
        # 10 of 62 layers in full, the others 1024 tokens and an ubatch of 512.
        (gemma3_27b, 1264, 10864),
        # 12 of 24 layers in full, the others 128 tokens and an ubatch, padded to 768.
        (gpt_oss_20b, 210, 3090),
        # 27 rows of 576 a token; before, 27 x 16 heads of 192 and 128.
        (deepseek_v2_lite, 243, 3888),
        (deepseek_v2_lite_legacy, 2160, 34560),
        # 12 layers x 2 x 2 heads of 256, and 36 states of 24,576 + 524,288 numbers.
        (qwen3next_80b, 192 + 75.375, 3072 + 75.375),
        # 64 states of 3 x 5120 and 16 x 5120 numbers, whatever the context.
        (mamba_28b, 23.75, 23.75),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_published_models_keep_what_was_worked_out_by_hand(
    tmp_path: Path, model: Callable[[], Spec], at_8k: float, at_128k: float
) -> None:
    file = tmp_path / "model.gguf"
    model().write(file)
    read = analyze_model(file)

    assert [context_mib(read, 8192), context_mib(read, 131072)] == [at_8k, at_128k]


def test_every_slot_has_its_own_state(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    qwen3next_80b().write(file)

    assert context_mib(analyze_model(file), 32768, n_parallel=4) == 768 + 4 * 75.375


@pytest.mark.parametrize(
    ("model", "per_layer", "n_layers"),
    [
        (mamba2_codestral_7b, 3 * (8192 + 2 * 8 * 128) + 128 * 8192, 64),
        (granite4_h_small, 3 * (8192 + 2 * 1 * 128) + 128 * 8192, 36),
        (rwkv7_29b, 2560 * (2 + 64), 32),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_published_states_have_as_many_elements(
    tmp_path: Path, model: Callable[[], Spec], per_layer: int, n_layers: int
) -> None:
    file = tmp_path / "model.gguf"
    model().write(file)

    states = [cache.state_elements for cache in analyze_model(file).caches if cache.state_elements]

    assert states == [per_layer] * n_layers


def test_gemma_4_keeps_windows_full_layers_and_nothing(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gemma4_e4b().write(file)

    windowed, full = LayerCache(512, 512, 512), LayerCache(1024, 1024)
    expected: Sequence[LayerCache] = [*[windowed] * 5, full] * 4 + [LayerCache()] * 18
    assert list(analyze_model(file).caches) == expected
