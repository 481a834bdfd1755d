"""A study by the real llama-bench on the real model goes all the ways that results go."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from csv_columns import wrong_columns
from lcm_process import run_lcm
from unit.test_schema import errors

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, llama_cpp_dir: Path, gemma: Path
) -> tuple[str, ...]:
    """Measure for a minute, and give the options that name the study's place."""
    folder = tmp_path_factory.mktemp("results")
    options = ("--results-dir", str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))
        measuring = ("--deep", "--profile", "quick", "--budget", "60s")
        done = run_lcm("run", "--model", gemma, "--optimize", *measuring, *options)
    assert done.returncode == 0, done.stderr
    return options


@pytest.fixture(autouse=True)
def _llama_dir(llama_cpp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))


def said(*arguments: str) -> str:
    done = run_lcm("results", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_and_shown(study: tuple[str, ...], gemma: Path) -> None:
    listed = json.loads(said("list", "--json", *study))
    shown: dict[str, Any] = json.loads(said("show", "--json", *study))

    assert errors(listed, "ListAnswer") == errors(shown, "ShowAnswer") == []
    (one,) = listed["studies"]
    assert (one["state"], one["purpose"]) == ("finished", "tune")
    assert one["verdict"] in {"better", "not shown", "worse"}
    assert shown["environment"]["model"]["path"] == str(gemma)
    assert min(shown["records"], shown["trials"]) > 3


@pytest.mark.parametrize("level", ["trial", "record", "sample"])
def test_every_level_is_a_table_as_it_is_documented(study: tuple[str, ...], level: str) -> None:
    text = said("export", "latest", "--level", level, *study)

    assert wrong_columns(text, level) == []
    rows = list(csv.DictReader(io.StringIO(text)))
    lines = said("export", "latest", "--level", level, "--format", "jsonl", *study).splitlines()
    assert len(rows) == len(lines) > 3
    assert all(json.loads(line).keys() == rows[0].keys() for line in lines)


def test_the_table_that_grew_meanwhile_is_that_of_the_records(study: tuple[str, ...]) -> None:
    (kept,) = Path(study[1]).glob("studies/*/records.csv")

    def sorted_rows(text: str) -> list[dict[str, str]]:
        return sorted(csv.DictReader(io.StringIO(text)), key=lambda row: int(row["order"]))

    exported = sorted_rows(said("export", "latest", *study))
    grown = sorted_rows(kept.read_text(encoding="utf-8"))

    assert [row["argv"] for row in grown] == [row["argv"] for row in exported]
    assert [float(row["avg_ts"]) for row in grown] == [float(row["avg_ts"]) for row in exported]


def test_its_records_are_those_of_llama_bench(study: tuple[str, ...]) -> None:
    records = json.loads(said("export", "latest", "--format", "llama-bench", *study))

    assert all(record["samples_ns"] and record["model_type"] for record in records)


def test_it_has_a_report_in_both_forms(study: tuple[str, ...]) -> None:
    page = Path(said("report", "latest", *study).strip())
    text = said("report", "latest", "--format", "markdown", *study)

    assert page.name == "report.html"
    assert page.stat().st_size < 1_000_000
    assert "llama.cpp" in text
    assert "t/s" in text


@pytest.mark.parametrize("target", ["sh", "env", "llama-server-ini", "ollama", "systemd"])
def test_it_is_put_to_use(study: tuple[str, ...], gemma: Path, target: str) -> None:
    assert str(gemma) in said("apply", "latest", "--for", target, *study)


@pytest.mark.parametrize(
    ("target", "key"), [("llama-swap", "models"), ("docker-compose", "services")]
)
def test_it_is_put_to_use_as_yaml(study: tuple[str, ...], target: str, key: str) -> None:
    assert yaml.safe_load(said("apply", "latest", "--for", target, *study))[key]


def test_it_is_compared_with_itself(study: tuple[str, ...]) -> None:
    answer = json.loads(said("compare", "latest", "latest", "--json", *study))

    assert errors(answer, "CompareAnswer") == []
    assert {figure["ratio"] for figure in answer["figures"]} == {1.0}
