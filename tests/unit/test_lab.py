"""Where visits are measured: within the time there is, on a quiet machine, and never twice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest
from fakes.readings import OBJECTIVE
from fakes.scripted import BASELINE, SPACE, Answer, LabOfTests, Script, always
from fakes.simulated_hosts import hardware
from fakes.simulator import cpu16, flat, partial_offload
from fakes.tuned import (
    CHAT,
    LONG_PROMPT,
    capabilities_of_today,
    memory_of,
    plan_for,
    session_on,
)

from autotune.errors import CouldNotMeasure, OtherStudy
from autotune.llama_cpp import records
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.program_run import Event, Result
from autotune.llama_cpp.records import FailureKind, State
from autotune.llama_cpp.serving import Served
from autotune.params import ALL_LAYERS, Params
from autotune.tuning import events
from autotune.tuning.dimensions import Wishes, make_space
from autotune.tuning.lab import MOST_AGAIN, STILL_WELL, Limits, TimeIsUp
from autotune.tuning.objective import Part
from autotune.tuning.search import Search
from autotune.tuning.visits import Kind, Visit

# A whole visit takes a load of 10 s, a prompt of 1 s with its warm-up, generation with a tenth.
VISIT_S = 10 + 2 + 1.1


def visit(
    n: int = 8, *parts: Part, kind: Kind = Kind.TAIL, source: str = "test", **changes: object
) -> Visit:
    """With so many threads."""
    params = replace(BASELINE, n_threads=n, n_threads_batch=n, **changes)  # type: ignore[arg-type]
    return Visit(kind=kind, source=source, params=params, parts=parts or ("pp", "tg"))


def elsewhere(n: int = 8) -> Visit:
    return visit(n, repack=False)


def told(lab: LabOfTests, kind: type[events.Event]) -> list[events.Event]:
    return [event for event in lab.told if isinstance(event, kind)]


# --- what is kept and told -----------------------------------------------------------------------


def test_what_is_known_of_a_visit_holds_no_words_of_llama_bench() -> None:
    tests = LabOfTests()

    (reading,) = tests.lab.visit([visit()])

    (known,) = tests.lab.knowledge.readings
    measured, whole = known.measured("tg"), reading.measured("tg")
    assert measured
    assert whole
    assert (measured.record, measured.run.argv, measured.run.before) == ({}, (), {})
    assert (measured.samples_ns, measured.run.load_s) == (whole.samples_ns, whole.run.load_s)
    assert whole.run.argv


def test_a_visit_is_known_and_kept_and_told() -> None:
    tests = LabOfTests()

    (reading,) = tests.lab.visit([visit()])

    (measured,) = told(tests, events.Measured)
    assert (tests.lab.knowledge.readings, tests.study.readings(), measured) == (
        [reading.bare()],
        [reading],
        events.Measured(reading=reading, seconds=20.0, replayed=False),
    )


def test_readings_come_in_the_order_in_which_they_were_asked_for() -> None:
    asked = [visit(3), elsewhere(), visit(5), visit(4)]

    readings = LabOfTests().lab.visit(asked)

    assert [reading.visit for reading in readings] == asked


def test_time_is_counted_from_the_first_measurement_on() -> None:
    tests = LabOfTests()

    (reading,) = tests.lab.visit([visit()])

    assert (reading.elapsed_s, tests.lab.elapsed_s) == pytest.approx((VISIT_S, VISIT_S))


def test_what_was_predicted_is_what_a_visit_like_it_takes() -> None:
    tests = LabOfTests()
    tests.lab.visit([visit()])
    before_s, predicted_s = tests.lab.elapsed_s, tests.lab.cost_s([visit()])

    tests.lab.visit([visit()])

    assert tests.lab.elapsed_s - before_s == pytest.approx(predicted_s)


# --- limits --------------------------------------------------------------------------------------


def test_what_cannot_finish_in_time_is_not_begun() -> None:
    tests = LabOfTests(limits=Limits(budget_s=2 * VISIT_S - 0.1))
    tests.lab.visit([visit(kind=Kind.BASELINE)])

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit()])

    assert len(tests.study.readings()) == len(tests.bench.asked) == 1


def test_what_can_is() -> None:
    tests = LabOfTests(limits=Limits(budget_s=2 * VISIT_S + 0.1))
    tests.lab.visit([visit(kind=Kind.BASELINE)])

    tests.lab.visit([visit()])

    assert tests.lab.left_s() == pytest.approx(0.1)


def test_time_that_is_reserved_is_not_spent_on_the_search() -> None:
    tests = LabOfTests(limits=Limits(budget_s=3 * VISIT_S))
    tests.lab.visit([visit(kind=Kind.BASELINE)])
    tests.lab.reserved_s = 1.5 * VISIT_S

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit()])


def test_the_defaults_are_measured_whatever_they_take() -> None:
    tests = LabOfTests(limits=Limits(budget_s=1))

    readings = tests.lab.visit([visit(kind=Kind.BASELINE)])

    assert len(readings[0].outcomes) == 2


def test_a_limit_of_trials_is_one_of_the_search() -> None:
    tests = LabOfTests(limits=Limits(trials=2))
    tests.lab.visit([visit(kind=Kind.BASELINE)])
    tests.lab.visit([visit(3)])

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit(4)])

    assert len(tests.lab.visit([visit(kind=Kind.VERIFY), visit(3, kind=Kind.VERIFY)])) == 2


def test_without_a_budget_there_is_time() -> None:
    assert LabOfTests().lab.left_s() == float("inf")


# --- being hurried -------------------------------------------------------------------------------


def hurrying(tests: LabOfTests, seconds: float) -> None:
    def hurry(_event: Event) -> None:
        tests.bench.on_event = lambda _: None
        tests.lab.hurry(seconds)

    tests.bench.on_event = hurry


def test_hurry_ends_what_is_running() -> None:
    tests = LabOfTests()
    hurrying(tests, 60)

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit()])

    assert (tests.lab.hurried, tests.bench.done) == (True, [])


def test_after_hurry_there_is_time_for_the_verification_alone() -> None:
    tests = LabOfTests(limits=Limits(budget_s=1000))
    tests.lab.visit([visit(kind=Kind.BASELINE)])
    tests.lab.hurry(2 * VISIT_S)

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit()])
    verified = tests.lab.visit([visit(kind=Kind.VERIFY)])

    assert (len(verified), round(tests.lab.left_s(), 6)) == (1, VISIT_S)


def test_after_hurry_nothing_is_begun_that_would_take_longer() -> None:
    tests = LabOfTests()
    tests.lab.visit([visit(kind=Kind.BASELINE)])
    tests.lab.hurry(VISIT_S / 2)

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit(kind=Kind.VERIFY)])


# --- disturbance ---------------------------------------------------------------------------------


def busy_at_first(n: int) -> Script:
    """Others compute during the first n runs of each test."""
    return lambda _trial, nth: Answer(foreign_cpus=4.0 if nth < n else 0.0)


@pytest.mark.parametrize(("n_busy", "n_measured", "is_disturbed"), [
    (0, 1, False), (1, 2, False), (2, 3, False), (9, 3, True),
])  # fmt: skip
def test_a_disturbed_visit_is_measured_again_at_most_twice(
    n_busy: int, n_measured: int, *, is_disturbed: bool
) -> None:
    tests = LabOfTests(busy_at_first(n_busy))

    (reading,) = tests.lab.visit([visit(8, "tg")])

    assert (bool(reading.disturbed), len(tests.study.readings())) == (is_disturbed, n_measured)


def test_a_repetition_that_fails_does_not_take_the_place_of_what_was_disturbed() -> None:
    def script(_trial: Trial, nth: int) -> Answer:
        failure = FailureKind.OOM if nth == 1 else None
        return Answer(failure=failure, foreign_cpus=0.0 if nth else 4.0)

    tests = LabOfTests(script)

    (reading,) = tests.lab.visit([visit(8, "tg")])

    assert (reading.failure, reading.disturbed, len(tests.study.readings())) == (None, "", 3)


def test_only_what_was_disturbed_is_measured_again() -> None:
    def script(trial: Trial, nth: int) -> Answer:
        return Answer(foreign_cpus=8.0 if trial.params.n_threads == 3 and nth == 0 else 0.0)

    tests = LabOfTests(script)

    readings = tests.lab.visit([visit(3, "tg"), visit(4, "tg")])

    threads = [r.visit.params.n_threads for r in tests.study.readings()]
    assert (threads, [r.disturbed for r in readings]) == ([3, 4, 3], ["", ""])


def states(foreign_cpus: float) -> Callable[[], State]:
    """What a machine says of itself on which others use so many CPUs, second by second."""
    seconds: Iterator[int] = count()

    def observe() -> State:
        now = float(next(seconds))
        return {"at_s": now, "busy_s": now * foreign_cpus, "own_s": 0.0}

    return observe


@pytest.mark.parametrize(
    ("budget_s", "foreign_cpus", "waited_s"),
    [
        (None, 0.0, 1),  # One look, and it is quiet.
        (None, 4.0, 60 + 60),  # Twice as long as may be at one time.
        (200.0, 4.0, 30),  # 15 % of the budget, in all.
        (200.0, 0.0, 1),
    ],
)
def test_waiting_for_a_quiet_machine_is_bounded(
    budget_s: float | None, foreign_cpus: float, waited_s: float
) -> None:
    n_busy = 9 if foreign_cpus else 1
    tests = LabOfTests(
        busy_at_first(n_busy), limits=Limits(budget_s=budget_s), observe=states(foreign_cpus)
    )

    tests.lab.visit([visit(8, "tg")])

    assert tests.lab.watch.waited_s == waited_s


def test_waiting_is_told_with_its_reason_and_its_end() -> None:
    tests = LabOfTests(busy_at_first(1), observe=states(0.0))

    tests.lab.visit([visit(8, "tg")])

    waiting = events.Waiting(why="other programs used 4.0 CPUs", for_s=0.0, at_most_s=60.0)
    assert told(tests, events.Waiting) == [waiting]


def test_a_disturbed_reading_has_to_do_when_there_is_no_time_for_another() -> None:
    tests = LabOfTests(busy_at_first(9), limits=Limits(budget_s=20))

    (reading,) = tests.lab.visit([visit(8, "tg", kind=Kind.SEED)])

    assert (bool(reading.disturbed), len(tests.study.readings())) == (True, 1)


# --- what fails ----------------------------------------------------------------------------------


def failing(kind: FailureKind, *, message: str = "it failed") -> Script:
    return lambda _trial, _nth: Answer(failure=kind, message=message)


def test_three_failures_of_one_kind_in_a_row_end_it_with_the_command_to_try() -> None:
    tests = LabOfTests(failing(FailureKind.CRASH, message="no such GPU"))
    for n in (1, 2):
        tests.lab.visit([visit(n)])

    with pytest.raises(CouldNotMeasure, match="no such GPU") as caught:
        tests.lab.visit([visit(3)])

    assert caught.value.details[-1] == "ran: llama-bench -r 1"


def test_three_failures_within_one_run_end_it_too() -> None:
    tests = LabOfTests(failing(FailureKind.CRASH))

    with pytest.raises(CouldNotMeasure):
        tests.lab.visit([visit(n) for n in (1, 2, 3, 4)])


def test_what_has_worked_is_asked_whether_it_still_does_before_giving_up() -> None:
    def script(trial: Trial, _nth: int) -> Answer:
        n = trial.params.n_threads or 0
        return Answer(failure=None if n == 8 else FailureKind.CRASH)

    tests = LabOfTests(script)
    tests.lab.visit([visit(8)])

    for n in (1, 2, 3, 4, 5, 6):
        tests.lab.visit([visit(n)])

    asked = [r for r in tests.study.readings() if r.visit.source == STILL_WELL]
    assert len(asked) == 2
    assert all(reading.visit.params.n_threads == 8 for reading in asked)


def test_memory_that_does_not_suffice_is_no_reason_to_end() -> None:
    tests = LabOfTests(failing(FailureKind.OOM))

    for n in range(1, 6):
        tests.lab.visit([visit(n)])

    assert tests.lab.failures == {FailureKind.OOM: 5}


def test_failures_that_differ_or_have_a_success_between_them_are_no_reason_to_end() -> None:
    def script(trial: Trial, _nth: int) -> Answer:
        n = trial.params.n_threads or 0
        return Answer(failure=None if n == 3 else FailureKind.CRASH, message=f"{n // 6}")

    tests = LabOfTests(script)

    for n in (1, 2, 3, 4, 5, 6, 7):
        tests.lab.visit([visit(n)])

    assert tests.lab.failures == {FailureKind.CRASH: 6}


@pytest.mark.parametrize(("kind", "fits"), [(FailureKind.OOM, False), (FailureKind.CRASH, True)])
def test_what_runs_out_of_memory_keeps_what_takes_as_much_out(
    kind: FailureKind, *, fits: bool
) -> None:
    machine = partial_offload()
    tests = LabOfTests(failing(kind))
    tests.lab.memory = memory_of(machine, CHAT)
    fitted = tests.lab.memory.fitted(replace(BASELINE, n_gpu_layers=ALL_LAYERS))
    assert fitted

    tests.lab.visit([visit(n_gpu_layers=fitted.n_gpu_layers)])

    assert tests.lab.memory.fits(fitted) == fits


# --- a session goes on ---------------------------------------------------------------------------

ASKED = [[visit(8, kind=Kind.BASELINE)], [visit(3), visit(4)], [visit(5)]]


def resumed(first: LabOfTests, script: Script = always) -> LabOfTests:
    return LabOfTests(script, study=first.study)


def test_what_the_study_has_is_not_measured_again() -> None:
    first = LabOfTests(busy_at_first(1))
    before = [first.lab.visit(visits) for visits in ASKED]

    second = resumed(first)
    after = [second.lab.visit(visits) for visits in ASKED]

    assert (after, second.bench.asked, round(second.lab.elapsed_s, 6)) == (
        before,
        [],
        round(first.lab.elapsed_s, 6),
    )


def test_what_is_answered_from_the_record_is_told_as_such() -> None:
    first = LabOfTests()
    first.lab.visit(ASKED[0])

    second = resumed(first)
    second.lab.visit(ASKED[0])

    (event,) = told(second, events.Measured)
    assert isinstance(event, events.Measured)
    assert event.replayed


def test_where_the_record_ends_it_is_measured_on() -> None:
    first = LabOfTests()
    for visits in ASKED[:2]:
        first.lab.visit(visits)

    second = resumed(first)
    for visits in ASKED:
        second.lab.visit(visits)

    assert (second.bench.done, round(second.lab.elapsed_s, 6)) == (
        [
            OBJECTIVE.trial(ASKED[2][0].params, part)
            for part in second.lab.knowledge.objective.parts
        ],
        round(first.lab.elapsed_s + VISIT_S, 6),
    )


def test_a_search_that_goes_another_way_knows_what_was_measured_all_the_same() -> None:
    first = LabOfTests()
    for visits in ASKED:
        first.lab.visit(visits)

    second = resumed(first)
    second.lab.visit(ASKED[0])
    second.lab.visit([visit(7)])

    assert (second.lab.knowledge.seconds(visit(5).params), len(second.bench.asked)) == (20, 1)


def test_a_search_is_over_where_it_was_over() -> None:
    first = LabOfTests()
    first.lab.visit(ASKED[0])
    first.lab.visit([visit(8, kind=Kind.VERIFY, source="round 1")])

    second = resumed(first)
    second.lab.visit(ASKED[0])

    with pytest.raises(TimeIsUp):
        second.lab.visit([visit(3)])


def test_of_requests_at_once_no_part_is_dropped_that_was_measured_with_the_other() -> None:
    tests: tuple[tuple[Part, records.Test], ...] = (
        ("pp", records.Test(n_prompt=100)),
        ("tg", records.Test(n_gen=10, n_depth=100)),
    )
    several = LabOfTests(objective=replace(OBJECTIVE, n_parallel=8, tests=tests))

    (reading,) = several.lab.visit([visit()], repetitions=3, lost=lambda *_: True)

    assert [*reading.outcomes] == ["pp", "tg"]


# --- what does not stay what it is ---------------------------------------------------------------


def of_another_model() -> None:
    raise OtherStudy("the model was replaced", hint="put it back")


def test_nothing_is_measured_of_what_is_something_else() -> None:
    tests = LabOfTests(check=of_another_model)

    with pytest.raises(OtherStudy):
        tests.lab.visit([visit()])

    assert (tests.bench.asked, tests.study.readings()) == ([], [])


def test_a_record_of_what_has_become_something_else_is_no_record() -> None:
    checks = count()
    tests = LabOfTests(check=lambda: of_another_model() if next(checks) else None)

    with pytest.raises(OtherStudy):
        tests.lab.visit([visit()])

    assert (told(tests, events.Recorded), tests.study.readings()) == ([], [])


# --- on a simulated machine ----------------------------------------------------------------------


def killed_at_first(trial: Trial, nth: int) -> Answer:
    return Answer(failure=FailureKind.CRASH if trial.test.n_prompt and not nth else None)


def killed_once_it_was_disturbed(trial: Trial, nth: int) -> Answer:
    killed = bool(trial.test.n_prompt and nth)
    return Answer(foreign_cpus=4.0, failure=FailureKind.CRASH if killed else None)


@pytest.mark.parametrize(
    ("script", "times"), [(killed_at_first, 1), (killed_once_it_was_disturbed, MOST_AGAIN)]
)
def test_a_session_goes_on_where_someone_has_ended_its_defaults(script: Script, times: int) -> None:
    tests = LabOfTests(script)
    search = Search(
        lab=tests.lab,
        study=tests.study,
        space=SPACE,
        hardware=hardware(()),
        baseline=BASELINE,
        seeds=[],
        seed=0,
    )

    search.stay_with(BASELINE)

    assert tests.lab.knowledge.seconds(BASELINE) is not None
    assert tests.lab.failures == {FailureKind.CRASH: times}


def test_a_session_on_a_machine_that_always_crashes_says_so() -> None:
    machine = cpu16(crash=lambda _params, _test: True)

    with pytest.raises(CouldNotMeasure, match="defaults could not be measured, crash"):
        session_on(machine, plan_for(machine, CHAT, Limits(budget_s=900))).run()


def test_what_was_kept_for_a_verification_that_was_not_needed_is_left_for_the_servers() -> None:
    machine, shares = flat(), list[float]()

    def serves(params: Params, *, share: float, **_: object) -> Served:
        del params
        shares.append(share)
        return Served(seconds=20, prompt_ms=(), generation_ms=())

    tuned = session_on(machine, plan_for(machine, CHAT, Limits(budget_s=100)), serves=serves).run()

    assert (tuned.verification.readings, shares) == ((), [1])


def test_a_session_ends_within_its_number_of_trials() -> None:
    machine = cpu16()
    session = session_on(machine, plan_for(machine, CHAT, Limits(trials=7)))

    session.search.run()

    assert len(session.lab.knowledge.readings) <= 7


def test_a_session_stays_within_the_placement_that_the_user_wants() -> None:
    machine = partial_offload()
    plan = plan_for(machine, LONG_PROMPT, Limits(budget_s=600))
    space = make_space(
        hardware=machine.hardware,
        model=machine.model,
        capabilities=capabilities_of_today(),
        objective=plan.objective,
        defaults=plan.baseline,
        seed=plan.seeds[0].params,
        wishes=Wishes(parameters={"n_gpu_layers": (10, 40)}),  # Of which 40 do not fit.
    )
    session = session_on(machine, replace(plan, space=space, baseline=space.fixed))

    session.run()

    placed = {reading.visit.params.n_gpu_layers for reading in session.lab.knowledge.readings}
    assert placed == {10}


def test_a_result_that_came_before_hurry_is_kept() -> None:
    tests = LabOfTests()

    def hurry(event: Event) -> None:
        if isinstance(event, Result) and event.trial.params.n_threads == 4:
            tests.lab.hurry(100)

    tests.bench.on_event = hurry

    with pytest.raises(TimeIsUp):
        tests.lab.visit([visit(3, "tg"), visit(4, "tg"), visit(5, "tg")])

    assert [r.visit.params.n_threads for r in tests.study.readings()] == [3, 4]
