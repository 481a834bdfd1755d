"""A recorded machine answers with what was recorded, and with nothing else."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import pytest
from contract.bench_contract import BenchContract, measured, results, told
from fakes.recording import Ground, Recording, Seen, names, read_recording, write_recording
from fakes.replay import NotRecordedError, RecordedMachine, recorded_plan
from fakes.simulated_hosts import hardware
from fakes.tuned import session_on

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Failure, FailureKind, Measurement
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params
from autotune.tuning.lab import Limits
from autotune.tuning.space import Dimension, Space
from autotune.tuning.workload import Value, Workload

PP, TG = BenchTest(n_prompt=64), BenchTest(n_gen=16)
THREADS = Dimension(name="n_threads", values=(1, 2))
UBATCH = Dimension(name="n_ubatch", values=(64, 128))
LAYERS = Dimension(name="n_gpu_layers", values=(0, 1, 2))


def ground(*dimensions: Dimension) -> Ground:
    return Ground(
        name="made-up",
        made="2026-11-28T00:00:00+00:00",
        llama_cpp="version: 1 (5eed)",
        model="tiny",
        hardware=hardware(()),
        workload=Workload(name="made-up", description="", n_prompt=64, n_gen=16),
        tests={"pp": PP, "tg": TG},
        baseline=Params(n_threads=2, n_threads_batch=2, n_batch=2048, n_ubatch=512),
        dimensions=dimensions,
        n_ctx=4096,
        all_layers=7,
    )


def made_up(*dimensions: Dimension, passes: int = 2) -> Recording:
    """Each point is a little slower than the one before it, and each sample than its forerunner."""
    here = ground(*dimensions)
    space = Space(dimensions=dimensions, fixed=here.baseline, all_layers=here.all_layers)
    seen = {}
    points = product(*(d.values for d in dimensions))
    for n, point in enumerate(points):
        named = zip((d.name for d in dimensions), point, strict=True)
        params = space.with_point(space.fixed, dict(named))
        for part, test in (("pp", PP), ("tg", TG)):
            at = here.at(Trial(params, test))
            for nth in range(1, passes + 1):
                first = 1_000_000 + 10_000 * n + 100 * nth
                seen[part, at, nth] = Seen(
                    nth_pass=nth,
                    at=at,
                    part=part,
                    samples_ns=(first, first + 1),
                    load_s=0.5 + n / 1000 + nth / 1e6,
                )
    return Recording(here, tuple(seen.values()))


def at(recording: Recording, part: str, **values: Value) -> list[Seen]:
    return [s for s in recording.seen if s.part == part and values.items() <= dict(s.at).items()]


def failing(recording: Recording, nth_passes: set[int], **values: Value) -> Recording:
    """The same, but the prompts of some points failed in these passes."""
    bad = at(recording, "pp", **values)
    return Recording(
        recording.ground,
        tuple(
            replace(one, samples_ns=(), load_s=None, failure=FailureKind.OOM, message="no room")
            if one in bad and one.nth_pass in nth_passes
            else one
            for one in recording.seen
        ),
    )


def test_samples_are_those_of_one_pass() -> None:
    recording = made_up(THREADS, UBATCH)
    machine = RecordedMachine(recording, seed=3)

    (found,) = measured(machine, [Trial(Params(n_threads=1, n_ubatch=128), PP)], 8)

    passes = [set(s.samples_ns) for s in at(recording, "pp", n_threads=1, n_ubatch=128)]
    assert any(set(found.samples_ns) <= known for known in passes)


def test_every_pass_answers_sooner_or_later() -> None:
    recording = made_up(THREADS, UBATCH)
    machine = RecordedMachine(recording)
    trial = Trial(Params(n_threads=1, n_ubatch=128), PP)

    seen = {ns for _ in range(30) for m in measured(machine, [trial]) for ns in m.samples_ns}

    known = at(recording, "pp", n_threads=1, n_ubatch=128)
    assert seen == {ns for one in known for ns in one.samples_ns}


def test_the_truth_is_the_median_of_all_samples() -> None:
    recording = made_up(THREADS, UBATCH)
    machine = RecordedMachine(recording)

    seconds = machine.seconds(Params(n_threads=2, n_ubatch=64), PP)

    known = at(recording, "pp", n_threads=2, n_ubatch=64)
    assert seconds == median(ns for one in known for ns in one.samples_ns) / 1e9


def test_a_token_is_as_fast_with_any_ubatch() -> None:
    machine = RecordedMachine(made_up(THREADS, UBATCH))

    assert machine.seconds(Params(n_threads=1, n_ubatch=64), TG) == machine.seconds(
        Params(n_threads=1, n_ubatch=128), TG
    )


def test_the_best_is_the_fastest_point_of_the_grid() -> None:
    machine = RecordedMachine(made_up(THREADS, UBATCH))

    best, seconds = machine.optimum(64, 16)

    assert (best.n_threads, best.n_ubatch) == (1, 64)
    assert seconds == machine.request_seconds(best, 64, 16)


def test_what_failed_in_every_pass_fails_and_is_never_the_best() -> None:
    machine = RecordedMachine(failing(made_up(THREADS, UBATCH), {1, 2}, n_threads=1))

    (result,) = results(told(machine, [Trial(Params(n_threads=1, n_ubatch=64), PP)]))
    best, _ = machine.optimum(64, 16)

    assert isinstance(result.outcome, Failure)
    assert (result.outcome.kind, result.outcome.message) == (FailureKind.OOM, "no room")
    assert best.n_threads_batch == 2


def test_what_failed_once_is_answered_by_the_other_passes() -> None:
    machine = RecordedMachine(failing(made_up(THREADS, UBATCH), {1}, n_threads=1))
    trial = Trial(Params(n_threads=1, n_ubatch=64), PP)

    outcomes = [r.outcome for _ in range(10) for r in results(told(machine, [trial]))]

    assert all(isinstance(outcome, Measurement) for outcome in outcomes)


def test_what_was_not_recorded_cannot_be_asked() -> None:
    machine = RecordedMachine(made_up(THREADS, UBATCH))

    with pytest.raises(NotRecordedError, match=r"made-up has no pp at .*'n_ubatch': 32"):
        machine.seconds(Params(n_threads=1, n_ubatch=32), PP)


def test_all_layers_are_one_point_however_they_are_said() -> None:
    layers = Dimension(name="n_gpu_layers", values=(0, 7))
    machine = RecordedMachine(made_up(layers))

    assert machine.seconds(Params(n_gpu_layers=999), PP) == machine.seconds(
        Params(n_gpu_layers=7), PP
    )


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    recording = failing(made_up(THREADS, UBATCH, LAYERS), {2}, n_gpu_layers=2)

    write_recording(recording.ground, recording.seen, tmp_path)

    assert read_recording("made-up", tmp_path) == recording


@pytest.mark.parametrize("name", names())
def test_a_recorded_grid_is_whole(name: str) -> None:
    recording = read_recording(name)
    machine = RecordedMachine(recording)
    dimensions = machine.space.dimensions
    n_passes = {one.nth_pass for one in recording.seen}

    for values in product(*(d.values for d in dimensions)):
        point = dict(zip((d.name for d in dimensions), values, strict=True))
        params = machine.space.with_point(machine.space.fixed, point)
        for threads, test in ((params.n_threads_batch, "pp"), (params.n_threads, "tg")):
            asked = replace(params, n_threads=threads)
            seen = machine.seen(asked, recording.ground.tests[test])
            assert {one.nth_pass for one in seen} == n_passes
            assert all(one.samples_ns or one.failure for one in seen)


@pytest.mark.parametrize("name", names())
def test_a_session_runs_on_a_recording(name: str) -> None:
    machine = RecordedMachine(read_recording(name))

    tuned = session_on(machine, recorded_plan(machine, Limits(budget_s=60))).run()

    w = machine.recording.ground.workload
    seconds = machine.request_seconds(tuned.shipped, w.n_prompt, w.n_gen)
    assert seconds < math.inf
    assert machine.clock.now() < 60 * 1.1 + 15


class TestRecordedMachine(BenchContract):
    """Of a grid that holds all that the contract asks for."""

    @pytest.fixture
    def bench(self) -> RecordedMachine:
        recording = made_up(
            THREADS,
            Dimension(name="n_ubatch", values=(8, 16, 32, 512)),
            Dimension(name="n_batch", values=(32, 64, 2048)),
            Dimension(name="flash_attn", values=("auto", False, True)),
            Dimension(name="type_v", values=("f16", "q8_0", "bf16")),
            Dimension(name="n_gpu_layers", values=(0, 1, 7)),
            Dimension(name="load_mode", values=("auto", "none", "mmap")),
            passes=1,
        )
        recording = Recording(
            recording.ground,
            tuple(
                replace(
                    one,
                    samples_ns=(),
                    load_s=None,
                    failure=FailureKind.UNSUPPORTED,
                    message="V cache quantization requires flash_attn",
                )
                if {("flash_attn", False), ("type_v", "q8_0")} <= set(one.at)
                else one
                for one in recording.seen
            ),
        )
        return RecordedMachine(recording, seed=1)
