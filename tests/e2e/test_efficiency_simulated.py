"""`--objective efficiency` on simulated machines, where what is fastest takes more joules."""

import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fakes.simulator import SimulatedMachine, cpu16, flat
from fakes.tuned import CHAT, EFFICIENT_CHAT, Simulated, plan_for, session_on, tune_simulated

from autotune.cli.keeping import Keeper
from autotune.params import Params
from autotune.results.profile import Profile
from autotune.results.studies import Folder
from autotune.tuning.lab import Limits
from autotune.tuning.study import Study

BUDGET_S = 900.0
SEEDS = 8


def watts(threads: int) -> float:
    """Of a desktop: 18 W at rest, and each busy core takes more where many drive up the clock."""
    return 18 + 5.5 * threads + 0.25 * threads**2


def metered(seed: int) -> SimulatedMachine:
    machine = cpu16(seed)
    machine.watts = watts
    return machine


@cache
def sessions(objective: str) -> tuple[Simulated, ...]:
    workload = EFFICIENT_CHAT if objective == "efficiency" else CHAT
    return tuple(
        tune_simulated(metered(seed), workload, budget_s=BUDGET_S, seed=seed)
        for seed in range(SEEDS)
    )


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    sessions.cache_clear()


def joules(one: Simulated, which: str = "shipped") -> float:
    return one.machine.request_joules(getattr(one.tuned, which), 512, 256)


def best_known(one: Simulated) -> float:
    """The fewest joules, by trying all threads and ubatches around what was shipped."""
    space, tried = one.session.plan.space, [one.tuned.shipped]
    for name in ("n_threads", "n_threads_batch", "n_ubatch"):
        tried = [space.with_value(p, name, value) for p in tried for value in space.values_of(name)]
    return min(one.machine.request_joules(params, 512, 256) for params in tried)


def test_what_is_shipped_takes_nearly_the_fewest_joules() -> None:
    regrets = [joules(one) / best_known(one) - 1 for one in sessions("efficiency")]

    assert (statistics.median(regrets) <= 0.03, max(regrets) <= 0.10) == (True, True), regrets


def test_it_is_another_configuration_than_the_fastest() -> None:
    spared = [
        joules(fast) / joules(efficient)
        for fast, efficient in zip(sessions("request"), sessions("efficiency"), strict=True)
    ]
    slower = [
        efficient.true_s() / fast.true_s()
        for fast, efficient in zip(sessions("request"), sessions("efficiency"), strict=True)
    ]

    # Where few threads already saturate the memory, what is fastest spares much by itself.
    assert (min(spared) > 1.05, statistics.median(spared) > 1.2) == (True, True), spared
    assert min(slower) > 1.1, slower


def test_a_true_gain_in_joules_is_shown_by_the_verification() -> None:
    done = sessions("efficiency")

    assert [one.tuned.verification.verdict for one in done] == ["better"] * SEEDS
    for one in done:
        seen = one.tuned.verification.comparison
        assert seen is not None
        assert seen.low / 1.02 <= joules(one, "baseline") / joules(one) <= seen.high * 1.02


def test_joules_are_told_of_both_sides_whatever_is_minimised() -> None:
    for one in (*sessions("efficiency"), *sessions("request")):
        told = one.tuned.joules(one.tuned.shipped)
        assert told == pytest.approx(joules(one), rel=0.08)


def test_the_budget_is_kept() -> None:
    assert max(one.tuned.elapsed_s for one in sessions("efficiency")) <= BUDGET_S + 15


def test_where_nothing_matters_no_gain_in_joules_is_claimed() -> None:
    def even(seed: int) -> SimulatedMachine:
        machine = flat(seed)
        machine.watts = lambda _: 60.0
        return machine

    done = [tune_simulated(even(n), EFFICIENT_CHAT, budget_s=300, seed=n) for n in range(SEEDS)]

    assert sum(one.tuned.verification.verdict == "better" for one in done) <= 1


def test_a_database_that_has_lost_its_trials_gets_joules_back_from_the_journal(
    tmp_path: Path,
) -> None:
    machine = metered(seed=1)
    plan = plan_for(machine, EFFICIENT_CHAT, Limits(budget_s=150))
    folder = Folder(path=tmp_path / "study", model="m", workload="chat", started="")
    folder.path.mkdir()
    with _keeper(folder) as keeper:
        study = Study.create(folder.database, plan.space, {}, seed=0)
        session_on(machine, plan, study, tell=keeper.take).run()
    before = {reading.number: cost for reading, cost in Study.kept(folder.database)}
    folder.database.unlink()
    Study.create(folder.database, plan.space, {}, seed=0)

    with _keeper(folder) as keeper:
        Study.resume(folder.database, plan.space, keeper.known())

    after = {reading.number: cost for reading, cost in Study.kept(folder.database)}
    assert after == before
    assert max(cost or 0 for cost in after.values()) > 100  # Joules; its seconds are some ten.


def _keeper(folder: Folder) -> Keeper:
    def profile_of(params: Params) -> Profile:
        return Profile(params=params, date="2026-11-23T00:00:00Z", build="simulated")

    return Keeper(folder, budget_s=150, profile_of=profile_of, minimises="joules")
