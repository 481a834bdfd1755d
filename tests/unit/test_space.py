"""The search space: what can be said, is there and moves the objective; and the way through it."""

from dataclasses import replace

import pytest
from fakes.simulated_hosts import card, dense_30b, hardware, moe_30b
from fakes.spaces import DEFAULTS, NONE, PP, REQUEST, SEED, TG, TODAY, Wish, space_of
from hypothesis import given
from hypothesis import strategies as st
from property.params_strategies import params as any_params
from recorded_builds import BUILDS, FOLDER, capabilities_of

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.llama_cpp.dialect import render
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import ALL_LAYERS, Params
from autotune.tuning.objective import Part
from autotune.tuning.space import Dimension, Space, explicit
from autotune.tuning.workload import Value

PARTIAL = replace(DEFAULTS, n_gpu_layers=29)
THREADS, BATCHES = ["n_threads", "n_threads_batch"], ["n_ubatch", "n_batch"]
COMMON = ["flash_attn", "load_mode"]


def on_gpu(wish: Wish = NONE, *, build: str = TODAY) -> Space:
    return space_of(
        card(24), model=dense_30b(), defaults=PARTIAL, seed=PARTIAL, build=build, wish=wish
    )


def moe_on_gpu(build: str = TODAY) -> Space:
    defaults = replace(DEFAULTS, n_gpu_layers=ALL_LAYERS, n_cpu_moe=9)
    return space_of(card(16), model=moe_30b(), defaults=defaults, seed=defaults, build=build)


def on_two_cards(build: str = TODAY, *, wish: Wish = NONE, more: tuple[Gpu, ...] = ()) -> Space:
    gpus = (card(24), replace(card(16), index=1), *more)
    everything = replace(DEFAULTS, n_gpu_layers=ALL_LAYERS)
    seed = replace(everything, n_ctx=4096, tensor_split=(25.0, 16.0) if not more else None)
    return space_of(
        *gpus, model=dense_30b(), defaults=everything, seed=seed, build=build, wish=wish
    )


def names(space: Space) -> set[str]:
    return {dimension.name for dimension in space.dimensions}


# --- what is in it -------------------------------------------------------------------------------


def test_a_cpu_has_threads_batches_and_the_switches_of_a_host() -> None:
    assert names(space_of()) == {*THREADS, *BATCHES, *COMMON, "repack"}


def test_a_gpu_that_holds_a_part_has_layers_and_the_switches_of_both() -> None:
    assert names(on_gpu()) == names(space_of()) | {
        "n_gpu_layers",
        "no_kv_offload",
        "no_op_offload",
    }


def test_a_mixture_of_experts_has_experts_on_the_host_too() -> None:
    assert names(moe_on_gpu()) == names(on_gpu()) | {"n_cpu_moe"}


def test_a_gpu_that_holds_all_has_no_switches_for_weights_on_the_host() -> None:
    everything = replace(DEFAULTS, n_gpu_layers=ALL_LAYERS)

    whole = space_of(card(24), defaults=everything, seed=everything)

    assert names(on_gpu()) - names(whole) == {"repack", "no_op_offload"}


@pytest.mark.parametrize(
    ("part", "missing"), [(PP, {"n_threads"}), (TG, {"n_threads_batch", *BATCHES})]
)
def test_what_moves_only_a_part_that_does_not_count_is_out(
    part: tuple[Part, BenchTest], missing: set[str]
) -> None:
    objective = replace(REQUEST, tests=(part,))

    assert names(space_of()) - names(space_of(objective=objective)) == missing


def test_a_cache_that_loses_quality_is_in_when_it_is_allowed() -> None:
    allowed = space_of(lossy_types=("q8_0", "q4_0"))

    assert (space_of().values_of("cache_type"), allowed.values_of("cache_type")) == (
        (),
        ("f16", "q8_0", "q4_0"),
    )


def test_several_nodes_of_memory_make_numa_a_question() -> None:
    bare = hardware(())
    two = replace(bare, cpu=replace(bare.cpu, numa_nodes=2))

    assert space_of(machine=two).values_of("numa") == ("off", "distribute", "isolate")


def test_weights_that_would_fill_the_memory_stay_mapped() -> None:
    bare = hardware(())
    little = replace(bare, memory=replace(bare.memory, total_bytes=6 << 30))

    assert [space_of(machine=m).has("load_mode") for m in (bare, little)] == [True, False]


def test_threads_end_where_the_process_may_have_no_more() -> None:
    bare = hardware(())
    few = replace(bare, cpu=replace(bare.cpu, usable_cpus=(0, 1, 2), usable_cores=3, quota=2.0))
    defaults = replace(DEFAULTS, n_threads=2, n_threads_batch=2)

    space = space_of(machine=few, defaults=defaults, seed=defaults)

    assert space.values_of("n_threads") == (1, 2)


def test_no_ubatch_is_beyond_the_prompt_that_tests_it() -> None:
    short = replace(REQUEST, tests=(("pp", BenchTest(n_prompt=300)), TG))

    # llama.cpp's own 512 is there, because that is what the others are compared with.
    assert space_of(objective=short).values_of("n_ubatch") == (64, 128, 256, 512)


def test_the_values_of_the_rules_and_of_llama_cpp_are_in_their_places() -> None:
    space = space_of(seed=replace(SEED, n_ubatch=384, n_batch=768))

    assert (space.values_of("n_ubatch"), space.values_of("n_batch")) == (
        (64, 128, 256, 384, 512),
        (512, 768, 1024, 2048),
    )


# --- builds ----------------------------------------------------------------------------------


# Those without JSON lines are not measured with.
MEASURING = [build for build in BUILDS if (FOLDER / build / "records.jsonl").exists()]


@pytest.mark.parametrize("build", MEASURING)
@pytest.mark.parametrize("seed_flash", ["auto", True])
def test_every_build_is_told_only_what_it_has_words_for(build: str, seed_flash: Value) -> None:
    defaults = replace(DEFAULTS, n_gpu_layers=20)
    seed = replace(defaults, flash_attn=seed_flash)  # type: ignore[arg-type]
    space = space_of(
        card(16), model=moe_30b(), defaults=defaults, seed=seed, build=build, lossy_types=("q8_0",)
    )

    reached = [space.fixed] + [
        space.with_value(space.fixed, d.name, value) for d in space.dimensions for value in d.values
    ]
    unsupported = [
        render(params, "bench", capabilities_of(build)).unsupported for params in reached
    ]

    assert set(unsupported) == {()}


@pytest.mark.parametrize(
    ("build", "name", "values"),
    [
        ("0.3.9-2025-05", "flash_attn", (False, True)),
        ("0.3.24-2026-06", "flash_attn", ("auto", False, True)),
        ("0.3.9-2025-05", "no_op_offload", ()),
        ("0.3.16-2025-08", "no_op_offload", (False, True)),
        ("0.3.16-2025-08", "n_cpu_moe", ()),
        ("0.3.24-2026-06", "repack", ()),
        ("0.3.24-2026-06", "load_mode", ("auto", "none")),  # As -mmp 0.
        (TODAY, "repack", (True, False)),
    ],
)
def test_what_a_build_has_no_words_for_is_out(
    build: str, name: str, values: tuple[Value, ...]
) -> None:
    assert moe_on_gpu(build).values_of(name) == values


# --- wishes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("n_threads", 3, 3),
        ("n_gpu_layers", 10, 10),
        ("n_gpu_layers", 41, ALL_LAYERS),
        ("flash_attn", True, True),
        ("load_mode", "mlock", "mlock"),
        ("repack", False, False),
        ("n_ubatch", 100, 100),
    ],
)
def test_a_wish_for_one_value_fixes_it(name: str, value: Value, said: Value) -> None:
    space = on_gpu({name: (value,)})

    assert (space.has(name), getattr(space.fixed, name)) == (False, said)


def test_a_fixed_cache_type_is_that_of_keys_and_values() -> None:
    fixed = space_of(wish={"cache_type": ("q8_0",)}).fixed

    assert (fixed.type_k, fixed.type_v) == ("q8_0", "q8_0")


@pytest.mark.parametrize(
    ("name", "values", "first"),
    [
        ("n_threads", (4, 6), 4),
        ("n_threads", (4, 16), 16),  # The default, where that is among them.
        ("n_gpu_layers", (10, 20), 10),
        ("flash_attn", (True, False), True),
    ],
)
def test_a_wish_for_several_values_narrows_to_them(
    name: str, values: tuple[Value, ...], first: Value
) -> None:
    space = on_gpu({name: values})

    assert (space.values_of(name), space.point(space.fixed)[name]) == (values, first)


def test_the_last_of_narrowed_layers_is_no_more_than_it_says() -> None:
    space = on_gpu({"n_gpu_layers": (10, 20)})

    assert space.with_value(space.fixed, "n_gpu_layers", 20).n_gpu_layers == 20


@pytest.mark.parametrize(
    ("wish", "batches", "ubatches"),
    [
        ({"n_batch": (128,)}, {128}, {64, 128}),
        ({"n_batch": (32,)}, {32}, {32}),
        ({"n_batch": (32, 600)}, {32, 600}, {32, 64, 128, 256, 512}),
        ({"n_ubatch": (4096,)}, {4096}, {4096}),
        ({"n_ubatch": (600, 700)}, {700, 1024, 2048}, {600, 700}),
    ],
)
def test_a_wish_for_batches_or_ubatches_brings_those_that_go_with_it(
    wish: Wish, batches: set[int], ubatches: set[int]
) -> None:
    space = space_of(wish=wish)

    params = [
        space.with_value(space.fixed, name, value)
        for name in BATCHES
        for value in space.values_of(name)
    ] or [space.fixed]
    assert ({p.n_batch for p in params}, {p.n_ubatch for p in params}) == (batches, ubatches)


def test_a_default_outside_the_wish_is_not_searched() -> None:
    space = on_gpu({"n_threads": (4, 6)})

    assert not space.holds(PARTIAL)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"n_cpu_moe": (3,)}, "moves nothing here"),
        ({"n_gpu_layers": (3,)}, "moves nothing here"),
        ({"n_threads": (33,)}, "beyond what is there: at most 32"),
        ({"n_threads": (4, 33)}, "beyond what is there: at most 32"),
        ({"n_batch": (64,), "n_ubatch": (64, 128)}, "n_ubatch=128 is more than n_batch=64"),
        ({"load_mode": ("mmap+swap",)}, "has no -lm mmap\\+swap"),
    ],
)
def test_a_wish_that_cannot_be_had_here_is_refused(wish: Wish, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(wish=wish)


def test_a_wish_that_this_build_has_no_word_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="this llama-bench has no --repack False"):
        on_gpu({"repack": (False,)}, build="0.3.24-2026-06")


# --- the way between values and configurations ---------------------------------------------------

SPACES = {
    "cpu": space_of(lossy_types=("q8_0",)),
    "partial": on_gpu(),
    "moe": moe_on_gpu(),
    "narrowed": on_gpu({"n_gpu_layers": (10, 20), "n_ubatch": (256, 512), "flash_attn": (True,)}),
    "small batches": on_gpu({"n_batch": (128, 300)}),
    "old": moe_on_gpu("0.3.9-2025-05"),
    "two cards": on_two_cards(),
    "two cards by number": on_two_cards("0.3.16-2025-08"),
    "two cards or one": on_two_cards(wish={"split_mode": ("none", "layer")}),
    "three cards": on_two_cards(more=(replace(card(8), index=2),)),
}
spaces = st.sampled_from(list(SPACES.values()))


def points(space: Space) -> st.SearchStrategy[dict[str, Value]]:
    return st.fixed_dictionaries({d.name: st.sampled_from(d.values) for d in space.dimensions})


spaces_and_points = spaces.flatmap(lambda space: st.tuples(st.just(space), points(space)))


@given(spaces_and_points)
def test_every_point_gives_a_configuration_of_the_space(
    drawn: tuple[Space, dict[str, Value]],
) -> None:
    space, point = drawn

    assert space.holds(space.with_point(space.fixed, point))


@given(spaces_and_points)
def test_a_batch_is_never_below_its_ubatch(drawn: tuple[Space, dict[str, Value]]) -> None:
    space, point = drawn

    params = space.with_point(space.fixed, point)

    assert (params.n_batch or 0) >= (params.n_ubatch or 0)


@given(spaces_and_points, st.data())
def test_a_step_from_within_the_space_gives_the_value_and_stays_within(
    drawn: tuple[Space, dict[str, Value]], data: st.DataObject
) -> None:
    space, point = drawn
    dimension = data.draw(st.sampled_from(space.dimensions))
    value = data.draw(st.sampled_from(dimension.values))

    stepped = space.with_value(space.with_point(space.fixed, point), dimension.name, value)

    assert (space.point(stepped)[dimension.name], space.holds(stepped)) == (value, True)


@given(spaces, any_params())
def test_what_is_brought_onto_the_space_is_of_it_and_stays_as_it_is(
    space: Space, params: Params
) -> None:
    once = space.onto(params)

    assert (space.holds(once), space.onto(once)) == (True, once)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_fixed_is_of_the_space_and_nearest_to_itself(space: Space) -> None:
    assert (space.holds(space.fixed), space.distance(space.fixed, space.fixed)) == (True, 0)


def test_what_the_space_does_not_have_is_left_as_it_is_by_default() -> None:
    space = on_gpu()
    foreign = replace(PARTIAL, n_ubatch=7, n_threads=3, load_mode="mlock", n_ctx=9, n_cpu_moe=4)

    assert space.onto(foreign) == replace(space.fixed, n_threads=3)


def test_the_distance_is_the_number_of_parameters_that_differ() -> None:
    space = on_gpu()
    other = replace(space.fixed, n_threads=3, type_k="q8_0", flash_attn=False, load_mode="none")

    assert space.distance(other, space.fixed) == 3  # The cache type is not searched.


@pytest.mark.parametrize("n_gpu_layers", [41, 99, ALL_LAYERS, None])
def test_all_layers_are_the_last_value_however_they_are_said(n_gpu_layers: int | None) -> None:
    assert on_gpu().point(replace(PARTIAL, n_gpu_layers=n_gpu_layers))["n_gpu_layers"] == 41


@pytest.mark.parametrize(
    ("values", "value", "beside"),
    [
        ((1, 2, 3, 4, 5, 6, 7, 8), 3, [2, 4, 1, 5, 7]),
        ((64, 128, 256), 128, [64, 256]),
        ((64, 128, 256), 256, [128]),
        ((64, 128, 256), 100, []),
        ((False, True), True, [False]),
    ],
)
def test_neighbours_are_beside_a_value_and_in_a_range_a_few_steps_away(
    values: tuple[Value, ...], value: Value, beside: list[Value]
) -> None:
    assert Dimension(name="n_threads", values=values).beside(value) == beside


def test_what_llama_bench_chose_by_itself_is_said() -> None:
    echoed: dict[str, int | str] = {"n_threads": 6, "n_batch": 2048, "n_ubatch": 512}

    said = explicit(Params(n_ubatch=256), {**echoed, "flash_attn": 0})

    assert said == Params(
        n_threads=6, n_threads_batch=6, n_batch=2048, n_ubatch=256, flash_attn=False
    )
