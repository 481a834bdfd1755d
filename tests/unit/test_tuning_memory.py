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
