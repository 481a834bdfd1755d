"""Laws of tuning that hold for every machine: reproducible, resumable, honest about what it saw."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from fakes.simulator import (
    Options,
    SimulatedMachine,
    Weather,
    cpu16,
    flat,
    moe,
    partial_offload,
)
from fakes.tuned import (
    CHAT,
    LONG_PROMPT,
    Simulated,
    memory_of,
    plan_for,
    session_on,
    tune_simulated,
)
from optuna.trial import TrialState

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.records import Measurement, outcome_to_json
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params, params_to_json
from autotune.tuning import events
from autotune.tuning.lab import INTERRUPTED, Limits
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import NAME, Study
from autotune.tuning.visits import DECIDING, Kind, Reading
from autotune.tuning.workload import Workload

Make = Callable[..., SimulatedMachine]
# What makes a visit the same one: kind, source, params, parts.
Key = tuple[str, str, Params, tuple[str, ...]]

PLACES: dict[str, tuple[Make, Workload]] = {
    "A": (cpu16, CHAT),
    "B": (partial_offload, LONG_PROMPT),
    "C": (moe, LONG_PROMPT),
    "flat": (flat, CHAT),
}
STEADY = Options(noise=0, drift=0, bursts=0, outliers=0)


def key(reading: Reading) -> Key:
    visit = reading.visit
    return visit.kind.value, visit.source, visit.params, visit.parts


# --- the same seed -------------------------------------------------------------------------------


def sequence(name: str, seed: int) -> list[tuple[Key, float]]:
    make, workload = PLACES[name]
    done = tune_simulated(make(3), workload, budget_s=600, seed=seed)
    return [(key(r), r.elapsed_s) for r in done.session.lab.knowledge.readings]


@pytest.mark.parametrize("name", ["A", "B", "C", "flat"])
def test_the_same_seed_visits_the_same_in_the_same_order(name: str) -> None:
    assert sequence(name, 5) == sequence(name, 5)


def test_another_seed_goes_another_way() -> None:
    assert sequence("A", 5) != sequence("A", 6)


# --- killed and resumed --------------------------------------------------------------------------


class SameAgain(Weather):
    """Noise that is the same each time a trial is measured, whatever was measured before.

    A killed session has lost what was in flight. It is measured again in a process of its own, and
    what it gives must not depend on how often the machine was asked before.
    """

    def of_load(self, model_params: Params, nth: int) -> float:
        del model_params, nth
        return 1.0

    def of_visit(self, params: Params, test: BenchTest, nth: int) -> Random:
        del nth
        return super().of_visit(params, test, 0)


def same_again(name: str) -> SimulatedMachine:
    machine = PLACES[name][0](1, drift=0)
    seed, n_cpus = machine.weather.seed, machine.weather.n_cpus
    machine.weather = SameAgain(seed, noise=0.02, drift=0, outliers=0.01, n_cpus=n_cpus)
    return machine


@dataclass(frozen=True)
class Moment:
    """What was on the disk when something was told: what a kill at that moment leaves behind."""

    at: events.Event
    study: Path
    elapsed_s: float

    @property
    def what(self) -> tuple[str, Kind]:
        if isinstance(self.at, events.Measured):
            return "finished", self.at.reading.visit.kind
        assert isinstance(self.at, events.Measuring)
        return self.at.phase.value, self.at.visit.kind


@dataclass(frozen=True)
class Whole:
    """A session that nobody interrupts, and all moments at which somebody could have."""

    name: str
    plan: Plan
    study: Path
    tuned: Tuned
    moments: tuple[Moment, ...]

    def readings(self) -> list[Reading]:
        return Study.resume(self.study, self.plan.space).readings()


# Enough for the tail to ask Optuna on A; on B and C a session takes long to replay.
N_TRIALS = {"A": 48, "B": 26, "C": 28}


@pytest.fixture(scope="module", params=["A", "B", "C"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    name, folder = request.param, tmp_path_factory.mktemp("whole")
    machine, study = same_again(name), folder / "study.db"
    plan = plan_for(machine, PLACES[name][1], Limits(trials=N_TRIALS[name]))
    moments: list[Moment] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Measured | events.Measuring):
            copy = folder / f"{len(moments)}.db"
            shutil.copy(study, copy)  # No transaction is open: each is committed at once.
            moments.append(Moment(event, copy, machine.clock.now()))

    session = session_on(machine, plan, Study.create(study, plan.space, {}, seed=0), tell)
    return Whole(name, plan, study, session.run(), tuple(moments))


def killing_moments(whole: Whole) -> list[Moment]:
    """The first and the last, one of each kind of moment, and some of every part of the session."""
    moments = whole.moments
    finished = [m for m in moments if isinstance(m.at, events.Measured)]
    within_a_group = [
        moment
        for moment, following in pairwise(finished)
        if moment.what[1] is Kind.RACE and following.what[1] is Kind.RACE
    ]
    in_the_middle_of_a_test = [m for m in moments if m.what[0] == Phase.RUN.value]
    verifying = [m for m in moments if m.what[1] in DECIDING]
    chosen = [
        moments[0],
        finished[0],
        *within_a_group[1:2],
        in_the_middle_of_a_test[len(in_the_middle_of_a_test) // 2],
        moments[7 * len(moments) // 10],
        verifying[0],
        verifying[len(verifying) // 2],
        finished[-2],
        finished[-1],
    ]
    return list({moment.study: moment for moment in chosen}.values())


@dataclass(frozen=True)
class Resumed:
    """A session that was killed and went on, on a machine of its own."""

    moment: Moment
    kept: tuple[Reading, ...]
    told: tuple[events.Measured, ...]
    tuned: Tuned
    study: Path
    trials: tuple[optuna.trial.FrozenTrial, ...]
    running: frozenset[int]  # Numbers of the trials that the kill found running.

    @property
    def fresh(self) -> list[Reading]:
        return [event.reading for event in self.told if not event.replayed]


def trials_of(study: Path) -> tuple[optuna.trial.FrozenTrial, ...]:
    loaded = optuna.load_study(study_name=NAME, storage=f"sqlite:///{study}")
    return tuple(loaded.get_trials(deepcopy=False))


def resumed(whole: Whole, moment: Moment) -> Resumed:
    running = frozenset(t.number for t in trials_of(moment.study) if t.state == TrialState.RUNNING)
    study = Study.resume(moment.study, whole.plan.space)
    kept = tuple(study.readings())
    told: list[events.Measured] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Measured):
            told.append(event)

    tuned = session_on(same_again(whole.name), whole.plan, study, tell).run()
    trials = trials_of(moment.study)
    return Resumed(moment, kept, tuple(told), tuned, moment.study, trials, running)


@pytest.fixture(scope="module")
def resumptions(whole: Whole) -> list[Resumed]:
    return [resumed(whole, moment) for moment in killing_moments(whole)]


def test_a_killed_session_ends_with_the_same_trials_as_one_that_was_not(
    whole: Whole, resumptions: list[Resumed]
) -> None:
    expected = Counter(map(key, whole.readings()))
    different = [
        one.moment.what
        for one in resumptions
        if Counter(map(key, Study.resume(one.study, whole.plan.space).readings())) != expected
    ]
    assert different == []


def test_a_killed_session_comes_to_the_same_end(whole: Whole, resumptions: list[Resumed]) -> None:
    ends = {(r.tuned.shipped, r.tuned.verification.verdict) for r in resumptions}
    assert ends == {(whole.tuned.shipped, whole.tuned.verification.verdict)}


def test_what_a_killed_session_had_measured_is_not_measured_again(
    resumptions: list[Resumed],
) -> None:
    for one in resumptions:
        replayed = [event.reading for event in one.told if event.replayed]
        assert sorted(r.number for r in replayed) == sorted(r.number for r in one.kept)
        assert {r.number for r in one.fresh}.isdisjoint(r.number for r in one.kept)


def test_what_was_running_at_a_kill_is_noted_as_interrupted_and_measured(
    resumptions: list[Resumed],
) -> None:
    assert sum(len(one.running) for one in resumptions) > 0
    for one in resumptions:
        interrupted = [trial for trial in one.trials if trial.number in one.running]
        assert {t.state for t in interrupted} <= {TrialState.FAIL}
        assert {t.user_attrs["failure"] for t in interrupted} <= {"interrupted"}
        wanted = Counter(_asked(trial) for trial in interrupted)
        measured = Counter(
            _asked(t) for t in one.trials if t.number in {r.number for r in one.fresh}
        )
        assert wanted <= measured


def _asked(trial: optuna.trial.FrozenTrial) -> str:
    return repr([trial.user_attrs[name] for name in ("kind", "source", "params", "parts")])


def test_no_trial_is_left_running_or_waiting(resumptions: list[Resumed]) -> None:
    states = {trial.state for one in resumptions for trial in one.trials}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_the_time_before_a_kill_counts(resumptions: list[Resumed]) -> None:
    for one in resumptions:
        before_s = max((r.elapsed_s for r in one.kept), default=0.0)
        after = [r.elapsed_s for r in one.fresh]
        assert all(elapsed_s > before_s for elapsed_s in after)
        assert one.tuned.elapsed_s >= before_s
        assert after == sorted(after)


class Killed(Exception):
    pass


@pytest.mark.parametrize("k", [1, 2, 6, 20])
def test_an_exception_from_whoever_watches_costs_nothing_that_was_finished(
    k: int, tmp_path: Path
) -> None:
    path, machine = tmp_path / "study.db", same_again("A")
    plan = plan_for(machine, CHAT, Limits(trials=24))
    finished: list[Reading] = []

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Measured):
            finished.append(event.reading)
            if len(finished) == k:
                raise Killed

    with pytest.raises(Killed):
        session_on(machine, plan, Study.create(path, plan.space, {}, seed=0), tell).run()

    resumed_study = Study.resume(path, plan.space)
    assert list(map(key, resumed_study.readings())) == list(map(key, finished))
    again = session_on(same_again("A"), plan, resumed_study)
    again.run()
    uninterrupted = session_on(same_again("A"), plan)
    uninterrupted.run()
    assert _trials(again) == _trials(uninterrupted)


def _trials(session: Session) -> Counter[Key]:
    return Counter(map(key, session.lab.knowledge.readings))


# --- what is believed ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A session, and everything that it told."""

    done: Simulated
    told: tuple[events.Event, ...]

    @property
    def incumbents(self) -> list[Params]:
        return [event.params for event in self.told if isinstance(event, events.NewIncumbent)]

    @property
    def readings(self) -> list[Reading]:
        return self.done.session.lab.knowledge.readings


@cache
def watched(name: str, seed: int, *, steady: bool) -> Watched:
    make, workload = PLACES[name]
    told: list[events.Event] = []
    machine = make(seed, **(STEADY if steady else Options()))
    done = tune_simulated(machine, workload, seed=seed, tell=told.append)
    return Watched(done, tuple(told))


EACH = pytest.mark.parametrize("name", ["A", "B", "C", "flat"])
SEEDS = range(6)


def seconds_by_the_tests(watched: Watched, params: Params) -> float:
    """What the tests would say of a request, without noise."""
    machine, objective = watched.done.machine, watched.done.session.plan.objective
    total = 0.0
    for part in objective.parts:
        trial = objective.trial(params, part)
        ns = round(1e9 * machine.seconds(*trial))
        total += objective.part_seconds(part, [ns])
    return total


@EACH
def test_without_noise_the_incumbent_never_gets_worse(name: str) -> None:
    for seed in SEEDS:
        seen = watched(name, seed, steady=True)
        line = [seconds_by_the_tests(seen, p) for p in (seen.done.tuned.baseline, *seen.incumbents)]
        assert line == sorted(line, reverse=True), f"seed {seed}"


@EACH
def test_what_is_shipped_was_measured_as_a_whole(name: str) -> None:
    for seed in SEEDS:
        seen = watched(name, seed, steady=False)
        objective, shipped = seen.done.session.plan.objective, seen.done.tuned.shipped
        measured = {
            Trial(outcome.params, outcome.test)
            for reading in seen.readings
            for outcome in reading.outcomes.values()
            if isinstance(outcome, Measurement)
        }
        assert {objective.trial(shipped, part) for part in objective.parts} <= measured


@EACH
def test_every_incumbent_fits_in_memory(name: str) -> None:
    for seed in SEEDS:
        seen = watched(name, seed, steady=False)
        fits = memory_of(seen.done.machine, PLACES[name][1]).fits
        assert [params for params in seen.incumbents if not fits(params)] == []


# --- the record ----------------------------------------------------------------------------------


def _told(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    names = ("kind", "source", "params", "parts", "outcomes")
    return {name: trial.user_attrs[name] for name in names}


def _expected(reading: Reading) -> dict[str, Any]:
    return {
        "kind": reading.visit.kind.value,
        "source": reading.visit.source,
        "params": params_to_json(reading.visit.params),
        "parts": list(reading.visit.parts),
        "outcomes": {part: outcome_to_json(o) for part, o in reading.outcomes.items()},
    }


def test_every_visit_is_a_trial_of_the_study(whole: Whole) -> None:
    finished = {
        trial.number: _told(trial)
        for trial in trials_of(whole.study)
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
    }
    readings = [m.at.reading for m in whole.moments if isinstance(m.at, events.Measured)]
    assert len(readings) == len(finished) == whole.tuned.n_trials
    # By way of JSON, which has lists where there were tuples.
    assert finished == {r.number: _via_json(_expected(r)) for r in readings}


def _via_json(value: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(value))
    return read


# --- in a hurry ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hurried:
    """A session that was told to come to an end, and the one that went on with its study."""

    plan: Plan
    seconds: float
    asked_at: float
    longest_phase_s: float
    before: tuple[Reading, ...]  # What was finished when it was told.
    all_: tuple[Reading, ...]  # ... and when it had ended.
    kept: tuple[Reading, ...]  # In the study.
    rounds: int
    tuned: Tuned
    resumed_told: tuple[events.Event, ...]
    resumed: Tuned

    @property
    def fresh(self) -> list[Reading]:
        return [
            event.reading
            for event in self.resumed_told
            if isinstance(event, events.Measured) and not event.replayed
        ]


@cache
def hurried(folder: Path, seconds: float, *, verifying: bool) -> Hurried:
    """Tell a session to end within so many seconds, in the middle of a test."""
    path, machine = folder / f"{seconds}-{verifying}.db", cpu16(2)
    plan = plan_for(machine, CHAT, Limits(trials=40))
    finished: list[Reading] = []
    before: list[Reading] = []
    phases: list[float] = []
    asked: list[float] = []
    rounds: list[events.Verifying] = []

    def is_the_moment(event: events.Measuring) -> bool:
        if event.phase is not Phase.RUN:
            return False
        return event.visit.source == "round 2" if verifying else len(finished) >= 20

    def tell(event: events.Event) -> None:
        phases.append(machine.clock.now())
        if isinstance(event, events.Measured):
            finished.append(event.reading)
        elif isinstance(event, events.Verifying):
            rounds.append(event)
        elif isinstance(event, events.Measuring) and not asked and is_the_moment(event):
            asked.append(machine.clock.now())
            before.extend(finished)
            session.hurry(seconds)

    session = session_on(machine, plan, Study.create(path, plan.space, {}, seed=0), tell)
    tuned = session.run()
    longest = max(b - a for a, b in pairwise(phases))
    study = Study.resume(path, plan.space)
    kept = tuple(study.readings())
    told: list[events.Event] = []
    went_on = session_on(cpu16(2), plan, study, told.append).run()
    return Hurried(
        plan=plan,
        seconds=seconds,
        asked_at=asked[0],
        longest_phase_s=longest,
        before=tuple(before),
        all_=tuple(finished),
        kept=kept,
        rounds=len(rounds),
        tuned=tuned,
        resumed_told=tuple(told),
        resumed=went_on,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hurried")


IN_A_HURRY = pytest.mark.parametrize(
    ("seconds", "verifying"), [(10, False), (120, False), (10, True), (60, True)]
)


@IN_A_HURRY
def test_a_hurried_session_ends_in_time(folder: Path, seconds: float, *, verifying: bool) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    assert one.tuned.hurried
    assert one.tuned.elapsed_s <= one.asked_at + seconds + one.longest_phase_s


@IN_A_HURRY
def test_a_hurried_session_keeps_everything(
    folder: Path, seconds: float, *, verifying: bool
) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    assert list(map(key, one.kept)) == list(map(key, one.all_))
    assert one.all_[: len(one.before)] == one.before


@IN_A_HURRY
def test_a_hurried_session_searches_no_more(
    folder: Path, seconds: float, *, verifying: bool
) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    after = one.all_[len(one.before) :]
    assert {reading.visit.kind for reading in after} <= DECIDING
    assert {reading.visit.source for reading in after} <= {INTERRUPTED}


@IN_A_HURRY
def test_a_hurried_verdict_rests_on_rounds_that_were_finished(
    folder: Path, seconds: float, *, verifying: bool
) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    comparison = one.tuned.verification.comparison
    assert (comparison.pairs if comparison else 0) == one.rounds
    measured = Counter(r.visit.params for r in one.all_ if r.visit.kind is Kind.VERIFY)
    assert measured[one.plan.baseline] >= one.rounds
    assert one.tuned.verification.verdict == "not shown" or one.rounds >= 2


def test_with_time_enough_a_hurried_session_still_shows_its_gain(folder: Path) -> None:
    assert hurried(folder, 120, verifying=False).tuned.verification.verdict == "better"


@pytest.mark.parametrize("seconds", [10, 120])
def test_after_a_hurried_search_the_search_goes_on(folder: Path, seconds: float) -> None:
    one = hurried(folder, seconds, verifying=False)
    kinds = [reading.visit.kind in DECIDING for reading in one.fresh]
    assert kinds == sorted(kinds)
    assert 0 < kinds.index(True) < len(kinds)
    searched = [key(r) for r in (*one.before, *one.fresh) if r.visit.kind not in DECIDING]
    assert len(searched) > len(one.before)


@IN_A_HURRY
def test_what_was_verified_in_a_hurry_does_not_count_after_a_resume(
    folder: Path, seconds: float, *, verifying: bool
) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    sources = {reading.visit.source for reading in one.resumed.verification.readings}
    assert INTERRUPTED not in sources
    assert "round 1" in sources
    in_a_hurry = {r.number for r in one.kept if r.visit.source == INTERRUPTED}
    replayed = {
        event.reading.number
        for event in one.resumed_told
        if isinstance(event, events.Measured) and event.replayed
    }
    assert in_a_hurry.isdisjoint(replayed)


@IN_A_HURRY
def test_the_time_of_a_hurried_session_counts(
    folder: Path, seconds: float, *, verifying: bool
) -> None:
    one = hurried(folder, seconds, verifying=verifying)
    spent_s = max(reading.elapsed_s for reading in one.kept)
    assert all(reading.elapsed_s > spent_s for reading in one.fresh)
