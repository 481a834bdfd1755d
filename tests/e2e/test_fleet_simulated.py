"""Workers on one study, in virtual time: the search is everybody's, and no load is wasted."""

from collections import Counter, defaultdict
from functools import cache

import pytest
from fakes.crew import Hand, alike, crew
from fakes.simulator import cpu16, partial_offload
from fakes.tuned import CHAT, LONG_PROMPT, plan_for
from optuna.trial import FrozenTrial, TrialState

from autotune.llama_cpp.records import FailureKind
from autotune.llama_cpp.serving import NotServed
from autotune.tuning.lab import Limits
from autotune.tuning.session import Plan
from autotune.tuning.study.server import Server
from autotune.tuning.study.workers import workers_of
from autotune.tuning.visits import DECIDING

PLACES = {"A": (cpu16, CHAT), "B": (partial_offload, LONG_PROMPT)}
OVER = {TrialState.COMPLETE, TrialState.PRUNED}


@cache
def worked(name: str, n: int) -> tuple[list[Hand], list[FrozenTrial]]:
    make, _ = PLACES[name]
    machines = [alike(make(0), nth) for nth in range(n)]
    hands, server = crew(machines, planned(name))
    return hands, visits_in(server)


def visits_in(server: Server) -> list[FrozenTrial]:
    """Without what says which winner is verified."""
    return [t for t in server.storage.get_all_trials(0) if "slot" in t.user_attrs]


def planned(name: str) -> Plan:
    make, workload = PLACES[name]
    return plan_for(make(0), workload, Limits(budget_s=7200.0))


@pytest.mark.parametrize("name", PLACES)
def test_nothing_is_measured_twice(name: str) -> None:
    _, trials = worked(name, 4)

    slots = Counter(t.user_attrs["slot"] for t in trials if t.state in OVER)
    assert len(slots) > 40
    assert max(slots.values()) == 1


@pytest.mark.parametrize("name", PLACES)
def test_all_come_to_the_same_winner_by_the_same_readings(name: str) -> None:
    hands, _ = worked(name, 4)

    searches = [
        [reading.number for reading in hand.searched if reading.visit.kind not in DECIDING]
        for hand in hands
    ]
    assert searches == [searches[0]] * 4
    assert len({hand.tuned.incumbent for hand in hands if hand.tuned}) == 1


def test_each_verifies_on_its_own_machine() -> None:
    hands, _ = worked("A", 4)

    for hand in hands:
        assert hand.tuned is not None
        own = {reading.number for reading in hand.measured}
        verified = {reading.number for reading in hand.tuned.verification.readings}
        assert verified
        assert verified <= own


@pytest.mark.parametrize("name", PLACES)
def test_four_are_sooner_done_than_one(name: str) -> None:
    alone, together = worked(name, 1)[0], worked(name, 4)[0]

    assert max(hand.searched_s for hand in together) < 0.75 * alone[0].searched_s


def test_visits_that_share_a_load_are_one_workers() -> None:
    """A race is over in one load, wherever it is run."""
    _, trials = worked("A", 4)

    first = [t for t in trials if t.user_attrs["kind"] == "race"][:5]
    assert len({t.user_attrs["worker"] for t in first}) == 1


@pytest.mark.parametrize("name", PLACES)
def test_what_is_told_of_a_request_is_of_measurements_alone(name: str) -> None:
    """What a worker takes for granted while it looks ahead is nobody's result."""
    hands, trials = worked(name, 4)
    objective = planned(name).objective
    measured: dict[object, list[float]] = defaultdict(list)
    readings = {n: r for hand in hands for r in hand.measured for n in [r.number]}
    for reading in readings.values():
        for part in reading.visit.parts:
            if seen := reading.measured(part):
                seconds = objective.part_seconds(part, seen.samples_ns)
                measured[objective.key(reading.visit.params, part), part].append(seconds)

    for trial in trials:
        if trial.value is not None:
            params = readings[trial.number].visit.params
            each = [measured[objective.key(params, part), part] for part in objective.parts]
            least, most = sum(map(min, each)), sum(map(max, each))
            assert least - 1e-9 <= trial.value <= most + 1e-9


def test_who_waits_for_anothers_defaults_waits_longer_than_its_budget() -> None:
    machines = [alike(cpu16(0), nth) for nth in range(2)]
    plan = plan_for(machines[0], CHAT, Limits(budget_s=0.1))

    hands, server = crew(machines, plan)

    assert [hand.tuned is not None for hand in hands] == [True, True]
    assert [t.user_attrs["kind"] for t in visits_in(server)] == ["baseline"]


def test_a_fleet_that_is_always_at_its_limit_of_power_measures_nothing_again_for_it() -> None:
    machines = [alike(cpu16(0), nth) for nth in range(2)]
    for machine in machines:
        machine.capped_s = lambda now: now
    plan = plan_for(machines[0], CHAT, Limits(trials=25))

    hands, _ = crew(machines, plan)

    assert {r.disturbed for hand in hands for r in hand.measured} == {""}


def test_where_a_real_server_contradicts_the_others_are_not_told_that_it_holds() -> None:
    machine = alike(cpu16(0), 0)

    def serves(*_: object, **__: object) -> NotServed:
        return NotServed(kind=FailureKind.CRASH, message="it did not start")

    (hand,), server = crew([machine], plan_for(machine, CHAT, Limits(budget_s=900)), serves=serves)

    (worker,) = workers_of(server.storage.get_study_user_attrs(0))
    assert hand.tuned is not None
    assert hand.tuned.verification.comparison is not None
    assert hand.tuned.verification.comparison.shown_better
    assert worker.holding is not None
    assert (worker.state, worker.holding.verdict) == ("finished", "not shown")
