"""The proof of `--deep` on simulated machines, which know what is true:
15 minutes each, in virtual time.

Everything follows from the seeds, so a figure that holds once holds always, and one that does not
is a change of the method. The table of `benchmarks/tuner.py` is of the same sessions.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from math import comb, log2

import pytest
from fakes.simulated_hosts import card, dense_30b
from fakes.simulator import Options, SimulatedMachine, cpu16, flat, moe, partial_offload, two_cards
from fakes.surfaces import partial_surface
from fakes.tuned import CHAT, LONG_PROMPT, N_CTX, Simulated, tune_simulated

from autotune.llama_cpp.records import FailureKind
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import ALL_LAYERS, Params
from autotune.tuning.memory import Memory
from autotune.tuning.visits import DECIDING, Reading
from autotune.tuning.workload import Workload

BUDGET_S = 900.0
Make = Callable[..., SimulatedMachine]
PLACES: dict[str, tuple[Make, Workload, int]] = {
    "A": (cpu16, CHAT, 30),
    "B": (partial_offload, LONG_PROMPT, 30),
    "C": (moe, LONG_PROMPT, 30),
    "flat": (flat, CHAT, 100),
}
BUSY = Options(bursts=1 / 3, smt=False)  # llama.cpp's default fills every CPU, so it hits hardest.


@cache
def sessions(name: str, *, busy: bool = False, seeds: int | None = None) -> tuple[Simulated, ...]:
    """Tune each machine of a kind once, for all tests that ask about it."""
    make, workload, n = PLACES[name]
    options = BUSY if busy else Options()
    return tuple(
        tune_simulated(make(seed, **options), workload, budget_s=BUDGET_S, seed=seed)
        for seed in range(seeds or n)
    )


@pytest.fixture(scope="module", autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    for cached in (sessions, crashing, on_the_edge, spread):
        cached.cache_clear()


def regrets(done: tuple[Simulated, ...]) -> list[float]:
    return [one.regret for one in done]


def tenth_worst(values: list[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def verdicts(done: tuple[Simulated, ...]) -> Counter[str]:
    return Counter(one.tuned.verification.verdict for one in done)


def most_claims(n: int, rate: float = 0.037, chance: float = 0.01) -> int:
    """How many of `n` may claim a gain, if more are an accident of less than `chance` at `rate`."""
    left = 1.0
    for claims in range(n):
        left -= comb(n, claims) * rate**claims * (1 - rate) ** (n - claims)
        if left < chance:
            return claims
    return n


# --- a machine for itself ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_the_shipped_parameters_are_near_the_best_there_are(name: str) -> None:
    of_all = regrets(sessions(name))
    assert (statistics.median(of_all) <= 0.02, tenth_worst(of_all) <= 0.06) == (True, True), (
        f"median {statistics.median(of_all):.2%}, 90th percentile {tenth_worst(of_all):.2%}"
    )


@pytest.mark.parametrize("name", ["A", "B", "C", "flat"])
def test_nothing_is_shipped_that_is_slower_than_the_defaults(name: str) -> None:
    slower = {i: one.gain for i, one in enumerate(sessions(name)) if one.gain < -0.01}
    assert slower == {}


@pytest.mark.parametrize("name", ["A", "B", "C", "flat"])
def test_the_budget_is_kept(name: str) -> None:
    took = [one.tuned.elapsed_s for one in sessions(name)]
    assert max(took) <= BUDGET_S + 15


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_a_true_gain_is_shown(name: str) -> None:
    done = sessions(name)
    # Two rounds of which one shows nothing are a reason not to claim what is there.
    assert verdicts(done)["better"] >= 0.9 * len(done), verdicts(done)


def test_where_nothing_matters_a_gain_is_hardly_ever_claimed() -> None:
    done = sessions("flat")
    assert verdicts(done)["better"] <= most_claims(len(done))


# --- a neighbour that computes a third of the time -----------------------------------------------


@pytest.mark.parametrize(("name", "seeds"), [("A", 30), ("flat", 30)])
def test_beside_a_busy_neighbour_nothing_slower_than_the_defaults_is_shipped(
    name: str, seeds: int
) -> None:
    done = sessions(name, busy=True, seeds=seeds)
    slower = {i: one.gain for i, one in enumerate(done) if one.gain < -0.01}
    assert slower == {}


def test_beside_a_busy_neighbour_a_true_gain_is_mostly_shown() -> None:
    done = sessions("A", busy=True, seeds=30)
    assert verdicts(done)["better"] >= 0.7 * len(done), verdicts(done)


def test_beside_a_busy_neighbour_a_gain_is_hardly_ever_claimed_where_nothing_matters() -> None:
    done = sessions("flat", busy=True, seeds=30)
    assert verdicts(done)["better"] <= most_claims(len(done))


@pytest.mark.parametrize(("name", "seeds"), [("A", 30), ("flat", 30)])
def test_beside_a_busy_neighbour_the_budget_is_kept(name: str, seeds: int) -> None:
    took = [one.tuned.elapsed_s for one in sessions(name, busy=True, seeds=seeds)]
    assert max(took) <= BUDGET_S * 1.05


# --- what fails ----------------------------------------------------------------------------------


def crashes_without_flash_attention(params: Params, _test: BenchTest) -> bool:
    return params.flash_attn is False


@cache
def crashing() -> tuple[Simulated, ...]:
    return tuple(
        tune_simulated(
            cpu16(seed, crash=crashes_without_flash_attention), CHAT, budget_s=BUDGET_S, seed=seed
        )
        for seed in range(10)
    )


def test_a_crash_costs_one_configuration_and_not_the_session() -> None:
    assert verdicts(crashing()) == {"better": 10}
    assert {one.tuned.shipped.flash_attn for one in crashing()} <= {"auto", True}
    without = sessions("A")[: len(crashing())]
    lost = statistics.median(regrets(crashing())) - statistics.median(regrets(without))
    assert lost <= 0.01


def test_a_crash_is_given_one_more_chance_at_most() -> None:
    for one in crashing():
        crashed = [
            reading.visit.params
            for reading in one.session.lab.knowledge.readings
            if reading.failure and reading.failure.kind is FailureKind.CRASH
        ]
        assert crashed
        assert max(Counter(crashed).values()) <= 2


# How many times the counted bytes are really needed. The defaults, which leave 1 GiB, still fit.
CLIFFS = {"B": 1.06, "C": 1.04}


@cache
def on_the_edge(name: str) -> tuple[Simulated, ...]:
    """Tune machines whose memory ends earlier than is counted."""
    make, workload, _ = PLACES[name]
    done = []
    for seed in range(6):
        machine = make(seed)
        machine.memory_truth = CLIFFS[name]
        done.append(tune_simulated(machine, workload, budget_s=BUDGET_S, seed=seed))
    return tuple(done)


def own_memory(one: Simulated) -> Memory:
    """Count as the session did, before anything had failed."""
    machine, objective = one.machine, one.session.plan.objective
    return Memory(machine.hardware, machine.model, n_ctx=N_CTX, n_tested=objective.longest_test())


def ran_out(reading: Reading) -> bool:
    return reading.failure is not None and reading.failure.kind is FailureKind.OOM


@pytest.mark.parametrize("name", ["B", "C"])
def test_what_ran_out_of_memory_is_not_tried_again_nor_anything_larger(name: str) -> None:
    too_large = []
    for one in on_the_edge(name):
        memory = own_memory(one)
        least_failed, most_worked = float("inf"), 0
        for reading in one.session.lab.knowledge.readings:
            needed = memory.gpu_bytes(reading.visit.params)
            if needed >= least_failed and needed > most_worked:
                too_large.append(reading)
            if ran_out(reading):
                least_failed = min(least_failed, needed)
            elif reading.outcomes:
                most_worked = max(most_worked, needed)
        assert least_failed < float("inf"), "there was no cliff"
    assert too_large == []


@pytest.mark.parametrize("name", ["B", "C"])
def test_where_memory_ends_earlier_than_is_counted_the_gain_is_mostly_shown(name: str) -> None:
    done = on_the_edge(name)
    assert verdicts(done)["better"] >= len(done) - 2, verdicts(done)


@pytest.mark.parametrize("name", ["B", "C"])
def test_what_is_verified_does_not_run_out_of_memory(name: str) -> None:
    deciding = [
        reading
        for one in on_the_edge(name)
        for reading in one.session.lab.knowledge.readings
        if reading.visit.kind in DECIDING
    ]
    assert [reading for reading in deciding if ran_out(reading)] == []


# --- two unequal cards ---------------------------------------------------------------------------

# How much of what each card says is free really is.
CARDS = {"as they say": (1.0, 1.0), "less than they say": (0.6, 0.8), "hardly any": (0.3, 0.3)}


@cache
def spread(name: str) -> tuple[Simulated, ...]:
    """Tune machines with a small slow card and a large fast one."""
    done = []
    for seed in range(6):
        machine = two_cards(seed)
        machine.really = CARDS[name]
        done.append(tune_simulated(machine, LONG_PROMPT, budget_s=1800, seed=seed))
    return tuple(done)


def best_spread_s(one: Simulated) -> float:
    """Seconds of the best split there is of what is shipped, each with the most that fits."""
    machine, shipped = one.machine, one.tuned.shipped
    assert isinstance(machine, SimulatedMachine)
    n_all = machine.model.n_offloadable
    splits = [None, *((float(n), float(n_all - n)) for n in range(1, n_all))]
    ways = [(None, split) for split in splits] + [(("CUDA0",), None), (("CUDA1",), None)]
    found = []
    for devices, split in ways:
        way = replace(shipped, split_mode=None, devices=devices, tensor_split=split)
        layers = (ALL_LAYERS, *range(n_all - 1, -1, -1))
        placed = (replace(way, n_gpu_layers=n) for n in layers)
        fitting = (p for p in placed if machine.fits(p, N_CTX, "server") and machine.fits(p, 2048))
        found += [one.seconds_of(most) for most in [next(fitting, None)] if most]
    return min(found)


def failures_of(one: Simulated) -> list[Reading]:
    return [reading for reading in one.session.lab.knowledge.readings if ran_out(reading)]


@pytest.mark.parametrize("name", ["as they say", "less than they say"])
def test_layers_are_spread_near_the_best_split_there_is(name: str) -> None:
    lost = [one.true_s() / best_spread_s(one) - 1 for one in spread(name)]

    assert (statistics.median(lost) <= 0.05, max(lost) <= 0.12) == (True, True), lost


def test_of_three_cards_those_that_are_wished_for_share_the_layers_in_several_ways() -> None:
    sizes = (16, 24, 12)
    gpus = tuple(replace(card(gb), index=n, name=f"{gb} GB") for n, gb in enumerate(sizes))
    machine = SimulatedMachine("three cards", 0, partial_surface(0), dense_30b(), gpus, load_s=30)
    two = replace(LONG_PROMPT, parameters={"devices": ("CUDA0/CUDA1",)})

    done = tune_simulated(machine, two, budget_s=600)

    visits = [reading.visit for reading in done.session.lab.knowledge.readings]
    assert {v.params.devices for v in visits if v.source == "tensor_split"} == {("CUDA0", "CUDA1")}


@pytest.mark.parametrize("name", CARDS)
def test_the_edges_of_two_cards_are_found_by_halves(name: str) -> None:
    """Each from all layers down to one."""
    most = 2 * log2(two_cards().model.n_offloadable)

    n_failed = [len(failures_of(one)) for one in spread(name)]

    assert (max(n_failed) <= most, min(n_failed) > 0) == (True, CARDS[name][0] < 1), n_failed


@pytest.mark.parametrize("name", ["less than they say", "hardly any"])
def test_a_card_that_was_full_is_not_filled_as_much_again(name: str) -> None:
    again = []
    for one in spread(name):
        machine = one.machine
        assert isinstance(machine, SimulatedMachine)
        least_failed = [float("inf")] * 2
        for reading in one.session.lab.knowledge.readings:
            params = reading.visit.params
            needed = machine.needed_bytes(params, N_CTX, "server")
            again += [reading for n, least in zip(needed, least_failed, strict=True) if n >= least]
            failure = reading.failure
            if failure and failure.kind is FailureKind.OOM:
                full = int("on device 1" in failure.message)
                least_failed[full] = min(least_failed[full], needed[full])
    assert again == []
