"""Several devices in the space: their values, and what of them goes together."""

from dataclasses import replace

import pytest
from fakes.simulated_hosts import card, dense_30b
from fakes.spaces import DEFAULTS, NONE, TODAY, Wish, space_of
from recorded_builds import capabilities_of

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.llama_cpp.dialect import render
from autotune.params import ALL_LAYERS, Params
from autotune.tuning.devices import towards_each
from autotune.tuning.space import Space

BEFORE_NAMES = "0.3.16-2025-08"
ALL_ON_GPU = replace(DEFAULTS, n_gpu_layers=ALL_LAYERS)
OF_DEVICES = {"devices", "split_mode", "main_gpu", "tensor_split"}


def cards(*gib: int, backend: str = "CUDA") -> tuple[Gpu, ...]:
    return tuple(replace(card(n), index=i, backend=backend) for i, n in enumerate(gib))


def space_on(
    *gpus: Gpu, wish: Wish = NONE, build: str = TODAY, defaults: Params = ALL_ON_GPU
) -> Space:
    seed = replace(defaults, n_ctx=4096)
    model = dense_30b()
    return space_of(*gpus, model=model, build=build, defaults=defaults, seed=seed, wish=wish)


def of_devices(space: Space) -> set[str]:
    return OF_DEVICES & {dimension.name for dimension in space.dimensions}


# --- what is in it -------------------------------------------------------------------------------


def test_one_card_is_no_question() -> None:
    assert of_devices(space_on(*cards(24))) == set()


def test_of_two_cards_it_is_one_which_are_used_and_how_they_share() -> None:
    space = space_on(*cards(24, 16))

    assert {name: space.values_of(name) for name in ("devices", "split_mode")} == {
        "devices": ("auto", "CUDA0", "CUDA1", "CUDA1/CUDA0"),
        "split_mode": ("layer", "row", "tensor"),
    }


def test_splits_are_in_the_order_of_the_first_cards_part_with_llama_cpps_own_among_them() -> None:
    values = space_on(*cards(24, 16)).values_of("tensor_split")

    first = [int(str(value).split("/")[0]) for value in values if value != "auto"]
    assert first == sorted(first)
    assert "auto" in values[1:-1]


def test_a_card_alone_is_named_where_names_are_known_and_numbered_where_not() -> None:
    today, before = (space_on(*cards(24, 16), build=build) for build in (TODAY, BEFORE_NAMES))

    assert (of_devices(today), of_devices(before)) == (
        {"devices", "split_mode", "tensor_split"},
        {"main_gpu", "split_mode", "tensor_split"},
    )
    assert before.values_of("split_mode") == ("layer", "none", "row")  # It has no tensor.


def test_servers_cannot_cut_a_matrix_into_rows() -> None:
    assert space_on(*cards(24, 16, backend="RPC")).values_of("split_mode") == ("layer", "tensor")


def test_cards_of_two_backends_share_whole_layers_only() -> None:
    both = (*cards(24), *cards(16, backend="Vulkan"))

    assert not space_on(*both).has("split_mode")


def test_where_some_are_left_alone_the_others_are_named() -> None:
    named = replace(ALL_ON_GPU, devices=("CUDA0", "CUDA2"))
    two = (cards(24)[0], replace(card(16), index=2))

    values = space_on(*two, defaults=named).values_of("devices")

    assert values == ("CUDA0/CUDA2", "CUDA0", "CUDA2", "CUDA2/CUDA0")


# --- wishes --------------------------------------------------------------------------------------


def test_one_card_that_is_wished_for_leaves_nothing_to_split() -> None:
    space = space_on(*cards(24, 16), wish={"devices": ("CUDA1",)})

    assert (of_devices(space), space.fixed.devices) == (set(), ("CUDA1",))


def test_a_split_that_is_wished_for_is_the_only_one() -> None:
    space = space_on(*cards(24, 16), wish={"tensor_split": ("3/1",)})

    assert (space.has("tensor_split"), space.fixed.tensor_split) == (False, (3.0, 1.0))


@pytest.mark.parametrize("wish", [{"main_gpu": (0, 1)}, {"split_mode": ("none", "layer")}])
def test_one_card_alone_can_be_wished_for_by_its_number(
    wish: Wish,
) -> None:
    space = space_on(*cards(24, 16), wish=wish)

    alone = space.with_value(space.fixed, "main_gpu", 1)
    assert (alone.split_mode, alone.main_gpu, space.holds(alone)) == ("none", 1, True)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"devices": ("CUDA7",)}, "there is no CUDA7 here"),
        ({"devices": ("CUDA0", "CUDA1/CUDA1")}, "devices=CUDA1/CUDA1 names a device twice"),
        ({"tensor_split": ("1/1/1",)}, "tensor_split=1/1/1 does not fit 2 devices"),
        ({"tensor_split": ("0/0",)}, "tensor_split=0/0 does not fit 2 devices"),
        ({"main_gpu": (2,)}, "main_gpu=2 is beyond what is there: at most 1"),
        ({"devices": ("CUDA0",), "tensor_split": ("1/1",)}, "does not fit 1 devices"),
    ],
)
def test_a_wish_for_devices_that_are_not_there_is_refused(wish: Wish, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_on(*cards(24, 16), wish=wish)


def test_a_wish_for_a_mode_that_the_build_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="this llama-bench has no -sm tensor"):
        space_on(*cards(24, 16), wish={"split_mode": ("tensor",)}, build=BEFORE_NAMES)


# --- what goes together --------------------------------------------------------------------------


def test_llama_bench_is_told_shares_and_names_in_its_own_way() -> None:
    space = space_on(*cards(24, 16))
    params = space.with_point(Params(), {"devices": "CUDA1/CUDA0", "tensor_split": "11/30"})

    said = render(params, "bench", capabilities_of(TODAY)).arguments

    assert said == ("-ts", "11/30", "-dev", "CUDA1/CUDA0")


def test_a_card_alone_has_no_split() -> None:
    space = space_on(*cards(24, 16))
    split = space.with_value(space.fixed, "tensor_split", "26/15")

    alone = space.with_value(split, "devices", "CUDA0")

    assert (alone.devices, alone.tensor_split, alone.split_mode) == (("CUDA0",), None, None)


def test_a_split_is_of_all_cards_again() -> None:
    space = space_on(*cards(24, 16))
    alone = space.with_value(space.fixed, "devices", "CUDA0")

    split = space.with_value(alone, "tensor_split", "26/15")

    assert (split.devices, split.tensor_split) == (None, (26.0, 15.0))


def test_splits_towards_a_device_give_it_more_and_the_most_first() -> None:
    values = ("10/30", "20/20", "auto", "30/10")

    assert towards_each(values, (15.0, 25.0)) == [["30/10", "20/20"], ["10/30"]]
