"""What llama-bench prints, and llama.cpp's own script that reads it, beside what we write."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import compare_script
import pytest
from fakes.kept import kept_study
from recorded_builds import BUILDS, FOLDER

from autotune.llama_cpp.records import Measurement, RunFacts, parse_record
from autotune.params import Params
from autotune.results.columns import LLAMA_BENCH, SAMPLES
from autotune.results.export import csv_text, llama_bench_text
from autotune.results.journal import Record
from autotune.results.stored import Stored


@pytest.fixture(scope="module")
def script() -> Path:
    """Give llama.cpp's compare-llama-bench.py."""
    path = compare_script.script_path()
    if not path.exists():
        reason = "no compare-llama-bench.py here: `python tests/compare_script.py` fetches it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return path


def bench(llama_cpp_dir: Path, model: Path, output: str) -> str:
    command = [str(llama_cpp_dir / "llama-bench"), "-m", str(model), "-o", output]
    sizes = ["-p", "16", "-n", "4", "-r", "2", "-t", "1,2"]
    return subprocess.run(
        [*command, *sizes], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture(scope="module")
def printed(llama_cpp_dir: Path, tiny: Path) -> str:
    """Give four records of the real llama-bench."""
    return bench(llama_cpp_dir, tiny, "jsonl")


def fields_of(build: str) -> list[str]:
    """What a recorded build has printed, but for the samples."""
    lines = (FOLDER / build / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [name for name in json.loads(lines[0]) if name not in SAMPLES]


def study_of(printed: str, folder: Path, *, commit: str = "") -> Stored:
    """A study of what llama-bench has printed; as if by the build of another commit."""
    run = RunFacts(
        argv=("llama-bench",), removed_environment={}, started_at=0.0, ended_at=1.0, load_s=None
    )
    records = []
    for line in printed.splitlines():
        found = parse_record(line)
        outcome = Measurement(
            params=Params(),
            test=found.test,
            samples_ns=found.samples_ns,
            build_commit=found.build_commit,
            build_number=found.build_number,
            run=run,
            record={**found.raw, "build_commit": commit or found.build_commit},
        )
        records.append(Record(trial=None, part=None, outcome=outcome))
    return replace(kept_study(folder), records=tuple(records), visited=())


def compared(script: Path, folder: Path, files: Sequence[str], *commits: str) -> list[list[str]]:
    """The rows of the script's table, as their cells."""
    inputs = [word for file in files for word in ("-i", file)]
    baseline, other = commits
    done = subprocess.run(
        [sys.executable, script, "--tool", "llama-bench", *inputs, "-b", baseline, "-c", other],
        cwd=folder,
        # It names commits by a repository, if there is one; and needs no git where there is none.
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder), "GIT_PYTHON_REFRESH": "quiet"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.llama_cpp
def test_our_columns_are_those_of_the_real_csv(llama_cpp_dir: Path, tiny: Path) -> None:
    header = bench(llama_cpp_dir, tiny, "csv").partition("\n")[0].split(",")

    known = [name for name in header if name in LLAMA_BENCH]
    assert known == [name for name in LLAMA_BENCH if name in header]
    assert len(known) >= 30


def test_our_columns_are_all_those_of_the_newest_recorded_build() -> None:
    assert fields_of("b11434-2026-10") == list(LLAMA_BENCH)


@pytest.mark.parametrize("build", [b for b in BUILDS if (FOLDER / b / "records.jsonl").exists()])
def test_every_build_has_them_in_our_order(build: str) -> None:
    fields = fields_of(build)

    known = [name for name in fields if name in LLAMA_BENCH]
    assert known == [name for name in LLAMA_BENCH if name in fields]
    assert len(known) >= 30


@pytest.mark.llama_cpp
def test_our_csv_says_what_the_real_csv_does(printed: str, tmp_path: Path) -> None:
    study = study_of(printed, tmp_path / "study")

    ours = list(csv.DictReader(io.StringIO(csv_text(study, "record"))))

    for row, line in zip(ours, printed.splitlines(), strict=True):
        raw = json.loads(line)
        for name in raw.keys() - set(SAMPLES):
            value = raw[name]
            assert row[name] == str(int(value) if isinstance(value, bool) else value), name


@pytest.mark.llama_cpp
def test_the_script_compares_the_records_of_two_builds(
    printed: str, script: Path, tmp_path: Path
) -> None:
    commit = json.loads(printed.splitlines()[0])["build_commit"]
    other = "f" * len(commit)
    for name, study in (
        ("a.json", study_of(printed, tmp_path / "a")),
        ("b.json", study_of(printed, tmp_path / "b", commit=other)),
    ):
        (tmp_path / name).write_text(llama_bench_text(study), encoding="utf-8")

    header, _, *rows = compared(script, tmp_path, ["a.json", "b.json"], commit, other)

    assert header[-3:] == [f"t/s {commit}", f"t/s {other}", "Speedup"]
    assert sorted(row[-4] for row in rows) == ["pp16", "pp16", "tg4", "tg4"]
    assert {row[header.index("Threads")] for row in rows} == {"1", "2"}
    assert {row[-1] for row in rows} == {"1.00"}


@pytest.mark.llama_cpp
def test_the_script_reads_our_csv_if_nothing_has_failed(
    printed: str, script: Path, tmp_path: Path
) -> None:
    commit = json.loads(printed.splitlines()[0])["build_commit"]
    study = study_of(printed, tmp_path / "a")
    (tmp_path / "a.csv").write_text(csv_text(study, "record"), encoding="utf-8")

    _, _, *rows = compared(script, tmp_path, ["a.csv"], commit, commit)

    assert sorted(row[-4] for row in rows) == ["pp16", "pp16", "tg4", "tg4"]


def test_the_script_compares_whole_studies(script: Path, tmp_path: Path) -> None:
    study = kept_study(tmp_path / "study")
    (tmp_path / "a.json").write_text(llama_bench_text(study), encoding="utf-8")

    header, _, *rows = compared(script, tmp_path, ["a.json"], "5eed5ee", "5eed5ee")

    assert {"GPU layers", "Threads", "Test"} <= set(header)
    assert len(rows) > 10
