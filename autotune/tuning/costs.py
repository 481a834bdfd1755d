"""What measuring costs in time: learned from the loads and tests that were seen."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from autotune.llama_cpp import batches, grids
from autotune.llama_cpp.batches import Batch
from autotune.llama_cpp.grids import CONTEXT_FIELDS, Trial
from autotune.params import Params
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.objective import Part
from autotune.tuning.visits import Reading

# What is not known yet is taken for this much slower than the middle of what is.
_CAUTION = 1.3
# A grid with more tests than this, for each that is wanted, spares no load that is worth it.
_MOST_ROUNDING = 4


class Costs:
    """Seconds of loads and tests."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._loads: list[float] = []
        self._rates: dict[Part, list[float]] = {"pp": [], "tg": []}  # Seconds of a request's part.

    def add(self, reading: Reading) -> None:
        """Learn from a visit."""
        objective = self._knowledge.objective
        for part in reading.visit.parts:
            measured = reading.measured(part)
            if measured:
                self._rates[part].append(objective.part_seconds(part, measured.samples_ns))
                if measured.run.load_s is not None:
                    self._loads.append(measured.run.load_s)

    def load_s(self) -> float:
        """Seconds of one load of the model; 0 before any was seen."""
        return statistics.median(self._loads[-15:]) if self._loads else 0.0

    def of(self, trials: Sequence[Trial], repetitions: int) -> float:
        """Seconds that some trials take, in as few loads of the model as they take."""
        if self._knowledge.objective.n_parallel > 1:
            return sum(self._batch_s(batch, repetitions) for batch in batches.split(trials))
        return sum(self._run_s(run, repetitions) for run in self.runs(trials))

    def _batch_s(self, batch: Batch, repetitions: int) -> float:
        """Of llama-batched-bench, which computes the prompts of whatever it generates after."""
        objective, once = self._knowledge.objective, 0.0
        for entry in batch.entries:
            params = entry.trials[0].params
            wave_s = self._part_s(params, "pp") * batch.n_prompt / objective.n_prompt
            if any(trial.test.n_gen for trial in entry.trials):
                wave_s += self._part_s(params, "tg") * batch.n_gen / objective.n_gen
            once += wave_s / entry.waves
        return self.load_s() + repetitions * once

    def _run_s(self, trials: Sequence[Trial], repetitions: int) -> float:
        tests = sum(self.trial_s(trial, repetitions) for trial in trials)
        return len(grids.split(trials)) * self.load_s() + tests

    def trial_s(self, trial: Trial, repetitions: int) -> float:
        """Seconds of one test, its warm-up and the filling of its depth included."""
        part: Part = "pp" if trial.test.n_prompt else "tg"
        objective, test = self._knowledge.objective, trial.test
        once = self._part_s(trial.params, part) * test.n_tokens / objective.tokens(part)
        warmup = once if part == "pp" else once / test.n_tokens
        depth = 0.0
        if test.n_depth and self._rates["pp"]:
            depth = test.n_depth * statistics.median(self._rates["pp"]) / objective.n_prompt
        return repetitions * once + warmup + depth

    def _part_s(self, params: Params, part: Part) -> float:
        """Seconds that a part takes of a request, or of all of them at once."""
        if part not in self._knowledge.objective.parts:
            return 0.0
        known = self._knowledge.part_seconds(params, part)
        if known is not None:
            return known
        rates = self._rates[part]
        return _CAUTION * statistics.median(rates) if rates else 0.0

    def runs(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """The runs of llama-bench in which some trials cost least.

        It runs full grids only. So what shares a load is cheapest as it stands, or with each part
        on its own, so that an order of A B B A stays one grid, or with tests added that nobody
        asked for: a load of a large model takes as long as ten tests.
        """
        if self._knowledge.objective.n_parallel > 1:
            return [batch.trials for batch in batches.split(trials)]
        by_load: dict[Params, list[Trial]] = {}
        for trial in trials:
            by_load.setdefault(grids.model_params(trial.params), []).append(trial)
        return [run for group in by_load.values() for run in self._cheapest(group)]

    def _cheapest(self, trials: list[Trial]) -> list[list[Trial]]:
        if len(grids.split(trials)) == 1:
            return [trials]
        by_part = [[t for t in trials if t.test.n_gen], [t for t in trials if not t.test.n_gen]]
        ways = [[trials], [part for part in by_part if part]]
        whole = _bounding_grid(trials)
        repeated = len(set(trials)) < len(trials)
        if not repeated and len(whole) <= _MOST_ROUNDING * len(trials):
            ways.append([whole])
        return min(ways, key=lambda way: sum(self._run_s(run, 1) for run in way))


def _bounding_grid(trials: Sequence[Trial]) -> list[Trial]:
    """Every combination of the values in `trials`."""
    first = trials[0]
    axes = [dict.fromkeys(getattr(t.params, name) for t in trials) for name in CONTEXT_FIELDS]
    tests = dict.fromkeys(t.test for t in trials)
    return [
        Trial(replace(first.params, **dict(zip(CONTEXT_FIELDS, point, strict=True))), test)
        for point in product(*axes)
        for test in tests
    ]
