"""What must be true after any fault: nothing lost, nothing counted twice, and everything named."""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from faults.running import Ended, Night
from optuna.trial import FrozenTrial, TrialState

VERDICTS = {"better", "not shown", "worse"}


@dataclass(frozen=True)
class Kept:
    """What a study's folder holds at some moment."""

    lines: tuple[str, ...]  # Whole lines of the journal.
    told: dict[int, Any]  # Of the Optuna study: what came of each trial that was finished.

    def of_type(self, name: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.lines]
        return [entry for entry in entries if entry["type"] == name]


def kept(folder: Path) -> Kept:
    """Look at a study that nobody writes."""
    return Kept(lines=lines_of(folder), told=outcomes_of(folder))


def lines_of(folder: Path) -> tuple[str, ...]:
    """The whole lines of a journal, which may be written just now."""
    *lines, _ = (folder / "journal.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(lines)


def outcomes_in_journal(folder: Path) -> list[dict[str, Any]]:
    """What came of each test, in its order."""
    entries = map(json.loads, lines_of(folder))
    return [entry["outcome"] for entry in entries if entry["type"] == "record"]


def failures(folder: Path) -> list[dict[str, Any]]:
    return [outcome for outcome in outcomes_in_journal(folder) if "kind" in outcome]


def trials_of(folder: Path) -> list[FrozenTrial]:
    study = optuna.load_study(study_name="lcm", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials(deepcopy=False)


def outcomes_of(folder: Path) -> dict[int, Any]:
    over = (TrialState.COMPLETE, TrialState.PRUNED)
    return {t.number: t.user_attrs["outcomes"] for t in trials_of(folder) if t.state in over}


def nothing_is_lost(before: Kept, folder: Path) -> None:
    """All that was kept before is kept still, each record is there once, and all files agree."""
    after = kept(folder)
    assert after.lines[: len(before.lines)] == before.lines
    assert before.told.items() <= after.told.items()
    _counted_once(after)
    trials = {trial["number"]: trial for trial in after.of_type("trial")}
    assert trials.keys() == after.told.keys()
    for number, outcomes in after.told.items():
        records = [record for record in after.of_type("record") if record["trial"] == number]
        assert {record["part"]: record["outcome"] for record in records} == outcomes
    assert all(trial.state.is_finished() for trial in trials_of(folder))
    with (folder / "records.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(after.of_type("record"))


def _counted_once(after: Kept) -> None:
    records = after.of_type("record")
    of_trials = Counter((r["trial"], r["part"]) for r in records if r["trial"] is not None)
    numbers = Counter(trial["number"] for trial in after.of_type("trial"))
    # When it began tells one run of a test from another.
    runs = Counter(
        (r["outcome"]["run"]["started_at"], json.dumps(r["outcome"]["test"], sort_keys=True))
        for r in records
        if "samples_ns" in r["outcome"]
    )
    for counted in (of_trials, numbers, runs):
        assert [what for what, times in counted.items() if times > 1] == []


def ended_well(ended: Ended, night: Night) -> None:
    """It has come to a verdict with its evidence, is finished, and can be asked about."""
    assert "Traceback" not in ended.stderr
    assert ended.code == 0, ended.stderr
    evidence = ended.answer["evidence"]
    assert evidence["verdict"] in VERDICTS
    assert evidence["complete"] is True
    study = json.loads((night.folder / "study.json").read_text(encoding="utf-8"))
    assert (study["state"], study["verdict"]) == ("finished", evidence["verdict"])
    assert kept(night.folder).of_type("evidence")[-1]["evidence"] == evidence
    asked = night.asked("show", night.folder.name)
    assert (asked.returncode, "Traceback" in asked.stderr) == (0, False), asked.stderr


def is_named(ended: Ended, code: int, *said: str) -> None:
    """It has ended with an error that says what happened, and what to do."""
    assert "Traceback" not in ended.stderr
    assert (ended.code, ended.stdout) == (code, ""), ended.stderr
    assert [text for text in said if text not in ended.error] == [], ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("hint: ")


def says_how_to_go_on(ended: Ended) -> None:
    """The last line is the command that resumes."""
    hint = ended.stderr.splitlines()[-1]
    assert "lcm run --model " in hint, ended.stderr
    assert "--resume" in hint
