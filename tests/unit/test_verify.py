"""What is claimed: only what fresh and interleaved data show."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from fakes.readings import OBJECTIVE, SHARE
from fakes.scripted import BASELINE, SPACE, Answer, LabOfTests, Script, of_changed_tests

from autotune.errors import CouldNotMeasure
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.tuning import events
from autotune.tuning.lab import Limits
from autotune.tuning.objective import Part
from autotune.tuning.verify import MOST_ROUNDS, Verification, Verifier
from autotune.tuning.visits import Kind, Visit

FEWER = replace(BASELINE, n_threads=5)  # Changes generation alone.
UNPACKED = replace(BASELINE, repack=False)  # Changes both, and takes another load.
OTHER = replace(BASELINE, n_threads=5, flash_attn=False, repack=False)

Speeds = dict[Params, float]  # How many times as fast as the baseline, where it is not.


def with_speeds(speeds: Speeds, *, noise: float = 0.005, seed: int = 1) -> Script:
    """Each part of the baseline takes 10 s."""
    rng = random.Random(seed)  # noqa: S311 - noise, not a secret
    keys = of_changed_tests(speeds)

    def script(trial: Trial, _nth: int) -> Answer:
        return Answer(seconds=10 * SHARE / keys.get(trial, 1.0) * math.exp(rng.gauss(0, noise)))

    return script


def verified(tests: LabOfTests, *candidates: Params) -> Verification:
    """As a session does: the baseline is measured already."""
    before = Visit(kind=Kind.BASELINE, source="test", params=BASELINE, parts=OBJECTIVE.parts)
    tests.lab.visit([before])
    return Verifier(tests.lab, SPACE, BASELINE, candidates).run()


def visits_of_round(verification: Verification, number: int) -> list[Visit]:
    readings = verification.readings
    return [r.visit for r in readings if r.visit.source == f"round {number}"]


def rounds_told(tests: LabOfTests) -> int:
    return sum(isinstance(event, events.Verifying) for event in tests.told)


# --- what is measured ----------------------------------------------------------------------------


def test_every_other_round_goes_in_the_reverse_order() -> None:
    done = verified(LabOfTests(with_speeds({})), UNPACKED, OTHER)

    orders = [[v.params for v in visits_of_round(done, n)] for n in (1, 2, 3)]
    assert orders == [
        [BASELINE, UNPACKED, OTHER],
        [OTHER, UNPACKED, BASELINE],
        [BASELINE, UNPACKED, OTHER],
    ]


@pytest.mark.parametrize(
    ("candidates", "parts"),
    [
        ([FEWER], [("tg",), ("tg",)]),
        ([UNPACKED], [("pp", "tg"), ("pp", "tg")]),
        ([FEWER, UNPACKED], [("pp", "tg"), ("tg",), ("pp", "tg")]),
        ([replace(BASELINE, n_ubatch=128)], [("pp",), ("pp",)]),
    ],
    ids=["threads", "repack", "both", "ubatch"],
)
def test_what_nobody_changes_is_not_measured_again(
    candidates: Sequence[Params], parts: list[tuple[Part, ...]]
) -> None:
    done = verified(LabOfTests(with_speeds({})), *candidates)

    assert [v.parts for v in visits_of_round(done, 1)] == parts


def test_what_may_be_shipped_is_measured_once_in_exactly_its_words() -> None:
    tests = LabOfTests(with_speeds({}))

    verified(tests, FEWER, UNPACKED)

    whole = [r.visit for r in tests.study.readings() if r.visit.kind is Kind.WHOLE]
    # UNPACKED is measured whole in every round.
    assert [(v.params, v.parts) for v in whole] == [(FEWER, ("pp", "tg"))]


@pytest.mark.parametrize(("load_s", "repetitions"), [(0.5, 1), (10.0, 1), (20.0, 2), (500.0, 3)])
def test_what_is_short_beside_a_load_is_repeated_while_that_is_there(
    load_s: float, repetitions: int
) -> None:
    tests = LabOfTests(with_speeds({}), load_s=load_s)

    verified(tests, UNPACKED)

    assert tests.bench.repetitions[-1] == repetitions


def test_the_data_of_the_search_do_not_decide() -> None:
    tests = LabOfTests(with_speeds({UNPACKED: 1.5}))
    lucky = Visit(kind=Kind.TAIL, source="", params=UNPACKED, parts=OBJECTIVE.parts)
    tests.lab.visit([lucky])
    tests.bench.script = with_speeds({})

    assert verified(tests, UNPACKED).verdict == "not shown"


# --- what is concluded ---------------------------------------------------------------------------


def test_a_large_gain_is_shown_soon_and_stated_as_it_is() -> None:
    tests = LabOfTests(with_speeds({UNPACKED: 1.25}))

    done = verified(tests, UNPACKED)

    assert done.comparison
    assert (done.verdict, done.candidate, rounds_told(tests) <= 4) == ("better", UNPACKED, True)
    assert done.comparison.low < 1.25 < done.comparison.high


def test_the_gain_of_a_part_is_that_of_the_request() -> None:
    done = verified(LabOfTests(with_speeds({FEWER: 2.0}, noise=0.001)), FEWER)

    assert done.comparison
    assert done.comparison.ratio == pytest.approx(20 / 15, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_flat_machine_nothing_is_shown(seed: int) -> None:
    tests = LabOfTests(with_speeds({}, noise=0.02, seed=seed))

    done = verified(tests, UNPACKED, FEWER)

    assert (done.verdict, rounds_told(tests) <= MOST_ROUNDS) == ("not shown", True)


def test_a_machine_that_becomes_noisy_after_the_search_makes_no_winners() -> None:
    claims = 0
    for seed in range(100):
        tests = LabOfTests(with_speeds({}, noise=0.01))
        for _ in range(4):
            tests.lab.visit([Visit(kind=Kind.TAIL, source="", params=UNPACKED, parts=("pp", "tg"))])
        tests.bench.script = with_speeds({}, noise=0.2, seed=seed)
        claims += verified(tests, UNPACKED).verdict == "better"

    assert claims <= 5  # As many as chance may; by the noise of the search alone there were 11.


@pytest.mark.parametrize("speed", [1.0, 1.15])
def test_bursts_neither_make_nor_hide_a_winner(speed: float) -> None:
    better = 0
    for seed in range(100):
        calm, rng = with_speeds({UNPACKED: speed}, noise=0.01, seed=seed), random.Random(seed)  # noqa: S311 - noise
        tests = LabOfTests(calm)

        def bursting(
            trial: Trial, nth: int, calm: Script = calm, rng: random.Random = rng
        ) -> Answer:
            answer = calm(trial, nth)
            burst = 1.35 if rng.random() < 0.05 else 1.0
            return replace(answer, seconds=burst * answer.seconds)

        tests.bench.script = bursting
        better += verified(tests, UNPACKED).verdict == "better"

    assert (better <= 5) if speed == 1.0 else (better >= 95), better


def test_what_is_hopeless_is_not_gone_on_with() -> None:
    tests = LabOfTests(with_speeds({UNPACKED: 0.975}, noise=0))

    done = verified(tests, UNPACKED)

    assert (done.verdict, rounds_told(tests)) == ("not shown", 6)


def test_what_is_slower_is_said_to_be_worse() -> None:
    done = verified(LabOfTests(with_speeds({UNPACKED: 0.8})), UNPACKED)

    assert (done.verdict, done.candidate) == ("worse", UNPACKED)


def test_without_a_candidate_nothing_is_measured() -> None:
    tests = LabOfTests()

    done = verified(tests)

    assert (done.verdict, done.candidate, len(tests.bench.asked)) == ("not shown", None, 1)


def test_the_faster_candidate_wins() -> None:
    done = verified(LabOfTests(with_speeds({UNPACKED: 1.2, OTHER: 1.5})), UNPACKED, OTHER)

    assert (done.verdict, done.candidate) == ("better", OTHER)


@pytest.mark.parametrize("order", [(UNPACKED, OTHER), (OTHER, UNPACKED)])
def test_of_those_that_cannot_be_told_apart_the_nearest_to_the_defaults_wins(
    order: tuple[Params, ...],
) -> None:
    done = verified(LabOfTests(with_speeds({UNPACKED: 1.5, OTHER: 1.502})), *order)

    assert (done.verdict, done.candidate) == ("better", UNPACKED)


def test_of_those_that_are_as_near_the_one_with_fewer_threads_wins() -> None:
    four, five = (replace(BASELINE, n_threads=n) for n in (4, 5))

    done = verified(LabOfTests(with_speeds({four: 1.8, five: 1.805})), five, four)

    assert done.candidate == four


# --- what goes wrong -----------------------------------------------------------------------------


def failing_for(
    params: Params, *, from_nth: int, speeds: Speeds, kind: FailureKind = FailureKind.OOM
) -> Script:
    """Both parts of it fail, after so many runs of each."""
    trials = {OBJECTIVE.trial(params, part) for part in OBJECTIVE.parts}
    otherwise = with_speeds(speeds)

    def script(trial: Trial, nth: int) -> Answer:
        if trial in trials and nth >= from_nth:
            return Answer(failure=kind)
        return otherwise(trial, nth)

    return script


@pytest.mark.parametrize("from_nth", [0, 1])
def test_a_candidate_that_fails_in_a_round_is_dropped(from_nth: int) -> None:
    script = failing_for(OTHER, from_nth=from_nth, speeds={UNPACKED: 1.2, OTHER: 3.0})

    done = verified(LabOfTests(script), UNPACKED, OTHER)

    assert (done.verdict, done.candidate) == ("better", UNPACKED)


def test_a_candidate_that_fails_in_exactly_its_words_is_dropped() -> None:
    script = failing_for(FEWER, from_nth=0, speeds={FEWER: 2.0})

    done = verified(LabOfTests(script), FEWER)

    assert (done.verdict, done.candidate, done.readings) == ("not shown", None, ())


@pytest.mark.parametrize("candidate", [FEWER, UNPACKED], ids=["whole", "in a round"])
def test_where_nothing_works_any_more_that_is_said_and_nothing_else(candidate: Params) -> None:
    def script(_trial: Trial, _nth: int) -> Answer:
        return Answer(failure=FailureKind.CRASH if tests.bench.done else None, message="it is gone")

    tests = LabOfTests(script)

    with pytest.raises(CouldNotMeasure, match=r"it is gone; now llama\.cpp's defaults fail too"):
        verified(tests, candidate)


def test_a_baseline_that_fails_once_is_not_held_against_the_candidates() -> None:
    otherwise = with_speeds({FEWER: 2.0})

    def script(trial: Trial, nth: int) -> Answer:
        # After the baseline's own visit, and FEWER's in exactly its words.
        once = trial == OBJECTIVE.trial(BASELINE, "pp") and nth == 2
        return Answer(failure=FailureKind.CRASH) if once else otherwise(trial, nth)

    done = verified(LabOfTests(script), FEWER, UNPACKED)

    assert (done.verdict, done.candidate) == ("better", FEWER)


def disturbed_in(script: Script, is_busy: Callable[[Trial, int], bool]) -> Script:
    """Others use the machine, and slow the tests down to a third."""

    def disturbed(trial: Trial, nth: int) -> Answer:
        answer = script(trial, nth)
        if not is_busy(trial, nth):
            return answer
        return replace(answer, seconds=3 * answer.seconds, foreign_cpus=8.0)

    return disturbed


def test_disturbed_rounds_are_counted_and_do_not_count() -> None:
    # The baseline is slow in two rounds, each measured six times.
    script = disturbed_in(
        with_speeds({}),
        lambda trial, nth: trial.params.repack is None and 1 <= nth <= 12,
    )

    done = verified(LabOfTests(script), UNPACKED)

    assert done.comparison
    assert (done.verdict, done.disturbed_rounds) == ("not shown", 2)
    assert done.comparison.ratio == pytest.approx(1, abs=0.01)


def test_a_gain_is_not_given_up_because_the_first_round_was_disturbed() -> None:
    # The candidate is busy in the first round, which is measured six times.
    script = disturbed_in(
        with_speeds({UNPACKED: 1.5}), lambda trial, nth: trial.params.repack is False and nth < 6
    )

    done = verified(LabOfTests(script), UNPACKED)

    assert done.comparison
    assert (done.verdict, done.disturbed_rounds, done.comparison.pairs) == ("better", 1, 2)


def test_where_every_round_is_disturbed_nothing_is_shown() -> None:
    script = disturbed_in(with_speeds({UNPACKED: 2.0}), lambda _trial, _nth: True)

    done = verified(LabOfTests(script), UNPACKED)

    assert (done.verdict, done.comparison, done.disturbed_rounds) == (
        "not shown",
        None,
        MOST_ROUNDS,
    )


def test_one_round_is_not_enough_to_claim_by() -> None:
    tests = LabOfTests(with_speeds({UNPACKED: 3.0}), limits=Limits(budget_s=60))

    done = verified(tests, UNPACKED)

    assert done.comparison
    assert (done.verdict, done.comparison.pairs) == ("not shown", 1)


def test_when_the_time_is_up_what_there_is_decides() -> None:
    tests = LabOfTests(with_speeds({UNPACKED: 1.1}, noise=0), limits=Limits(budget_s=140))

    done = verified(tests, UNPACKED)

    assert done.comparison
    assert (done.verdict, tests.lab.elapsed_s < 140) == ("better", True)


def test_two_candidates_take_stronger_evidence_than_one() -> None:
    alone = verified(LabOfTests(with_speeds({}, noise=0)), UNPACKED)
    beside = verified(LabOfTests(with_speeds({}, noise=0)), UNPACKED, OTHER)

    assert alone.comparison
    assert beside.comparison
    assert alone.comparison.confidence < beside.comparison.confidence
