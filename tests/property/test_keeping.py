"""Whatever ends a session, the journal has everything that was measured, and has it once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fakes.simulator import cpu16
from fakes.tuned import plan_for, session_on

from autotune.cli.keeping import Keeper, entries_of
from autotune.params import Params
from autotune.results.profile import Profile, load, save
from autotune.results.stored import Stored, read_study, stored
from autotune.results.studies import Folder, new_folder
from autotune.tuning import events
from autotune.tuning.lab import Limits
from autotune.tuning.study import Study
from autotune.tuning.workload import load_workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autotune.llama_cpp.records import Outcome

WORKLOAD = load_workload("quick")


class Killed(BaseException):
    """The process ends, here and now."""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return new_folder("simulated", "quick", {"LCM_RESULTS_DIR": str(tmp_path)})


def profile_of(params: Params) -> Profile:
    return Profile(params=params, date="2026-11-23T00:00:00Z", build="simulated")


def concluded(verdict: str) -> dict[str, Any]:
    """The least evidence that a study is believed to have come to."""
    workload = {"n_prompt": WORKLOAD.n_prompt, "n_gen": WORKLOAD.n_gen, "objective": "request"}
    return {"verdict": verdict, "workload": workload, "baseline": {"params": {}}}


def run(folder: Folder, tell: Callable[[Keeper, events.Event], None], *, resume: bool) -> None:
    """One session on the simulated machine, kept in the folder."""
    machine = cpu16()
    plan = plan_for(machine, WORKLOAD, Limits(budget_s=200))
    with Keeper(folder, budget_s=200, profile_of=profile_of) as keeper:
        study = (
            Study.resume(folder.database, plan.space)
            if resume
            else Study.create(folder.database, plan.space, {}, seed=0)
        )
        session_on(machine, plan, study, tell=lambda event: tell(keeper, event)).run()
        keeper.conclude(concluded("not shown"))


def visited(kept: Stored) -> list[tuple[int, Params, list[Outcome]]]:
    """What was visited, by Optuna's numbers, and what came of it."""
    by_number = sorted(kept.visited, key=lambda one: one.trial.number)
    return [
        (one.trial.number, one.trial.params, [record.outcome for record in one.records])
        for one in by_number
    ]


@pytest.mark.parametrize("before", [True, False], ids=["before it is kept", "after it is kept"])
@pytest.mark.parametrize("nth", [2, 9, 16])
@pytest.mark.parametrize("kind", [events.Recorded, events.Measured])
def test_a_killed_session_and_the_one_that_goes_on_make_one_record(
    folder: Folder, kind: type[events.Event], nth: int, *, before: bool
) -> None:
    told: list[Outcome] = []
    seen = 0

    def until_killed(keeper: Keeper, event: events.Event) -> None:
        nonlocal seen
        seen += isinstance(event, kind)
        now = seen == nth and isinstance(event, kind)
        if now and before:
            raise Killed
        to_the_end(keeper, event)
        if now:
            raise Killed

    def to_the_end(keeper: Keeper, event: events.Event) -> None:
        keeper.take(event)
        if isinstance(event, events.Recorded):
            told.append(event.outcome)

    with pytest.raises(Killed):
        run(folder, until_killed, resume=False)
    run(folder, to_the_end, resume=True)

    kept = read_study(folder)
    searched = [
        entry for reading, _ in Study.kept(folder.database) for entry in entries_of(reading, None)
    ]
    assert [record.outcome for record in kept.records] == told
    assert visited(kept) == visited(stored(folder, searched))
    assert kept.damaged == 0
    assert [session.resumed for session in kept.sessions] == [False, True]


def test_the_best_so_far_is_a_profile_at_any_moment(folder: Folder) -> None:
    best: list[Params] = []

    def look(keeper: Keeper, event: events.Event) -> None:
        keeper.take(event)
        if isinstance(event, events.NewIncumbent):
            best.append(event.params)
        if best:
            assert load(folder.profile).params == best[-1]

    run(folder, look, resume=False)

    kept = read_study(folder)
    assert [incumbent.params for incumbent in kept.incumbents] == best
    assert kept.evidence == concluded("not shown")
    assert best


def test_a_study_of_the_first_format_that_goes_on_is_kept_whole(folder: Folder) -> None:
    run(folder, Keeper.take, resume=False)
    whole = read_study(folder)
    folder.journal.unlink()

    run(folder, Keeper.take, resume=True)

    again = read_study(folder)
    assert [(v.trial, v.records) for v in again.visited] == [
        (v.trial, v.records) for v in whole.visited
    ]


def test_a_proven_profile_stays_while_a_later_session_goes_on(folder: Folder) -> None:
    run(folder, Keeper.take, resume=False)
    proven = profile_of(Params(n_threads=99))
    with Keeper(folder, budget_s=200, profile_of=profile_of) as keeper:
        keeper.conclude(concluded("better"))
    save(folder.profile, proven)

    run(folder, Keeper.take, resume=True)

    assert load(folder.profile) == proven
