"""Trials become grids that llama-bench can run, and come out of them again, each as often."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from autotune.llama_cpp.grids import CONTEXT_FIELDS, Trial, model_params, split
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP, TG = BenchTest(n_prompt=16), BenchTest(n_gen=4)
A, B = Trial(Params(n_threads=1), TG), Trial(Params(n_threads=2), TG)

params = st.builds(
    Params,
    n_threads=st.sampled_from([None, 1, 2, 3]),
    n_ubatch=st.sampled_from([None, 64, 128]),
    flash_attn=st.sampled_from([None, True, False, "auto"]),
    type_k=st.sampled_from([None, "f16", "q8_0"]),
    no_kv_offload=st.sampled_from([None, True]),
    n_gpu_layers=st.sampled_from([0, 9]),
)
tests = st.builds(
    BenchTest,
    n_prompt=st.sampled_from([16, 32]),
    n_gen=st.sampled_from([0, 4]),
    n_depth=st.sampled_from([0, 64]),
)
sequences = st.lists(st.builds(Trial, params, tests), max_size=40)


def run(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for grid in split(trials) for trial in grid.trials()]


@given(sequences)
def test_every_trial_is_run_as_often_as_it_is_asked_for(trials: list[Trial]) -> None:
    assert Counter(run(trials)) == Counter(trials)


@given(sequences)
def test_no_grid_mixes_model_parameters(trials: list[Trial]) -> None:
    of_grids = [{model_params(t.params) for t in grid.trials()} for grid in split(trials)]
    assert [len(found) for found in of_grids] == [1] * len(of_grids)


@given(sequences)
def test_what_is_not_sent_stands_beside_no_value(trials: list[Trial]) -> None:
    axes = [values for grid in split(trials) for values in grid.axes]
    assert [values for values in axes if None in values and len(values) > 1] == []


full_grids = st.tuples(
    st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from([64, 128, 256, 512]), min_size=1, unique=True),
    st.lists(st.sampled_from([True, False, "auto"]), min_size=1, unique=True),
    st.lists(st.sampled_from([0, 512, 4096]), min_size=1, unique=True),
    st.lists(st.sampled_from([(16, 0), (32, 0), (0, 4), (16, 4)]), min_size=1, unique=True),
)


@given(full_grids, st.randoms(use_true_random=False))
def test_a_full_grid_is_one_run_in_whatever_order_it_comes(
    axes: tuple[list[Any], ...], order: random.Random
) -> None:
    trials = [
        Trial(
            Params(n_threads=threads, n_ubatch=ubatch, flash_attn=flash),
            BenchTest(n_prompt=n_prompt, n_gen=n_gen, n_depth=depth),
        )
        for threads, ubatch, flash, depth, (n_prompt, n_gen) in itertools.product(*axes)
    ]
    order.shuffle(trials)
    assert len(split(trials)) == 1


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.lists(st.sampled_from([PP, TG]), min_size=1, max_size=2, unique=True).map(sorted),
)
def test_one_parameter_in_any_order_is_one_run_in_that_order(
    threads: list[int], of_tests: list[BenchTest]
) -> None:
    in_order = sorted(of_tests, key=lambda test: test.n_gen)
    trials = [Trial(Params(n_threads=t), test) for t in threads for test in in_order]
    assert (len(split(trials)), run(trials)) == (1, trials)


def test_a_b_b_a_is_one_run() -> None:
    assert [grid.trials() for grid in split([A, B, B, A])] == [[A, B, B, A]]


def test_the_same_trial_again_is_one_run() -> None:
    assert [grid.trials() for grid in split([A, A, A])] == [[A, A, A]]


def test_nothing_is_no_run() -> None:
    assert split([]) == []


def test_a_default_beside_a_value_is_a_run_of_its_own() -> None:
    default = Trial(Params(), TG)
    assert [grid.trials() for grid in split([default, A])] == [[default], [A]]


def test_configurations_that_differ_in_two_things_do_not_bring_a_third() -> None:
    one = Trial(Params(n_threads=1, n_ubatch=64), TG)
    other = Trial(Params(n_threads=2, n_ubatch=128), TG)
    assert sorted(run([one, other]), key=str) == sorted([one, other], key=str)


def test_prompts_run_before_generation_and_both_together_last() -> None:
    both = BenchTest(n_prompt=16, n_gen=4)
    (grid,) = split([Trial(Params(), test) for test in (both, TG, PP)])
    assert [trial.test for trial in grid.trials()] == [PP, TG, both]


def test_every_field_but_the_context_s_is_of_the_model() -> None:
    trial = Params(n_threads=1, n_batch=2, flash_attn=True, n_gpu_layers=3, numa="distribute")
    assert model_params(trial) == Params(n_gpu_layers=3, numa="distribute")


def test_hundreds_of_trials_are_split_at_once() -> None:
    trials = [
        Trial(Params(n_threads=t, n_ubatch=ub, n_batch=b), BenchTest(n_prompt=pp))
        for t, ub, b, pp in itertools.product(range(1, 17), range(1, 6), range(1, 6), (16, 32))
        if (t + ub + b) % 3
    ]
    assert Counter(run(trials)) == Counter(trials)


def test_the_fields_are_fields_of_params() -> None:
    assert [name for name in CONTEXT_FIELDS if not hasattr(Params(), name)] == []
