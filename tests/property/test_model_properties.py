from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.strategies import (
    CACHE_TYPES,
    broken_files,
    configurations,
    context_sizes,
    gpu_layers,
    gpus,
    models,
    programs,
    ubatch_sizes,
)

from autotune.errors import ConfigError, GGUFInvalid, ModelNotFound, ModelUnreadable
from autotune.model import Model, analyze_model
from autotune.model.footprint import Footprint, Place, footprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.params import Params, Program

# The same examples on each machine, however busy it is.
law = settings(deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    """Give one path for all broken files, since a function's fixture would be used again."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "broken-00001-of-00002.gguf"


# --- reading -------------------------------------------------------------------------------------


@given(data=broken_files())
@settings(law, max_examples=500)
def test_a_broken_file_is_a_model_or_a_named_error(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        said = analyze_model(file).name
    except (ModelNotFound, ModelUnreadable, GGUFInvalid) as error:
        said = error.message

    assert said.isprintable()


@given(data=st.binary(max_size=200))
@law
def test_what_is_no_gguf_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)

    with pytest.raises(GGUFInvalid):
        analyze_model(file)


@given(data=st.binary(max_size=300), version=st.sampled_from((2, 3)))
@law
def test_nothing_behind_the_magic_makes_another_error(
    file: Path, data: bytes, version: int
) -> None:
    file.write_bytes(b"GGUF" + version.to_bytes(4, "little") + data)

    with pytest.raises(GGUFInvalid):
        analyze_model(file)


@given(data=broken_files(), params=configurations(), given_gpus=gpus)
@law
def test_what_can_be_read_can_be_counted(
    file: Path, data: bytes, params: Params, given_gpus: tuple[float, ...]
) -> None:
    file.write_bytes(data)
    try:
        model = analyze_model(file)
        needed = footprint(model, params, program="server", gpus=given_gpus)
    except (GGUFInvalid, ModelNotFound, ModelUnreadable, ConfigError):
        return

    assert needed.total_bytes >= model.weight_bytes


# --- memory --------------------------------------------------------------------------------------


def places(needed: Footprint) -> tuple[Place, ...]:
    return (needed.host, *needed.gpus)


def grows(smaller: Footprint, larger: Footprint) -> bool:
    """Tell whether no part of any place becomes smaller."""
    return all(
        a.weights_bytes <= b.weights_bytes
        and a.kv_cache_bytes <= b.kv_cache_bytes
        and a.recurrent_bytes <= b.recurrent_bytes
        and a.compute_bytes <= b.compute_bytes
        for a, b in zip(places(smaller), places(larger), strict=True)
    )


@given(model=models, params=configurations(), program=programs, on=gpus, more=context_sizes)
@law
def test_memory_grows_with_the_context(
    model: Model, params: Params, program: Program, on: tuple[float, ...], more: int
) -> None:
    assert params.n_ctx
    larger = replace(params, n_ctx=params.n_ctx + more)

    assert grows(
        footprint(model, params, program=program, gpus=on),
        footprint(model, larger, program=program, gpus=on),
    )


@given(model=models, params=configurations(), program=programs, on=gpus, more=ubatch_sizes)
@law
def test_memory_grows_with_the_ubatch(
    model: Model, params: Params, program: Program, on: tuple[float, ...], more: int
) -> None:
    assert params.n_ubatch
    larger = replace(params, n_ubatch=params.n_ubatch + more)

    assert grows(
        footprint(model, params, program=program, gpus=on),
        footprint(model, larger, program=program, gpus=on),
    )


@given(model=models, params=configurations(), program=programs, on=gpus)
@law
def test_memory_grows_with_the_cache_type(
    model: Model, params: Params, program: Program, on: tuple[float, ...]
) -> None:
    by_type = [
        footprint(model, replace(params, type_k=name, type_v=name), program=program, gpus=on)
        for name in CACHE_TYPES
    ]

    assert all(grows(smaller, larger) for smaller, larger in pairwise(by_type))


@given(model=models, params=configurations(), program=programs, on=gpus)
@law
def test_memory_grows_with_the_slots(
    model: Model, params: Params, program: Program, on: tuple[float, ...]
) -> None:
    few = replace(params, n_parallel=params.n_parallel or 1, kv_unified=True)
    more = replace(few, n_parallel=(few.n_parallel or 1) + 1)

    assert grows(
        footprint(model, few, program=program, gpus=on),
        footprint(model, more, program=program, gpus=on),
    )


@given(model=models, params=configurations(), program=programs, on=gpus)
@law
def test_every_weight_is_somewhere_and_only_two_kinds_are_copied(
    model: Model, params: Params, program: Program, on: tuple[float, ...]
) -> None:
    needed = footprint(model, params, program=program, gpus=on)

    copied = sum(place.weights_bytes for place in places(needed)) - model.weight_bytes
    # A tied embedding once more, and rope factors once more for each further place with layers.
    possible = {
        tied * model.tied_bytes + further * model.rope_bytes
        for tied in (0, 1)
        for further in range(len(on) + 1)
    }
    assert copied in possible


@given(
    model=models,
    params=configurations(),
    program=programs,
    on=gpus,
    placing=configurations(),
)
@law
def test_where_layers_lie_changes_nothing_about_the_sum_of_their_caches(
    model: Model, params: Params, program: Program, on: tuple[float, ...], placing: Params
) -> None:
    elsewhere = replace(
        params,
        n_gpu_layers=placing.n_gpu_layers,
        n_cpu_moe=placing.n_cpu_moe,
        no_kv_offload=placing.no_kv_offload,
    )

    def caches(settings: Params) -> tuple[int, int]:
        found = places(footprint(model, settings, program=program, gpus=on))
        return sum(p.kv_cache_bytes for p in found), sum(p.recurrent_bytes for p in found)

    assert caches(params) == caches(elsewhere)


@given(model=models, params=configurations(), program=programs, on=gpus, more=gpu_layers)
@law
def test_the_host_holds_less_the_more_is_offloaded(
    model: Model, params: Params, program: Program, on: tuple[float, ...], more: int
) -> None:
    offloaded = replace(params, n_gpu_layers=(params.n_gpu_layers or 0) + more)

    before = footprint(model, params, program=program, gpus=on).host
    after = footprint(model, offloaded, program=program, gpus=on).host

    assert after.weights_bytes <= before.weights_bytes
    assert after.kv_cache_bytes <= before.kv_cache_bytes


@given(model=models, params=configurations(), program=programs, on=gpus, more=st.integers(0, 50))
@law
def test_the_gpus_hold_less_the_more_experts_stay_behind(
    model: Model, params: Params, program: Program, on: tuple[float, ...], more: int
) -> None:
    kept = replace(params, n_cpu_moe=(params.n_cpu_moe or 0) + more)

    before = footprint(model, params, program=program, gpus=on).gpus
    after = footprint(model, kept, program=program, gpus=on).gpus

    assert all(b.weights_bytes <= a.weights_bytes for a, b in zip(before, after, strict=True))


@given(model=models, params=configurations(), on=gpus)
@law
def test_bench_takes_no_less_than_cli(model: Model, params: Params, on: tuple[float, ...]) -> None:
    bench, cli = (footprint(model, params, program=p, gpus=on) for p in ("bench", "cli"))

    assert grows(cli, bench)
