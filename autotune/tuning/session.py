"""One session of tuning, from the first measurement to the verdict."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.hardware import Hardware
from autotune.llama_cpp.records import FailureKind, State
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.clock import Clock
from autotune.tuning.job import Bench
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.lab import Lab, Limits
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective, Part
from autotune.tuning.search import Search, Seed
from autotune.tuning.space import Space
from autotune.tuning.study import Study
from autotune.tuning.verify import Verification, Verifier, round_s

# A rival whose request is believed to take at most so much longer is verified beside the incumbent.
_RIVAL = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be tuned: everything that is decided before the first measurement."""

    hardware: Hardware  # With the devices that the binary uses, and no others.
    objective: Objective
    space: Space
    baseline: Params
    seeds: tuple[Seed, ...]
    seed: int
    limits: Limits
    verify: bool = True
    known: Params | None = None  # It is verified without a search for anything else.
    least_rounds: int = 0  # Of the verification, however long they take.
    may_stop_tests: bool = True  # False where that would take something down with it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came of it."""

    verification: Verification
    baseline: Params
    shipped: Params  # The winner, or llama.cpp's defaults.
    incumbent: Params  # What the search believed in.
    # Of a request's parts, for the baseline and what was believed in: the verification's where it
    # has any, because those of the search flatter what they have chosen.
    part_seconds: Mapping[Params, Mapping[Part, float]]
    n_trials: int
    failures: dict[FailureKind, int]
    elapsed_s: float
    waited_s: float
    hurried: bool

    def seconds(self, params: Params) -> float | None:
        """Of a request; None where a part was not measured."""
        known = self.part_seconds.get(params)
        return sum(known.values()) if known else None


class Session:
    """Searches, and then verifies."""

    def __init__(
        self,
        plan: Plan,
        *,
        bench: Bench,
        study: Study,
        memory: Memory,
        clock: Clock,
        observe: Callable[[], State] = dict,
        tell: Callable[[events.Event], None] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.lab = Lab(
            bench=bench,
            study=study,
            knowledge=Knowledge(plan.objective),
            memory=memory,
            clock=clock,
            limits=plan.limits,
            n_cpus=max(plan.hardware.cpu.max_threads, 1),
            observe=observe,
            tell=tell,
            may_stop_tests=plan.may_stop_tests,
        )
        self.search = Search(
            lab=self.lab,
            study=study,
            space=plan.space,
            hardware=plan.hardware,
            baseline=plan.baseline,
            seeds=plan.seeds,
            seed=plan.seed,
        )

    def hurry(self, seconds: float) -> None:
        """Come to an end within so many seconds; safe in a signal handler."""
        self.lab.hurry(seconds)

    def run(self) -> Tuned:
        """Search and verify; where something is known beforehand, only verify that.

        Raises:
            CouldNotMeasure: nothing was measured that an answer could rest on.
        """
        if self.plan.known is None:
            self.search.run()
        else:
            self.search.stay_with(self.plan.known)
        return self._tuned(self._verified())

    def _verified(self) -> Verification:
        plan, lab = self.plan, self.lab
        candidates = self._candidates()
        if not plan.verify or not candidates:
            return Verification(
                verdict="not shown",
                candidate=self.search.incumbent if candidates else None,
                comparison=None,
                readings=(),
            )
        lab.reserved_s = 0.0
        baseline, least_rounds, ends_s = (
            self.search.baseline,
            plan.least_rounds,
            lab.limits.budget_s,
        )
        if ends_s is not None and least_rounds:
            least_s = least_rounds * round_s(lab, baseline, candidates)
            ends_s = max(ends_s, lab.elapsed_s + least_s)
        lab.tell(events.Stage(name="verification", elapsed_s=lab.elapsed_s, budget_s=ends_s))
        return Verifier(lab, plan.space, baseline, candidates, least_rounds=least_rounds).run()

    def _candidates(self) -> list[Params]:
        """The incumbent, and a rival from another group that is as good by what is known."""
        incumbent, known = self.search.incumbent, self.lab.knowledge
        if incumbent == self.search.baseline:
            return []
        best = known.seconds(incumbent) or 0.0
        rivals = [
            params
            for params in known.visited()
            if params != self.search.baseline
            and self._other_group(params, incumbent)
            and (known.seconds(params) or 2 * best) < best * (1 + _RIVAL)
        ]
        rival = min(rivals, key=lambda p: known.seconds(p) or 0.0, default=None)
        if rival is None or self.lab.hurried or not self._affordable([incumbent, rival]):
            return [incumbent]
        return [incumbent, rival]

    def _other_group(self, one: Params, other: Params) -> bool:
        names = ("n_gpu_layers", "n_cpu_moe", "n_ubatch", "load_mode", "repack", "no_kv_offload")
        return any(getattr(one, name) != getattr(other, name) for name in names)

    def _affordable(self, candidates: Sequence[Params]) -> bool:
        """A round of all of them leaves time for twelve."""
        lab = self.lab
        return 12 * round_s(lab, self.search.baseline, candidates) < lab.left_s() + lab.reserved_s

    def _tuned(self, verification: Verification) -> Tuned:
        lab, plan = self.lab, self.plan
        baseline, incumbent = self.search.baseline, self.search.incumbent
        won = verification.verdict == "better" or not plan.verify
        shipped = verification.candidate if won and verification.candidate else baseline
        told = dict.fromkeys((baseline, incumbent, verification.candidate or incumbent))
        return Tuned(
            verification=verification,
            baseline=baseline,
            shipped=shipped,
            incumbent=incumbent,
            part_seconds={p: self._part_seconds(verification, p) for p in told},
            n_trials=len(lab.knowledge.readings),
            failures=dict(lab.failures),
            elapsed_s=lab.elapsed_s,
            waited_s=lab.watch.waited_s,
            hurried=lab.hurried,
        )

    def _part_seconds(self, verification: Verification, params: Params) -> dict[Part, float]:
        """All parts, or none where one is not known."""
        objective, known = self.plan.objective, {}
        for part in objective.parts:
            fresh = [
                objective.part_seconds(part, measured.samples_ns)
                for reading in verification.readings
                if objective.key(reading.visit.params, part) == objective.key(params, part)
                if not reading.disturbed and (measured := reading.measured(part))
            ]
            searched = self.lab.knowledge.part_seconds(params, part)
            seconds = statistics.median(fresh) if fresh else searched
            if seconds is None:
                return {}
            known[part] = seconds
        return known
