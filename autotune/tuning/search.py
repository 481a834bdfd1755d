"""The order of work: what is measured after what, and which configuration is the best so far.

    baseline    llama.cpp's own defaults
    seeds       the quick recommendation, and winners of other models on this machine
    races       values of one parameter against each other, inside one load where they can be
    ladder      on a GPU: each ubatch with the placement that fits beside it
    toggles     one switch at a time, A B B A
    frontier    what a line through the loads that were seen promises
    tail        neighbours of the best, then Optuna's proposals, with second opinions

Nothing that is believed here is claimed: the best of many measurements looks better than it is.
What is claimed is for the verification to show, on data of its own. The constants below were set on
the simulated machines of `benchmarks/simulated.py`.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.errors import CouldNotMeasure
from autotune.hardware import Hardware
from autotune.llama_cpp.grids import CONTEXT_FIELDS, model_params
from autotune.llama_cpp.records import Failure, FailureKind
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.frontier import Frontier
from autotune.tuning.lab import Lab, TimeIsUp
from autotune.tuning.objective import Part
from autotune.tuning.space import Space, Value, value_in
from autotune.tuning.study import Study
from autotune.tuning.verify import LEAST_ROUNDS, round_s
from autotune.tuning.visits import Kind, Reading, Visit

# A challenger must look this much faster to be worth leaving what is nearer the defaults.
_WORTH = 0.005
# In a race those this close to the best run again; beyond it a second look would not save them.
_STILL_IN = 0.10
_RACE_ROUNDS, _RACE_SURVIVORS = 2, 4
# A part alone that makes a request so much slower than the incumbent's ends the visit.
_LOST_BY = 0.08
# Visits of the tail without a gain of 1 %, after which more time would be spent for nothing.
_PATIENCE = 12
_GAIN_THAT_COUNTS = 0.01
# Every so many visits of the tail the incumbent is measured again, and compared with itself.
_ANCHOR_EVERY = 6
# A drift beyond this many times the noise is the machine's and not the clock's.
_DRIFT = 4.0
# Of what was measured once, a part that was slower is believed to be only beyond so many errors:
# what makes prompts faster must not be lost to one unlucky test of generation.
_DOUBT = 2.5
# What looks better by so many times the noise of a test needs no second opinion to be believed.
_SURE = 4.0
_COARSE_THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Ubatches in the order in which they are worth trying on a GPU, the default of 512 being measured
# already; the outermost only where the one before them was the best.
_LADDER = ((2048, None), (4096, 2048), (1024, None), (256, 512))
_SWITCHES = (
    "load_mode",
    "flash_attn",
    "repack",
    "no_kv_offload",
    "no_op_offload",
    "cache_type",
    "numa",
)
# Of the budget, for the verification; more only where it is short, for the least that may decide.
_SHARE, _MOST_SHARE = 0.25, 0.5
# Above this share of repeated work the machine counts as busy.
_BUSY = 1.05
# How a device without room ends a program: some backends abort and say nothing.
_OF_MEMORY = frozenset({FailureKind.OOM, FailureKind.CRASH})
# Of devices that may be slower than the CPU beside them.
_DOUBTFUL = ("RPC", "Vulkan", "SYCL", "OpenCL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A configuration that is worth trying first, and where it comes from."""

    source: str
    params: Params


class Search:
    """One search in one study."""

    def __init__(
        self,
        *,
        lab: Lab,
        study: Study,
        space: Space,
        hardware: Hardware,
        baseline: Params,
        seeds: Sequence[Seed],
        seed: int,
    ) -> None:
        self.baseline = baseline
        self.incumbent = baseline
        self._lab = lab
        self._known = lab.knowledge
        self._memory = lab.memory
        self._study = study
        self._space = space
        self._hardware = hardware
        self._seeds = seeds
        self._seed = seed
        self._parts = self._known.objective.parts

    def run(self) -> None:
        """Search until the time is up, or nothing more is promised.

        Raises:
            CouldNotMeasure: not even the defaults could be measured.
        """
        try:
            self._stage("baseline", self._measure_baseline)
            self._stage("seeds", self._try_seeds)
            if self._memory.n_gpus:
                self._stage("ladder", self._climb_ladder)
            self._stage("threads", self._race_threads)
            self._stage("toggles", self._try_switches)
            if self._memory.n_gpus:
                self._stage("frontier", self._follow_frontier)
            self._stage("tail", self._walk_the_tail)
        except TimeIsUp:
            if self._known.seconds(self.baseline) is None:
                raise CouldNotMeasure(
                    "there was no time to measure even llama.cpp's defaults",
                    hint="give a longer --budget",
                ) from None

    def _stage(self, name: str, work: Callable[[], None]) -> None:
        lab = self._lab
        self._reserve()
        lab.tell(events.Stage(name=name, elapsed_s=lab.elapsed_s, budget_s=lab.limits.budget_s))
        work()

    # What every step is made of.

    def _seconds(self, params: Params) -> float:
        """What a request is believed to take; infinite where that is unknown."""
        seconds = self._known.seconds(params)
        return math.inf if seconds is None else seconds

    def _visit(
        self,
        kind: Kind,
        source: str,
        configurations: Sequence[Params],
        *,
        parts: tuple[Part, ...] | None = None,
        repetitions: int | None = None,
        may_lose: bool = True,
    ) -> list[Reading]:
        visits = [
            Visit(kind=kind, source=source, params=p, parts=parts or self._parts)
            for p in configurations
        ]
        if not visits:
            return []
        readings = self._lab.visit(
            visits,
            repetitions=repetitions or self._lab.least_repetitions(),
            lost=self._has_lost if may_lose else None,
        )
        self._reserve()
        return readings

    def _has_lost(self, visit: Visit, part: Part, seconds: float) -> bool:
        """With this part, the other cannot make good what was lost."""
        best, total = self._seconds(self.incumbent), seconds
        for other in self._parts:
            if other != part:
                known = self._known.part_seconds(visit.params, other)
                total += known or self._known.part_seconds(self.incumbent, other) or 0.0
        return total > best * (1 + _LOST_BY)

    def _new(self, params: Params | None) -> bool:
        """It is of the space and fits, has not failed, and is not fully measured yet."""
        return (
            params is not None
            and self._space.holds(params)  # What was refitted may be beyond what the user wants.
            and self._memory.fits(params)
            and not self._known.has_failed(params)
            and not self._known.has_lost(params)
            and self._known.seconds(params) is None
        )

    def _consider(self, *challengers: Params) -> bool:
        """Make the best of them the incumbent, if it is worth leaving this one."""
        best = min(challengers, key=self._seconds, default=self.incumbent)
        if self._seconds(best) >= self._seconds(self.incumbent) * (1 - _WORTH):
            return False
        self._promote(best)
        return True

    def _promote(self, challenger: Params) -> None:
        self.incumbent = challenger
        self._lab.tell(
            events.NewIncumbent(
                params=challenger,
                seconds=self._seconds(challenger),
                baseline_s=self._seconds(self.baseline),
            )
        )

    def _challenge(self, challenger: Params) -> bool:
        """A second opinion on both sides before the incumbent is left; one reading is luck."""
        once = self._known.times_measured(challenger) == 1
        gain = self._known.gain(challenger, over=self.incumbent, doubt=_DOUBT if once else 1)
        if gain <= _WORTH:
            return False
        if self._known.times_measured(challenger) == 1 and gain < _SURE * self._known.noise():
            both = [challenger, self.incumbent]
            self._visit(Kind.SECOND, "challenger", both, may_lose=False)
        if self._known.gain(challenger, over=self.incumbent) <= _WORTH:
            return False
        self._promote(challenger)
        return True

    def _with(self, name: str, value: Value) -> Params | None:
        """The incumbent with one parameter changed, refitted where that takes memory."""
        changed = self._space.with_value(self.incumbent, name, value)
        return self._memory.fitted(changed)

    # The steps.

    def _measure_baseline(self) -> None:
        """llama.cpp's defaults; where a device has less than it says, with the most that runs."""
        while True:
            source = "llama.cpp's defaults"
            (reading,) = self._visit(Kind.BASELINE, source, [self.baseline], repetitions=2)
            failure = reading.failure
            if failure is None:
                return
            if failure.kind not in _OF_MEMORY:
                raise _unmeasurable(failure)
            self._memory.remember_failure(self.baseline)
            smaller = self._memory.fitted(self.baseline)
            if smaller is None or smaller == self.baseline or not self._space.holds(smaller):
                raise _unmeasurable(failure)
            self.baseline = self.incumbent = smaller

    def _try_seeds(self) -> None:
        for seed in self._seeds:
            params = self._memory.fitted(self._space.onto(seed.params))
            if params is not None and self._new(params):
                self._visit(Kind.SEED, seed.source, [params])
                self._consider(params)

    def _race_threads(self) -> None:
        objective = self._known.objective
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
        return not self._memory.n_gpus or bool(self.incumbent.no_op_offload)

    def _coarse_threads(self, name: str) -> tuple[Value, ...]:
        values, cpu = self._space.values_of(name), self._hardware.cpu
        own = {self.baseline.n_threads, value_in(self.incumbent, name), cpu.max_cores}
        coarse = {*_COARSE_THREADS, *own}
        least = 1 if len(values) <= 4 else 2  # noqa: PLR2004 - of few, each is worth a look
        if name == "n_threads_batch" or len(values) > 16:  # noqa: PLR2004 - a large machine
            least = max(least, cpu.max_cores // (2 if name == "n_threads_batch" else 4))
        if self._memory.n_gpus and not self._memory.layers_on_host(self.incumbent):
            coarse = {1, 4, *own}  # The CPU only hands out work.
            least = 1
        return tuple(v for v in values if v in coarse and isinstance(v, int) and v >= least)

    def _race(self, name: str, values: Sequence[Value], parts: tuple[Part, ...]) -> None:
        """Once each, then those still in the race in reverse, with the neighbours of the best."""
        runners = self._runners(name, values)
        if len(runners) < 2:  # noqa: PLR2004 - alone, nobody races
            return
        self._visit(Kind.RACE, name, runners, parts=parts)
        for _ in range(1 if self._loads_are_dear() else _RACE_ROUNDS):
            best = min(runners, key=self._seconds)
            beside = next(d for d in self._space.dimensions if d.name == name).beside(
                value_in(best, name)
            )
            new = [p for p in self._runners(name, beside) if self._new(p)]
            close = [p for p in runners if self._is_close(p, best) and not self._settled(p)]
            close = sorted(close, key=self._seconds)[:_RACE_SURVIVORS]
            if not new and len(close) < 2:  # noqa: PLR2004 - against itself
                break
            again = sorted(
                {*new, *close},
                key=lambda p: (str(type(value_in(p, name))), value_in(p, name)),
                reverse=True,
            )
            self._visit(
                Kind.RACE, name, again, parts=parts, repetitions=self._while_loaded(again, parts)
            )
            runners = [*runners, *new]
        self._consider(*runners)

    def _while_loaded(self, runners: Sequence[Params], parts: tuple[Part, ...]) -> int:
        """More repetitions where the tests are little beside the load that they share."""
        visits = [Visit(kind=Kind.RACE, source="", params=p, parts=parts) for p in runners]
        load_s, least = self._lab.costs.load_s(), self._lab.least_repetitions()
        tests_s = self._lab.cost_s(visits) - load_s
        return min(max(round(load_s / max(tests_s, 0.1)), least), 3)

    def _runners(self, name: str, values: Sequence[Value]) -> list[Params]:
        changed = [self._space.with_value(self.incumbent, name, value) for value in values]
        fitting = [p for p in changed if self._memory.fits(p) and not self._known.has_failed(p)]
        return list(dict.fromkeys(fitting))

    def _is_close(self, params: Params, best: Params) -> bool:
        return self._seconds(params) <= self._seconds(best) * (
            1 + min(_STILL_IN, 4 * self._known.noise())
        )

    def _settled(self, params: Params) -> bool:
        return self._known.times_measured(params) >= 3  # noqa: PLR2004 - a median of three

    def _climb_ladder(self) -> None:
        """Each ubatch with the placement that fits beside it."""
        if self._space.has("n_batch"):  # The rule's small batch is not what a ladder stands on.
            n_batch = value_in(self.baseline, "n_batch")
            based = self._space.with_value(self.incumbent, "n_batch", n_batch)
        else:
            based = self.incumbent
        self._challenge_with([self._memory.fitted(self._all_on_gpu(based))], "layers")
        rungs = self._space.values_of("n_ubatch") or (self.incumbent.n_ubatch or 512,)
        for n_ubatch, on_condition_of in _LADDER:
            best = self.incumbent.n_ubatch
            if n_ubatch in rungs and (on_condition_of is None or best == on_condition_of):
                rung = self._space.with_value(self._all_on_gpu(based), "n_ubatch", n_ubatch)
                self._challenge_with([self._memory.fitted(rung)], f"n_ubatch={n_ubatch}")
        if any(gpu.backend in _DOUBTFUL or gpu.integrated for gpu in self._hardware.gpus):
            self._try_fewer_layers()

    def _all_on_gpu(self, params: Params) -> Params:
        """As much on the GPU as the space has; what fits of it is for the memory to say."""
        space = self._space
        if space.has("n_cpu_moe"):
            params = space.with_value(params, "n_cpu_moe", min(space.values_of("n_cpu_moe")))
        if space.has("n_gpu_layers"):
            params = space.with_value(params, "n_gpu_layers", max(space.values_of("n_gpu_layers")))
        return params

    def _challenge_with(self, rungs: Sequence[Params | None], source: str) -> None:
        """Try what fits; where memory ends earlier than it said, try half of what is left."""
        for rung in rungs:
            tried = rung
            while tried is not None and self._new(tried):
                self._visit(Kind.LADDER, source, [tried])
                self._consider(tried)
                # After a failure this is half of the way down, after that half of it up again.
                tried = self._memory.fitted(rung) if rung else None

    def _try_fewer_layers(self) -> None:
        """A device that is slower than the CPU is best left alone, or given a part."""
        values = self._space.values_of("n_gpu_layers")
        if not values:
            return
        steps = sorted({values[0], values[len(values) // 2]}, key=int)
        rungs = [self._space.with_value(self.incumbent, "n_gpu_layers", v) for v in steps]
        self._challenge_with(rungs, "fewer layers")

    def _try_switches(self) -> None:
        """One at a time against the incumbent; what gains is kept at once."""
        for name in _SWITCHES:
            for value in self._space.values_of(name):
                if value != value_in(self.incumbent, name) and not self._is_idle(name, value):
                    self._toggle(name, value)

    def _is_idle(self, name: str, value: Value) -> bool:
        """`auto` has switched flash attention on, if switching it off makes a difference."""
        if name != "flash_attn" or value is not True or value_in(self.incumbent, name) != "auto":
            return False
        off = self._seconds(self._space.with_value(self.incumbent, name, value=False))
        return abs(math.log(off / self._seconds(self.incumbent))) > self._known.noise()

    def _toggle(self, name: str, value: Value) -> None:
        other = self._with(name, value)
        if other is None or not self._new(other):
            return
        source, mine = f"{name}={value}", self.incumbent
        if model_params(other) != model_params(mine) or self._loads_are_dear():
            self._visit(Kind.TOGGLE, source, [other])
            self._challenge(other)
            return
        order = [mine, other, other, mine]
        readings = self._visit(Kind.TOGGLE, source, order, may_lose=False)
        if self._gain_among(readings, mine, other) > _WORTH:
            self._consider(other)

    def _loads_are_dear(self) -> bool:
        """A load takes longer than the tests of a whole configuration."""
        visit = Visit(kind=Kind.TAIL, source="", params=self.incumbent, parts=self._parts)
        load_s = self._lab.costs.load_s()
        return load_s > self._lab.cost_s([visit]) / 2

    def _gain_among(self, readings: Sequence[Reading], mine: Params, other: Params) -> float:
        """By how much `other` was faster in these readings alone; -1 where it cannot be told."""
        seconds = [
            self._total([r for r in readings if r.visit.params == params], self._parts)
            for params in (mine, other)
        ]
        return 1 - seconds[1] / seconds[0] if seconds[0] and seconds[1] else -1.0

    def _total(self, readings: Sequence[Reading], parts: Sequence[Part]) -> float | None:
        objective, total = self._known.objective, 0.0
        for part in parts:
            measured = [m for r in readings if (m := r.measured(part))]
            if not measured:
                return None
            each = [objective.part_seconds(part, m.samples_ns) for m in measured]
            total += math.exp(sum(map(math.log, each)) / len(each))
        return total

    def _follow_frontier(self) -> None:
        """Try the best prediction, learn from it, and again, while it promises 1 %."""
        for _ in range(4):
            frontier = Frontier(self._known, self._memory, self._space)
            promised = frontier.best_promise(self._options(), self.incumbent)
            if (
                promised is None
                or promised.gain < _GAIN_THAT_COUNTS
                or not self._new(promised.params)
            ):
                return
            self._visit(Kind.FRONTIER, f"promises {promised.gain:.0%}", [promised.params])
            self._consider(promised.params)

    def _options(self) -> list[Params]:
        """Every combination of what changes memory, each with the placement that fits."""
        space, combined = self._space, [self._all_on_gpu(self.incumbent)]
        for name in ("n_ubatch", "no_kv_offload", "cache_type"):
            values = space.values_of(name)
            if values:
                combined = [space.with_value(p, name, v) for p in combined for v in values]
        fitted = [self._memory.fitted(p) for p in combined]
        return list(dict.fromkeys(p for p in fitted if p is not None))

    def _walk_the_tail(self) -> None:
        """Neighbours of the best while there are any, then what Optuna proposes."""
        rng = random.Random(self._seed)  # noqa: S311 - an order of trying, not a secret
        since_gain, n_visits = 0, 0
        while since_gain < _PATIENCE:
            n_visits += 1
            if n_visits % _ANCHOR_EVERY == 0:
                self._check_anchor()
            best_before = self._seconds(self.incumbent)
            batch = self._next_batch(rng)
            if not batch:
                return
            self._visit(Kind.TAIL, "neighbour" if len(batch) > 1 else "proposal", batch)
            challenger = min(batch, key=self._seconds)
            self._challenge(challenger)
            gained = 1 - self._seconds(self.incumbent) / best_before
            since_gain = 0 if gained > _GAIN_THAT_COUNTS else since_gain + len(batch)

    def _next_batch(self, rng: random.Random) -> list[Params]:
        neighbours = self._neighbours()
        if not neighbours:
            proposed = self._proposal()
            return [proposed] if proposed else []
        rng.shuffle(neighbours)
        first = neighbours[0]
        # Those that share its load, and differ in the same parameter, cost a test each.
        varied = self._changed(first)
        alike = [
            p
            for p in neighbours
            if model_params(p) == model_params(first) and self._changed(p) == varied
        ]
        return alike[:3] if varied <= {*CONTEXT_FIELDS, "n_threads_batch"} else [first]

    def _changed(self, params: Params) -> set[str]:
        here, there = self._space.point(params), self._space.point(self.incumbent)
        return {name for name in here if here[name] != there[name]}

    def _neighbours(self) -> list[Params]:
        found: list[Params | None] = []
        for dimension in self._space.dimensions:
            for value in dimension.beside(value_in(self.incumbent, dimension.name)):
                found.append(self._space.with_value(self.incumbent, dimension.name, value))
                if dimension.moves_memory:
                    found.append(self._with(dimension.name, value))
        return list(dict.fromkeys(p for p in found if p is not None and self._new(p)))

    def _proposal(self) -> Params | None:
        """What TPE asks for and is not measured yet: it repeats itself, and we do not."""
        known = {reading.number for reading in self._known.readings}
        for attempt in range(5):
            point = self._study.proposal(known, nth=attempt)
            params = self._memory.fitted(self._space.with_point(self._space.fixed, point))
            if params is not None and self._new(params):
                return params
        return None

    def _check_anchor(self) -> None:
        """Measure the incumbent again: if the machine has changed, what came since is suspect."""
        before = self._seconds(self.incumbent)
        (reading,) = self._visit(Kind.ANCHOR, "drift", [self.incumbent], may_lose=False)
        now = self._total([reading], self._parts)
        if now is None or reading.disturbed:
            return
        limit = max(_DRIFT * self._known.noise(), 0.05)
        if abs(math.log(now / before)) > limit:
            last_good = max(
                (r.number for r in self._anchors() if r.number < reading.number), default=-1
            )
            self._known.forget(lambda suspect: last_good < suspect.number < reading.number)

    def _anchors(self) -> list[Reading]:
        return [r for r in self._known.readings if r.visit.kind is Kind.ANCHOR and not r.disturbed]

    def _reserve(self) -> None:
        """Keep time for the verification: enough pairs for the gain that is seen so far."""
        lab = self._lab
        budget_s = lab.limits.budget_s
        if budget_s is None or self._known.seconds(self.baseline) is None:
            return
        repeats = lab.watch.repeats(lab.elapsed_s)
        pair_s = repeats * round_s(lab, self.baseline, [self.incumbent])
        gain = math.log(self._seconds(self.baseline) / self._seconds(self.incumbent))
        wanted_s = (pairs_for(gain, self._known.noise()) + 0.5) * pair_s
        # Where some rounds will not count, more than the least have to fit.
        least_s = (LEAST_ROUNDS + (2.5 if repeats > _BUSY else 0.5)) * pair_s
        most_s = min(max(_SHARE * budget_s, least_s), _MOST_SHARE * budget_s)
        lab.reserved_s = min(max(wanted_s, least_s), most_s)


def _unmeasurable(failure: Failure) -> CouldNotMeasure:
    return CouldNotMeasure(
        f"llama.cpp's own defaults could not be measured, {failure.kind}: {failure.message}",
        hint="run that command by hand; `lcm doctor --model M` tries the build",
        details=[*failure.stderr_tail[-3:], f"ran: {' '.join(failure.run.argv)}"],
    )


def pairs_for(gain: float, noise: float) -> int:
    """Pairs that are likely to show a gain (a log ratio) at this noise of one test."""
    spread = math.sqrt(2) * noise + 0.01
    needed = (3.5 * spread / max(gain, 0.02)) ** 2
    return min(max(math.ceil(needed) + 1, LEAST_ROUNDS), 12)
