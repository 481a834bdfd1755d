"""Visits in few runs of llama-bench: what is read, what is spared, and what a loss costs."""

from dataclasses import replace

import pytest
from fakes.readings import OBJECTIVE
from fakes.scripted import BASELINE, Answer, Script, ScriptedBench, always

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Event, Progress, Result
from autotune.llama_cpp.records import FailureKind, Outcome
from autotune.params import Params
from autotune.tuning.costs import Costs
from autotune.tuning.job import Job, Lost
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.objective import Part
from autotune.tuning.visits import Kind, Reading, Visit

SLOW = replace(BASELINE, n_ubatch=128)
ELSEWHERE = replace(BASELINE, repack=False)  # Another load.
BOTH: tuple[Part, ...] = ("pp", "tg")


class DeskOfTests:
    """Takes what comes, and what is given up."""

    def __init__(self) -> None:
        self.begun: list[Visit] = []
        self.given_up: list[object] = []
        self.shown: list[tuple[Part, Phase, int]] = []
        self.recorded: list[tuple[object, Part | None, Outcome]] = []

    def begin(self, visit: Visit) -> object:
        self.begun.append(visit)
        return len(self.begun) - 1

    def show(self, visit: Visit, part: Part, progress: Progress) -> None:
        assert OBJECTIVE.trial(visit.params, part) == progress.trial
        self.shown.append((part, progress.phase, progress.repetition))

    def record(self, ticket: object, part: Part | None, outcome: Outcome) -> None:
        self.recorded.append((ticket, part, outcome))

    def finish(self, ticket: object, visit: Visit, outcomes: dict[Part, Outcome]) -> Reading:
        assert isinstance(ticket, int)
        return Reading(
            visit=visit, outcomes=dict(outcomes), disturbed="", elapsed_s=0.0, number=ticket
        )

    def give_up(self, ticket: object) -> None:
        self.given_up.append(ticket)


def visit(params: Params, *parts: Part) -> Visit:
    return Visit(kind=Kind.TAIL, source="test", params=params, parts=parts or BOTH)


class Measured:
    """One job, done."""

    def __init__(
        self,
        *visits: Visit,
        script: Script = always,
        lost: Lost | None = None,
        repetitions: int = 2,
    ) -> None:
        self.bench = ScriptedBench(script)
        self.desk = DeskOfTests()
        self.job = Job(
            visits,
            bench=self.bench,
            desk=self.desk,
            clock=self.bench.clock,
            objective=OBJECTIVE,
            costs=Costs(Knowledge(OBJECTIVE)),
            repetitions=repetitions,
            lost=lost,
        )

    def readings(self) -> list[Reading | None]:
        return self.job.measure(None)

    def came(self) -> list[tuple[Part, ...] | None]:
        """The parts of each reading that have an outcome."""
        return [None if r is None else tuple(r.outcomes) for r in self.readings()]


def slower_than(limit_s: float) -> Lost:
    """A part of a request that takes longer has lost."""
    return lambda _visit, _part, seconds: seconds > limit_s


def test_what_shares_a_load_is_one_run() -> None:
    measured = Measured(visit(BASELINE), visit(SLOW))

    assert (measured.came(), len(measured.bench.asked)) == ([BOTH, BOTH], 1)


def test_what_does_not_is_another_run_each() -> None:
    measured = Measured(visit(BASELINE), visit(ELSEWHERE))

    assert (measured.came(), len(measured.bench.asked)) == ([BOTH, BOTH], 2)


def test_every_test_has_the_repetitions_that_are_wanted() -> None:
    (reading,) = Measured(visit(BASELINE)).readings()

    assert reading
    samples = [m.samples_ns for part in BOTH if (m := reading.measured(part))]
    assert samples == [(10**9, 10**9)] * 2


def test_a_test_that_two_visits_share_is_measured_for_each() -> None:
    other_prompts = replace(BASELINE, n_threads_batch=3)
    measured = Measured(visit(BASELINE, "tg"), visit(other_prompts, "tg"))

    assert (measured.came(), len(measured.bench.done)) == ([("tg",), ("tg",)], 2)


def test_what_happens_is_shown_as_it_does() -> None:
    measured = Measured(visit(BASELINE, "pp"))
    measured.readings()

    assert measured.desk.shown == [
        ("pp", Phase.LOAD, 0),
        ("pp", Phase.WARMUP, 0),
        ("pp", Phase.RUN, 1),
        ("pp", Phase.RUN, 2),
    ]


# --- what has lost -------------------------------------------------------------------------------


def test_a_visit_that_has_lost_by_one_part_is_spared_the_other() -> None:
    measured = Measured(visit(BASELINE), lost=slower_than(9), repetitions=1)

    assert (measured.came(), len(measured.bench.done)) == ([("pp",)], 1)


def test_a_loss_does_not_cost_those_that_share_the_load_another() -> None:
    def lost(visit: Visit, _part: Part, seconds: float) -> bool:
        return visit.params == SLOW and seconds > 9  # Its warm-up may take 15.

    measured = Measured(visit(SLOW), visit(BASELINE), lost=lost, repetitions=1)

    assert (measured.came(), len(measured.bench.asked)) == ([("pp",), BOTH], 1)


def warming_up_for(seconds: float) -> Script:
    def script(trial: Trial, _nth: int) -> Answer:
        slow = trial.params.n_ubatch == 128 and trial.test.n_prompt
        return Answer(warmup_s=seconds if slow else None)

    return script


@pytest.mark.parametrize(
    ("warmup_s", "came"),
    [
        (1.4, ("pp", "tg")),  # Slower than the limit, but warm-ups are.
        (1.6, ()),
    ],
)
def test_a_prompt_that_warms_up_much_too_long_is_ended(
    warmup_s: float, came: tuple[Part, ...]
) -> None:
    measured = Measured(visit(SLOW), script=warming_up_for(warmup_s), lost=slower_than(10.1))

    assert measured.came() == [came]


def test_no_more_time_passes_after_a_warm_up_that_was_too_long() -> None:
    measured = Measured(visit(SLOW, "pp"), script=warming_up_for(50), lost=slower_than(10.1))
    measured.readings()

    assert measured.bench.clock.now() == 60  # A load and the warm-up.


def test_generation_is_not_judged_by_its_warm_up() -> None:
    def script(_trial: Trial, _nth: int) -> Answer:
        return Answer(warmup_s=50)

    measured = Measured(visit(BASELINE, "tg"), script=script, lost=slower_than(10.1))

    assert measured.came() == [("tg",)]


def test_a_repetition_that_took_too_long_ends_the_test() -> None:
    measured = Measured(
        visit(BASELINE, "tg"), script=lambda *_: Answer(seconds=5), lost=slower_than(49)
    )

    assert (measured.came(), measured.bench.clock.now()) == ([()], 15.5)


def test_what_others_share_a_load_with_is_not_ended() -> None:
    measured = Measured(
        visit(SLOW), visit(BASELINE), script=warming_up_for(50), lost=slower_than(10.1)
    )

    assert measured.came() == [BOTH, BOTH]


# --- what fails ----------------------------------------------------------------------------------


def failing(**where: object) -> Script:
    def script(trial: Trial, _nth: int) -> Answer:
        fails = all(getattr(trial.params, name) == value for name, value in where.items())
        return Answer(failure=FailureKind.CRASH if fails else None)

    return script


def test_a_part_that_fails_drops_the_other() -> None:
    measured = Measured(visit(BASELINE), script=failing())

    (reading,) = measured.readings()
    assert reading
    assert reading.failure
    assert (tuple(reading.outcomes), measured.bench.counts.total()) == (("pp",), 1)


def test_what_fails_takes_no_other_with_it() -> None:
    measured = Measured(visit(SLOW), visit(BASELINE), script=failing(n_ubatch=128))

    readings = measured.readings()

    assert [bool(r and r.failure) for r in readings] == [True, False]


def test_a_run_that_gives_nothing_is_not_tried_for_ever() -> None:
    measured = Measured(visit(BASELINE))
    measured.bench.on_event = lambda _: measured.job.stop()

    assert (measured.came(), measured.desk.given_up) == ([None], [0])


# --- being stopped -------------------------------------------------------------------------------


def test_what_had_finished_before_a_stop_is_kept() -> None:
    measured = Measured(visit(BASELINE), visit(ELSEWHERE))

    def stop_in_the_second(event: Event) -> None:
        if event.trial.params.repack is False:
            measured.job.stop()

    measured.bench.on_event = stop_in_the_second

    assert (measured.came(), measured.desk.given_up) == ([BOTH, None], [1])


def test_what_was_stopped_before_it_began_starts_nothing() -> None:
    measured = Measured(visit(BASELINE))
    measured.job.stop()

    assert (measured.came(), measured.bench.asked, measured.desk.begun) == ([None], [], [])


def test_an_interrupt_gives_up_what_is_not_finished() -> None:
    measured = Measured(visit(BASELINE), visit(SLOW))

    def interrupt(event: Event) -> None:
        if isinstance(event, Result) and event.trial.params.n_ubatch == 128:
            raise KeyboardInterrupt

    measured.bench.on_event = interrupt

    with pytest.raises(KeyboardInterrupt):
        measured.readings()

    assert measured.desk.given_up == [1]
