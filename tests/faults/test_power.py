"""The power fails at any write: what is on the disk then is a study that goes on.

A copy of the folder, made while the writer is stopped just after a write, is what a disk holds at
that moment. What had been written and not yet been synchronised is lost there in part: the end of
the last line of a file that is appended to, and the journal of a SQLite transaction that has not
reached the database.
"""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from faults.checks import Kept, ended_well, kept, nothing_is_lost
from faults.running import LONG, Night, Running, moments
from faults.writes import Writes, writes_in

pytestmark = pytest.mark.llama_cpp

COPIES = 6 if LONG else 2
APPENDED = ("journal.jsonl", "records.csv")


def copy_at_a_write(night: Night, running: Running, writes: Writes, skip: int) -> list[str]:
    """Stop it after so many further writes; gives the files that were written to last."""
    for _ in range(skip):
        writes.wait(1.0)
    with running.held():
        last = writes.wait(0.0)
        shutil.copytree(night.results, night.results.with_name("copy"))
    return last


def lose_what_was_not_synchronised(folder: Path, last: list[str], chance: random.Random) -> None:
    for name in APPENDED:
        if last[-1:] == [name]:
            whole = (folder / name).read_bytes()
            of_last_line = len(whole) - whole[:-1].rfind(b"\n") - 1
            (folder / name).write_bytes(whole[: len(whole) - chance.randint(0, of_last_line)])
    hot = folder / "study.db-journal"
    if hot.exists() and not _is_synchronised(hot.read_bytes()):
        hot.unlink()


def _is_synchronised(head: bytes) -> bool:
    """SQLite counts the pages in the head of its journal when these are on the disk."""
    magic, pages = bytes.fromhex("d9d505f920a163d7"), head[8:12]
    return head[:8] == magic and pages != b"\0\0\0\0"


@moments(1, 4)
def test_what_is_on_the_disk_when_the_power_fails_goes_on(
    night: Night, chance: random.Random, tmp_path: Path
) -> None:
    copies: list[tuple[Night, Kept]] = []
    with night.started() as running:
        running.until_trials(1)
        with writes_in(night.folder) as writes:
            for nth in range(COPIES):
                last = copy_at_a_write(night, running, writes, chance.randint(1, 60 // COPIES))
                copy = night.results.with_name("copy").rename(tmp_path / f"copy-{nth}")
                there = replace(night, results=copy)
                lose_what_was_not_synchronised(there.folder, last, chance)
                # What is looked at is mended by that: SQLite ends what was begun.
                seen = shutil.copytree(there.folder, tmp_path / f"seen-{nth}")
                copies.append((there, kept(seen)))
        running.process.kill()

    for there, before in copies:
        ended_well(there.resumed(), there)
        nothing_is_lost(before, there.folder)


@moments(1, 8)
def test_transactions_that_are_lost_are_had_again_from_the_journal(
    night: Night, chance: random.Random, tmp_path: Path
) -> None:
    """SQLite does not wait for the end of a transaction to be on the disk: it can be undone."""
    with night.started() as running:
        running.until_trials(chance.randint(1, 4))
        with running.held():
            older = shutil.copytree(night.folder, tmp_path / "older")
        running.until_trials(night.n_trials() + chance.randint(1, 3))
        running.process.kill()
        running.end()
    before = kept(night.folder)
    for path in night.folder.glob("study.db*"):
        path.unlink()
    for path in older.glob("study.db*"):
        shutil.copy(path, night.folder)

    ended = night.resumed()

    ended_well(ended, night)
    nothing_is_lost(Kept(lines=before.lines, told=journalled(before)), night.folder)


def journalled(before: Kept) -> dict[int, object]:
    """What came of the trials that the journal says are over."""
    return {trial["number"]: before.told[trial["number"]] for trial in before.of_type("trial")}
