"""Values of one parameter against each other, inside one load of the model where they can be."""

from collections.abc import Sequence

from autotune.hardware import Cpu
from autotune.params import Params
from autotune.tuning.contest import Contest
from autotune.tuning.objective import Part
from autotune.tuning.space import value_in
from autotune.tuning.visits import Kind, Visit
from autotune.tuning.workload import Value

# In a race those this close to the best run again; beyond it a second look would not save them.
_STILL_IN = 0.10
# After the first pass: more rounds than this, or more runners in them, gained nothing.
_RACE_ROUNDS, _RACE_SURVIVORS = 2, 4
# Closer together where few threads saturate the memory; the neighbours of the best come later.
_COARSE_THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Races:
    """Slots, threads for generation; ubatch and threads for prompts where the CPU computes them."""

    def __init__(self, contest: Contest, cpu: Cpu) -> None:
        self._contest = contest
        self._lab = contest.lab
        self._known = contest.known
        self._memory = contest.memory
        self._space = contest.space
        self._cpu = cpu

    def run(self) -> None:
        """One race after the other; the winner of each runs in the next."""
        objective = self._known.objective
        if self._space.has("n_parallel"):
            self._race("n_parallel", self._space.values_of("n_parallel"), objective.parts)
        if "tg" in objective.parts and self._space.has("n_threads"):
            self._race("n_threads", self._coarse_threads("n_threads"), ("tg",))
        if "pp" not in objective.parts:
            return
        if self._space.has("n_ubatch") and not self._memory.n_gpus:
            self._race("n_ubatch", self._space.values_of("n_ubatch"), ("pp",))
        if self._space.has("n_threads_batch") and self._cpu_computes_prompts():
            self._race("n_threads_batch", self._coarse_threads("n_threads_batch"), ("pp",))

    def _cpu_computes_prompts(self) -> bool:
        """On a GPU, prompts are computed there, whatever layers stay on the host."""
        return not self._memory.n_gpus or bool(self._contest.incumbent.no_op_offload)

    def _coarse_threads(self, name: str) -> tuple[Value, ...]:
        values, cpu = self._space.values_of(name), self._cpu
        own = {
            self._contest.baseline.n_threads,
            value_in(self._contest.incumbent, name),
            cpu.max_cores,
        }
        coarse = {*_COARSE_THREADS, *own}
        least = 1 if len(values) <= 4 else 2  # noqa: PLR2004 - of few, each is worth a look
        if name == "n_threads_batch" or len(values) > 16:  # noqa: PLR2004 - a large machine
            least = max(least, cpu.max_cores // (2 if name == "n_threads_batch" else 4))
        if self._memory.n_gpus and not self._memory.layers_on_host(self._contest.incumbent):
            coarse = {1, 4, *own}  # The CPU only hands out work.
            least = 1
        return tuple(v for v in values if v in coarse and isinstance(v, int) and v >= least)

    def _race(self, name: str, values: Sequence[Value], parts: tuple[Part, ...]) -> None:
        """Once each, then those still in the race in reverse, with the neighbours of the best."""
        runners = self._runners(name, values)
        if len(runners) < 2:  # noqa: PLR2004 - alone, nobody races
            return
        self._contest.visit(Kind.RACE, name, runners, parts=parts)
        for _ in range(1 if self._contest.loads_are_dear() else _RACE_ROUNDS):
            best = min(runners, key=self._contest.cost)
            beside = next(d for d in self._space.dimensions if d.name == name).beside(
                value_in(best, name)
            )
            new = [p for p in self._runners(name, beside) if self._contest.is_new(p)]
            close = [p for p in runners if self._is_close(p, best) and not self._settled(p)]
            close = sorted(close, key=self._contest.cost)[:_RACE_SURVIVORS]
            if not new and len(close) < 2:  # noqa: PLR2004 - against itself
                break
            again = sorted(
                {*new, *close},
                key=lambda p: (str(type(value_in(p, name))), value_in(p, name)),
                reverse=True,
            )
            self._contest.visit(
                Kind.RACE, name, again, parts=parts, repetitions=self._while_loaded(again, parts)
            )
            runners = [*runners, *new]
        self._contest.consider(*runners)

    def _while_loaded(self, runners: Sequence[Params], parts: tuple[Part, ...]) -> int:
        """More repetitions where the tests are little beside the load that they share."""
        visits = [Visit(kind=Kind.RACE, source="", params=p, parts=parts) for p in runners]
        load_s, least = self._lab.costs.load_s(), self._lab.least_repetitions()
        tests_s = self._lab.cost_s(visits) - load_s
        return max(min(round(load_s / max(tests_s, 0.1)), 3), least)

    def _runners(self, name: str, values: Sequence[Value]) -> list[Params]:
        changed = [self._space.with_value(self._contest.incumbent, name, value) for value in values]
        fitting = [p for p in changed if self._memory.fits(p) and not self._known.has_failed(p)]
        return list(dict.fromkeys(fitting))

    def _is_close(self, params: Params, best: Params) -> bool:
        return self._contest.cost(params) <= self._contest.cost(best) * (
            1 + min(_STILL_IN, 4 * self._known.noise())
        )

    def _settled(self, params: Params) -> bool:
        return self._known.times_measured(params) >= 3  # noqa: PLR2004 - a median of three
