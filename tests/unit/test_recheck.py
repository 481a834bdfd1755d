"""What was found once is verified anew: what is better, worse or neither is said to be so.

The simulated machines know what is true; two minutes of each take a hundredth of a second.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from fakes.scripted import LabOfTests
from fakes.simulator import SimulatedMachine, cpu16, flat, moe, partial_offload
from fakes.tuned import (
    CHAT,
    LONG_PROMPT,
    N_CTX,
    capabilities_of_today,
    memory_of,
    plan_for,
    session_on,
)

from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.tuning.lab import Limits
from autotune.tuning.recheck import as_measured, is_the_defaults, obstacle, recheck
from autotune.tuning.session import Plan, Tuned
from autotune.tuning.verify import LEAST_ROUNDS
from autotune.tuning.visits import Kind
from autotune.tuning.workload import Workload

BUDGET_S = 120.0
SEEDS = range(24)
Make = Callable[..., SimulatedMachine]
PLACES: dict[str, tuple[Make, Workload]] = {
    "CPU": (cpu16, CHAT),
    "dense": (partial_offload, LONG_PROMPT),
    "experts": (moe, LONG_PROMPT),
}


def plan_on(machine: SimulatedMachine, workload: Workload, seed: int) -> Plan:
    plan = plan_for(machine, workload, Limits(budget_s=BUDGET_S), seed=seed)
    return replace(plan, least_rounds=LEAST_ROUNDS)


def rechecked(machine: SimulatedMachine, plan: Plan, known: Params) -> Tuned:
    return session_on(machine, recheck(plan, known)).run()


def best_on(machine: SimulatedMachine, workload: Workload) -> Params:
    """Give the best that fits, as no search but only the machine knows it."""
    best, _ = machine.optimum(
        workload.n_prompt,
        workload.n_gen,
        workload.n_depth,
        n_ctx=N_CTX,
        program="server",
        feasible=memory_of(machine, workload).fits,
    )
    return best


def slower_than(baseline: Params) -> Params:
    """Give half of what the defaults have: of the layers on a GPU, or of the threads."""
    if baseline.n_gpu_layers:
        return replace(baseline, n_gpu_layers=min(baseline.n_gpu_layers, 40) // 2)
    return replace(baseline, n_threads=2, n_threads_batch=2)


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_what_is_still_better_is_shown_to_be(place: str) -> None:
    make, workload = PLACES[place]
    verdicts: Counter[str] = Counter()
    for seed in SEEDS:
        machine = make(seed)
        plan = plan_on(machine, workload, seed)
        known = plan.space.onto(best_on(machine, workload))
        verdicts[rechecked(machine, plan, known).verification.verdict] += 1

    assert verdicts["better"] >= len(SEEDS) - 1, verdicts
    assert not verdicts["worse"]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_slower_by_now_is_worse(place: str) -> None:
    make, workload = PLACES[place]
    verdicts: Counter[str] = Counter()
    for seed in SEEDS:
        machine = make(seed)
        plan = plan_on(machine, workload, seed)
        tuned = rechecked(machine, plan, slower_than(plan.baseline))
        verdicts[tuned.verification.verdict] += 1
        assert tuned.shipped == tuned.baseline

    assert verdicts == {"worse": len(SEEDS)}


def test_where_nothing_matters_nothing_is_shown() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(60):
        machine = flat(seed)
        plan = plan_on(machine, CHAT, seed)
        tuned = rechecked(machine, plan, replace(plan.baseline, n_threads=3))
        verdicts[tuned.verification.verdict] += 1

    assert verdicts["not shown"] >= 57, verdicts


# --- how it is measured --------------------------------------------------------------------------


def test_nothing_is_measured_but_the_defaults_and_what_is_known() -> None:
    machine = cpu16(1)
    plan = plan_on(machine, CHAT, 1)
    known = replace(plan.baseline, n_threads=6)
    session = session_on(machine, recheck(plan, known))

    session.run()

    readings = session.lab.knowledge.readings
    assert {r.visit.params for r in readings} == {plan.baseline, known}
    assert {r.visit.kind for r in readings} == {Kind.BASELINE, Kind.WHOLE, Kind.VERIFY}


def test_what_loads_slowly_has_two_rounds_all_the_same() -> None:
    machine = partial_offload(1)
    plan = plan_on(machine, LONG_PROMPT, 1)
    known = plan.space.onto(best_on(machine, LONG_PROMPT))

    patient = rechecked(machine, plan, known)
    strict = rechecked(partial_offload(1), replace(plan, least_rounds=0), known)

    assert patient.verification.comparison
    assert (patient.verification.comparison.pairs, patient.elapsed_s > BUDGET_S) == (2, True)
    assert strict.verification.comparison is None
    assert strict.elapsed_s <= BUDGET_S + 10


def test_a_value_that_no_search_would_try_is_verified_to_the_letter() -> None:
    machine = cpu16(1)
    plan = plan_on(machine, CHAT, 1)
    known = replace(plan.baseline, n_ubatch=384, type_k="q8_0", type_v="q8_0", flash_attn=True)

    tuned = rechecked(machine, plan, known)

    assert tuned.verification.candidate == known
    assert tuned.verification.comparison


def test_what_fails_by_now_is_not_shown() -> None:
    machine = partial_offload(1)
    plan = plan_on(machine, LONG_PROMPT, 1)

    tuned = rechecked(machine, plan, replace(plan.baseline, n_gpu_layers=999))

    assert (tuned.verification.verdict, tuned.verification.comparison) == ("not shown", None)
    assert tuned.failures[FailureKind.OOM] == 1


# --- what is not measured ------------------------------------------------------------------------


def test_the_defaults_are_known_for_what_they_are() -> None:
    plan = plan_on(cpu16(1), CHAT, 1)

    assert is_the_defaults(plan, as_measured(replace(plan.baseline, n_ctx=4096, cache_ram=1)))
    assert not is_the_defaults(plan, replace(plan.baseline, n_threads=3))


def test_what_changes_no_part_that_counts_is_as_good_as_the_defaults() -> None:
    generation = replace(CHAT, objective="tg")
    plan = plan_on(cpu16(1), generation, 1)

    assert is_the_defaults(plan, replace(plan.baseline, n_ubatch=64))


def test_a_flag_that_is_gone_is_an_obstacle() -> None:
    plan = plan_on(cpu16(1), CHAT, 1)
    today, memory = capabilities_of_today(), LabOfTests().memory
    known = replace(plan.baseline, repack=False)
    options = {flag: values for flag, values in today.options.items() if flag != "--repack"}
    tomorrow = Capabilities(options=options, version="1.0.0")

    assert obstacle(known, plan.objective, today, memory) == ""
    assert "has no --repack" in obstacle(known, plan.objective, tomorrow, memory)


def test_what_does_not_fit_any_more_is_an_obstacle() -> None:
    machine = partial_offload(1)
    plan = plan_on(machine, LONG_PROMPT, 1)
    memory = memory_of(machine, LONG_PROMPT)
    known = replace(plan.baseline, n_gpu_layers=999)

    assert "does not fit" in obstacle(known, plan.objective, capabilities_of_today(), memory)
