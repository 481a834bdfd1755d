"""What the tuner is compared with does what tools of this field do, and is judged by the truth."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from fakes.simulator import SimulatedMachine, cpu16, flat
from fakes.tuned import CHAT, LONG_PROMPT, memory_of, plan_for
from fakes.virtual import VirtualMachine
from places import Place, places
from strategies import STRATEGIES, Handed
from tables import Figure

from autotune.tuning.lab import Limits
from autotune.tuning.session import Plan

OTHERS = [name for name in STRATEGIES if name != "lcm"]
MOMENTS = (60.0, 240.0, 600.0)


def chat_plan(machine: VirtualMachine, limits: Limits, seed: int) -> Plan:
    assert isinstance(machine, SimulatedMachine)
    workload = LONG_PROMPT if machine.hardware.gpus else CHAT
    return plan_for(machine, workload, limits, seed=seed)


def handed(
    name: str, kind: Callable[[int], SimulatedMachine] = cpu16, seed: int = 0
) -> tuple[list[Handed], SimulatedMachine]:
    """What a strategy hands out, and the machine that it had last."""
    made: list[SimulatedMachine] = []

    def make() -> SimulatedMachine:
        made.append(kind(seed))
        return made[-1]

    return STRATEGIES[name](make, chat_plan, MOMENTS, seed), made[-1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_moment_has_what_a_user_would_have_then(name: str) -> None:
    found, _ = handed(name)

    assert [one.at_s for one in found] == list(MOMENTS)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_hands_out_the_same(name: str) -> None:
    assert handed(name, seed=5)[0] == handed(name, seed=5)[0]


@pytest.mark.parametrize("name", OTHERS)
def test_until_something_looks_better_there_are_the_defaults(name: str) -> None:
    found, machine = handed(name)

    assert found[0].params == chat_plan(machine, Limits(), 0).baseline
    assert found[0].claims is False


@pytest.mark.parametrize("name", ["TPE, a process a trial", "random search"])
def test_a_trial_is_a_process_of_its_own(name: str) -> None:
    _, machine = handed(name, flat)

    n_configurations = len({replace(t.params, n_threads=None) for t in machine.visits})
    assert machine.n_loads > n_configurations


def test_the_grid_shares_its_loads() -> None:
    found, machine = handed("exhaustive grid", flat)

    assert found[-1].loads == 2  # The defaults, and all that one load holds.
    assert len(machine.visits) > 40


@pytest.mark.parametrize("name", OTHERS)
def test_on_a_machine_where_nothing_matters_they_claim_all_the_same(name: str) -> None:
    claims = [handed(name, flat, seed)[0][-1].claims for seed in range(4)]

    assert any(claims)


def test_what_is_handed_out_is_held_to_the_best_that_fits() -> None:
    place = places()["C"]
    machine = place.make(0)
    baseline = place.plan_for(machine, Limits(), 0).baseline
    fits = memory_of(machine, LONG_PROMPT).fits
    best, _ = machine.optimum(2048, 256, n_ctx=4096, program="server", feasible=fits)
    all_on_gpu = replace(best, n_gpu_layers=999, n_cpu_moe=None)

    judged = place.judge(
        [Handed(at_s=1, params=p, claims=False, loads=1) for p in (baseline, best, all_on_gpu)], 0
    )

    assert [one.fits for one in judged] == [True, True, False]
    assert judged[0].regret > 0.05
    assert judged[1].regret < 0.01
    assert judged[0].gain == 0
    assert not judged[0].is_worse


def test_a_slower_choice_is_worse_than_the_defaults() -> None:
    place: Place = places()["A"]
    machine = place.make(0)
    baseline = place.plan_for(machine, Limits(), 0).baseline
    slow = replace(baseline, n_threads=1, n_threads_batch=1)

    (judged,) = place.judge([Handed(at_s=1, params=slow, claims=True, loads=1)], 0)

    assert judged.is_worse


@pytest.mark.parametrize(
    ("aim", "measured", "at_least", "reached"),
    [
        (2, 1.9, False, True),
        (2, 2.1, False, False),
        (95, 96, True, True),
        (95, 94, True, False),
    ],
)
def test_a_figure_is_reached_or_not(
    aim: float, measured: float, *, at_least: bool, reached: bool
) -> None:
    figure = Figure(name="", aim=aim, measured=measured, at_least=at_least)

    assert figure.is_reached is reached
