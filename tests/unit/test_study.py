"""The record of everything: an Optuna study, which plain Optuna reads and a crash does not lose."""

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from fakes.readings import failed, measured, reading
from fakes.scripted import BASELINE, SPACE
from optuna.trial import TrialState

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import FailureKind, Outcome
from autotune.params import Params, params_to_json
from autotune.tuning.study import NAME, Journalled, Study
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import Value

if TYPE_CHECKING:
    from autotune.tuning.objective import Part

FACTS = {"environment": {"CPU": "of the tests", "devices": []}, "space": {"n": [1, None]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a study.db"


def new(path: Path | None = None, *, seed: int = 3) -> Study:
    return Study.create(path, SPACE, FACTS, seed=seed)


def threads(n: int) -> Params:
    return replace(BASELINE, n_threads=n)


def visit(n: int) -> Visit:
    return reading(threads(n), pp=1.0, tg=2.0, kind=Kind.RACE).visit


def keep(study: Study, what: Reading, seconds: float | None = 3.0) -> Reading:
    """As the lab does: the number is the study's."""
    ticket = study.begin(what.visit)
    kept = replace(what, number=ticket.number)
    study.tell(ticket, kept, seconds)
    return kept


def plain(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=NAME, storage=f"sqlite:///{path}")


SOME = [
    reading(BASELINE, pp=1.0, tg=2.0, kind=Kind.BASELINE, number=1),
    reading(threads(3), pp=FailureKind.CRASH, parts=("pp", "tg"), number=2),
    reading(threads(4), tg=5.0, disturbed="busy", number=3),
    reading(threads(5), parts=("pp", "tg"), number=4),
]


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a?b#c", "a%20b", "ü'", "-x"])
def test_a_study_may_lie_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()

    Study.create(folder / "study.db", SPACE, {"model": "x"}, seed=3)

    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert Study.facts_of(folder / "study.db") == {"model": "x", "seed": 3}


def test_a_file_is_read_by_plain_optuna_with_the_seconds_as_values(path: Path) -> None:
    study = new(path)
    for each, seconds in zip(SOME, (3.0, None, 7.0, None), strict=True):
        keep(study, each, seconds)

    table = plain(path).trials_dataframe()

    values = [None if value != value else value for value in table["value"]]  # noqa: PLR0124 - NaN
    assert (values, list(table["state"]), list(table["params_n_threads"])) == (
        [3.0, None, 7.0, None],
        ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"],
        [8, 3, 4, 5],
    )


def test_what_a_visit_was_for_stands_in_its_attributes_before_it_is_over(path: Path) -> None:
    new(path).begin(visit(3))

    (trial,) = plain(path).trials
    assert (trial.state, trial.user_attrs) == (
        TrialState.RUNNING,
        {
            "kind": "race",
            "source": "test",
            "parts": ["pp", "tg"],
            "params": params_to_json(threads(3)),
        },
    )


def test_what_came_of_a_visit_stands_in_its_attributes(path: Path) -> None:
    study = new(path)
    keep(study, replace(SOME[1], disturbed="busy", elapsed_s=4.5))

    (trial,) = plain(path).trials
    told = {name: trial.user_attrs[name] for name in ("failure", "disturbed", "elapsed_s")}
    assert told == {"failure": "crash", "disturbed": "busy", "elapsed_s": 4.5}


def test_all_values_of_the_space_are_parameters_of_the_trial(path: Path) -> None:
    new(path).begin(visit(3))

    (trial,) = plain(path).trials
    assert trial.params == {"n_threads": 3, "n_ubatch": 512, "flash_attn": "auto", "repack": True}


@pytest.mark.parametrize("in_file", [True, False])
def test_readings_come_back_as_they_were_kept(path: Path, *, in_file: bool) -> None:
    study = new(path if in_file else None)

    kept = [keep(study, each) for each in SOME]

    again = Study.resume(path, SPACE) if in_file else study
    assert again.readings() == kept


def test_both_parts_of_a_reading_come_back_with_all_that_llama_bench_said() -> None:
    study = new()
    outcomes: dict[Part, Outcome] = {
        "tg": measured(threads(3), "tg", 2.0),
        "pp": failed(threads(3), "pp", FailureKind.TIMEOUT),
    }

    kept = keep(study, replace(SOME[1], outcomes=outcomes))

    assert study.readings()[0].outcomes == kept.outcomes


def test_readings_come_in_the_order_in_which_they_were_finished() -> None:
    study = new()
    first, second = (study.begin(visit(n)) for n in (3, 4))
    for ticket, n, elapsed_s in ((second, 4, 1.0), (first, 3, 2.0)):
        came = reading(threads(n), pp=1.0, tg=2.0)
        study.tell(ticket, replace(came, number=ticket.number, elapsed_s=elapsed_s), 3.0)

    assert [r.visit.params.n_threads for r in study.readings()] == [4, 3]


def test_what_was_given_up_has_failed_and_is_no_reading(path: Path) -> None:
    study = new(path)
    study.give_up(study.begin(visit(3)), "interrupted")

    (trial,) = plain(path).trials
    assert (trial.state, trial.user_attrs["failure"], study.readings()) == (
        TrialState.FAIL,
        "interrupted",
        [],
    )


# --- going on ------------------------------------------------------------------------------------


def after_a_crash(path: Path, *running: int) -> Study:
    """A study that ended while visits ran, opened anew."""
    study = new(path)
    keep(study, SOME[0])
    for n in running:
        study.begin(visit(n))
    return Study.resume(path, SPACE)


def states(path: Path) -> list[tuple[str, object]]:
    return [(t.state.name, t.user_attrs.get("failure")) for t in plain(path).trials]


def test_what_ran_at_a_crash_is_told_as_interrupted_and_enqueued_again(path: Path) -> None:
    after_a_crash(path, 3)

    assert states(path) == [("COMPLETE", None), ("FAIL", "interrupted"), ("WAITING", None)]


def test_what_was_interrupted_is_taken_up_where_it_is_wanted_again(path: Path) -> None:
    study = after_a_crash(path, 3)

    ticket = study.begin(visit(3))

    assert (ticket.number, len(plain(path).trials)) == (2, 3)


def test_what_was_interrupted_and_is_not_wanted_any_more_is_let_go(path: Path) -> None:
    study = after_a_crash(path, 3, 4)

    ticket = study.begin(visit(5))

    assert (ticket.params["n_threads"], [name for name, _ in states(path)]) == (
        5,
        ["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "RUNNING"],
    )


def test_a_second_crash_before_anything_ran_loses_nothing(path: Path) -> None:
    after_a_crash(path, 3)

    ticket = Study.resume(path, SPACE).begin(visit(3))

    assert ticket.params["n_threads"] == 3


def power_fails(path: Path, *n_kept: int) -> tuple[list[Reading], Path]:
    """A study of some visits, of which the disk has the first few, with what the journal says."""
    study, copy = new(path), path.with_name("copy.db")
    journal = []
    for n, each in enumerate(SOME):
        if n in n_kept:
            copy.write_bytes(path.read_bytes())
        journal.append(keep(study, replace(each, elapsed_s=float(n))))
    return journal, copy


@pytest.mark.parametrize("n_kept", range(4))
def test_what_the_journal_has_and_the_file_has_lost_is_there_again(path: Path, n_kept: int) -> None:
    journal, copy = power_fails(path, n_kept)

    study = Study.resume(copy, SPACE, Journalled(over=[(each, 3.0) for each in journal]))

    assert study.readings() == journal
    assert [(t.value, t.params) for t in plain(copy).trials] == [
        (None if each.failure else 3.0, SPACE.point(each.visit.params)) for each in journal
    ]


def test_what_was_running_by_the_file_and_is_over_by_the_journal_is_over(path: Path) -> None:
    study, copy = new(path), path.with_name("copy.db")
    ticket = study.begin(SOME[0].visit)
    copy.write_bytes(path.read_bytes())
    came = replace(SOME[0], number=ticket.number)

    again = Study.resume(copy, SPACE, Journalled(over=[(came, 3.0)]))

    assert (again.readings(), states(copy)) == ([came], [("COMPLETE", None)])


def test_what_only_waited_by_the_file_and_is_over_by_the_journal_is_over(path: Path) -> None:
    study = new(path)
    keep(study, SOME[0])
    study.begin(visit(3))
    Study.resume(path, SPACE)  # It is enqueued anew, as the third.
    came = replace(SOME[3], number=2, elapsed_s=9.0)

    Study.resume(path, SPACE, Journalled(over=[(came, None)]))

    assert states(path) == [("COMPLETE", None), ("FAIL", "interrupted"), ("PRUNED", None)]


def test_a_number_that_nobody_has_kept_is_of_an_interrupted_visit(path: Path) -> None:
    study = new(path)
    keep(study, SOME[0])
    came = replace(SOME[3], number=2, elapsed_s=9.0)

    again = Study.resume(path, SPACE, Journalled(over=[(came, None)]))

    assert [each.number for each in again.readings()] == [0, 2]
    assert states(path)[1] == ("FAIL", "interrupted")


def test_no_number_is_given_again_that_the_journal_has_a_record_of(path: Path) -> None:
    after_a_crash(path, 3)  # It was the second, and is enqueued anew as the third.

    again = Study.resume(path, SPACE, Journalled(n_begun=3))

    assert (again.begin(visit(3)).number, [name for name, _ in states(path)]) == (
        3,
        ["COMPLETE", "FAIL", "FAIL", "RUNNING"],
    )


def test_numbers_that_the_file_has_lost_are_not_given_again_either(path: Path) -> None:
    new(path)

    again = Study.resume(path, SPACE, Journalled(n_begun=2))

    assert again.begin(visit(3)).number == 2


def after_failures(path: Path, *kinds: FailureKind) -> list[int]:
    """The readings that are still believed, by their numbers."""
    study = new(path)
    keep(study, replace(SOME[0], elapsed_s=0.0))
    for n, kind in enumerate(kinds, start=1):
        keep(study, replace(reading(threads(n), pp=kind, parts=("pp", "tg")), elapsed_s=float(n)))
    Study.resume(path, SPACE)
    return [each.number for each in Study.resume(path, SPACE).readings()]


def test_what_failed_last_is_not_held_against_it_and_stays_so(path: Path) -> None:
    assert after_failures(path, FailureKind.CRASH, FailureKind.HANG) == [0]


def test_that_memory_did_not_suffice_is_believed_and_what_came_before_it(path: Path) -> None:
    kinds = (FailureKind.CRASH, FailureKind.OOM, FailureKind.CRASH)

    assert after_failures(path, *kinds) == [0, 1, 2]


def test_a_file_that_cannot_be_written_is_an_error_with_its_reason(path: Path) -> None:
    study = new(path)
    ticket = study.begin(visit(3))
    path.write_bytes(b"\0" * 8192)

    with pytest.raises(SurroundingsError, match=r"cannot be written: (file is not|database disk)"):
        study.tell(ticket, replace(SOME[3], number=0), None)


def test_giving_up_what_cannot_be_written_down_is_no_error_of_its_own(path: Path) -> None:
    study = new(path)
    ticket = study.begin(visit(3))
    path.write_bytes(b"\0" * 8192)

    study.give_up(ticket, "interrupted")

    with pytest.raises(SurroundingsError):
        Study.facts_of(path)


def test_a_study_that_cannot_be_begun_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="cannot be written: unable to open"):
        new(tmp_path / "gone" / "study.db")


def test_what_plain_optuna_has_enqueued_for_us_is_taken_up(path: Path) -> None:
    why = {"kind": "race", "source": "test", "parts": ["pp", "tg"]}
    keep(new(path), SOME[0])
    plain(path).enqueue_trial(
        SPACE.point(threads(3)), user_attrs={**why, "params": params_to_json(threads(3))}
    )

    ticket = Study.resume(path, SPACE).begin(visit(3))

    trial = plain(path).trials[1]
    assert (ticket.number, trial.state, trial.params) == (
        1,
        TrialState.RUNNING,
        SPACE.point(threads(3)),
    )


def test_the_facts_of_a_study_are_read_with_its_seed(path: Path) -> None:
    new(path, seed=11)

    assert Study.facts_of(path) == {**FACTS, "seed": 11}


def no_file(_path: Path) -> None:
    pass


def a_text(path: Path) -> None:
    path.write_text("this is no database, whatever its name says\n" * 100)


def another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table birds (name text)")
    connection.commit()
    connection.close()


def another_study(path: Path) -> None:
    optuna.create_study(storage=f"sqlite:///{path}", study_name="of somebody else")


def a_study_of_the_future(path: Path) -> None:
    new(path)
    plain(path).set_user_attr("format_version", 99)


def half_a_file(path: Path) -> None:
    new(path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "made", [no_file, a_text, another_database, another_study, a_study_of_the_future, half_a_file]
)
def test_a_file_that_is_no_study_is_said_to_be_none(path: Path, made: object) -> None:
    assert callable(made)
    made(path)

    with pytest.raises(SurroundingsError, match="cannot be read as a study"):
        Study.facts_of(path)


# --- proposals -----------------------------------------------------------------------------------


def searched(study: Study, n: int = 14) -> list[Reading]:
    """Few threads are slow."""
    return [
        keep(study, reading(threads(1 + i % 8), pp=1.0, tg=9.0 - i % 8, number=i), 10.0 - i % 8)
        for i in range(n)
    ]


def proposals(study: Study, readings: Iterable[Reading]) -> list[dict[str, Value]]:
    numbers = {each.number for each in readings}
    return [study.proposal(numbers, nth=nth) for nth in range(3)]


def test_the_same_seed_and_readings_give_the_same_proposals() -> None:
    one, other = new(seed=5), new(seed=5)

    assert proposals(one, searched(one)) == proposals(other, searched(other))


def test_another_seed_and_another_attempt_give_other_proposals() -> None:
    one, other = new(seed=5), new(seed=6)

    found = [*proposals(one, searched(one)), *proposals(other, searched(other))]
    assert len({str(point) for point in found}) > 3


def test_a_resumed_study_proposes_what_it_did_at_the_same_place(path: Path) -> None:
    study = new(path)
    early = searched(study)
    before = proposals(study, early)
    searched(study, 3)

    assert proposals(Study.resume(path, SPACE), early) == before


def test_a_proposal_is_of_the_space_and_is_not_begun_by_it() -> None:
    study = new()
    readings = searched(study)

    points = proposals(study, readings)

    configurations = [SPACE.with_point(SPACE.fixed, point) for point in points]
    assert (all(map(SPACE.holds, configurations)), len(study.readings())) == (True, len(readings))


def test_proposals_learn_that_what_fails_is_bad() -> None:
    study = new()
    numbers = set()
    for i in range(40):
        n = 1 + i % 8
        came = (
            reading(threads(n), pp=FailureKind.CRASH, number=i)
            if n > 4
            else reading(threads(n), pp=1.0, tg=1.0, number=i)
        )
        numbers.add(keep(study, came, None if n > 4 else 2.0).number)

    proposed = [study.proposal(numbers, nth=nth)["n_threads"] for nth in range(20)]

    assert sum(int(n) > 4 for n in proposed) < 10


@pytest.mark.parametrize(("of_middle", "is_same"), [("others", True), ("best", False)])
def test_of_very_many_trials_tpe_sees_the_best_and_the_last(
    monkeypatch: pytest.MonkeyPatch, of_middle: str, *, is_same: bool
) -> None:
    monkeypatch.setattr("autotune.tuning.study.proposals.MOST_SHOWN", 30)
    monkeypatch.setattr("autotune.tuning.study.proposals._BEST_SHOWN", 10)

    def proposed(middle: int) -> list[dict[str, Value]]:
        study = new(seed=5)
        numbers = set()
        for i in range(60):
            early = 10 <= i < 20
            middle_s = 1.0 if of_middle == "best" else 20.0
            seconds = middle_s if early else 5.0 + i % 7
            n = middle if early else 1 + i % 3
            came = reading(threads(n), pp=1.0, tg=1.0, number=i)
            numbers.add(keep(study, came, seconds).number)
        return [study.proposal(numbers, nth=nth) for nth in range(8)]

    assert (proposed(4) == proposed(8)) == is_same
