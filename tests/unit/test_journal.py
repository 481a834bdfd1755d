"""The record of a study: what was appended is there, whatever came after."""

import json
from pathlib import Path

import pytest
from fakes.readings import failed, measured
from hypothesis import given
from property.params_strategies import params

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params
from autotune.results.journal import (
    Entry,
    Evidence,
    Incumbent,
    Journal,
    Record,
    Session,
    Trial,
    read_journal,
)

BEGAN = Session(at=1e9, lcm="0.1.0", budget_s=None, resumed=False)
TRIAL = Trial(
    number=3,
    kind="race",
    source="n_threads",
    params=Params(n_threads=4, tensor_split=(1.0, 2.0), devices=("CUDA0",)),
    parts=("pp", "tg"),
    seconds=2.5,
    disturbed="",
    elapsed_s=12.0,
)
ENTRIES: list[Entry] = [
    BEGAN,
    Record(trial=3, part="pp", outcome=measured(Params(), "pp", 1.0)),
    Record(trial=None, part=None, outcome=failed(Params(), "tg", FailureKind.OOM)),
    TRIAL,
    Incumbent(elapsed_s=12.0, params=TRIAL.params, seconds=2.5, baseline_s=3.0),
    Evidence(evidence={"verdict": "better", "ratio": 1.2}),
]


def write(path: Path, *entries: Entry) -> None:
    with Journal(path) as journal:
        for entry in entries:
            journal.append(entry)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl", *ENTRIES)

    contents = read_journal(tmp_path / "journal.jsonl")

    assert list(contents.entries) == ENTRIES
    assert contents.damaged == 0


@given(configuration=params())
def test_any_configuration_comes_back(
    tmp_path_factory: pytest.TempPathFactory, configuration: Params
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    entry = Incumbent(elapsed_s=0.0, params=configuration, seconds=1.0, baseline_s=1.0)
    write(path, entry)

    assert read_journal(path).entries == (entry,)


def test_a_second_session_goes_on_below_the_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGAN)
    before = path.read_bytes()

    write(path, TRIAL)

    assert path.read_bytes().startswith(before)
    assert read_journal(path).entries == (BEGAN, TRIAL)


def test_a_crash_just_before_the_end_of_a_line_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGAN, TRIAL)
    path.write_bytes(path.read_bytes()[:-1])

    assert read_journal(path).entries == (BEGAN, TRIAL)

    write(path, TRIAL)

    assert read_journal(path).entries == (BEGAN, TRIAL, TRIAL)


@pytest.mark.parametrize("cut", [2, 20, 200])
def test_a_crash_amid_a_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGAN, TRIAL)
    path.write_bytes(path.read_bytes()[:-cut])

    assert read_journal(path).entries == (BEGAN,)

    write(path, TRIAL)
    contents = read_journal(path)

    assert contents.entries == (BEGAN, TRIAL)
    assert contents.damaged == 0


def test_what_is_being_written_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGAN, TRIAL)
    path.write_bytes(path.read_bytes() + b'{"type": "tri')

    assert read_journal(path).damaged == 0


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[]", b'{"type": "later"}', b'{"type": []}'])
def test_a_line_of_another_version_is_counted_and_hides_nothing(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGAN)
    path.write_bytes(path.read_bytes() + line + b"\n")
    write(path, TRIAL)

    contents = read_journal(path)

    assert contents.entries == (BEGAN, TRIAL)
    assert contents.damaged == bool(line)


def test_each_line_is_json_that_names_its_kind(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl", *ENTRIES)

    lines = (tmp_path / "journal.jsonl").read_text().splitlines()

    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["session", "record", "record", "trial", "incumbent", "evidence"]


def test_what_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "journal.jsonl", Evidence(evidence={"ratio": float("nan")}))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_a_full_disk_is_an_error_that_says_how_to_go_on() -> None:
    with pytest.raises(SurroundingsError, match="No space left"):
        write(Path("/dev/full"), BEGAN)


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="No such file"):
        write(tmp_path / "gone" / "journal.jsonl", BEGAN)
