"""`lcm results` as its user has it, on studies that are kept among the fixtures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lcm_process import run_lcm
from unit.test_schema import errors

FIXTURES = Path(__file__).parents[1] / "fixtures" / "studies"
OLD, NEW = "tiny-quick-20261101-080000", "tiny-quick-20261123-192221"


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of results with a study of the first format and one of today's."""
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path))
    shutil.copytree(FIXTURES / "format-1", tmp_path / "studies" / OLD)
    shutil.copytree(FIXTURES / "format-2", tmp_path / "studies" / NEW)
    return tmp_path


def said(*arguments: str) -> str:
    done = run_lcm("results", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str) -> str:
    done = run_lcm("results", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: " in done.stderr
    return done.stderr


def answer(root: str, *arguments: str) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(said(*arguments, "--json"))
    assert errors(printed, root) == []
    return printed


def circumstances(results: Path, name: str, **changed: object) -> None:
    """Say that a study was measured under other circumstances."""
    file = results / "studies" / name / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def copied(results: Path, name: str) -> str:
    shutil.copytree(results / "studies" / NEW, results / "studies" / name)
    return name


def test_the_list_has_a_row_for_each_study() -> None:
    head, *rows = said("list").splitlines()

    assert head.split() == ["study", "gain", "state", "machine", "build"]
    assert sum("finished" in row for row in rows) == 2
    assert any("1.3" in row and "x" in row for row in rows)


@pytest.mark.parametrize("key", ["model", "machine", "build", "date", "gain", "state"])
def test_the_list_is_put_in_order(key: str) -> None:
    studies = answer("ListAnswer", "list", "--sort", key)["studies"]

    first = NEW if key == "gain" else OLD
    assert [study["name"] for study in studies] == [first, OLD if first == NEW else NEW]


def test_an_empty_list_says_how_to_make_a_study(tmp_path: Path) -> None:
    done = run_lcm("results", "list", "--results-dir", tmp_path / "none")

    assert (done.returncode, done.stdout) == (0, "")
    assert "lcm run --optimize --deep makes one" in done.stderr


def test_what_cannot_be_read_is_named_beside_the_list(results: Path) -> None:
    (results / "studies" / OLD / "study.json").write_text("{}")

    done = run_lcm("results", "list")

    assert done.returncode == 0
    assert f"warning: {results / 'studies' / OLD} cannot be read" in done.stderr
    assert answer("ListAnswer", "list")["unreadable"] == [str(results / "studies" / OLD)]


def test_one_study_is_shown_with_its_verdict() -> None:
    text = said("show", NEW)

    assert "verdict    better: " in text
    assert "x as fast as llama.cpp's defaults (" in text
    assert "shipped    threads 1" in text
    assert "state      finished, 14 trials" in text


def test_an_old_study_is_shown_with_what_it_has() -> None:
    shown = answer("ShowAnswer", "show", OLD)

    assert shown["evidence"] is None
    assert shown["environment"] == {}
    assert shown["trials"] == 14
    assert shown["params"]["n_threads"] == 1


def test_the_latest_study_is_the_one_that_is_meant_without_a_name() -> None:
    assert answer("ShowAnswer", "show")["study"]["name"] == NEW


def test_a_study_is_named_by_the_beginning_of_its_name() -> None:
    assert answer("ShowAnswer", "show", "tiny-quick-2026112")["study"]["name"] == NEW
    assert "is the beginning of 2 studies" in refused("show", "tiny")
    assert "no study in" in refused("show", "nothing")


def test_two_studies_of_one_kind_are_set_side_by_side(results: Path) -> None:
    copied(results, "again")

    text = said("compare", NEW, "again")

    assert "A: tiny-quick" in text
    assert "1.00x as fast" in text
    assert "not measured in turns" in text
    figures = answer("CompareAnswer", "compare", NEW, "again")["figures"]
    assert {figure["ratio"] for figure in figures} == {1.0}


def test_what_cannot_be_compared_is_refused_by_its_keys(results: Path) -> None:
    circumstances(results, copied(results, "later"), kernel="99.0", n_ctx=17)

    text = refused("compare", NEW, "later")

    assert "  - kernel: " in text
    assert "; 99.0" in text
    assert "  - context: 4096; 17" in text
    assert "--across kernel --across context" in text


def test_what_is_compared_may_differ(results: Path) -> None:
    circumstances(results, copied(results, "later"), kernel="99.0")

    different = answer("CompareAnswer", "compare", NEW, "later", "--across", "kernel")["different"]

    assert [(one["what"], one["b"]) for one in different] == [("kernel", "99.0")]


def test_a_study_that_knows_no_circumstances_is_not_compared() -> None:
    assert "does not say what it was measured on" in refused("compare", OLD, NEW)
    assert "--across colour: no such key" in refused("compare", NEW, NEW, "--across", "colour")


def test_without_a_command_the_help_is_printed() -> None:
    assert said() == said("--help")


def test_what_differs_forges_no_line(results: Path) -> None:
    circumstances(results, copied(results, "later"), kernel="9\x1b[2J\nB is 9x as fast")

    text = said("compare", NEW, "later", "--across", "kernel")

    assert "9\\x1b[2J\\nB is 9x as fast in B" in text


def test_a_stdout_without_the_letters_of_a_name_is_enough(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"path": "/models/modèle.gguf", "name": "modèle"}
    circumstances(results, NEW, model=model)
    records = results / "studies" / NEW / "journal.jsonl"
    records.write_text(records.read_text().replace("/models/tiny", "/models/modèle"))
    written = said("export", NEW)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    assert said("export", NEW) == written
    for command in (["show"], ["list"], ["report", "--format", "markdown"], ["apply", "--for=sh"]):
        said(*command)


def test_a_level_that_llama_bench_has_not_is_refused() -> None:
    assert "has records alone" in refused("export", "--format=llama-bench", "--level=trial")


def test_arguments_of_llama_bench_are_not_lost(results: Path) -> None:
    circumstances(results, NEW, llama_cpp={"arguments": ["--rpc", "host:1"]})

    told = "easured with --rpc host:1, which stands for llama-bench; give llama-server the same"
    assert told in said("apply", "--for", "env")
    assert told in said("report", "--format", "markdown").replace("\\", "")
