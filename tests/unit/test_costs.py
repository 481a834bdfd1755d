"""What measuring will take, learned from what it took, and how loads are spared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes.readings import OBJECTIVE, knowing, reading

from autotune.llama_cpp import grids
from autotune.llama_cpp.grids import Trial
from autotune.params import Params
from autotune.tuning.costs import Costs
from autotune.tuning.objective import Part
from autotune.tuning.visits import Reading

A = Params(n_threads=4, n_threads_batch=8, n_batch=2048, n_ubatch=512, flash_attn=False)
B = replace(A, n_ubatch=128)
OTHER_LOAD = replace(A, n_gpu_layers=3)
PARTS: tuple[Part, ...] = ("pp", "tg")


def costs_of(*readings: Reading) -> Costs:
    costs = Costs(knowing(*readings))
    for each in readings:
        costs.add(each)
    return costs


def seen(load_s: float = 10.0) -> Costs:
    """A load of so many seconds; a prompt's test of 4 s and one of generation of 2 s."""
    return costs_of(reading(A, pp=40.0, tg=20.0, load_s=load_s))


def trials(*configurations: Params, parts: Sequence[Part] = PARTS) -> list[Trial]:
    return [OBJECTIVE.trial(params, part) for params in configurations for part in parts]


def test_nothing_costs_anything_before_anything_was_seen() -> None:
    costs = costs_of()

    assert (costs.load_s(), costs.of(trials(A), 3)) == (0, 0)


def test_a_load_takes_the_middle_of_those_that_were_seen() -> None:
    costs = costs_of(*(reading(A, pp=1.0, load_s=s) for s in (10.0, 12.0, 90.0)))

    assert costs.load_s() == 12


@pytest.mark.parametrize(
    ("part", "repetitions", "seconds"),
    [
        ("pp", 1, 4 + 4),  # A prompt is warmed up whole,
        ("pp", 3, 3 * 4 + 4),
        ("tg", 1, 2 + 0.2),  # and generation by one token of ten.
    ],
)
def test_a_test_takes_its_repetitions_and_its_warm_up(
    part: Part, repetitions: int, seconds: float
) -> None:
    (trial,) = trials(A, parts=(part,))

    assert seen().trial_s(trial, repetitions) == pytest.approx(seconds)


def test_what_was_not_measured_is_expected_to_be_slower_than_the_middle_of_what_was() -> None:
    (known,), (unknown,) = trials(A, parts=("pp",)), trials(B, parts=("pp",))

    costs = seen()

    assert costs.trial_s(unknown, 1) == pytest.approx(1.3 * costs.trial_s(known, 1))


def test_a_depth_is_filled_at_the_speed_of_prompts() -> None:
    tests = tuple((part, replace(test, n_depth=500)) for part, test in OBJECTIVE.tests)
    deep = replace(OBJECTIVE, tests=tests)
    costs = seen()

    more_s = costs.trial_s(deep.trial(A, "tg"), 1) - costs.trial_s(OBJECTIVE.trial(A, "tg"), 1)

    assert more_s == pytest.approx(500 * 40 / 1000)


def test_what_shares_a_load_costs_one() -> None:
    costs = seen()
    apart = costs.of(trials(A), 1) + costs.of(trials(A, parts=("tg",)), 1)

    together = costs.of([*trials(A), *trials(A, parts=("tg",))], 1)

    assert apart - together == pytest.approx(10)


def test_what_cannot_share_a_load_is_a_run_of_its_own() -> None:
    one, other = (trials(params, parts=("tg",)) for params in (A, OTHER_LOAD))

    assert seen().runs([*one, *other]) == [one, other]


@pytest.mark.parametrize("order", [(A, B, B, A), (B, A, A, B)])
def test_an_order_of_a_b_b_a_stays_one_grid_for_each_part(order: tuple[Params, ...]) -> None:
    runs = seen().runs(trials(*order))

    grid_orders = [[t for grid in grids.split(run) for t in grid.trials()] for run in runs]
    assert (grid_orders, [len(grids.split(run)) for run in runs]) == (
        [trials(*order, parts=("tg",)), trials(*order, parts=("pp",))],
        [1, 1],
    )


def test_an_order_that_is_one_grid_with_both_parts_is_one_run() -> None:
    same = [replace(p, n_threads_batch=None) for p in (A, B, B, A)]

    assert seen().runs(trials(*same)) == [trials(*same)]


SPARSE = (A, replace(A, n_ubatch=128, flash_attn=True))  # Two corners of a square.


@pytest.mark.parametrize(("load_s", "n_tests", "n_loads"), [(1.0, 2, 2), (100.0, 4, 1)])
def test_tests_that_nobody_asked_for_are_added_only_where_that_spares_a_dear_load(
    load_s: float, n_tests: int, n_loads: int
) -> None:
    runs = seen(load_s).runs(trials(*SPARSE, parts=("pp",)))

    split = [grid for run in runs for grid in grids.split(run)]
    assert (sum(len(grid.trials()) for grid in split), len(split)) == (n_tests, n_loads)


@pytest.mark.parametrize("load_s", [0.1, 100.0])
def test_whatever_is_asked_for_is_in_the_runs_as_often(load_s: float) -> None:
    asked = trials(A, B, *SPARSE, OTHER_LOAD, A, A)

    planned = Counter(trial for run in seen(load_s).runs(asked) for trial in run)

    assert planned >= Counter(asked)
