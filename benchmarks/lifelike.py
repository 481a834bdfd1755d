"""Records as large as real ones, and a llama-bench that gives such at once."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, product
from typing import TYPE_CHECKING

from fakes.readings import OBJECTIVE, measured
from fakes.scripted import BASELINE, N_CPUS, SPACE, ScriptedBench, ScriptedRun
from fakes.simulated_hosts import dense_8b, hardware
from lcm_process import REPOSITORY

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.program_run import Event, Result
from autotune.llama_cpp.records import Measurement, Outcome, RunFacts
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.lab import Lab, Limits
from autotune.tuning.memory import Memory
from autotune.tuning.study import Study
from autotune.tuning.visits import Kind, Reading, Visit

if TYPE_CHECKING:
    from autotune.tuning.objective import Part

_LINES = REPOSITORY / "tests" / "fixtures" / "llama_bench" / "0.3.36-2026-10" / "records.jsonl"
_RECORD = _LINES.read_text(encoding="utf-8").splitlines()[0]
# What a session on two cores gives to llama-bench, and what is read around each test.
_ARGV = (
    "/opt/llama.cpp/bin/llama-bench -m /models/gemma-3-270m-q4_k_m.gguf -lm none -ctk f16 -ctv f16 "
    "-fa auto -t 2 -p 512 -n 0 -b 2048 -ub 512 --repack 1 -r 2 -o jsonl --progress"
).split()
_STATE = (
    "at_s busy_s own_s pressure_cpu_s pressure_memory_s pressure_io_s swapped_pages throttles "
    "clock_mhz temperature_c"
).split()
_MOVING = ("at_s", "busy_s", "own_s")  # While nobody disturbs.


def configurations() -> Iterator[Params]:
    """Each of a space, again and again."""
    names = [dimension.name for dimension in SPACE.dimensions]
    for point in cycle(product(*(dimension.values for dimension in SPACE.dimensions))):
        yield SPACE.with_point(BASELINE, dict(zip(names, point, strict=True)))


def lifelike(bare: Measurement, nth: int) -> Measurement:
    """With everything that a real one has; no two are the same."""
    state = {name: 1234.5 + nth + n / 7 for n, name in enumerate(_STATE)}
    run = RunFacts(
        argv=tuple(f"{word}" for word in _ARGV),
        removed_environment={},
        started_at=1.8e9 + nth,
        ended_at=1.8e9 + nth + 3,
        load_s=0.4,
        before=state,
        after={**state, **{name: state[name] + 3 for name in _MOVING}},
    )
    record = {**json.loads(_RECORD), "avg_ns": bare.samples_ns[0] + nth}
    return replace(bare, run=run, record=record)


def readings() -> Iterator[tuple[Reading, float]]:
    """What a long session measures, each with the seconds of a request; numbered from 0."""
    for n, params in enumerate(configurations()):
        seconds = {"pp": 1.0 + (7 * n % 11) / 10, "tg": 2.0 + (5 * n % 13) / 10}
        outcomes: dict[Part, Outcome] = {
            part: lifelike(measured(params, part, seconds[part]), n) for part in OBJECTIVE.parts
        }
        visit = Visit(kind=Kind.TAIL, source="proposal", params=params, parts=OBJECTIVE.parts)
        yield (
            Reading(visit=visit, outcomes=outcomes, disturbed="", elapsed_s=4.0 * n, number=n),
            sum(seconds.values()),
        )


class LifelikeBench(ScriptedBench):
    """Answers at once, in virtual time, with records as large as real ones; forgets what it did."""

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> "LifelikeRun":
        return LifelikeRun(self, trials, repetitions)


class LifelikeRun(ScriptedRun):
    """One run of it."""

    def __next__(self) -> Event:
        event = super().__next__()
        if isinstance(event, Result) and isinstance(event.outcome, Measurement):
            event = replace(event, outcome=lifelike(event.outcome, len(self._bench.done)))
            self._bench.done.clear()
        return event


def lifelike_lab(
    bench: LifelikeBench, study: Study, tell: Callable[[events.Event], None] = lambda _: None
) -> Lab:
    """A lab without limits around such a bench."""
    return Lab(
        bench=bench,
        study=study,
        knowledge=Knowledge(OBJECTIVE),
        memory=Memory(hardware(()), dense_8b(), n_ctx=4096, n_tested=512),
        clock=bench.clock,
        limits=Limits(),
        n_cpus=N_CPUS,
        observe=dict,
        tell=tell,
    )
