"""Verification: the only data that decides, fresh and interleaved.

The baseline and the candidates are visited in turn, in reverse every other round, so that what
drifts hits all of them. What a candidate does not change is not measured again. The search's own
numbers never count here: the best of sixty equal configurations looks 6 % faster than it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.stats import LEAST_PAIRS, PRIOR_SD, Comparison, compare, widened
from autotune.tuning import events
from autotune.tuning.lab import INTERRUPTED, Lab, TimeIsUp
from autotune.tuning.objective import Part
from autotune.tuning.space import Space
from autotune.tuning.visits import Kind, Reading, Visit

Verdict = Literal["better", "not shown", "worse"]

# Looking after every round and stopping at the first that shows it would claim too often: early
# looks take stronger evidence, so that all of them and the last claim 5 % of nothing together.
EARLY_CONFIDENCE, LAST_CONFIDENCE = 0.99, 0.95
LEAST_ROUNDS, MOST_ROUNDS = LEAST_PAIRS, 16
# After this many rounds, what looks no faster, or by 2 % at best, is not worth more of them.
_HOPELESS_ROUNDS, _HOPELESS_RATIO = 6, 1.02
# Candidates that cannot be told apart, and are this close by what was seen, are tied.
_TIE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What fresh data say of the candidates."""

    verdict: Verdict
    candidate: Params | None  # The one that the comparison is of; None: there was none.
    comparison: Comparison | None
    readings: tuple[Reading, ...]  # Of all rounds.
    disturbed_rounds: int = 0


def repetitions_of(lab: Lab, visits: Sequence[Visit]) -> int:
    """Of each test in a round: what is short beside a load is repeated while that is there."""
    load_s = lab.costs.load_s()
    tests_s = lab.cost_s(visits) / max(len(visits), 1) - load_s
    return max(min(round(load_s / max(4 * tests_s, 0.1)), 3), lab.least_repetitions())


def round_s(lab: Lab, baseline: Params, candidates: Sequence[Params]) -> float:
    """Seconds of one round, in which everything is measured that could differ."""
    visits = [
        Visit(kind=Kind.VERIFY, source="", params=params, parts=lab.knowledge.objective.parts)
        for params in dict.fromkeys((baseline, *candidates))
    ]
    return lab.cost_s(visits, repetitions=repetitions_of(lab, visits))


class Verifier:
    """Compares candidates with the baseline in rounds."""

    def __init__(
        self,
        lab: Lab,
        space: Space,
        baseline: Params,
        candidates: Sequence[Params],
        *,
        least_rounds: int = 0,
    ) -> None:
        self._lab = lab
        self._space = space
        self._memory = lab.memory
        self._objective = lab.knowledge.objective
        self._baseline = baseline
        self._candidates = list(candidates)
        self._log_costs: dict[Params, list[float]] = {p: [] for p in (baseline, *candidates)}
        self._log_ratios: dict[Params, list[float]] = {p: [] for p in candidates}
        self._readings: list[Reading] = []
        self._disturbed = 0
        self._least_rounds = least_rounds  # However long they take.

    def run(self) -> Verification:
        """Go on until something is shown, nothing is to be hoped for, or the time is up."""
        rounds = 0
        self._lab.patient = rounds < self._least_rounds
        try:
            self._measure_whole()
            while self._candidates and rounds < MOST_ROUNDS:
                self._round(rounds)
                rounds += 1
                self._lab.patient = rounds < self._least_rounds
                early = self._best(EARLY_CONFIDENCE)
                seen = early[1] if early else None
                self._lab.tell(events.Verifying(rounds=rounds, comparison=seen))
                if seen and seen.pairs >= LEAST_PAIRS and self._is_over(seen, rounds):
                    return self._verification(early)
        except TimeIsUp:
            pass
        return self._verification(self._best(LAST_CONFIDENCE))

    def _is_over(self, seen: Comparison, rounds: int) -> bool:
        little = seen.high < _HOPELESS_RATIO or seen.ratio <= 1
        return seen.shown_better or seen.shown_worse or (rounds >= _HOPELESS_ROUNDS and little)

    def _measure_whole(self) -> None:
        """What may be shipped is measured once in exactly its words, both parts."""
        for params in list(self._candidates):
            if self._changed_parts(params) == self._objective.parts:
                continue  # Every round does.
            visit = Visit(
                kind=Kind.WHOLE,
                source=self._source("candidate"),
                params=params,
                parts=self._objective.parts,
            )
            (reading,) = self._lab.visit([visit])
            if reading.failure:
                self._candidates.remove(params)
                self._doubt(reading)

    def _source(self, name: str) -> str:
        return INTERRUPTED if self._lab.hurried else name

    def _round(self, number: int) -> None:
        order = [self._baseline, *self._candidates]
        visits = [
            Visit(
                kind=Kind.VERIFY,
                source=self._source(f"round {number + 1}"),
                params=params,
                parts=self._changed_parts(params),
            )
            for params in (reversed(order) if number % 2 else order)
        ]
        readings = self._lab.visit(visits, repetitions=repetitions_of(self._lab, visits))
        self._readings += readings
        by_params = {reading.visit.params: reading for reading in readings}
        if any(reading.disturbed for reading in readings):
            self._disturbed += 1
            return
        self._doubt(next((r for r in readings if r.failure), readings[0]))
        costs = {p: self._cost_of(r, by_params[self._baseline]) for p, r in by_params.items()}
        logs = {params: math.log(cost) for params, cost in costs.items() if cost is not None}
        for params in list(self._candidates):
            if by_params[params].failure:
                self._candidates.remove(params)  # It failed, now: it is not for shipping.
                del self._log_ratios[params]
            elif params in logs and self._baseline in logs:
                self._log_ratios[params].append(logs[self._baseline] - logs[params])
        for params, log in logs.items():
            self._log_costs[params].append(log)

    def _doubt(self, reading: Reading) -> None:
        """What has failed was measured before: is it at fault, or does nothing work any more?"""
        failure = reading.failure
        if failure and failure.kind is not FailureKind.OOM and not self._lab.hurried:
            self._lab.ask_whether_it_is_well(Kind.WHOLE)

    def _changed_parts(self, params: Params) -> tuple[Part, ...]:
        if params == self._baseline:
            changed = {p for c in self._candidates for p in self._changed_parts(c)}
            return tuple(part for part in self._objective.parts if part in changed)
        key = self._objective.key
        return tuple(
            part for part in self._objective.parts if key(params, part) != key(self._baseline, part)
        )

    def _cost_of(self, reading: Reading, baseline: Reading) -> float | None:
        """Of a request; a part that the candidate does not change is the baseline's."""
        total = 0.0
        for part in self._objective.parts:
            mine = reading if part in reading.visit.parts else baseline
            measured = mine.measured(part)
            if part not in mine.visit.parts:  # Nobody changes it.
                total += self._lab.knowledge.part_cost(self._baseline, part) or 0.0
                continue
            cost = self._objective.part_cost(part, measured) if measured else None
            if cost is None:
                return None
            total += cost
        return total

    def _best(self, confidence: float) -> tuple[Params, Comparison] | None:
        """The candidate to speak of, each tested at its share of what may be wrong."""
        each = 1 - (1 - confidence) / max(len(self._candidates), 1)
        prior_sd = self._prior_sd()
        compared = {
            params: compare(self._log_ratios[params], confidence=each, prior_sd=prior_sd)
            for params in self._candidates
            if self._log_ratios[params]
        }
        if not compared:
            return None
        best = max(compared, key=lambda params: compared[params].ratio)
        tied = [p for p in compared if p == best or self._is_tied(p, best)]
        shown = [p for p in tied if compared[p].shown_better]
        chosen = min(shown, key=self._price) if shown else best
        return chosen, self._looked_at_often(compared[chosen])

    def _looked_at_often(self, seen: Comparison) -> Comparison:
        """Each look at each candidate was an occasion for chance; together at most their sum."""
        occasions = max(seen.pairs, 1) * max(len(self._candidates), 1)
        return replace(seen, chance=min(occasions * seen.chance, 1.0))

    def _prior_sd(self) -> float:
        """Of the difference of two single tests, by the noise of the search and of these rounds.

        A machine may become noisy after the search: by the noise of the search alone, one whose
        tests then scattered by 20 % made a winner of nothing in 11 of 100 nights.
        """
        expected = max(PRIOR_SD / math.sqrt(2), self._lab.knowledge.noise())
        return math.sqrt(2) * widened(expected, self._log_costs.values())

    def _is_tied(self, params: Params, best: Params) -> bool:
        pairs = zip(self._log_ratios[best], self._log_ratios[params], strict=False)
        between = compare([a - b for a, b in pairs], confidence=LAST_CONFIDENCE)
        return between.low <= 1 and between.ratio < 1 + _TIE

    def _price(self, params: Params) -> tuple[int, int, int]:
        """Nearest the defaults, then fewer threads, then less memory."""
        threads = (params.n_threads or 0) + (params.n_threads_batch or 0)
        distance = self._space.distance(params, self._baseline)
        return distance, threads, self._memory.gpu_bytes(params)

    def _verification(self, best: tuple[Params, Comparison] | None) -> Verification:
        params, comparison = best or (None, None)
        return Verification(
            verdict=_verdict(comparison),
            candidate=params,
            comparison=comparison,
            readings=tuple(self._readings),
            disturbed_rounds=self._disturbed,
        )


def _verdict(seen: Comparison | None) -> Verdict:
    if seen and seen.pairs >= LEAST_PAIRS and seen.shown_better:
        return "better"
    if seen and seen.pairs >= LEAST_PAIRS and seen.shown_worse:
        return "worse"
    return "not shown"
