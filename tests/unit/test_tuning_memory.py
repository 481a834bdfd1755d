"""Which configurations fit, by what llama.cpp will allocate and by what has happened."""

from dataclasses import replace

import pytest
from fakes.simulated_hosts import GIB, card, dense_8b, dense_30b, hardware, moe_30b

from autotune.hardware import Gpu, Hardware
from autotune.model import Model
from autotune.params import ALL_LAYERS, Params
from autotune.tuning.memory import Memory

BASE = Params(n_threads=16, n_batch=2048, n_ubatch=512, flash_attn="auto")
ALL = replace(BASE, n_gpu_layers=ALL_LAYERS)
LARGE = replace(ALL, n_ubatch=2048)


def memory_on(model: Model, *gpus: Gpu, n_ctx: int = 4096, n_tested: int = 512) -> Memory:
    return Memory(hardware(gpus), model, n_ctx=n_ctx, n_tested=n_tested)


def dense_on_24() -> Memory:
    return memory_on(dense_30b(), card(24))


def moe_on_16() -> Memory:
    return memory_on(moe_30b(), card(16))


def layers(params: Params | None) -> int:
    assert params is not None
    return params.n_gpu_layers or 0


def experts_on_host(params: Params | None) -> int:
    assert params is not None
    return params.n_cpu_moe or 0


def test_what_fits_keeps_its_placement() -> None:
    asked = replace(BASE, n_gpu_layers=10)

    assert dense_on_24().fitted(asked) == asked


def test_a_dense_model_gives_up_just_the_layers_that_do_not_fit() -> None:
    memory = dense_on_24()

    fitted = memory.fitted(ALL)

    one_more = replace(ALL, n_gpu_layers=layers(fitted) + 1)
    assert (fitted and memory.fits(fitted), memory.fits(one_more)) == (True, False)


def test_a_mixture_of_experts_gives_up_just_the_experts_that_do_not_fit() -> None:
    memory = moe_on_16()

    fitted = memory.fitted(ALL)

    one_less = replace(ALL, n_cpu_moe=experts_on_host(fitted) - 1)
    assert (layers(fitted), memory.fits(one_less)) == (ALL_LAYERS, False)


def test_a_mixture_of_experts_gives_up_layers_when_no_experts_are_left_on_the_gpu() -> None:
    memory = memory_on(moe_30b(), replace(card(4), free_bytes=3 * GIB // 2))

    fitted = memory.fitted(ALL)

    assert (experts_on_host(fitted), 0 < layers(fitted) < memory.n_offloadable) == (48, True)


def test_experts_that_are_asked_for_on_the_host_stay_there() -> None:
    asked = replace(ALL, n_cpu_moe=40)

    assert moe_on_16().fitted(asked) == asked


def test_a_larger_ubatch_costs_layers() -> None:
    memory = dense_on_24()

    assert layers(memory.fitted(LARGE)) < layers(memory.fitted(ALL))


def test_a_longer_context_costs_layers() -> None:
    short, long = (memory_on(dense_30b(), card(24), n_ctx=n) for n in (4096, 32768))

    assert layers(long.fitted(ALL)) < layers(short.fitted(ALL))


def test_a_longer_test_than_what_is_served_costs_layers_too() -> None:
    short, long = (
        memory_on(dense_30b(), card(24), n_ctx=512, n_tested=n) for n in (512, 30 * 1024)
    )

    assert layers(long.fitted(ALL)) < layers(short.fitted(ALL))


def test_nothing_helps_where_the_host_has_no_room_for_the_cache() -> None:
    bare = hardware(())
    little = replace(bare, memory=replace(bare.memory, available_bytes=GIB))

    memory = Memory(little, dense_8b(), n_ctx=32768, n_tested=512)

    assert (memory.fits(BASE), memory.fitted(BASE)) == (False, None)


def test_weights_may_be_more_than_the_hosts_memory() -> None:
    bare: Hardware = hardware(())
    little = replace(bare, memory=replace(bare.memory, available_bytes=8 * GIB))

    assert Memory(little, dense_30b(), n_ctx=4096, n_tested=512).fits(BASE)


def test_without_a_gpu_nothing_is_refitted() -> None:
    assert memory_on(dense_8b()).fitted(BASE) == BASE


def test_the_default_placement_leaves_1024_mib_of_the_gpu_free() -> None:
    memory, gpu = dense_on_24(), card(24)

    default = memory.as_by_default(BASE)

    assert default
    one_more = replace(default, n_gpu_layers=layers(default) + 1)
    left = [gpu.free_bytes - memory.gpu_bytes(params) for params in (default, one_more)]
    assert left[0] >= GIB > left[1]


def test_a_model_that_fits_is_put_on_the_gpu_by_default_whatever_was_asked() -> None:
    assert memory_on(dense_8b(), card(24)).as_by_default(BASE) == ALL


def test_what_takes_as_much_as_what_has_failed_is_kept_out() -> None:
    memory = dense_on_24()
    failed = memory.fitted(ALL)
    assert failed
    one_less = replace(failed, n_gpu_layers=layers(failed) - 1)

    memory.remember_success(one_less)
    memory.remember_failure(failed)

    assert [memory.fits(p) for p in (failed, one_less)] == [False, True]


def test_the_edge_is_found_by_halves() -> None:
    memory = dense_on_24()
    most = memory.fitted(ALL)
    assert most
    true_edge, tried = layers(most) - 7, []

    while (next_ := memory.fitted(ALL)) and layers(next_) not in tried:
        tried.append(layers(next_))
        if layers(next_) > true_edge:
            memory.remember_failure(next_)
        else:
            memory.remember_success(next_)

    assert tried[-1] == true_edge
    assert len(tried) <= 7


def test_a_failure_keeps_other_configurations_of_the_same_size_out() -> None:
    memory = dense_on_24()
    failed, large = memory.fitted(ALL), memory.fitted(LARGE)
    assert failed
    assert large

    memory.remember_failure(min(failed, large, key=memory.gpu_bytes))

    assert not memory.fits(max(failed, large, key=memory.gpu_bytes))


def test_the_next_fit_after_a_failure_takes_half_of_what_has_not_worked_yet() -> None:
    memory = dense_on_24()
    failed = memory.fitted(ALL)
    assert failed

    memory.remember_failure(failed)

    # The cache of the layers comes with them; what stays on the host takes no part.
    assert layers(memory.fitted(ALL)) == pytest.approx(layers(failed) / 2, abs=1)


@pytest.mark.parametrize("success_first", [True, False])
def test_what_has_worked_fits_whatever_has_failed(*, success_first: bool) -> None:
    memory = dense_on_24()
    fitted = memory.fitted(ALL)
    assert fitted
    smaller = replace(fitted, n_gpu_layers=layers(fitted) - 5)

    if success_first:
        memory.remember_success(fitted)
    memory.remember_failure(smaller)
    memory.remember_success(fitted)

    assert (memory.fits(smaller), memory.fits(fitted)) == (True, True)


def test_threads_and_switches_of_speed_take_no_memory() -> None:
    memory = dense_on_24()
    failed = memory.fitted(ALL)
    assert failed

    memory.remember_failure(failed)

    assert not memory.fits(replace(failed, n_threads=3, load_mode="none", repack=False))


@pytest.mark.parametrize(
    ("params", "on_host"),
    [(ALL, 0), (replace(ALL, n_gpu_layers=0), 41), (replace(ALL, n_gpu_layers=30), 11)],
)
def test_layers_that_are_not_on_the_gpu_are_on_the_host(params: Params, on_host: int) -> None:
    assert dense_on_24().layers_on_host(params) == on_host


@pytest.mark.parametrize(
    ("params", "on_host"),
    [(ALL, 0), (replace(ALL, n_cpu_moe=7), 7), (replace(ALL, n_gpu_layers=9, n_cpu_moe=7), 40)],
)
def test_layers_whose_experts_are_on_the_host_are_counted_once(
    params: Params, on_host: int
) -> None:
    assert moe_on_16().layers_on_host(params) == on_host


# --- several devices -----------------------------------------------------------------------------


def cards(*gib: int, backend: str = "CUDA") -> tuple[Gpu, ...]:
    named = (replace(card(n), backend=backend, name=f"10.0.0.{i}:50052") for i, n in enumerate(gib))
    return tuple(replace(gpu, index=i) for i, gpu in enumerate(named))


def on_two_cards(*, backend: str = "CUDA") -> Memory:
    return memory_on(dense_30b(), *cards(24, 16, backend=backend))


def split(first: int, second: int, params: Params = ALL) -> Params:
    return replace(params, tensor_split=(float(first), float(second)))


def test_a_card_that_is_left_alone_needs_no_room() -> None:
    memory = on_two_cards()
    alone = replace(BASE, n_gpu_layers=25, devices=("CUDA0",))

    assert (memory.fits(alone), memory.fits(replace(alone, devices=("CUDA1",)))) == (True, False)


def test_by_its_number_a_card_alone_needs_the_same_room() -> None:
    memory, few = on_two_cards(), replace(BASE, n_gpu_layers=10)
    named = [replace(few, devices=(name,)) for name in ("CUDA0", "CUDA1")]
    numbered = [replace(few, split_mode="none", main_gpu=n) for n in (0, 1)]

    assert [memory.gpu_bytes(p) for p in numbered] == [memory.gpu_bytes(p) for p in named]


def test_a_device_that_is_not_there_has_no_room() -> None:
    assert not on_two_cards().fits(replace(BASE, n_gpu_layers=1, devices=("CUDA7",)))


@pytest.mark.parametrize(("backend", "place"), [("CUDA", "CUDA1"), ("RPC", "RPC0[10.0.0.1:50052]")])
def test_a_failure_is_of_the_device_that_is_named(backend: str, place: str) -> None:
    memory = on_two_cards(backend=backend)

    memory.remember_failure(split(25, 16), place)

    # Half of it is tried next on the second, and all of what is there on the first.
    assert [memory.fits(p) for p in (split(28, 13), split(24, 17))] == [False, False]
    memory.remember_success(split(27, 14, replace(BASE, n_gpu_layers=36)))
    assert [memory.fits(p) for p in (split(28, 13), split(24, 17))] == [True, False]


def test_a_server_that_is_named_by_its_address_is_known_by_it() -> None:
    """As llama.cpp had it, until a server could have several devices."""
    names = ("RPC[10.0.0.1:50052]", "RPC[10.0.0.2:50052]")
    servers = [
        replace(server, name=name, listed_as=name)
        for server, name in zip(cards(24, 16, backend="RPC"), names, strict=True)
    ]
    memory = memory_on(dense_30b(), *servers)

    memory.remember_failure(split(25, 16), names[1])
    memory.remember_success(split(27, 14, replace(BASE, n_gpu_layers=36)))

    # By what is full, it would be the first.
    assert [memory.fits(p) for p in (split(28, 13), split(24, 17))] == [True, False]


@pytest.mark.parametrize(
    "larger",
    [
        replace(split(25, 16), n_ubatch=1024),
        replace(split(25, 16), type_k="f32", type_v="f32"),
        split(24, 17),
        replace(split(16, 25), devices=("CUDA1", "CUDA0")),
        replace(ALL, tensor_split=None, devices=("CUDA1",)),
    ],
    ids=["ubatch", "cache type", "split", "order", "alone"],
)
def test_what_takes_more_of_a_card_that_was_full_is_kept_out(larger: Params) -> None:
    memory = on_two_cards()

    memory.remember_failure(split(25, 16), "CUDA1")
    memory.remember_success(split(25, 16, replace(BASE, n_gpu_layers=38)))

    assert not memory.fits(larger)


def test_where_no_device_is_named_it_is_the_one_that_never_held_as_much() -> None:
    memory = on_two_cards()
    memory.remember_success(split(28, 13))

    memory.remember_failure(split(25, 16))

    assert [memory.fits(p) for p in (split(28, 13), split(25, 16))] == [True, False]


def test_a_full_host_is_no_reason_to_leave_a_card_empty() -> None:
    memory = on_two_cards()

    memory.remember_failure(split(25, 16), "CPU")

    assert memory.fits(split(25, 16))


def test_what_has_not_failed_may_still_be_hoped_for() -> None:
    memory = on_two_cards()
    memory.remember_failure(split(25, 16), "CUDA1")

    next_, hoped = memory.fitted(split(25, 16)), memory.hoped_for(split(25, 16))

    assert layers(next_) < layers(hoped) < memory.n_offloadable
