"""No file of a study leads the writing elsewhere, or lets SQLite do what it is not asked."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.benches import fake_bench

if TYPE_CHECKING:
    from hostile.said import Lcm

_STUDIES = Path(__file__).parents[1] / "fixtures" / "studies"
_WRITTEN = ("journal.jsonl", "records.csv", "study.db", "profile.json", "lock", "environment.json")
PRECIOUS = "what nobody may touch\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "studies" / "kept"
    shutil.copytree(_STUDIES / "format-2", folder)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious"
    file.write_text(PRECIOUS)
    return file


def linked(path: Path, to: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


@pytest.mark.parametrize("name", [*_WRITTEN, "study.json", "report.html", "study.db-wal"])
def test_a_study_with_a_link_in_it_is_read_by_nobody(
    name: str, study: Path, precious: Path, lcm: Lcm
) -> None:
    linked(study / name, precious)

    shown, reported = lcm("results", "show", str(study)), lcm("results", "report", str(study))

    assert (shown.code, reported.code) == (2, 2)
    assert precious.read_text() == PRECIOUS


def test_a_report_replaces_a_link_that_came_meanwhile(
    study: Path, precious: Path, lcm: Lcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.cli import reported  # noqa: PLC0415 - its module is changed

    make = reported._text  # noqa: SLF001

    def late(*arguments: object) -> str:
        linked(study / "report.html", precious)
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reported, "_text", late)

    assert lcm("results", "report", str(study)).code == 0
    assert precious.read_text() == PRECIOUS
    assert "<html" in (study / "report.html").read_text()


@pytest.mark.parametrize("name", _WRITTEN)
def test_what_is_resumed_is_no_link(
    name: str, study: Path, precious: Path, lcm: Lcm, tiny: Path
) -> None:
    kept = json.loads((study / "study.json").read_text())
    kept |= {"state": "interrupted", "model": "tiny", "workload": "chat"}
    (study / "study.json").write_text(json.dumps(kept))
    linked(study / name, precious)
    bench = " ".join(fake_bench().command)

    said = lcm(
        *("run", f"--model={tiny}", "--optimize", "--deep", "--resume"), f"--llama-bench={bench}"
    )

    assert said.code == 2, said.err
    assert precious.read_text() == PRECIOUS


def test_a_folder_that_is_a_link_is_no_study_of_the_results(
    study: Path, tmp_path: Path, lcm: Lcm
) -> None:
    elsewhere = tmp_path / "elsewhere"
    study.rename(elsewhere)
    study.symlink_to(elsewhere)

    assert b"no study" in lcm("results", "report", "kept").err
    assert not (elsewhere / "report.html").exists()


@pytest.mark.parametrize("name", ["../../../precious", "/etc/passwd", "..", "a/../../b"])
def test_a_name_in_a_study_is_no_path(name: str, study: Path, tmp_path: Path, lcm: Lcm) -> None:
    for file in ("study.json", "profile.json"):
        kept = json.loads((study / file).read_text())
        (study / file).write_text(json.dumps({**kept, "model": name, "workload": name}))
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    for words in (["show"], ["export"], ["apply", "--for=sh"], ["report"]):
        assert lcm("results", *words).code == 0

    assert sorted(str(path) for path in tmp_path.rglob("*") if "cache" not in path.parts) == sorted(
        [*before, str(study / "report.html")]
    )


def test_an_output_that_is_named_goes_where_it_is_named(
    study: Path, tmp_path: Path, lcm: Lcm
) -> None:
    said = lcm("results", "export", study.name, "-o", "../out\x1b.csv")

    assert said.code == 0
    assert (tmp_path.parent / "out\x1b.csv").exists()
    assert b"\x1b" not in said.err


# --- SQLite --------------------------------------------------------------------------------------


@pytest.fixture
def old(study: Path) -> Path:
    """Give a study all of which is in its database."""
    shutil.rmtree(study)
    shutil.copytree(_STUDIES / "format-1", study)
    return study


_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE VIEW endless AS {_ENDLESS}",
        "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM trials; END",
        "CREATE TABLE big (a INTEGER, b AS (hex(zeroblob(100000000))))",
        "CREATE INDEX odd ON trials (number) WHERE number > 1",
    ],
    ids=["view", "trigger", "computed", "partial"],
)
def test_a_database_that_computes_is_no_study(statement: str, old: Path, lcm: Lcm) -> None:
    database = sqlite3.connect(old / "study.db")
    database.execute(statement)
    database.commit()
    database.close()

    said = lcm("results", "show")

    assert said.code == 3
    assert b"which no study has" in said.err


def test_a_journal_of_sqlite_removes_no_other_file(old: Path, precious: Path, lcm: Lcm) -> None:
    """A journal may name another, which SQLite removes once it has undone what stands in it."""
    name = os.fsencode(precious)
    tail = len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big")
    magic = bytes.fromhex("d9d505f920a163d7")
    header = magic + bytes(4) + bytes(4) + (48).to_bytes(4, "big") + (512).to_bytes(4, "big")
    page = (4096).to_bytes(4, "big")
    journal = (header + page).ljust(512, b"\0") + (1 << 30).to_bytes(4, "big") + name + tail + magic
    (old / "study.db-journal").write_bytes(journal)

    said = lcm("results", "show")

    assert said.code == 3
    assert b"names another database" in said.err
    assert precious.read_text() == PRECIOUS


def test_a_value_of_a_gigabyte_is_not_read(old: Path, lcm: Lcm) -> None:
    database = sqlite3.connect(old / "study.db")
    database.execute("UPDATE trial_user_attributes SET value_json = hex(zeroblob(3000000))")
    database.commit()
    database.close()

    said = lcm("results", "show")

    assert said.code == 3
    assert b"study.db cannot be read as a study" in said.err
