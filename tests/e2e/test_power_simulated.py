"""Limits of power on simulated machines: what is news is measured again, what is usual is not."""

import pytest
from fakes.simulator import SimulatedMachine, cpu16
from fakes.tuned import CHAT, Simulated, tune_simulated

from autotune.hardware.power_limit import limited
from autotune.tuning import events
from autotune.tuning.visits import Reading

HELD_BACK = "GPU 0 was held back by its limit of power"
BUDGET_S = 400.0


def tuned(machine: SimulatedMachine) -> tuple[Simulated, list[Reading]]:
    """Tune, and give every visit as it was measured."""
    told: list[Reading] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Measured):
            told.append(event.reading)

    return tune_simulated(machine, CHAT, budget_s=BUDGET_S, tell=tell), told


@pytest.fixture(scope="module")
def as_it_is() -> tuple[Simulated, list[Reading]]:
    return tuned(cpu16(3))


def test_a_machine_that_is_always_at_its_limit_is_tuned_as_any_other(
    as_it_is: tuple[Simulated, list[Reading]],
) -> None:
    machine = cpu16(3)
    machine.capped_s = lambda now: now

    done, told = tuned(machine)

    assert [one.visit for one in told] == [one.visit for one in as_it_is[1]]
    assert {one.disturbed for one in told} == {""}
    assert done.tuned.shipped == as_it_is[0].tuned.shipped


def test_what_a_limit_held_back_for_a_while_is_marked_and_measured_again(
    as_it_is: tuple[Simulated, list[Reading]],
) -> None:
    machine = cpu16(3)
    began, ended = BUDGET_S / 4, BUDGET_S / 4 + 20
    machine.capped_s = lambda now: min(max(now - began, 0.0), ended - began)

    done, told = tuned(machine)

    marked = [n for n, one in enumerate(told) if one.disturbed == HELD_BACK]
    assert marked
    for n in marked:
        assert told[n].visit in [one.visit for one in told[n + 1 :]]
    assert done.tuned.verification.verdict == as_it_is[0].tuned.verification.verdict == "better"


def test_a_configuration_that_is_always_held_back_is_measured_twice_and_may_win() -> None:
    machine = cpu16(3)
    busy_s = 0.0
    machine.capped_s = lambda _: busy_s
    work = machine.work

    def at_its_limit(seconds: float, threads: int) -> float:
        nonlocal busy_s
        took = work(seconds, threads)
        busy_s += took if 4 <= threads < 16 else 0.0  # Not under the defaults, which have 16.
        return took

    machine.work = at_its_limit  # type: ignore[method-assign]

    done, told = tuned(machine)

    held = [one for one in told if one.disturbed == HELD_BACK]
    assert held
    assert done.tuned.verification.verdict == "better"
    assert done.tuned.verification.disturbed_rounds <= 1
    winner = [one for one in told if one.visit.params == done.tuned.shipped]
    assert any(
        limited(m.run.before, m.run.after) == ("GPU 0",)
        for one in winner
        if not one.disturbed
        for part in one.visit.parts
        if (m := one.measured(part))
    )
