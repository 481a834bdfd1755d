"""One session of tuning, from the first measurement to the verdict."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from autotune.hardware import Hardware
from autotune.llama_cpp.records import FailureKind, State
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.clock import Clock
from autotune.tuning.confirm import Confirmation, Confirmer, Serves, reserve_s
from autotune.tuning.job import Bench
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.lab import Lab, Limits, Record
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective, Part, Quantity
from autotune.tuning.search import Search, Seed
from autotune.tuning.space import Space
from autotune.tuning.tail import Proposer
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
    # Likewise; empty where the joules of a part were not told.
    part_joules: Mapping[Params, Mapping[Part, float]] = field(default_factory=dict)
    confirmation: Confirmation | None = None  # None: no server was asked.

    def seconds(self, params: Params) -> float | None:
        """Of a request; None where a part was not measured."""
        known = self.part_seconds.get(params)
        return sum(known.values()) if known else None

    def joules(self, params: Params) -> float | None:
        """Of a request; None where those of a part were not told."""
        known = self.part_joules.get(params)
        return sum(known.values()) if known else None


class Book(Record, Proposer, Protocol):
    """The study of a session."""


class Session:
    """Searches, and then verifies."""

    lab_class: ClassVar[type[Lab]] = Lab

    def __init__(
        self,
        plan: Plan,
        *,
        bench: Bench,
        study: Book,
        memory: Memory,
        clock: Clock,
        observe: Callable[[], State] = dict,
        tell: Callable[[events.Event], None] = lambda _: None,
        check: Callable[[], None] = lambda: None,
        serves: Serves | None = None,
    ) -> None:
        self.plan = plan
        # Of joules the server's seconds say nothing.
        self._serves = serves if plan.verify and plan.objective.minimises == "seconds" else None
        self.study = study
        self.lab = self.lab_class(
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
            check=check,
        )
        self.lab.kept_s = self._for_servers_s
        self.search = self.search_in(self.lab)

    def search_in(self, lab: Lab) -> Search:
        """The search of the plan, in a lab."""
        plan = self.plan
        return Search(
            lab=lab,
            study=self.study,
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
        verification = self._verified()
        confirmation = self._confirmed(verification)
        if confirmation and verification.verdict == "better" and not confirmation.supports:
            verification = replace(verification, verdict="not shown")
        return replace(self._tuned(verification), confirmation=confirmation)

    def _for_servers_s(self) -> float:
        """Seconds to keep for asking servers."""
        budget_s, baseline = self.lab.limits.budget_s, self.search.baseline
        request_s = self.lab.knowledge.seconds(baseline)
        if self._serves is None or budget_s is None or request_s is None:
            return 0.0
        load_s = self.lab.costs.load_s()
        return reserve_s(request_s=request_s, load_s=load_s, budget_s=budget_s)

    def _confirmed(self, verification: Verification) -> Confirmation | None:
        """What a real server says; None where none was asked."""
        lab, baseline = self.lab, self.search.baseline
        if self._serves is None or lab.hurried:
            return None
        better = verification.verdict == "better"
        lab.kept_s, lab.reserved_s = lambda: 0.0, 0.0
        ends_s = lab.limits.budget_s
        lab.tell(events.Stage(name="confirmation", elapsed_s=lab.elapsed_s, budget_s=ends_s))
        confirmer = Confirmer(self._serves, left_s=lab.left_s, enough=lambda: lab.hurried)
        return confirmer.confirm(
            baseline,
            verification.candidate if better else None,
            seen=verification.comparison,
            request_s=lab.knowledge.seconds(baseline) or 0.0,
            load_s=lab.costs.load_s(),
        )

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
        best = known.cost(incumbent) or 0.0
        rivals = [
            params
            for params in known.visited()
            if params != self.search.baseline
            and self._other_group(params, incumbent)
            and (known.cost(params) or 2 * best) < best * (1 + _RIVAL)
        ]
        rival = min(rivals, key=lambda p: known.cost(p) or 0.0, default=None)
        if rival is None or self.lab.hurried or not self._affordable([incumbent, rival]):
            return [incumbent]
        return [incumbent, rival]

    def _other_group(self, one: Params, other: Params) -> bool:
        names = (
            *("n_gpu_layers", "n_cpu_moe", "n_ubatch", "load_mode", "repack", "no_kv_offload"),
            *("n_parallel", "kv_unified"),
        )
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
            part_seconds={p: self._of_parts("seconds", verification, p) for p in told},
            part_joules={p: self._of_parts("joules", verification, p) for p in told},
            n_trials=len(lab.knowledge.readings),
            failures=dict(lab.failures),
            elapsed_s=lab.elapsed_s,
            waited_s=lab.watch.waited_s,
            hurried=lab.hurried,
        )

    def _of_parts(
        self, quantity: Quantity, verification: Verification, params: Params
    ) -> dict[Part, float]:
        """All parts, or none where one is not known."""
        objective, knowledge = self.plan.objective, self.lab.knowledge
        known: dict[Part, float] = {}
        for part in objective.parts:
            measured = [
                m
                for reading in verification.readings
                if objective.key(reading.visit.params, part) == objective.key(params, part)
                if not reading.disturbed and (m := reading.measured(part))
            ]
            if quantity == "joules":
                told = [objective.part_joules(part, m) for m in measured]
                searched = knowledge.part_joules(params, part)
            else:
                told = [objective.part_seconds(part, m.samples_ns) for m in measured]
                searched = knowledge.part_seconds(params, part)
            fresh = [one for one in told if one is not None]
            middle = statistics.median(fresh) if fresh else searched
            if middle is None:
                return {}
            known[part] = middle
        return known
