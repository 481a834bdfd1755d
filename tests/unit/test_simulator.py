"""The simulated machines: their truth, their noise, their memory, and their time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from fakes.simulator import (
    CONTEXT_S,
    DRIVER_BYTES,
    EPOCH,
    MACHINES,
    SimulatedMachine,
    cpu16,
    flat,
    moe,
    partial_offload,
)
from fakes.surfaces import dice

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Progress, Result
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, Outcome
from autotune.llama_cpp.records import Test as BenchTest
from autotune.model.footprint import footprint
from autotune.params import Params
from autotune.recommend.placement import place

PP, TG = BenchTest(n_prompt=512), BenchTest(n_gen=32)
REQUEST = (2048, 256)  # Tokens of its prompt and its answer.
Make = Callable[..., SimulatedMachine]


def undisturbed(make: Make, seed: int = 0) -> SimulatedMachine:
    return make(seed, noise=0, drift=0, bursts=0, outliers=0)


def outcomes(
    machine: SimulatedMachine, trials: Sequence[Trial], repetitions: int = 1
) -> list[Outcome]:
    with machine.run(trials, repetitions=repetitions) as run:
        return [event.outcome for event in run if isinstance(event, Result)]


def samples(
    machine: SimulatedMachine, params: Params, test: BenchTest = PP, repetitions: int = 3
) -> tuple[int, ...]:
    (outcome,) = outcomes(machine, [Trial(params, test)], repetitions)
    assert isinstance(outcome, Measurement)
    return outcome.samples_ns


def placed(machine: SimulatedMachine, **how: int) -> Params:
    """Give the defaults where they fit, as the quick recommendation would place them."""
    params = replace(machine.defaults, n_ctx=sum(REQUEST), **how)  # type: ignore[arg-type]
    if not machine.hardware.gpus:
        return params
    return place(machine.model, params, machine.hardware.gpus, "bench").params


# --- noise ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_samples_and_another_does_not() -> None:
    first, again, other = (samples(cpu16(seed), Params()) for seed in (1, 1, 2))
    assert first == again != other
    assert len({*first}) == 3


def test_what_else_was_measured_does_not_change_the_noise() -> None:
    params = Params(n_threads=8)
    alone, busy = (cpu16(1, drift=0) for _ in range(2))
    # In a load of other model parameters, as each process has an effect of its own.
    samples(busy, Params(n_threads=4, load_mode="none"))
    assert samples(alone, params) == pytest.approx(samples(busy, params), abs=2)


def test_a_second_visit_gives_other_samples() -> None:
    machine = cpu16(1)
    assert samples(machine, Params()) != samples(machine, Params())


def test_noise_is_as_large_as_it_was_asked_to_be() -> None:
    machine = flat(3, noise=0.05, drift=0, outliers=0)
    seconds = [ns / 1e9 for ns in samples(machine, Params(), repetitions=500)]
    assert pstdev(seconds) / fmean(seconds) == pytest.approx(0.05, rel=0.15)


def test_outliers_are_rare_and_large() -> None:
    machine = flat(3, noise=0, drift=0, outliers=0.05)
    seconds = [ns / 4e9 for ns in samples(machine, Params(), repetitions=1000)]
    assert {round(s, 6) for s in seconds} == {1, 1.3}
    assert sum(s > 1.2 for s in seconds) == pytest.approx(50, abs=20)


def test_drift_is_slow_and_bounded() -> None:
    machine = flat(3, noise=0, outliers=0, drift=0.02)
    seconds = [ns / 4e9 for ns in samples(machine, Params(), repetitions=1000)]
    assert 0.0 < max(abs(s - 1) for s in seconds) < 0.021
    assert max(abs(a - b) for a, b in pairwise(seconds)) < 0.001


@pytest.mark.parametrize("make", [cpu16, partial_offload, moe])
@pytest.mark.parametrize(
    "test", [PP, TG, BenchTest(n_prompt=512, n_gen=32), replace(TG, n_depth=8)]
)
def test_without_noise_the_truth_is_measured(make: Make, test: BenchTest) -> None:
    machine = undisturbed(make)
    params = placed(machine)
    truth = machine.seconds(params, test)
    assert samples(machine, params, test) == pytest.approx([truth * 1e9] * 3)


# --- a neighbour ---------------------------------------------------------------------------------


def test_the_neighbour_is_there_for_its_share_of_the_time_and_is_seen() -> None:
    machine = flat(1, noise=0, drift=0, outliers=0, bursts=0.2)
    machine.clock.sleep(100_000)
    state = machine.observe()
    assert state["own_s"] == 0
    assert state["busy_s"] / state["at_s"] == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(("n_threads", "least", "most"), [(15, 1.149, 1.151), (16, 3, 20)])
def test_a_neighbour_ruins_only_what_fills_all_cpus(
    n_threads: int, least: float, most: float
) -> None:
    machine = flat(1, noise=0, drift=0, outliers=0, bursts=0.2, smt=False)
    found = outcomes(machine, [Trial(Params(n_threads=n_threads), PP)] * 400)
    worst = 0.0
    for outcome in found:
        assert isinstance(outcome, Measurement)
        before, after = outcome.run.before, outcome.run.after
        own_s, busy_s = (after[key] - before[key] for key in ("own_s", "busy_s"))
        took_s = outcome.samples_ns[0] / 4e9
        worst = max(worst, took_s)
        if took_s > 1.0001:
            assert busy_s - own_s > 0.01
    assert least <= worst <= most


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_memory_ends_where_the_footprint_says(seed: int) -> None:
    machine = undisturbed(partial_offload, seed)
    (gpu,) = machine.hardware.gpus
    found = {}
    for n in range(28, 36):
        params = Params(n_gpu_layers=n)
        needed = footprint(
            machine.model, replace(params, n_ctx=512), program="bench", gpus=[1.0]
        ).gpus[0]
        fits = needed.total_bytes * machine.memory_truth <= gpu.free_bytes - DRIVER_BYTES
        (outcome,) = outcomes(machine, [Trial(params, PP)])
        assert isinstance(outcome, Measurement) == fits == machine.fits(params, 512)
        assert fits or (isinstance(outcome, Failure) and outcome.kind is FailureKind.OOM)
        found[n] = fits
    assert set(found.values()) == {True, False}
    assert 0.98 <= machine.memory_truth <= 1.02


def test_the_defaults_do_not_fit_where_layers_must_stay_on_the_host() -> None:
    for make in (partial_offload, moe):
        machine = make(0)
        first, second = outcomes(machine, [Trial(machine.defaults, test) for test in (PP, TG)])
        assert isinstance(first, Failure)
        assert isinstance(second, Failure)
        assert {first.kind, second.kind} == {FailureKind.OOM}
        assert machine.n_loads == 1  # No other context would have helped.


def test_a_context_that_does_not_fit_costs_another_load_and_no_other_trial() -> None:
    machine = undisturbed(partial_offload)
    most = max(n for n in range(41) if machine.fits(Params(n_gpu_layers=n), 2048))
    params = Params(n_gpu_layers=most)
    trials = [
        Trial(replace(params, n_ubatch=u, n_batch=4096), BenchTest(n_prompt=4096))
        for u in (64, 4096, 128)
    ]
    found = {o.params.n_ubatch: type(o) for o in outcomes(machine, trials)}
    assert found == {64: Measurement, 4096: Failure, 128: Measurement}
    assert machine.n_loads == 2


# --- failures ------------------------------------------------------------------------------------


def test_a_crash_costs_one_trial_alone() -> None:
    machine = cpu16(0, crash=lambda params, test: params.n_threads == 7 and test == TG)
    trials = [Trial(Params(n_threads=n), test) for n in (6, 7, 8) for test in (PP, TG)]
    found = {(o.params.n_threads, o.test): o for o in outcomes(machine, trials)}
    failures = [o for o in found.values() if isinstance(o, Failure)]
    assert len(found) == 6
    assert [(f.kind, f.params.n_threads, f.test) for f in failures] == [(FailureKind.CRASH, 7, TG)]
    assert machine.n_loads == 2


def test_no_threads_are_a_bad_argument() -> None:
    (outcome,) = outcomes(cpu16(0), [Trial(Params(n_threads=0), PP)])
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.BAD_ARGUMENTS


# --- the truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("kind", "request_"), [("A", (512, 256)), ("B", REQUEST), ("C", REQUEST)])
def test_the_defaults_leave_something_to_gain(
    kind: str, request_: tuple[int, int], seed: int
) -> None:
    machine = MACHINES[kind](seed)
    _, best_s = machine.optimum(*request_)
    lost = machine.request_seconds(placed(machine), *request_) / best_s - 1
    assert 0.05 < lost < 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", "ABC")
def test_no_random_configuration_beats_the_optimum(kind: str, seed: int) -> None:
    machine = MACHINES[kind](seed)
    best, best_s = machine.optimum(*REQUEST)
    assert machine.fits(best, sum(REQUEST))
    assert machine.request_seconds(best, *REQUEST) == best_s
    d = dice("configurations", kind, seed)
    n_feasible = 0
    while n_feasible < 300:
        params = Params(
            n_threads=d.randint(1, 32),
            n_threads_batch=d.randint(1, 32),
            n_batch=d.choice([512, 2048, 4096]),
            n_ubatch=d.choice([64, 128, 256, 512, 1024, 2048, 4096]),
            n_gpu_layers=d.choice([d.randint(0, 36), 999]),
            n_cpu_moe=d.randint(0, 48) if kind == "C" else None,
            flash_attn=d.choice([True, False, "auto"]),
            load_mode=d.choice([None, "none", "mmap"]),
            repack=d.choice([None, False]),
            no_kv_offload=d.choice([None, True]),
            no_op_offload=d.choice([None, True]),
        )
        if machine.fits(params, sum(REQUEST)):
            n_feasible += 1
            assert machine.request_seconds(params, *REQUEST) >= best_s * (1 - 1e-9)


def test_the_optimum_keeps_to_what_is_feasible() -> None:
    machine = partial_offload(0)
    best, best_s = machine.optimum(*REQUEST)
    bounded, bounded_s = machine.optimum(*REQUEST, feasible=lambda p: (p.n_gpu_layers or 0) <= 20)
    assert (bounded.n_gpu_layers, bounded_s > best_s) == (20, True)
    on_gpu, _ = machine.optimum(*REQUEST, n_ctx=32768, feasible=lambda p: not p.no_kv_offload)
    assert (on_gpu.n_gpu_layers or 0) < (best.n_gpu_layers or 0)


def test_on_the_flat_machine_nothing_is_better() -> None:
    machine = undisturbed(flat)
    trials = [Params(), Params(n_threads=1), Params(n_ubatch=64, flash_attn=False)]
    assert len({samples(machine, params, TG) for params in trials}) == 1


def test_a_request_takes_each_part_with_its_own_threads() -> None:
    machine = cpu16(0)
    both = replace(machine.defaults, n_threads=8, n_threads_batch=14)
    expected = machine.seconds(replace(both, n_threads=14), PP) + machine.seconds(both, TG)
    assert machine.request_seconds(both, 512, 32) == pytest.approx(expected)
    assert machine.request_seconds(both, 0, 32) == pytest.approx(machine.seconds(both, TG))


# --- time ----------------------------------------------------------------------------------------


def test_virtual_time_adds_up() -> None:
    machine = undisturbed(cpu16)
    params, deep = Params(n_threads=8), replace(TG, n_depth=512)
    outcomes(machine, [Trial(params, PP), Trial(params, TG)], 3)
    prompt_s, token_s = machine.seconds(params, PP), machine.seconds(params, BenchTest(n_gen=1))
    together = machine.load_s + 2 * CONTEXT_S + 4 * prompt_s + token_s
    together += 3 * machine.seconds(params, TG)
    assert machine.clock.now() == pytest.approx(together)

    outcomes(machine, [Trial(params, deep)], 3)
    alone = machine.load_s + CONTEXT_S + token_s + prompt_s + 3 * machine.seconds(params, deep)
    assert machine.clock.now() == pytest.approx(together + alone)
    assert machine.n_loads == 2


def test_the_facts_are_in_virtual_time() -> None:
    machine = undisturbed(cpu16)
    machine.clock.sleep(1000)
    (outcome,) = outcomes(machine, [Trial(Params(), PP)])
    run = outcome.run
    assert run.load_s == pytest.approx(12 + CONTEXT_S)
    assert run.started_at == pytest.approx(EPOCH + 1000)
    assert run.ended_at == pytest.approx(EPOCH + machine.clock.now())
    # What the machine did while the model was loaded is no part of the test.
    loaded_s = 1000 + 12 + CONTEXT_S
    assert run.before["at_s"] == pytest.approx(loaded_s)
    assert run.after["at_s"] == machine.clock.now()


def test_who_stops_early_saves_the_rest() -> None:
    machine = undisturbed(cpu16)
    params = Params(n_threads=8)
    with machine.run([Trial(params, TG)] * 4, repetitions=10) as run:
        for event in run:
            if isinstance(event, Progress) and (event.phase, event.repetition) == (Phase.RUN, 3):
                run.stop()
    token_s = machine.seconds(params, BenchTest(n_gen=1))
    spent = machine.load_s + CONTEXT_S + token_s + 2 * machine.seconds(params, TG)
    assert machine.clock.now() == pytest.approx(spent)


def test_nothing_happens_until_events_are_read() -> None:
    machine = cpu16(0)
    with machine.run([Trial(Params(), PP)]) as run:
        assert machine.clock.now() == 0
        next(run)
        assert (machine.clock.now(), machine.n_loads) == (0, 0)


@pytest.mark.parametrize("kind", MACHINES)
def test_a_trial_takes_next_to_no_real_time(kind: str) -> None:
    machine = MACHINES[kind](0)
    params = placed(machine)
    trials = [
        Trial(replace(params, n_threads=n, n_ubatch=u), PP)
        for n in range(1, 33)
        for u in (128, 256, 512, 1024)
    ]
    started = time.process_time()
    assert len(outcomes(machine, trials)) == len(trials)
    assert (time.process_time() - started) / len(trials) < 0.004
