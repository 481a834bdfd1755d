"""What the charts of a report are drawn from: numbers, without words or colours."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from autotune.llama_cpp.records import Failure, Measurement, State
from autotune.params import Params
from autotune.results.conditions import foreign_cpus
from autotune.results.effects import Point, point
from autotune.results.journal import Trial
from autotune.results.report.facts import PARTS, baseline_of, candidate_of
from autotune.results.stored import Stored, Visited

# What a point of the progress is: clean data, data that something has disturbed, none.
Outcome = Literal["searched", "verified", "disturbed", "failed", "ended early"]
# A test: the side, the name of its round, its own name, nanoseconds of its repetitions.
_Key: TypeAlias = tuple[str, str, str, tuple[int, ...]]
_DECIDING = frozenset({"whole", "verify"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One trial on the way."""

    visited: Visited
    at_s: float
    outcome: Outcome
    ratio: float | None  # How many times as fast, or as efficient, as the defaults a request is.


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """All trials, and the best so far."""

    steps: tuple[Step, ...]
    best: tuple[tuple[float, float], ...]  # (seconds of the study, ratio), from when on.


def progress(stored: Stored) -> Progress:
    """How it went, as ratios to what a request under the defaults took at first."""
    spares = stored.objective == "efficiency"
    baseline = _baseline_j(stored) if spares else _baseline_s(stored)
    steps = tuple(_step(one, baseline, spares=spares) for one in stored.visited)
    began_s = next((step.at_s for step in steps if step.ratio), 0.0)
    led = [
        (i.elapsed_s, i.baseline_j / i.joules if i.joules and i.baseline_j else 1.0)
        if spares
        else (i.elapsed_s, i.baseline_s / i.seconds)
        for i in stored.incumbents
    ]
    return Progress(steps=steps, best=((began_s, 1.0), *led))


def _baseline_s(stored: Stored) -> float | None:
    if stored.incumbents:
        return stored.incumbents[0].baseline_s
    trials = (one.trial for one in stored.visited)
    return next((t.seconds for t in trials if t.kind == "baseline" and t.seconds), None)


def _baseline_j(stored: Stored) -> float | None:
    if stored.incumbents:
        return stored.incumbents[0].baseline_j
    trials = (one.trial for one in stored.visited)
    return next((t.joules for t in trials if t.kind == "baseline" and t.joules), None)


def _step(one: Visited, baseline: float | None, *, spares: bool) -> Step:
    trial = one.trial
    cost = trial.joules if spares else trial.seconds
    ratio = baseline / cost if baseline and cost else None
    return Step(visited=one, at_s=trial.elapsed_s, outcome=_outcome(one), ratio=ratio)


def _outcome(one: Visited) -> Outcome:
    if any(isinstance(record.outcome, Failure) for record in one.records):
        return "failed"
    if one.trial.disturbed:
        return "disturbed"
    if any(one.measured(part) is None for part in one.trial.parts):
        return "ended early"
    return "verified" if one.trial.kind in _DECIDING else "searched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One configuration of which both parts are known, in tokens per second."""

    params: Params
    pp: float
    tg: float
    on_front: bool  # None is faster at one part and as fast at the other.


def speeds(stored: Stored) -> tuple[Speed, ...]:
    """Every configuration by its undisturbed tests; a part serves all that do not change it."""
    known: dict[tuple[str, Point], list[float]] = defaultdict(list)
    for one in stored.visited:
        for part in PARTS:
            measured = one.measured(part)
            if measured and not one.trial.disturbed:
                known[part, point(one.trial.params, part)].append(measured.median_ts)
    found = {}
    for params in dict.fromkeys(one.trial.params for one in stored.visited):
        pp, tg = (known.get((part, point(params, part))) for part in PARTS)
        if pp and tg:
            found[params] = statistics.median(pp), statistics.median(tg)
    front = _front(list(found.values()))
    return tuple(
        Speed(params=params, pp=pp, tg=tg, on_front=(pp, tg) in front)
        for params, (pp, tg) in found.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Economy:
    """What one configuration makes of a joule, by its undisturbed tests; None: not told."""

    params: Params
    pp: float | None  # Tokens per joule.
    tg: float | None
    pp_watts: float | None
    tg_watts: float | None


def economies(stored: Stored) -> tuple[Economy, ...]:
    """Every configuration of which joules are known; a part serves all that do not change it."""
    known: dict[tuple[str, Point], list[tuple[float, float]]] = defaultdict(list)
    for one in stored.visited:
        for part in PARTS:
            m = one.measured(part)
            if m and m.tokens_per_joule and m.watts and not one.trial.disturbed:
                known[part, point(one.trial.params, part)].append((m.tokens_per_joule, m.watts))
    found = []
    for params in dict.fromkeys(one.trial.params for one in stored.visited):
        pp, tg = (known.get((part, point(params, part)), []) for part in PARTS)
        if pp or tg:
            (pp_j, pp_w), (tg_j, tg_w) = _middles(pp), _middles(tg)
            found.append(Economy(params=params, pp=pp_j, tg=tg_j, pp_watts=pp_w, tg_watts=tg_w))
    return tuple(found)


def _middles(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    if not pairs:
        return None, None
    per_joule, watts = zip(*pairs, strict=True)
    return statistics.median(per_joule), statistics.median(watts)


def _front(both: Sequence[tuple[float, float]]) -> set[tuple[float, float]]:
    """Those that no other one beats at both."""
    front, best_tg = set(), 0.0
    for pp, tg in sorted(both, reverse=True):
        if tg > best_tg:
            front.add((pp, tg))
            best_tg = tg
    return front


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The repetitions of one test of the verification."""

    order: int  # Among the tests of its part, from 1.
    side: Literal["baseline", "candidate"]
    source: str  # "round 3"
    samples_ts: tuple[float, ...]
    disturbed: str


def samples(stored: Stored, part: str) -> tuple[Sample, ...]:
    """The tests of one part in the order in which they ran, those of other candidates left out.

    Once there is evidence, they are those that it rests on, with what disturbed their round.
    """
    names = {baseline_of(stored): "baseline", candidate_of(stored): "candidate"}
    kept = None if stored.evidence is None else _kept(stored.evidence)
    deciding = [v for v in stored.visited if v.trial.kind == "verify" and v.trial.params in names]
    found = [
        (one.trial, m, names[one.trial.params]) for one in deciding if (m := one.measured(part))
    ]
    if kept is not None:
        found = [one for one in found if _key(*one) in kept]
    return tuple(
        Sample(
            order=order,
            side="baseline" if side == "baseline" else "candidate",
            source=trial.source,
            samples_ts=measured.samples_ts,
            disturbed=trial.disturbed if kept is None else kept[_key(trial, measured, side)],
        )
        for order, (trial, measured, side) in enumerate(found, start=1)
    )


def _key(trial: Trial, measured: Measurement, side: str) -> _Key:
    return side, trial.source, str(measured.test), measured.samples_ns


def _kept(evidence: Mapping[str, Any]) -> dict[_Key, str]:
    """What disturbed the round of each test of the evidence, be it on the other side."""
    rounds: dict[_Key, tuple[str, int]] = {}
    disturbed: dict[tuple[str, int], str] = {}
    for side in ("baseline", "candidate"):
        seen: Counter[tuple[str, str]] = Counter()
        for test in (evidence.get(side) or {}).get("samples", ()):
            name = test["round"]
            seen[name, test["test"]] += 1  # Those after an interruption share one name.
            number = seen[name, test["test"]]
            rounds[side, name, test["test"], tuple(test["samples_ns"])] = name, number
            disturbed[name, number] = disturbed.get((name, number)) or test["disturbed"]
    return {key: disturbed[of] for key, of in rounds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """One test of a configuration that was measured before, against all of the same."""

    trial: int
    at_s: float
    part: str
    is_baseline: bool
    ratio: float  # To the median of all of the same, at their test.
    disturbed: bool


def again(stored: Stored) -> tuple[Again, ...]:
    """The anchors: the defaults, and what led for a while, measured again and again."""
    anchored = {v.trial.params for v in stored.visited if v.trial.kind in {"anchor", "baseline"}}
    baseline = baseline_of(stored)
    same: dict[tuple[Params, str], list[tuple[Visited, float]]] = defaultdict(list)
    for one in stored.visited:
        for part in PARTS:
            measured = one.measured(part)
            if measured and one.trial.params in anchored:
                same[one.trial.params, part].append((one, measured.median_ts))
    found = [
        Again(
            trial=one.trial.number,
            at_s=one.trial.elapsed_s,
            part=part,
            is_baseline=params == baseline,
            ratio=rate / middle,
            disturbed=bool(one.trial.disturbed),
        )
        for (params, part), readings in same.items()
        if len(readings) > 1
        for middle in [statistics.median(rate for _, rate in readings)]
        for one, rate in readings
    ]
    return tuple(sorted(found, key=lambda one: one.at_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the machine was like at one trial."""

    trial: int
    at_s: float
    foreign_cpus: float | None  # CPUs that other programs kept busy.
    temperatures_c: Mapping[str, float]  # At the end, by sensor: "CPU", "GPU 0".
    clock_mhz: float | None
    disturbed: str

    @property
    def is_known(self) -> bool:
        """Whether anything could be read."""
        return self.foreign_cpus is not None or bool(self.temperatures_c or self.clock_mhz)


def weather(stored: Stored) -> tuple[Weather, ...]:
    """The machine along the night, as far as it shows itself."""
    return tuple(_weather(one) for one in stored.visited if one.records)


def _weather(one: Visited) -> Weather:
    runs = [record.outcome.run for record in one.records]
    foreign = [cpus for run in runs if (cpus := foreign_cpus(run)) is not None]
    after: State = {key: value for run in runs for key, value in run.after.items()}
    return Weather(
        trial=one.trial.number,
        at_s=one.trial.elapsed_s,
        foreign_cpus=max(foreign, default=None),
        temperatures_c=dict(_temperatures(after)),
        clock_mhz=after.get("clock_mhz"),
        disturbed=one.trial.disturbed,
    )


def _temperatures(state: State) -> Iterator[tuple[str, float]]:
    for key in sorted(state):
        if key == "temperature_c":
            yield "CPU", state[key]
        elif key.endswith("_temperature_c"):
            yield f"GPU {key.removesuffix('_temperature_c').removeprefix('gpu')}", state[key]
