"""A recorded machine: llama-bench's answers drawn from what the real one once said.

Whatever is asked of the grid is answered by one of the passes over it, drawn by the seed: its load,
its failure, or repetitions out of its samples. The truth is the median of all samples of a point,
so what is best here is known, as it is not on the machine itself. What is not of the grid cannot be
asked. In virtual time, as every `VirtualMachine`.
"""

from __future__ import annotations

import math
import statistics
from functools import cache
from itertools import product
from random import Random
from typing import TYPE_CHECKING

from fakes.layered import layered
from fakes.simulated_hosts import written
from fakes.simulated_run import Problem
from fakes.surfaces import dice
from fakes.tiny import tiny_llama
from fakes.virtual import VirtualMachine
from fakes.weather import Weather
from fakes.zoo import ZOO

from autotune.llama_cpp.grids import Trial
from autotune.recommend import Request, generate_recommendations
from autotune.tuning.objective import Objective
from autotune.tuning.search import Seed
from autotune.tuning.session import Plan
from autotune.tuning.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from fakes.recording import Ground, Recording, Seen

    from autotune.llama_cpp.records import Test
    from autotune.model import Model
    from autotune.params import Params, Program
    from autotune.tuning.lab import Limits

# A load that fails ends with the model's memory: none of the other tests was run.
_OF_MODEL = "load"
_SPECS = {"tiny": tiny_llama, "layered": layered}


class NotRecordedError(LookupError):
    """Something was asked that is not of the recorded grid."""


class _Drawn(Random):
    """Random numbers of one visit, which one pass answers."""

    seen: Seen
    median_ns: float


class _RecordedWeather(Weather):
    """The noise is in the samples; there is no other."""

    def __init__(self, seed: int, machine: RecordedMachine) -> None:
        super().__init__(
            seed=seed,
            noise=0,
            drift=0,
            outliers=0,
            n_cpus=machine.recording.ground.hardware.cpu.max_threads,
        )
        self._machine = machine

    def of_visit(self, params: Params, test: Test, nth: int) -> Random:
        drawn = _Drawn(repr((self.seed, params, test, nth)))
        drawn.seen = drawn.choice(self._machine.measured(params, test))
        drawn.median_ns = self._machine.median_ns(params, test)
        return drawn

    def of_repetition(self, d: Random) -> float:
        assert isinstance(d, _Drawn)
        return d.choice(d.seen.samples_ns) / d.median_ns


class RecordedMachine(VirtualMachine):
    """A machine and a model that were recorded."""

    def __init__(self, recording: Recording, seed: int = 0) -> None:
        self.recording = recording
        ground = recording.ground
        weather = _RecordedWeather(dice(ground.name, seed).getrandbits(32), self)
        super().__init__(ground.name, ground.hardware, _model(ground.model), weather)
        self.space = Space(
            dimensions=ground.dimensions, fixed=ground.baseline, all_layers=ground.all_layers
        )
        self._medians: dict[tuple[Seen, ...], float] = {}

    # --- what was recorded -----------------------------------------------------------------------

    def seen(self, params: Params, test: Test) -> tuple[Seen, ...]:
        """What came of a test of this kind in each pass.

        Raises:
            NotRecordedError: it is not of the grid.
        """
        ground = self.recording.ground
        part = "pp" if test.n_prompt else "tg"
        at = ground.at(Trial(params, ground.tests[part]))
        found = self.recording.by_point.get((part, at))
        if found is None:
            raise NotRecordedError(f"{ground.name} has no {part} at {dict(at)}")
        return found

    def measured(self, params: Params, test: Test) -> tuple[Seen, ...]:
        """Those passes in which it was measured."""
        return tuple(one for one in self.seen(params, test) if one.samples_ns)

    def median_ns(self, params: Params, test: Test) -> float:
        """Of all samples; infinite where it never could be measured."""
        found = self.measured(params, test)
        if found not in self._medians:
            samples = [ns for one in found for ns in one.samples_ns]
            self._medians[found] = statistics.median(samples) if samples else math.inf
        return self._medians[found]

    # --- as a machine in virtual time ------------------------------------------------------------

    def optimum(
        self,
        n_prompt: int,
        n_gen: int,
        n_depth: int = 0,
        *,
        n_ctx: int | None = None,  # noqa: ARG002 - what failed in llama-bench is known by that
        program: Program = "bench",  # noqa: ARG002
        feasible: Callable[[Params], bool] | None = None,
    ) -> tuple[Params, float]:
        names = [d.name for d in self.space.dimensions]
        points = product(*(d.values for d in self.space.dimensions))
        every = (
            self.space.with_point(self.space.fixed, dict(zip(names, point, strict=True)))
            for point in points
        )
        found = [
            (self.request_seconds(params, n_prompt, n_gen, n_depth), n, params)
            for n, params in enumerate(every)
            if feasible is None or feasible(params)
        ]
        seconds, _, best = min(found)
        return best, seconds

    def _computed(self, params: Params, test: Test) -> float:
        """By the recorded test of the same kind, by the number of tokens."""
        seconds = 0.0
        for part, n_tokens in (("pp", test.n_prompt), ("tg", test.n_gen)):
            if n_tokens:
                recorded = self.recording.ground.tests[part]
                seconds += self.median_ns(params, recorded) * n_tokens / recorded.n_tokens / 1e9
        return seconds

    def threads(self, params: Params) -> int:
        return params.n_threads or self.recording.ground.baseline.n_threads or 1

    def problem_of(self, params: Params, test: Test) -> Problem | None:
        """What failed in every pass fails; what failed in some is an accident of the machine's."""
        found = self.seen(params, test)
        if self.measured(params, test):
            return None
        first = found[0]
        assert first.failure is not None
        return Problem(
            kind=first.failure,
            message=first.message,
            exit_code=1 if first.exit_code is None else first.exit_code,
            of_model=_OF_MODEL in first.message,
        )

    def _load_s(self, model_params: Params, nth: int) -> float:
        loads = [one.load_s for one in self.recording.seen if one.load_s is not None]
        return dice("load_s", self.weather.seed, model_params, nth).choice(loads)


def recorded_plan(machine: RecordedMachine, limits: Limits, *, seed: int = 0) -> Plan:
    """The plan of a session whose space is the recorded grid."""
    ground = machine.recording.ground
    request = Request(n_ctx=ground.n_ctx)
    quick = generate_recommendations(machine.hardware, machine.model, request=request)
    return Plan(
        hardware=machine.hardware,
        objective=_objective(ground),
        space=machine.space,
        baseline=machine.space.fixed,
        seeds=(Seed(source="quick recommendation", params=quick.params),),
        seed=seed,
        limits=limits,
    )


def _objective(ground: Ground) -> Objective:
    return Objective(
        n_prompt=ground.workload.n_prompt,
        n_gen=ground.workload.n_gen,
        tests=tuple((part, test) for part, test in ground.tests.items() if part in ("pp", "tg")),  # type: ignore[misc]
        first_counts=not ground.hardware.gpus,
    )


@cache
def _model(name: str) -> Model:
    """The header of what was measured; the weights are not needed."""
    make = _SPECS.get(name) or ZOO[name]
    return written(f"recorded-{name}", make())
