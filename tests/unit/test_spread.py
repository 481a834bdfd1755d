"""How layers may be spread over several unequal devices."""

from dataclasses import replace

import pytest
from fakes.simulated_hosts import card, dense_8b, dense_30b, moe_30b

from autotune.hardware import Gpu
from autotune.model import Model
from autotune.params import ALL_LAYERS, Params
from autotune.recommend.placement import DRIVER_BYTES, footprint_on
from autotune.recommend.spread import device_choices, splits

PARAMS = Params(n_ctx=4096, n_batch=2048, n_ubatch=512, flash_attn="auto")


def cards(*gib: int) -> tuple[Gpu, ...]:
    return tuple(replace(card(size), index=n) for n, size in enumerate(gib))


def room(gpu: Gpu) -> int:
    return gpu.free_bytes - DRIVER_BYTES


PLACES = [
    (dense_8b(), cards(24, 8)),
    (dense_30b(), cards(24, 16)),
    (dense_30b(), cards(12, 24, 8)),
    (moe_30b(), cards(8, 16)),
]
IDS = ["8b-24-8", "30b-24-16", "30b-12-24-8", "moe-8-16"]


@pytest.mark.parametrize(("model", "gpus"), PLACES, ids=IDS)
def test_each_device_has_room_for_its_part_of_every_split(
    model: Model, gpus: tuple[Gpu, ...]
) -> None:
    found = splits(model, PARAMS, gpus)

    too_full = [
        (split, gpu.name)
        for split in found
        for gpu, place in zip(
            gpus,
            footprint_on(gpus, model, _placed(model, split), "server").gpus,
            strict=True,
        )
        if place.total_bytes > room(gpu)
    ]
    assert (too_full, len(found) > 2) == ([], True)


def _placed(model: Model, split: tuple[float, ...]) -> Params:
    n_layers = min(int(sum(split)), model.n_offloadable)
    return replace(PARAMS, n_gpu_layers=n_layers, tensor_split=split)


def test_the_ends_are_where_one_device_is_full_and_then_the_other() -> None:
    model, gpus = dense_30b(), cards(24, 16)

    first, *_, last = splits(model, PARAMS, gpus)

    beyond = [
        (replace(PARAMS, n_gpu_layers=ALL_LAYERS, tensor_split=(first[0] - 1, first[1] + 1)), 1),
        (replace(PARAMS, n_gpu_layers=ALL_LAYERS, tensor_split=(last[0] + 1, last[1] - 1)), 0),
    ]
    fits = [
        footprint_on(gpus, model, params, "server").gpus[device].total_bytes <= room(gpus[device])
        for params, device in beyond
    ]
    assert fits == [False, False]


def test_a_device_without_room_for_a_layer_gets_none() -> None:
    full = replace(cards(24, 8)[1], free_bytes=0)

    assert splits(dense_30b(), PARAMS, (cards(24)[0], full)) == ()


def test_of_two_devices_each_alone_and_the_other_order_are_worth_trying() -> None:
    assert device_choices(cards(24, 8)) == (("CUDA0",), ("CUDA1",), ("CUDA1", "CUDA0"))


def test_of_three_devices_so_are_all_but_one() -> None:
    pairs = {names for names in device_choices(cards(8, 12, 16)) if len(names) == 2}

    assert pairs == {("CUDA0", "CUDA1"), ("CUDA0", "CUDA2"), ("CUDA1", "CUDA2")}


def test_of_cards_that_are_alike_one_stands_for_the_others() -> None:
    alike = cards(24, 24, 24, 8)

    assert device_choices(alike) == (
        ("CUDA0",),
        ("CUDA3",),
        ("CUDA1", "CUDA2", "CUDA3"),
        ("CUDA0", "CUDA1", "CUDA2"),
        ("CUDA3", "CUDA2", "CUDA1", "CUDA0"),
    )


def test_of_cards_that_are_alike_the_freest_stand_for_the_others() -> None:
    alike = [
        replace(gpu, free_bytes=n << 30)
        for gpu, n in zip(cards(24, 24, 24), (20, 2, 22), strict=True)
    ]

    assert device_choices(alike) == (("CUDA2",), ("CUDA0", "CUDA2"))
