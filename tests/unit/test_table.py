"""The table that grows while a study is measured."""

import csv
from collections.abc import Sequence
from pathlib import Path

import csv_columns
import pytest
from fakes.evening import Evening
from fakes.kept import entries_of, kept_study

from autotune.errors import SurroundingsError
from autotune.results.export import csv_text
from autotune.results.journal import Entry, Record, Trial
from autotune.results.stored import Stored, stored
from autotune.results.table import Table


@pytest.fixture
def study(tmp_path: Path) -> Stored:
    return kept_study(tmp_path / "evening")


@pytest.fixture
def path(study: Stored) -> Path:
    return study.folder.path / "records.csv"


ENTRIES = entries_of(Evening())


def take(study: Stored, entries: Sequence[Entry], known: Sequence[Entry] = ()) -> None:
    with Table(stored(study.folder, known)) as table:
        for entry in entries:
            table.append(entry)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def differences(path: Path, study: Stored) -> set[str]:
    """Lines that the table has and the export has not, or the other way; in whatever order."""
    return set(path.read_text().splitlines()) ^ set(csv_text(study, "record").splitlines())


def test_in_the_end_it_is_the_export(study: Stored, path: Path) -> None:
    take(study, ENTRIES)

    assert differences(path, study) == set()
    assert csv_columns.wrong_columns(path.read_text(), "record") == []


def test_the_rows_of_a_trial_are_there_when_it_is_over(study: Stored, path: Path) -> None:
    seen = []
    with Table(stored(study.folder, ())) as table:
        for entry in ENTRIES[:6]:
            table.append(entry)
            seen.append(len(lines(path)) if path.exists() else 0)

    assert [type(entry).__name__ for entry in ENTRIES[1:4]] == ["Record", "Record", "Trial"]
    assert seen == [0, 0, 0, 2, 2, 2]
    assert lines(path)[1]["kind"] == "baseline"


def test_it_only_grows(study: Stored, path: Path) -> None:
    take(study, ENTRIES[:10])
    before = path.read_bytes()

    with Table(stored(study.folder, ENTRIES[:10])) as table:
        inode = path.stat().st_ino
        for entry in ENTRIES[10:20]:
            table.append(entry)
        assert path.stat().st_ino == inode

    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes()) > len(before)


def test_a_test_that_no_trial_asked_for_waits_for_none(study: Stored, path: Path) -> None:
    alone = next(e for e in ENTRIES if isinstance(e, Record) and e.trial is None)
    with Table(stored(study.folder, ())) as table:
        table.append(alone)

        assert [row["trial"] for row in lines(path)] == [""]


def test_what_was_measured_of_an_interrupted_trial_is_kept(study: Stored, path: Path) -> None:
    take(study, ENTRIES[:3])

    assert [(row["trial"], row["part"], row["kind"]) for row in lines(path)] == [
        ("0", "pp", ""),
        ("0", "tg", ""),
    ]


@pytest.mark.parametrize("torn", [b"", b'"5eed5ee",11434,"AMD "", \n x', b'"build_com'])
def test_after_a_crash_it_goes_on_with_all_that_the_journal_has(
    study: Stored, path: Path, torn: bytes
) -> None:
    take(study, ENTRIES[:8])
    path.write_bytes(path.read_bytes()[:-40] + torn)

    take(study, ENTRIES[10:], known=ENTRIES[:9])

    # The trial that the crash has interrupted is never finished.
    assert isinstance(ENTRIES[9], Trial)
    kept = stored(study.folder, [*ENTRIES[:9], *ENTRIES[10:]])
    assert differences(path, kept) == set()
    assert sorted(int(row["order"]) for row in lines(path)) == list(range(len(kept.records)))


def test_a_study_that_has_not_begun_has_no_table(study: Stored, path: Path) -> None:
    take(study, [])

    assert not path.exists()


def test_a_disk_that_takes_nothing_is_said(study: Stored, path: Path) -> None:
    path.mkdir()

    with pytest.raises(SurroundingsError, match=r"records\.csv cannot be written"):
        take(study, [e for e in ENTRIES if isinstance(e, (Record, Trial))])
