"""The order of work: what is measured after what, and which configuration is the best so far.

    baseline    llama.cpp's own defaults
    seeds       the quick recommendation, and winners of other models on this machine
    races       values of one parameter against each other, inside one load where they can be
    ladder      on a GPU: each ubatch with the placement that fits beside it
    toggles     one switch at a time, A B B A
    frontier    what a line through the loads that were seen promises
    tail        neighbours of the best, then Optuna's proposals, with second opinions
    settling    what is close to the best, beside it again

Nothing that is believed here is claimed: the best of many measurements looks better than it is.
What is claimed is for the verification to show, on data of its own. The constants below were set on
the simulated machines of `benchmarks/tuner.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.errors import CouldNotMeasure
from autotune.hardware import Hardware
from autotune.llama_cpp.failures import full_place
from autotune.llama_cpp.records import Failure, FailureKind
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.breaker import could_not_measure
from autotune.tuning.contest import Contest
from autotune.tuning.lab import Lab, TimeIsUp
from autotune.tuning.ladder import Ladder
from autotune.tuning.race import Races
from autotune.tuning.settling import Settling
from autotune.tuning.space import Space
from autotune.tuning.switches import Switches
from autotune.tuning.tail import Proposer, Tail
from autotune.tuning.visits import Kind

# How a device without room ends a program: some backends abort and say nothing.
_OF_MEMORY = frozenset({FailureKind.OOM, FailureKind.CRASH})
# Someone may have ended it, or taken the memory: they ran a moment ago, in the preflight.
_BY_CHANCE = frozenset({FailureKind.CRASH, FailureKind.INTERRUPTED, FailureKind.OOM})


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
        study: Proposer,
        space: Space,
        hardware: Hardware,
        baseline: Params,
        seeds: Sequence[Seed],
        seed: int,
    ) -> None:
        self._contest = Contest(lab, space, baseline)
        self._lab = lab
        self._known = lab.knowledge
        self._memory = lab.memory
        self._space = space
        self._seeds = seeds
        self._races = Races(self._contest, hardware.cpu)
        self._ladder = Ladder(self._contest, hardware)
        self._switches = Switches(self._contest)
        self._tail = Tail(self._contest, study, seed)
        self._settling = Settling(self._contest)

    @property
    def baseline(self) -> Params:
        """llama.cpp's defaults, or as much of them as runs here."""
        return self._contest.baseline

    @property
    def incumbent(self) -> Params:
        """The best, as far as it is believed."""
        return self._contest.incumbent

    def adopt(self, winner: Params) -> None:
        """Believe in what another search of the same study has come to."""
        self._contest.incumbent = winner

    def run(self) -> None:
        """Search until the time is up, or nothing more is promised.

        Raises:
            CouldNotMeasure: not even the defaults could be measured.
        """
        self._while_there_is_time(self._every_stage)

    def stay_with(self, known: Params) -> None:
        """Measure the defaults, and believe in what is known from before; search nothing.

        Raises:
            CouldNotMeasure: not even the defaults could be measured.
        """
        self._while_there_is_time(lambda: self._stage("baseline", self._measure_baseline))
        self._contest.incumbent = known

    def _every_stage(self) -> None:
        self._stage("baseline", self._measure_baseline)
        self._stage("seeds", self._try_seeds)
        if self._memory.n_gpus:
            self._stage("ladder", self._ladder.climb)
        self._stage("threads", self._races.run)
        self._stage("toggles", self._switches.run)
        if self._memory.n_gpus:
            self._stage("frontier", self._ladder.follow_frontier)
        self._stage("tail", self._tail.walk)
        self._stage("settling", self._settle)

    def _settle(self) -> None:
        """Sure of the best; where that is another by now, it has neighbours of its own."""
        while self._settling.walk():
            self._tail.walk()

    def _while_there_is_time(self, work: Callable[[], None]) -> None:
        try:
            work()
        except TimeIsUp:
            if self._known.cost(self._contest.baseline) is None:
                raise CouldNotMeasure(
                    "there was no time to measure even llama.cpp's defaults",
                    hint="give a longer --budget",
                ) from None

    def _stage(self, name: str, work: Callable[[], None]) -> None:
        lab = self._lab
        self._contest.reserve()
        lab.tell(events.Stage(name=name, elapsed_s=lab.elapsed_s, budget_s=lab.limits.budget_s))
        work()

    def _measure_baseline(self) -> None:
        """llama.cpp's defaults; where a device has less than it says, with the most that runs."""
        contest, again = self._contest, False
        while True:
            asked = [contest.baseline]
            repetitions = max(2, self._lab.least_repetitions())
            (reading,) = contest.visit(
                Kind.BASELINE, "llama.cpp's defaults", asked, repetitions=repetitions
            )
            failure = reading.failure
            # What was disturbed has to do where somebody has ended its repetition.
            if self._known.cost(contest.baseline) is not None:
                return
            if failure is None:
                raise CouldNotMeasure(
                    "the joules of llama.cpp's defaults were not told, though they were measured",
                    hint="see what counts them: lcm doctor; or leave out --objective efficiency",
                )
            smaller = self._smaller(failure)
            if smaller is not None:
                contest.baseline = contest.incumbent = smaller
            elif again or failure.kind not in _BY_CHANCE:
                raise _unmeasurable(failure)
            else:
                again = True

    def _smaller(self, failure: Failure) -> Params | None:
        """The defaults with less of them on a device, if that may help and there is less."""
        if failure.kind not in _OF_MEMORY:
            return None
        self._memory.remember_failure(self._contest.baseline, full_place(failure))
        smaller = self._memory.fitted(self._contest.baseline)
        is_one = smaller not in (None, self._contest.baseline) and self._space.holds(smaller)
        return smaller if is_one else None

    def _try_seeds(self) -> None:
        for seed in self._seeds:
            params = self._memory.fitted(self._space.onto(seed.params))
            if params is not None and self._contest.is_new(params):
                self._contest.visit(Kind.SEED, seed.source, [params])
                self._contest.consider(params)


def _unmeasurable(failure: Failure) -> CouldNotMeasure:
    what = f"llama.cpp's own defaults could not be measured, {failure.kind}: {failure.message}"
    return could_not_measure(what, failure)
