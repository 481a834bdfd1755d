from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes.gguf_writer import TensorSpec
from fakes.small import small_unknown
from fakes.zoo import (
    ZOO,
    Spec,
    deepseek_v2_lite,
    gemma3_270m,
    gemma3n_e4b,
    glm4_moe_air,
    gpt_oss_20b,
    llama3_8b,
    llama32_1b,
    mamba_28b,
    qwen3moe_30b,
)

from autotune.errors import ConfigError
from autotune.model import Model, analyze_model
from autotune.model.footprint import Footprint, Place, footprint
from autotune.params import Params, Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA_LAYER_PER_TOKEN = 2 * 8 * 128 * 2  # K and V, 8 heads of 128, f16.


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Spec]], Model]:
    """Give a function that reads a model of the zoo, each once."""
    folder = tmp_path_factory.mktemp("zoo")
    known: dict[str, Model] = {}

    def read_once(model: Callable[[], Spec]) -> Model:
        name = model.__name__
        if name not in known:
            model().write(folder / f"{name}.gguf")
            known[name] = analyze_model(folder / f"{name}.gguf")
        return known[name]

    return read_once


@pytest.fixture(scope="module")
def llama(read: Callable[[Callable[[], Spec]], Model]) -> Model:
    """32 layers, 8 heads of 128 for K and V, an output of its own, factors for its rope."""
    return read(llama3_8b)


@pytest.fixture(scope="module")
def tied(read: Callable[[Callable[[], Spec]], Model]) -> Model:
    """16 layers, and an embedding that is the output too."""
    return read(llama32_1b)


@pytest.fixture(scope="module")
def moe(read: Callable[[Callable[[], Spec]], Model]) -> Model:
    """48 layers with experts."""
    return read(qwen3moe_30b)


def on_gpus(
    model: Model,
    n_gpus: int = 1,
    **params: Any,  # noqa: ANN401 - fields of Params, passed on
) -> Footprint:
    settings = Params(n_ctx=4096, **params)
    return footprint(model, settings, program="bench", gpus=(1.0,) * n_gpus)


def kv_tokens(
    model: Model,
    program: Program = "bench",
    **params: Any,  # noqa: ANN401
) -> int:
    """Give the tokens for which a llama's host has room in its cache."""
    settings = Params(**params)
    n_bytes = footprint(model, settings, program=program).host.kv_cache_bytes
    return n_bytes // (len(model.layers) * LLAMA_LAYER_PER_TOKEN)


def with_type(which: str, type_name: str) -> Params:
    if which == "type_k":
        return Params(n_ctx=4096, type_k=type_name)
    return Params(n_ctx=4096, type_v=type_name)


# --- where weights lie ---------------------------------------------------------------------------


def test_without_a_gpu_everything_is_on_the_host(llama: Model) -> None:
    needed = on_gpus(llama, n_gpus=0, n_gpu_layers=99)

    assert (needed.host.weights_bytes, needed.gpus) == (llama.weight_bytes, ())


def test_with_no_layer_offloaded_a_gpu_holds_nothing(llama: Model) -> None:
    assert on_gpus(llama, n_gpu_layers=0).gpus == (Place(),)


def test_the_first_to_be_offloaded_is_the_output(llama: Model) -> None:
    needed = on_gpus(llama, n_gpu_layers=1)

    assert needed.gpus[0].weights_bytes == llama.output_bytes
    assert needed.gpus[0].kv_cache_bytes == 0


def test_layers_are_offloaded_from_the_last_on(moe: Model) -> None:
    needed = on_gpus(moe, n_gpu_layers=3)

    last_two = sum(layer.dense_bytes + layer.expert_bytes for layer in moe.layers[-2:])
    assert needed.gpus[0].weights_bytes == moe.output_bytes + last_two + moe.rope_bytes


@pytest.mark.parametrize("n_gpu_layers", [None, 33, 999, -1], ids=str)
def test_all_layers_offloaded_leave_the_embedding_on_the_host(
    llama: Model, n_gpu_layers: int | None
) -> None:
    assert on_gpus(llama, n_gpu_layers=n_gpu_layers).host.weights_bytes == llama.input_bytes


def test_a_tied_embedding_is_copied_to_where_the_output_is(tied: Model) -> None:
    needed = on_gpus(tied, n_gpu_layers=1)

    assert needed.host.weights_bytes == tied.weight_bytes - tied.output_bytes
    assert needed.gpus[0].weights_bytes == tied.output_bytes + tied.tied_bytes


def test_a_tied_embedding_on_the_host_is_there_once(tied: Model) -> None:
    assert on_gpus(tied, n_gpu_layers=0).host.weights_bytes == tied.weight_bytes


def test_some_architectures_hold_a_tied_embedding_twice_on_the_host(
    read: Callable[[Callable[[], Spec]], Model],
) -> None:
    model = read(gemma3n_e4b)

    needed = on_gpus(model, n_gpu_layers=0)

    assert needed.host.weights_bytes == model.weight_bytes + model.tied_bytes


@pytest.mark.parametrize(
    ("n_gpu_layers", "on_host", "on_gpu"),
    [(0, True, False), (1, True, False), (2, True, True), (32, True, True), (33, False, True)],
)
def test_every_place_with_a_layer_has_its_own_rope_factors(
    llama: Model, n_gpu_layers: int, *, on_host: bool, on_gpu: bool
) -> None:
    bare = replace(llama, rope_bytes=0)

    with_factors = on_gpus(llama, n_gpu_layers=n_gpu_layers)
    without = on_gpus(bare, n_gpu_layers=n_gpu_layers)

    assert (
        with_factors.host.weights_bytes - without.host.weights_bytes,
        with_factors.gpus[0].weights_bytes - without.gpus[0].weights_bytes,
    ) == (on_host * llama.rope_bytes, on_gpu * llama.rope_bytes)


@pytest.mark.parametrize("n_cpu_moe", [0, 1, 20, 48, 99])
def test_experts_of_the_first_layers_stay_on_the_host(moe: Model, n_cpu_moe: int) -> None:
    needed = on_gpus(moe, n_cpu_moe=n_cpu_moe)

    kept = sum(layer.expert_bytes for layer in moe.layers[:n_cpu_moe])
    assert needed.host.weights_bytes == moe.input_bytes + kept


def test_experts_that_are_on_the_host_anyway_are_there_once(moe: Model) -> None:
    assert on_gpus(moe, n_gpu_layers=0, n_cpu_moe=99).host.weights_bytes == moe.weight_bytes


def test_a_layer_for_further_tokens_counts_as_offloaded_and_holds_nothing(
    read: Callable[[Callable[[], Spec]], Model],
) -> None:
    model = read(glm4_moe_air)

    # The output and the layer behind the last that is run.
    assert on_gpus(model, n_gpu_layers=2).gpus[0].weights_bytes == model.output_bytes


# --- two GPUs and more ---------------------------------------------------------------------------


def layers_by_gpu(llama: Model, needed: Footprint) -> list[int]:
    per_layer = LLAMA_LAYER_PER_TOKEN * 4096
    assert llama.shape.n_layers == 32
    return [gpu.kv_cache_bytes // per_layer for gpu in needed.gpus]


@pytest.mark.parametrize(
    ("n_gpu_layers", "split", "expected"),
    [
        (33, (1.0, 1.0), [17, 15]),
        (33, (3.0, 1.0), [25, 7]),
        (33, (1.0, 3.0), [9, 23]),
        (33, (1.0, 0.0), [32, 0]),
        (33, (0.0, 1.0), [0, 32]),
        (33, (1.0, 1.0, 1.0), [11, 11, 10]),
        (16, (1.0, 1.0), [8, 7]),
        (1, (1.0, 1.0), [0, 0]),
        (33, (0.0, 0.0), [17, 15]),
    ],
    ids=str,
)
def test_a_tensor_split_gives_each_gpu_its_layers(
    llama: Model, n_gpu_layers: int, split: tuple[float, ...], expected: list[int]
) -> None:
    needed = on_gpus(llama, len(split), n_gpu_layers=n_gpu_layers, tensor_split=split)

    assert layers_by_gpu(llama, needed) == expected


def test_without_a_tensor_split_layers_follow_the_free_memory(llama: Model) -> None:
    needed = footprint(llama, Params(n_ctx=4096), program="bench", gpus=(24e9, 8e9))

    assert layers_by_gpu(llama, needed) == [25, 7]


def test_layers_are_split_in_the_precision_of_a_c_float(llama: Model) -> None:
    # In doubles the second share ends a hair behind 11 / 33, and would hold that layer too.
    needed = on_gpus(llama, 3, n_gpu_layers=33, tensor_split=(0.1, 0.2, 0.6))

    assert layers_by_gpu(llama, needed) == [4, 7, 21]


def test_free_memory_is_compared_in_the_precision_of_a_c_float(llama: Model) -> None:
    gpus = (11811159888.0, 6442450125.0, 17179866756.0)

    needed = footprint(llama, Params(n_ctx=4096), program="bench", gpus=gpus)

    assert layers_by_gpu(llama, needed) == [11, 6, 15]


def test_gpus_without_free_memory_hold_nothing(llama: Model) -> None:
    needed = footprint(llama, Params(n_ctx=4096), program="bench", gpus=(0.0, 0.0))

    assert needed.gpus == (Place(), Place())


def test_the_output_is_on_the_last_gpu(llama: Model) -> None:
    needed = on_gpus(llama, 2, n_gpu_layers=1)

    # The only one that is offloaded is also the first, and goes to the first.
    assert [gpu.weights_bytes for gpu in needed.gpus] == [llama.output_bytes, 0]
    assert on_gpus(llama, 2).gpus[1].weights_bytes > llama.output_bytes


@pytest.mark.parametrize("split", [(1.0,), (1.0, 1.0, 1.0)], ids=len)
def test_a_split_that_does_not_fit_the_gpus_is_refused(
    llama: Model, split: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        on_gpus(llama, 2, tensor_split=split)

    assert caught.value.message == (f"a tensor split of {len(split)} parts does not fit 2 devices")


@pytest.mark.parametrize(
    "split", [(-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0), (1e39, 1.0)], ids=str
)
def test_a_split_of_impossible_parts_is_refused(llama: Model, split: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"a tensor split of .* cannot be"):
        on_gpus(llama, 2, tensor_split=split)


@pytest.mark.parametrize(
    ("split", "shares"), [(None, (1, 1)), ((1.0, 1.0), (1, 1)), ((3.0, 1.0), (3, 1))], ids=str
)
def test_by_tensors_each_gpu_has_its_share_of_weights_and_caches(
    llama: Model, split: tuple[float, ...] | None, shares: tuple[int, int]
) -> None:
    first, second = on_gpus(llama, 2, split_mode="tensor", tensor_split=split).gpus

    for a, b in (
        (first.weights_bytes, second.weights_bytes),
        (first.kv_cache_bytes, second.kv_cache_bytes),
    ):
        assert a / b == pytest.approx(shares[0] / shares[1], rel=1e-6)
    assert first.compute_bytes == second.compute_bytes


def test_by_rows_each_gpu_has_its_share_of_the_weights_and_the_caches_of_its_layers(
    llama: Model,
) -> None:
    needed = on_gpus(llama, 2, split_mode="row", tensor_split=(3.0, 1.0))

    first, second = needed.gpus
    assert first.weights_bytes / second.weights_bytes == pytest.approx(3, rel=1e-6)
    assert layers_by_gpu(llama, needed) == [25, 7]


def test_only_whole_layers_are_counted_exactly(llama: Model) -> None:
    exact = [
        (needed.weights_exact, needed.caches_exact)
        for mode in ("layer", "row", "tensor")
        for needed in [on_gpus(llama, 2, split_mode=mode)]
    ]

    assert exact == [(True, True), (False, True), (False, False)]


# --- the cache -----------------------------------------------------------------------------------


def test_a_layers_cache_is_where_the_layer_is(llama: Model) -> None:
    needed = on_gpus(llama, n_gpu_layers=3)

    per_layer = LLAMA_LAYER_PER_TOKEN * 4096
    assert (needed.host.kv_cache_bytes, needed.gpus[0].kv_cache_bytes) == (
        30 * per_layer,
        2 * per_layer,
    )


def test_the_cache_may_be_kept_on_the_host(llama: Model) -> None:
    needed = on_gpus(llama, no_kv_offload=True)

    assert (needed.host.kv_cache_bytes, needed.gpus[0].kv_cache_bytes) == (
        32 * LLAMA_LAYER_PER_TOKEN * 4096,
        0,
    )


def test_a_gpu_that_reads_a_cache_on_the_host_has_room_for_one_layer_of_it(llama: Model) -> None:
    there, here = on_gpus(llama, no_kv_offload=True), on_gpus(llama)

    more = there.gpus[0].compute_bytes - here.gpus[0].compute_bytes
    assert more == LLAMA_LAYER_PER_TOKEN * 4096


@pytest.mark.parametrize(
    ("n_ctx", "padded"),
    [(1, 256), (255, 256), (256, 256), (257, 512), (5000, 5120), (131072, 131072)],
)
def test_a_context_is_padded_to_a_multiple_of_256(llama: Model, n_ctx: int, padded: int) -> None:
    assert kv_tokens(llama, n_ctx=n_ctx) == padded


@pytest.mark.parametrize("n_ctx", [None, 0])
def test_without_a_context_it_is_the_training_context(llama: Model, n_ctx: int | None) -> None:
    assert kv_tokens(llama, n_ctx=n_ctx) == 131072


@pytest.mark.parametrize(
    ("n_ctx", "n_parallel", "padded"),
    [(4096, 4, 4096), (4096, 3, 3 * 1536), (1000, 4, 1024), (256, 256, 256 * 256)],
)
def test_every_slot_has_its_part_of_the_context_padded(
    llama: Model, n_ctx: int, n_parallel: int, padded: int
) -> None:
    assert kv_tokens(llama, n_ctx=n_ctx, n_parallel=n_parallel) == padded


def test_slots_with_one_cache_share_the_context(llama: Model) -> None:
    assert kv_tokens(llama, n_ctx=4096, n_parallel=3, kv_unified=True) == 4096


@pytest.mark.parametrize(
    ("program", "n_parallel", "full", "windowed"),
    [
        ("bench", None, 8192, 512 + 512),
        ("cli", None, 8192, 512 + 512),
        # Four slots share one cache, which holds the windows of all beside one ubatch.
        ("server", None, 8192, 4 * 512 + 512),
        # Three slots have one each, for 2731 tokens in steps of 256.
        ("server", 3, 3 * 2816, 3 * (512 + 512)),
    ],
    ids=["bench", "cli", "server", "three slots"],
)
def test_a_windows_cache_holds_the_window_and_an_ubatch(
    read: Callable[[Callable[[], Spec]], Model],
    program: Program,
    n_parallel: int | None,
    full: int,
    windowed: int,
) -> None:
    params = Params(n_ctx=8192, n_parallel=n_parallel)

    n_bytes = footprint(read(gemma3_270m), params, program=program).host.kv_cache_bytes

    per_token = 2 * 256 * 2  # One head of 256 for K and for V, f16.
    assert n_bytes == per_token * (3 * full + 15 * windowed)


def test_a_window_is_never_larger_than_the_context(
    read: Callable[[Callable[[], Spec]], Model],
) -> None:
    model = read(gemma3_270m)

    n_bytes = footprint(model, Params(n_ctx=512), program="cli").host.kv_cache_bytes

    assert n_bytes == 2 * 256 * 2 * 18 * 512


def test_a_recurrent_state_is_kept_for_every_slot(
    read: Callable[[Callable[[], Spec]], Model],
) -> None:
    model = read(mamba_28b)

    needed = {
        n: footprint(model, Params(n_ctx=4096, n_parallel=n), program="cli").host for n in (1, 4)
    }

    one = 64 * 4 * 5120 * (3 + 16)
    assert {n: host.recurrent_bytes for n, host in needed.items()} == {1: one, 4: 4 * one}
    assert {host.kv_cache_bytes for host in needed.values()} == {0}


@pytest.mark.parametrize(
    ("type_name", "bits"),
    [
        ("f32", 32),
        ("f16", 16),
        ("bf16", 16),
        ("q8_0", 8.5),
        ("q5_1", 6),
        ("q5_0", 5.5),
        ("q4_1", 5),
        ("q4_0", 4.5),
        ("iq4_nl", 4.5),
    ],
)
def test_a_cache_type_has_its_bits(llama: Model, type_name: str, bits: float) -> None:
    params = Params(n_ctx=4096, type_k=type_name, type_v=type_name)

    n_bytes = footprint(llama, params, program="cli").host.kv_cache_bytes

    assert n_bytes == 32 * 4096 * 2 * 8 * 128 * bits / 8


def test_keys_and_values_may_have_different_types(llama: Model) -> None:
    params = Params(n_ctx=4096, type_k="q8_0", type_v="q4_0")

    n_bytes = footprint(llama, params, program="cli").host.kv_cache_bytes

    assert n_bytes == 32 * 4096 * 8 * 128 * (8.5 + 4.5) / 8


@pytest.mark.parametrize("type_name", ["q6_K", "F16", "int8", "mxfp4"])
@pytest.mark.parametrize("which", ["type_k", "type_v"])
def test_a_type_that_no_cache_has_is_refused(llama: Model, which: str, type_name: str) -> None:
    params = with_type(which, type_name)

    with pytest.raises(ConfigError) as caught:
        footprint(llama, params, program="cli")

    assert caught.value.message == f"{type_name!r} is no type that llama.cpp has for its cache"
    assert caught.value.hint == (
        "choose one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1"
    )


@pytest.mark.parametrize("which", ["type_k", "type_v"])
def test_heads_that_do_not_divide_into_blocks_are_refused(tmp_path: Path, which: str) -> None:
    # Two heads of 80 make rows of 160, which would divide; llama.cpp asks for heads that do.
    spec = small_unknown()
    keys = {f"{spec.arch}.attention.{part}_length": 80 for part in ("key", "value")}
    heads = {f"{spec.arch}.attention.head_count_kv": 2}
    Spec({**spec.metadata, **keys, **heads}, spec.tensors).write(tmp_path / "model.gguf")
    model = analyze_model(tmp_path / "model.gguf")

    with pytest.raises(ConfigError) as caught:
        footprint(model, with_type(which, "q8_0"), program="cli")

    assert caught.value.message == (
        "this model's heads of 80 elements cannot be q8_0, which packs 32 together"
    )


def test_a_quantised_v_without_flash_attention_is_refused(llama: Model) -> None:
    with pytest.raises(ConfigError, match="a V cache of q8_0 needs flash attention"):
        footprint(llama, Params(n_ctx=4096, type_v="q8_0", flash_attn=False), program="cli")


def test_a_quantised_k_needs_no_flash_attention(llama: Model) -> None:
    params = Params(n_ctx=4096, type_k="q8_0", flash_attn=False)

    n_bytes = footprint(llama, params, program="cli").host.kv_cache_bytes

    assert n_bytes == 32 * 4096 * 8 * 128 * (8.5 + 16) / 8


def test_latent_attention_of_two_types_is_refused(
    read: Callable[[Callable[[], Spec]], Model],
) -> None:
    with pytest.raises(ConfigError, match="keeps K and V in one cache"):
        footprint(read(deepseek_v2_lite), Params(n_ctx=4096, type_k="q8_0"), program="cli")


@pytest.mark.parametrize(
    ("n_ctx", "n_parallel"), [(-1, 1), (4096, -1), (4096, 257), (-4096, 4)], ids=str
)
def test_slots_and_contexts_that_cannot_be_are_refused(
    llama: Model, n_ctx: int, n_parallel: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        footprint(llama, Params(n_ctx=n_ctx, n_parallel=n_parallel), program="cli")

    assert caught.value.message == (f"a context of {n_ctx} tokens for {n_parallel} slots cannot be")


# --- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["bench", "cli", "server"])
def test_only_an_unset_server_has_four_slots_with_one_cache(
    read: Callable[[Callable[[], Spec]], Model], program: Program
) -> None:
    model = read(mamba_28b)

    unset = footprint(model, Params(n_ctx=4096), program=program).host.recurrent_bytes
    one = footprint(model, Params(n_ctx=4096, n_parallel=1), program=program).host.recurrent_bytes

    assert unset // one == (4 if program == "server" else 1)


def test_a_servers_four_slots_share_the_context(llama: Model) -> None:
    assert kv_tokens(llama, "server", n_ctx=4096) == 4096


def test_a_servers_four_slots_may_be_kept_apart(llama: Model) -> None:
    assert kv_tokens(llama, "server", n_ctx=1000, kv_unified=False) == 1024


@pytest.mark.parametrize("model", [llama3_8b, gemma3_270m, gpt_oss_20b, mamba_28b])
def test_bench_keeps_the_logits_of_a_whole_ubatch(
    read: Callable[[Callable[[], Spec]], Model], model: Callable[[], Spec]
) -> None:
    params = Params(n_ctx=4096, n_parallel=1)
    compute = {
        program: footprint(read(model), params, program=program).host.compute_bytes
        for program in ("bench", "cli", "server")
    }

    assert compute["bench"] >= 512 * 4 * read(model).n_vocab
    assert compute["bench"] >= compute["server"] == compute["cli"]


@pytest.mark.parametrize("model", [llama3_8b, gpt_oss_20b, deepseek_v2_lite])
def test_programs_differ_in_nothing_but_slots_and_logits(
    read: Callable[[Callable[[], Spec]], Model], model: Callable[[], Spec]
) -> None:
    params = Params(n_ctx=4096, n_parallel=2)
    found = {
        replace(footprint(read(model), params, program=program).host, compute_bytes=0)
        for program in ("bench", "cli", "server")
    }

    assert len(found) == 1


# --- the whole -----------------------------------------------------------------------------------


def test_a_batch_holds_no_more_than_the_context(llama: Model) -> None:
    small = footprint(llama, Params(n_ctx=256, n_ubatch=256), program="bench")

    assert footprint(llama, Params(n_ctx=256, n_ubatch=2048), program="bench") == small


def test_an_ubatch_is_no_larger_than_the_batch(llama: Model) -> None:
    small = footprint(llama, Params(n_ctx=4096, n_ubatch=128), program="bench")

    assert footprint(llama, Params(n_ctx=4096, n_batch=128), program="bench") == small


def test_totals_are_sums(moe: Model) -> None:
    needed = on_gpus(moe, 2, n_gpu_layers=20, n_cpu_moe=40)

    host = needed.host
    assert host.total_bytes == (
        host.weights_bytes + host.kv_cache_bytes + host.recurrent_bytes + host.compute_bytes
    )
    assert needed.total_bytes == host.total_bytes + sum(gpu.total_bytes for gpu in needed.gpus)


def test_an_unknown_architecture_makes_the_caches_an_estimate(tmp_path: Path) -> None:
    small_unknown().write(tmp_path / "model.gguf")

    needed = footprint(analyze_model(tmp_path / "model.gguf"), Params(), program="cli")

    assert (needed.weights_exact, needed.caches_exact) == (True, False)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_known_model_is_exact(tmp_path: Path, name: str) -> None:
    ZOO[name]().write(tmp_path / "model.gguf")

    needed = footprint(analyze_model(tmp_path / "model.gguf"), Params(n_ctx=4096), program="cli")

    assert (needed.weights_exact, needed.caches_exact) == (True, True)


def test_weights_are_padded_as_buffers_are(tmp_path: Path) -> None:
    spec = small_unknown()
    odd = TensorSpec("output_odd.weight", (3,), "f32")
    file = tmp_path / "model.gguf"
    spec.write(file)
    plain = analyze_model(file)
    Spec(spec.metadata, (*spec.tensors, odd)).write(file)

    assert analyze_model(file).weight_bytes - plain.weight_bytes == 32
