"""A study of many workers: each visit is one's, and what came of it is everybody's."""

import threading
from dataclasses import replace

import pytest
from fakes.readings import reading
from fakes.scripted import BASELINE, SPACE
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.tuning.study import Journalled, SharedStudy, Ticket
from autotune.tuning.study.founding import open_or_create
from autotune.tuning.study.server import Pulse, Server
from autotune.tuning.study.shared import Slot
from autotune.tuning.study.workers import Holding, Worker
from autotune.tuning.visits import Kind, Reading

NAME = "lcm-model-chat"
STUDY_ID = 0


@pytest.fixture
def server() -> Server:
    made = Server(InMemoryStorage(), where="memory", say=lambda _: None, pulse=Pulse())
    open_or_create(made, NAME, {"environment": {}}, seed=3)
    return made


def worker(server: Server, name: str, known: Journalled | None = None) -> SharedStudy:
    me = Worker(id=name, host=name, pid=1)
    return SharedStudy(server, NAME, SPACE, seed=3, me=me, known=known)


def some(n: int = 1, *, pp: float | FailureKind = 1.0) -> Reading:
    return reading(threads(n), pp=pp, tg=2.0, kind=Kind.RACE)


def threads(n: int) -> Params:
    return replace(BASELINE, n_threads=n)


def keep(study: SharedStudy, what: Reading, *, nth: int = 0) -> tuple[Ticket, Reading]:
    ticket = study.claim(study.slot(what.visit, nth))
    assert ticket is not None
    kept = replace(what, number=ticket.number)
    study.tell(ticket, kept, 3.0)
    return ticket, kept


def states(server: Server) -> list[str]:
    return [t.state.name for t in server.storage.get_all_trials(STUDY_ID)]


def test_the_first_makes_a_study_and_others_are_told_what_it_is_of(server: Server) -> None:
    found = open_or_create(server, NAME, {"environment": {"CPU": "other"}}, seed=9)

    assert (found["environment"], found["seed"]) == ({}, 3)


def test_a_study_of_a_later_version_is_left_alone(server: Server) -> None:
    server.storage.set_study_user_attr(STUDY_ID, "facts", {"format_version": 2})

    with pytest.raises(SurroundingsError, match="is of format 2"):
        open_or_create(server, NAME, {}, seed=3)


def test_what_one_has_begun_no_other_begins(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    slot = one.slot(some().visit, 0)

    ticket = one.claim(slot)

    assert ticket is not None
    assert other.claim(slot) is None
    assert not other.is_free(slot)
    assert states(server) == ["RUNNING", "FAIL"]


def test_what_one_has_measured_answers_all(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    _, kept = keep(one, some())

    other.look()

    assert other.answer(other.slot(some().visit, 0)) == kept
    assert other.answer(other.slot(some().visit, 1)) is None  # It is asked for once more.


def test_what_each_answers_for_itself_answers_no_other(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    mine = one.slot(some().visit, 0, own=True)
    ticket = one.claim(mine)
    assert ticket is not None

    other.look()

    assert other.is_free(other.slot(some().visit, 0, own=True))
    assert other.is_free(other.slot(some().visit, 0))


def test_what_is_given_up_is_free_again(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    slot = one.slot(some().visit, 0)
    ticket = one.claim(slot)
    assert ticket is not None

    one.give_up(ticket, "interrupted")

    assert other.claim(slot) is not None


def test_who_was_taken_for_dead_still_tells_what_it_has_measured(server: Server) -> None:
    one = worker(server, "one")
    slot = one.slot(some().visit, 0)
    ticket = one.claim(slot)
    assert ticket is not None
    server.storage.set_trial_state_values(ticket.trial_id, TrialState.FAIL)

    one.tell(ticket, replace(some(), number=ticket.number), 3.0)
    one.look()

    answer = one.answer(slot)
    assert answer is not None
    assert answer.outcomes == some().outcomes


def test_what_is_told_twice_is_kept_once(server: Server) -> None:
    one = worker(server, "one")
    ticket, kept = keep(one, some())

    one.tell(ticket, kept, 3.0)

    assert states(server) == ["COMPLETE"]


def test_what_only_a_journal_has_is_told_again(server: Server) -> None:
    one = worker(server, "one")
    slot = one.slot(some().visit, 0)
    ticket = one.claim(slot)
    assert ticket is not None  # Measured and written down, and then the database stayed away.
    server.storage.set_trial_state_values(ticket.trial_id, TrialState.FAIL)
    kept = replace(some(), number=ticket.number)

    again = worker(server, "one again", Journalled(over=[(kept, 3.0)]))

    answer = again.answer(slot)
    assert answer is not None
    assert answer.outcomes == kept.outcomes


def test_where_nothing_works_any_more_the_last_failures_are_nobodys_word(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    keep(one, some(1))
    keep(one, some(2, pp=FailureKind.CRASH))
    keep(one, some(3, pp=FailureKind.CRASH))

    one.withdraw()
    other.look()

    found = [other.answer(other.slot(reading_.visit, 0)) for reading_ in map(some, (1, 2, 3))]
    assert [answer is not None for answer in found] == [True, False, False]


def test_all_are_proposed_the_same_from_the_same_trials(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    numbers = [keep(one, some(n))[1].number for n in range(1, 5)]
    one.look()
    other.look()

    assert one.proposal(numbers, nth=0) == other.proposal(numbers, nth=0)
    assert one.proposal(numbers, nth=0) != one.proposal(numbers, nth=7)


def test_the_winner_of_who_knows_most_is_everybodys(server: Server) -> None:
    one, other, third = (worker(server, name) for name in ("one", "other", "third"))

    assert one.agree_on(threads(1), 20) == threads(1)
    assert other.agree_on(threads(2), 10) == threads(1)
    assert third.agree_on(threads(3), 30) == threads(3)


def test_two_that_name_a_winner_at_once_verify_the_same(server: Server) -> None:
    """One is written, and the other reads before the first does."""
    one, other = worker(server, "one"), worker(server, "other")
    looks, agreed = one.look, []

    def look_late() -> None:
        agreed.append(other.agree_on(threads(2), 21))
        looks()

    one.look = look_late  # type: ignore[method-assign]
    agreed.append(one.agree_on(threads(1), 20))

    assert agreed == [threads(1), threads(1)]


def test_who_knows_hardly_more_verifies_what_the_others_do(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")

    assert one.agree_on(threads(1), 20) == threads(1)
    assert other.agree_on(threads(2), 22) == threads(1)


def test_each_says_where_the_winner_holds(server: Server) -> None:
    one, other = worker(server, "one"), worker(server, "other")
    holding = Holding(params={"n_threads": 3}, verdict="better", ratio=1.2, low=1.1, high=1.3)

    one.now("finished", holding)
    other.look()

    assert [(w.host, w.state, w.holding) for w in other.workers()] == [
        ("one", "finished", holding),
        ("other", "working", None),
    ]


def test_two_that_begin_at_once_see_the_same_one_first(server: Server) -> None:
    """Each has looked before the other began: the numbers decide."""
    one, other = worker(server, "one"), worker(server, "other")
    slot = one.slot(some().visit, 0)
    looked = [study.is_free(slot) for study in (one, other)]

    tickets = [study.claim(slot) for study in (other, one)]

    assert looked == [True, True]
    assert [ticket is not None for ticket in tickets] == [True, False]


def test_a_try_that_was_not_answered_is_taken_up(server: Server) -> None:
    """The database wrote it, and went away before it could say so."""
    one = worker(server, "one")
    slot = one.slot(some().visit, 0)
    lost = one.claim(slot)
    assert lost is not None
    one._held.clear()  # noqa: SLF001 - as where the answer was lost

    ticket = one.claim(slot)

    assert ticket == lost


def test_slots_tell_visits_apart(server: Server) -> None:
    one = worker(server, "one")
    keys = {
        one.slot(some(1).visit, 0).key,
        one.slot(some(2).visit, 0).key,
        one.slot(some(1).visit, 1).key,
        one.slot(replace(some(1).visit, source="other"), 0).key,
        one.slot(some(1).visit, 0, own=True).key,
    }

    assert len(keys) == 5
    assert isinstance(one.slot(some(1).visit, 0), Slot)


def test_a_heartbeat_is_of_the_database_only(server: Server) -> None:
    assert not server.has_heartbeats
    assert Server(
        RDBStorage("sqlite:///:memory:"), where="", say=lambda _: None, pulse=Pulse()
    ).has_heartbeats


def test_a_heartbeat_that_is_slow_does_not_take_back_what_was_said_since() -> None:
    storage, begun, may_end = InMemoryStorage(), threading.Event(), threading.Event()
    made = Server(storage, where="memory", say=lambda _: None, pulse=Pulse())
    open_or_create(made, NAME, {}, seed=3)
    one = worker(made, "one")
    write = storage.set_study_user_attr

    def slowly(study_id: int, key: str, value: dict[str, str]) -> None:
        if value["state"] == "working":
            begun.set()
            may_end.wait(10)
        write(study_id, key, value)

    storage.set_study_user_attr = slowly  # type: ignore[method-assign]
    beat = threading.Thread(target=one.now, args=["working"])
    end = threading.Thread(target=one.now, args=["finished"])

    beat.start()
    begun.wait(10)
    end.start()
    end.join(0.2)
    may_end.set()
    for thread in (beat, end):
        thread.join(10)
    one.look()

    assert [said.state for said in one.workers()] == ["finished"]
