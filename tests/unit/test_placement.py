"""Where layers and experts go, held against the footprint that the search uses: all candidates are
tried here, one by one, so the answer must be the best and not only a good one."""

from dataclasses import replace

import pytest
from fakes.hosts import GIB, MIB, card, cards, dense_model, host, recorded, zoo_model
from fakes.zoo import ZOO

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.model import Model
from autotune.model.footprint import Place, footprint, place_layers
from autotune.params import ALL_LAYERS, Params
from autotune.recommend import generate_recommendations
from autotune.recommend.placement import (
    Placement,
    budget_bytes,
    footprint_on,
    on_cpu,
    place,
    staging_bytes,
    taken,
    used_gpus,
)

PARAMS = Params(n_ctx=4096, n_batch=512, n_ubatch=512, type_k="f16", type_v="f16")
RESERVED = 1024 * MIB  # What llama.cpp's own --fit leaves free of a device.

DENSE = ("llama3-8b", "gemma3-27b", "qwen3-32b", "phi3-mini")
MOE = ("qwen3moe-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "llama4-scout", "jamba-mini")


def placed(name: str, *free_gib: float) -> Placement:
    return place(zoo_model(name), PARAMS, cards(*free_gib), "server")


def needed(model: Model, params: Params, n_gpus: int = 1) -> list[int]:
    """Give the bytes that each GPU must have, the first one's copies of host weights included."""
    gpus = cards(*[24] * n_gpus)
    totals = [gpu.total_bytes for gpu in footprint_on(gpus, model, params, "server").gpus]
    first = taken(params, gpus)[0]
    totals[first] += staging_bytes(model, params.n_gpu_layers or 0, params.n_cpu_moe or 0)
    return totals


def fits(model: Model, gpu: Gpu, n_gpu_layers: int, n_cpu_moe: int = 0) -> bool:
    params = replace(PARAMS, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe or None)
    return needed(model, params)[0] <= budget_bytes(gpu)


def best_by_trying_all(model: Model, gpu: Gpu) -> tuple[int, int]:
    """Give layers on the GPU and layers whose experts are not, in the order of preference."""
    n_layers = len(model.layers)
    all_layers = [(ALL_LAYERS, 0)]
    if model.is_moe:
        all_layers += [(ALL_LAYERS, n_cpu_moe) for n_cpu_moe in range(1, n_layers + 1)]
    without = n_layers if model.is_moe else 0
    fewer = [(n, without) for n in range(n_layers, 0, -1)]
    candidates = [*all_layers, *fewer]
    return next((c for c in candidates if fits(model, gpu, *c)), (0, 0))


# --- the budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "expected"), [(24 * GIB, 23 * GIB), (RESERVED, 0), (300 * MIB, 0), (0, 0)]
)
def test_a_gib_of_free_memory_is_left_alone(free: int, expected: int) -> None:
    assert budget_bytes(replace(card(24), free_bytes=free)) == expected


def test_free_memory_counts_and_not_all_of_it() -> None:
    model = zoo_model("llama3-8b")
    alone, crowded = card(24), card(4, 24)
    assert place(model, PARAMS, [alone], "server").params.n_gpu_layers == ALL_LAYERS
    assert place(model, PARAMS, [crowded], "server") == place(model, PARAMS, [card(4)], "server")


@pytest.mark.parametrize("free_gib", [0, 0.3, 1.0])
def test_without_a_budget_everything_is_on_the_cpu(free_gib: float) -> None:
    placement = placed("llama3-8b", free_gib)
    assert placement == on_cpu(zoo_model("llama3-8b"), PARAMS, "server", n_gpus=1)
    assert placement.params.n_gpu_layers == 0
    assert placement.memory.gpus[0].total_bytes == 0


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [((0.3,), ("none",)), ((4,), None), ((0.5, 24), ("CUDA1",)), ((24, 0.5), ("CUDA0",))],
    ids=str,
)
def test_a_gpu_without_room_is_left_alone_by_the_command(
    free_gib: tuple[float, ...], expected: tuple[str, ...] | None
) -> None:
    """llama.cpp would copy weights to it for every prompt."""
    machine = replace(host(), gpus=cards(*free_gib))
    assert generate_recommendations(machine, zoo_model("llama3-8b")).params.devices == expected


# --- one GPU -------------------------------------------------------------------------------------


@pytest.mark.parametrize("free_gib", [1.3, 2, 4, 8, 16, 24], ids=lambda gib: f"{gib} GiB")
@pytest.mark.parametrize("name", ZOO)
def test_the_placement_is_the_best_of_all(name: str, free_gib: float) -> None:
    model, gpu = zoo_model(name), card(free_gib)

    params = place(model, PARAMS, [gpu], "server").params

    assert (params.n_gpu_layers, params.n_cpu_moe or 0) == best_by_trying_all(model, gpu)


@pytest.mark.parametrize("name", [*DENSE, *MOE])
def test_what_fits_to_the_byte_is_all_on_the_gpu(name: str) -> None:
    model = zoo_model(name)
    (all_of_it,) = needed(model, replace(PARAMS, n_gpu_layers=ALL_LAYERS))
    enough = replace(card(0), free_bytes=all_of_it + RESERVED)
    short = replace(enough, free_bytes=enough.free_bytes - 1)

    whole = place(model, PARAMS, [enough], "server")
    less = place(model, PARAMS, [short], "server")

    assert whole.params == replace(PARAMS, n_gpu_layers=ALL_LAYERS)
    assert (whole.complete, less.complete) == (True, False)


@pytest.mark.parametrize("name", DENSE)
def test_of_a_dense_model_one_layer_more_would_be_too_much(name: str) -> None:
    model, gpu = zoo_model(name), card(4)
    n = place(model, PARAMS, [gpu], "server").params.n_gpu_layers or 0
    assert 0 < n < model.n_offloadable
    assert fits(model, gpu, n)
    assert not fits(model, gpu, n + 1)


@pytest.mark.parametrize("free_gib", [9, 12, 16, 24], ids=lambda gib: f"{gib} GiB")
@pytest.mark.parametrize("name", MOE)
def test_experts_leave_the_gpu_before_any_attention(name: str, free_gib: float) -> None:
    model, gpu = zoo_model(name), card(free_gib)

    placement = place(model, PARAMS, [gpu], "server")

    kept = placement.params.n_cpu_moe or 0
    assert placement.params.n_gpu_layers == ALL_LAYERS
    assert set(place_layers(model, placement.params, (1.0,))) == {0}
    assert placement.memory.host.kv_cache_bytes == 0
    assert not kept or not fits(model, gpu, ALL_LAYERS, kept - 1)


def test_of_a_model_without_room_for_its_attention_fewer_layers_are_offloaded() -> None:
    model, gpu = zoo_model("deepseek-v3"), card(12)
    params = place(model, PARAMS, [gpu], "server").params
    n = params.n_gpu_layers or 0
    assert params.n_cpu_moe == len(model.layers)
    assert 0 < n < model.n_offloadable
    assert not fits(model, gpu, n + 1, len(model.layers))


def test_a_placement_carries_the_memory_of_its_parameters() -> None:
    model = zoo_model("qwen3moe-30b-a3b")
    placement = place(model, PARAMS, [card(12)], "server")
    counted = footprint(model, placement.params, program="server", gpus=(1.0,))
    assert placement.memory == counted


@pytest.mark.parametrize("name", ["mamba-2.8b", "rwkv7-2.9b"])
def test_a_model_without_attention_is_offloaded_like_another(name: str) -> None:
    placement = placed(name, 8)
    assert placement.complete
    assert placement.memory.gpus[0].recurrent_bytes > 0


# --- weights that are copied over ----------------------------------------------------------------


def test_what_is_all_on_the_gpu_is_copied_from_nowhere() -> None:
    assert staging_bytes(zoo_model("llama3-8b"), ALL_LAYERS, 0) == 0


def test_the_largest_matrix_on_the_host_needs_room_on_the_first_gpu() -> None:
    model = dense_model(layers=4, embd=256)
    # The feed-forward matrices of q4_K: 256 x 768 elements, 144 bytes for 256 of them; q6_K takes
    # 210, and the first half of the layers has it in none of its matrices.
    sizes = {layer.largest_dense_bytes for layer in model.layers[:2]}
    assert staging_bytes(model, 3, 0) == max(sizes)
    assert max(sizes) in {256 * 768 // 256 * 144, 256 * 768 // 256 * 210}


def test_experts_on_the_host_need_room_for_one_stack_of_them() -> None:
    model = zoo_model("qwen3moe-30b-a3b")
    stacks = [layer.largest_expert_bytes for layer in model.layers[:20]]
    assert staging_bytes(model, ALL_LAYERS, 20) == max(stacks)


def test_the_copies_are_counted_against_the_budget() -> None:
    """Somewhere between two sizes of GPU one layer more would fit if nothing were copied."""
    model = zoo_model("llama3-8b")
    decided = 0
    for free_mib in range(2048, 5120, 32):
        gpu = card(free_mib / 1024)
        n = place(model, PARAMS, [gpu], "server").params.n_gpu_layers or 0
        more = replace(PARAMS, n_gpu_layers=n + 1)
        memory = footprint(model, more, program="server", gpus=(1.0,))
        decided += memory.gpus[0].total_bytes <= budget_bytes(gpu)
    assert decided > 0


# --- several GPUs --------------------------------------------------------------------------------


PAIRS = [(24, 8), (8, 24), (12, 12), (6, 2), (2, 6), (16, 1.5), (24, 0.5), (0.5, 24), (4, 3)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["llama3-8b", "llama3-70b", "gemma3-27b", "qwen3moe-30b-a3b"])
def test_each_gpu_keeps_to_its_own_budget(name: str, pair: tuple[float, float]) -> None:
    model, gpus = zoo_model(name), cards(*pair)

    params = place(model, PARAMS, gpus, "server").params

    if params.n_gpu_layers:
        for bytes_, gpu in zip(needed(model, params, len(gpus)), gpus, strict=True):
            assert bytes_ <= budget_bytes(gpu)


@pytest.mark.parametrize("pair", [(24, 8), (8, 24), (13, 13), (24, 24)], ids=str)
@pytest.mark.parametrize("name", ["qwen3-32b", "gemma3-27b", "qwen3moe-30b-a3b"])
def test_what_two_gpus_hold_together_is_all_on_them(name: str, pair: tuple[float, float]) -> None:
    placement = placed(name, *pair)
    assert placement.complete
    assert placement.params.n_gpu_layers == ALL_LAYERS
    assert None not in place_layers(zoo_model(name), placement.params, (1.0, 1.0))


@pytest.mark.parametrize("free_gib", [(24, 8), (8, 24), (12, 12), (24, 24, 24), (6, 2), (0.5, 24)])
@pytest.mark.parametrize("name", ["llama3-8b", "gemma3-27b", "llama3-70b"])
def test_the_split_counts_the_layers_of_each_gpu(name: str, free_gib: tuple[float, ...]) -> None:
    """The numbers are shown as layers by GPU, so they must be that."""
    model = zoo_model(name)
    params = placed(name, *free_gib).params
    if not params.tensor_split:
        return
    devices = place_layers(model, params, (1.0,) * len(free_gib))
    counted = tuple(float(devices.count(i)) for i in range(len(free_gib)))
    assert params.tensor_split == counted


def most_of_two(model: Model, gpus: tuple[Gpu, ...], n_cpu_moe: int) -> int:
    """Give the most layers for which any split keeps to both budgets."""
    budgets = [budget_bytes(gpu) for gpu in gpus]
    for n in range(model.n_offloadable, 0, -1):
        for first in range(n + 1):
            split = (float(first), float(n - first))
            params = replace(
                PARAMS, n_gpu_layers=n, n_cpu_moe=n_cpu_moe or None, tensor_split=split
            )
            if all(b <= most for b, most in zip(needed(model, params, 2), budgets, strict=True)):
                return n
    return 0


@pytest.mark.parametrize("pair", [(6, 2), (2, 6), (4, 3), (3, 1.5)], ids=str)
@pytest.mark.parametrize("name", ["llama3-8b", "gemma3-27b", "phi3-mini"])
def test_two_gpus_hold_the_most_that_any_split_allows(name: str, pair: tuple[float, float]) -> None:
    model, gpus = zoo_model(name), cards(*pair)
    params = place(model, PARAMS, gpus, "server").params
    got = min(params.n_gpu_layers or 0, model.n_offloadable)
    assert got == most_of_two(model, gpus, 0)


@pytest.mark.parametrize("pair", [(2, 6), (4, 3)], ids=str)
@pytest.mark.parametrize("name", ["jamba-mini", "qwen3moe-30b-a3b"])
def test_two_gpus_hold_the_attention_of_a_mixture_where_any_split_does(
    name: str, pair: tuple[float, float]
) -> None:
    model, gpus = zoo_model(name), cards(*pair)
    n_layers = len(model.layers)
    assert most_of_two(model, gpus, n_layers) == model.n_offloadable
    assert place(model, PARAMS, gpus, "server").params.n_gpu_layers == ALL_LAYERS


def test_a_full_first_gpu_does_not_keep_the_second_from_working() -> None:
    def layers(*free_gib: float) -> int | None:
        machine = replace(host(), gpus=cards(*free_gib))
        return generate_recommendations(machine, zoo_model("llama3-70b")).params.n_gpu_layers

    assert layers(0.5, 24) == layers(24, 0.5) == layers(24)


def test_a_model_that_one_gpu_holds_is_not_split() -> None:
    params = placed("llama3-8b", 8, 24).params

    assert (params.devices, params.tensor_split) == (("CUDA1",), None)


def test_a_server_holds_alone_only_what_no_card_of_this_machine_does() -> None:
    """However much it has: every token would go over the network."""
    gpus = (replace(card(64, backend="RPC"), name="10.0.0.5:50052"), card(20))

    chosen = [
        place(zoo_model(name), PARAMS, gpus, "server").params.devices
        for name in ("llama3-8b", "llama3-70b")
    ]

    assert chosen == [("CUDA0",), ("RPC0",)]


def test_one_gpu_is_not_split() -> None:
    assert placed("llama3-8b", 24).params.tensor_split is None


# --- which GPUs ----------------------------------------------------------------------------------


def test_beside_a_card_the_graphics_core_of_the_processor_is_not_used() -> None:
    """`llama_prepare_model_devices` adds integrated GPUs only where there is no other."""
    machine = recorded("amd-gpu")
    assert [gpu.integrated for gpu in machine.gpus] == [False, True]

    params = generate_recommendations(machine, zoo_model("llama3-8b")).params

    assert params.n_gpu_layers == ALL_LAYERS
    assert params.tensor_split is None


def test_the_graphics_core_alone_is_used() -> None:
    machine = recorded("amd-gpu")
    alone = replace(machine, gpus=machine.gpus[1:])
    recommendation = generate_recommendations(alone, zoo_model("llama3-8b"))
    assert recommendation.params.n_gpu_layers == ALL_LAYERS


def test_shared_memory_is_not_counted_twice() -> None:
    """16 GiB of a Mac: what Metal takes, the host has no more."""
    metal = card(10.6, 10.6, integrated=True, backend="Metal")
    mac = host([metal], available_gib=10.6, total_gib=16)
    recommendation = generate_recommendations(mac, zoo_model("llama3-8b"))
    assert recommendation.params.n_gpu_layers == ALL_LAYERS
    gpu, host_memory = recommendation.memory.gpus[0], recommendation.memory.host
    assert gpu.total_bytes + host_memory.total_bytes <= mac.memory.available_bytes


def test_servers_come_first_and_the_graphics_core_stays_beside_them() -> None:
    """`llama_prepare_model_devices` adds servers at the front; they are no cards to it."""
    server, core, dedicated = (
        card(8, backend="RPC"),
        card(4, integrated=True, backend="Vulkan"),
        card(8, backend="CUDA"),
    )

    used = [[gpu.backend for gpu in used_gpus(gpus)] for gpus in (
        [core, server], [dedicated, core, server])]  # fmt: skip

    assert used == [["RPC", "Vulkan"], ["RPC", "CUDA"]]


def test_of_graphics_cores_those_of_one_backend_are_used() -> None:
    first, same = (card(8, index=n, integrated=True, backend="Vulkan") for n in (0, 1))
    other = card(9, integrated=True, backend="SYCL")

    assert used_gpus([first, other, same]) == (first, same)


@pytest.mark.parametrize(
    ("params", "used"),
    [
        (Params(), (0, 1, 2)),
        (Params(devices=("CUDA2", "CUDA0")), (2, 0)),
        (Params(devices=("none",)), ()),
        (Params(split_mode="none"), (0,)),
        (Params(split_mode="none", main_gpu=2), (2,)),
        (Params(split_mode="none", main_gpu=1, devices=("CUDA2", "CUDA0")), (0,)),
    ],
    ids=["all", "named", "none", "first", "numbered", "numbered of named"],
)
def test_the_devices_that_are_used_are_those_that_llama_cpp_takes(
    params: Params, used: tuple[int, ...]
) -> None:
    assert taken(params, cards(8, 8, 8)) == used


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (Params(devices=("CUDA7",)), "there is no device CUDA7"),
        (Params(split_mode="none", main_gpu=3), "there is no main GPU 3"),
    ],
)
def test_a_device_that_is_not_there_is_refused(params: Params, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        taken(params, cards(8, 8, 8))


def test_devices_in_another_order_hold_the_layers_in_that_order() -> None:
    model, gpus = zoo_model("llama3-8b"), cards(24, 24)
    split = replace(PARAMS, tensor_split=(3.0, 1.0))

    there, back = (
        footprint_on(gpus, model, replace(split, devices=names), "server").gpus
        for names in (("CUDA0", "CUDA1"), ("CUDA1", "CUDA0"))
    )

    assert back == there[::-1]


def test_a_device_that_is_left_alone_holds_nothing() -> None:
    alone = replace(PARAMS, devices=("CUDA1",), tensor_split=(1.0, 1.0))

    first, second = footprint_on(cards(8, 24), zoo_model("llama3-8b"), alone, "server").gpus

    assert (first, second.weights_bytes > 0) == (Place(), True)
