"""A study as a table: what is in a row, and that no other program can misread it."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import csv_columns
import pandas as pd
import pytest
from fakes.evening import Evening
from fakes.kept import kept_study
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli import results
from autotune.cli.exported import export
from autotune.errors import ConfigError, SurroundingsError
from autotune.llama_cpp.records import Measurement
from autotune.params import Params
from autotune.results.apply import TARGETS
from autotune.results.columns import LLAMA_BENCH, Level, columns
from autotune.results.conditions import foreign_cpus
from autotune.results.export import csv_text, jsonl_text, llama_bench_text, parquet_bytes
from autotune.results.rows import rows
from autotune.results.stored import Stored

LEVELS: tuple[Level, ...] = ("trial", "record", "sample")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return kept_study(tmp_path_factory.mktemp("results") / "evening")


def cells(stored: Stored, level: Level = "record") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(stored, level))))


def with_record(stored: Stored, **fields: object) -> Stored:
    """The study with one record, in which llama-bench has printed these fields."""
    record = next(r for r in stored.records if isinstance(r.outcome, Measurement))
    assert isinstance(record.outcome, Measurement)
    outcome = replace(record.outcome, record={**record.outcome.record, **fields})
    return replace(stored, records=(replace(record, outcome=outcome),), visited=())


def test_a_row_is_a_trial_a_record_or_a_repetition(study: Stored) -> None:
    measured = [r.outcome for r in study.records if isinstance(r.outcome, Measurement)]

    assert len(cells(study, "trial")) == len(study.visited)
    assert len(cells(study, "record")) == len(study.records)
    assert len(cells(study, "sample")) == sum(len(m.samples_ns) for m in measured)


@pytest.mark.parametrize("level", LEVELS)
def test_every_column_is_documented_with_the_dtype_that_pandas_gives(
    study: Stored, level: Level
) -> None:
    assert csv_columns.wrong_columns(csv_text(study, level), level) == []


@pytest.mark.parametrize("level", LEVELS)
def test_no_column_is_documented_that_there_is_not(study: Stored, level: Level) -> None:
    assert set(csv_columns.stated(level)) - set(columns(level, rows(study, level))) == set()


def test_joules_stand_in_every_table(tmp_path: Path) -> None:
    study = kept_study(tmp_path / "metered", Evening(watts=60.0))

    trial, record, sample = (cells(study, level)[0] for level in LEVELS)

    pp, joules = 420 / 60, 512 / 420 * 60
    assert float(trial["pp_tokens_per_joule"]) == pytest.approx(pp, rel=0.02)
    assert float(record["tokens_per_joule"]) == pytest.approx(pp, rel=0.02)
    assert float(record["joules"]) == pytest.approx(3 * joules, rel=0.02)
    assert float(sample["sample_j"]) == pytest.approx(joules, rel=0.02)
    assert [float(row["watts"]) for row in (trial, record, sample)] == [60.0] * 3


def test_where_nobody_can_tell_joules_the_cells_are_empty(study: Stored) -> None:
    trial, record, sample = (cells(study, level)[0] for level in LEVELS)

    empty = trial["request_j"], record["joules"], record["tokens_per_joule"], sample["sample_j"]
    assert empty == ("",) * 4


def test_the_columns_of_llama_bench_come_first(study: Stored) -> None:
    for level in ("record", "sample"):
        names = list(columns(level, rows(study, level)))
        assert names[: len(LLAMA_BENCH)] == list(LLAMA_BENCH)


def test_a_record_has_what_llama_bench_printed(study: Stored) -> None:
    first, printed = cells(study)[0], study.records[0].outcome

    assert isinstance(printed, Measurement)
    assert first["avg_ts"] == str(printed.record["avg_ts"])
    assert first["model_type"] == "llama 8B Q4_K - Medium"
    assert (first["cpu_strict"], first["repack"], first["flash_attn"]) == ("0", "1", "-1")
    assert (first["repetitions"], float(first["median_ts"])) == ("3", printed.median_ts)
    assert shlex.split(first["argv"]) == list(printed.run.argv)


def test_a_record_says_which_trial_it_was_for_and_when(study: Stored) -> None:
    second = cells(study)[1]

    assert (second["trial"], second["kind"], second["part"]) == ("0", "baseline", "tg")
    assert (second["order"], second["source"]) == ("1", "llama.cpp's defaults")
    assert second["started_at"].startswith("2026-11-30T20:00:06.")
    assert second["started_at"] < second["ended_at"]
    assert second["ended_at"].endswith("Z")


def test_a_record_says_what_the_machine_did(study: Stored) -> None:
    disturbed = next(row for row in cells(study) if row["disturbed"])

    assert disturbed["disturbed"] == "other programs used 1.6 CPUs"
    assert float(disturbed["foreign_cpus"]) == pytest.approx(1.6)
    assert float(disturbed["load_s"]) == 2.5
    assert 52 < float(disturbed["temperature_c"]) < 90
    assert float(disturbed["gpu0_clock_mhz"]) == 1905
    assert (disturbed["gpu0_throttle_reasons"], disturbed["swapped_pages"]) == ("4", "0")


@pytest.mark.parametrize(("busy_s", "cpus"), [(0.4, 0.0), (0.5, 0.0), (2.5, 2.0)])
def test_others_never_use_less_than_nothing(study: Stored, busy_s: float, cpus: float) -> None:
    run = study.records[0].outcome.run
    began = {"at_s": 0.0, "busy_s": 0.0, "own_s": 0.0}
    ended = {"at_s": 1.0, "busy_s": busy_s, "own_s": 0.5}

    assert foreign_cpus(replace(run, before=began, after=ended)) == cpus


def test_a_failure_has_its_configuration_and_no_speed(study: Stored) -> None:
    failure = next(row for row in cells(study) if row["outcome"] == "oom")

    asked = {name: failure[name] for name in ("n_gpu_layers", "n_threads", "n_prompt")}
    assert asked == {"n_gpu_layers": "33", "n_threads": "8", "n_prompt": "512"}
    assert "out of memory" in failure["message"]
    assert failure["exit_code"] == "1"
    assert {failure[name] for name in ("avg_ts", "avg_ns", "median_ts", "build_number")} == {""}


def test_a_test_that_no_trial_asked_for_is_there_without_one(study: Stored) -> None:
    (alone,) = (row for row in cells(study) if not row["trial"])

    assert (alone["outcome"], alone["n_ubatch"], alone["kind"]) == ("measured", "1024", "")


def test_a_repetition_has_its_own_time_and_speed(study: Stored) -> None:
    samples = cells(study, "sample")[:4]
    printed = study.records[0].outcome

    assert isinstance(printed, Measurement)
    assert [row["repetition"] for row in samples] == ["1", "2", "3", "1"]
    assert [int(row["sample_ns"]) for row in samples[:3]] == list(printed.samples_ns)
    assert [float(row["sample_ts"]) for row in samples[:3]] == list(printed.samples_ts)


def test_a_trial_has_both_parts_and_its_parameters(study: Stored) -> None:
    baseline = cells(study, "trial")[0]
    pp, tg = (study.visited[0].measured(part) for part in ("pp", "tg"))

    assert pp
    assert tg
    assert float(baseline["pp_ts"]) == pp.median_ts
    assert float(baseline["tg_ts"]) == tg.median_ts
    assert (baseline["pp_test"], baseline["tg_test"]) == ("pp512", "tg64")
    assert (baseline["n_threads"], baseline["n_threads_batch"], baseline["type_k"]) == (
        "8",
        "8",
        "",
    )
    assert baseline["parts"] == "pp tg"
    assert shlex.split(baseline["tg_argv"]) == list(tg.run.argv)


def test_a_trial_is_as_its_worst_test(study: Stored) -> None:
    of_trial, (first, second) = cells(study, "trial")[0], cells(study)[:2]

    assert of_trial["started_at"] == first["started_at"]
    assert of_trial["ended_at"] == second["ended_at"]
    assert float(of_trial["temperature_c"]) == float(second["temperature_c"])
    assert float(of_trial["clock_mhz"]) == float(second["clock_mhz"])
    assert float(of_trial["load_s"]) == 2.5


def test_a_trial_that_failed_says_so_and_has_no_request(study: Stored) -> None:
    failed = next(row for row in cells(study, "trial") if row["outcome"] == "oom")

    assert (failed["request_s"], failed["pp_ts"], failed["led"]) == ("", "", "False")
    assert failed["parts"] == "pp tg"


def test_a_configuration_that_has_led_is_told(study: Stored) -> None:
    led = [row for row in cells(study, "trial") if row["led"] == "True"]

    assert {row["kind"] for row in led} >= {"seed", "ladder", "toggle", "verify"}
    assert {row["n_gpu_layers"] for row in led} == {"29", "30"}


def test_a_trial_whose_parts_were_all_dropped_is_there(study: Stored) -> None:
    lost = replace(study.visited[0], records=())

    (row,) = rows(replace(study, visited=(lost,)), "trial")

    assert (row["outcome"], row.get("started_at")) == ("dropped", None)


def test_a_missing_value_is_empty_and_never_zero(study: Stored) -> None:
    bare = replace(study.records[0].outcome.run, before={}, after={}, load_s=None, argv=())
    outcome = replace(study.records[0].outcome, run=bare)
    alone = replace(study, records=(replace(study.records[0], outcome=outcome),), visited=())

    (row,) = cells(alone)

    unknown = ("load_s", "foreign_cpus", "pressure_memory", "swapped_pages", "throttles", "argv")
    assert {row[name] for name in unknown} == {""}
    assert not any(name.startswith("gpu0_") for name in row)
    (as_json,) = map(json.loads, jsonl_text(alone, "record").splitlines())
    assert {as_json[name] for name in unknown} == {None}


def test_a_number_that_is_not_finite_is_missing(study: Stored) -> None:
    alone = with_record(study, avg_ts=float("inf"), stddev_ts=float("nan"))

    assert [cells(alone)[0][name] for name in ("avg_ts", "stddev_ts")] == ["", ""]
    assert json.loads(jsonl_text(alone, "record"))["avg_ts"] is None


def test_fields_of_another_build_come_after_those_of_llama_bench(study: Stored) -> None:
    names = list(columns("record", rows(with_record(study, use_mmap=True, new=[1]), "record")))

    assert names[: len(LLAMA_BENCH) + 3] == [*LLAMA_BENCH, "use_mmap", "new", "study"]


def test_a_new_field_of_llama_bench_does_not_take_a_column_of_ours(study: Stored) -> None:
    new = {"order": 7, "repetition": 8, "gpu0_clock_mhz": 9}

    (row, *_) = cells(with_record(study, **new), "sample")

    assert (row["order"], row["repetition"], row["gpu0_clock_mhz"]) == ("0", "1", "1905.0")
    assert [row[f"llama_bench_{name}"] for name in new] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("params", "spelled"),
    [
        ({"flash_attn": "auto", "no_kv_offload": True}, {"flash_attn": -1, "no_kv_offload": 1}),
        ({"flash_attn": False, "repack": False}, {"flash_attn": 0, "repack": 0}),
        ({"tensor_split": (3, 1.5)}, {"tensor_split": "3.00/1.50"}),
        ({"devices": ("CUDA0", "CUDA1")}, {"devices": "CUDA0/CUDA1"}),
        ({"tensor_buft_overrides": (("e.*", "CPU"), ("f", "CPU"))}, {}),
    ],
)
def test_parameters_are_spelled_as_llama_bench_prints_them(
    study: Stored, params: Mapping[str, Any], spelled: Mapping[str, object]
) -> None:
    visited = replace(
        study.visited[0], trial=replace(study.visited[0].trial, params=Params(**params))
    )

    (row,) = rows(replace(study, visited=(visited,)), "trial")

    assert {name: row[name] for name in spelled} == spelled
    assert row.get("tensor_buft_overrides") in (None, "e.*=CPU;f=CPU")


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_is_no_formula(study: Stored, name: str) -> None:
    named = replace(study, folder=replace(study.folder, model=name))

    first = next(csv.DictReader(io.StringIO(csv_text(named, "record"), newline="")))

    assert first["model"] == f"'{name}"
    assert rows(named, "record")[0]["model"] == name


def test_a_negative_number_is_no_formula(study: Stored) -> None:
    alone = with_record(study, n_gpu_layers=-1)

    assert pd.read_csv(io.StringIO(csv_text(alone, "record")))["n_gpu_layers"][0] == -1


def test_the_name_of_a_new_field_is_no_formula_either(study: Stored) -> None:
    assert '"\'=1+1"' in csv_text(with_record(study, **{"=1+1": 2}), "record").partition("\n")[0]


@given(name=st.text(st.characters(exclude_categories=()), min_size=1))
def test_any_name_comes_through(study: Stored, name: str) -> None:
    alone = with_record(study, model_filename=name)

    for level in ("record", "sample"):
        text = csv_text(alone, level)
        frame = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False, dtype=str)
        read = frame["model_filename"][0].removeprefix("'")
        shown = name.encode("utf-8", "replace").decode().replace("\0", "?")
        assert read == shown.removeprefix("'")
        assert frame["part"].eq("pp").all()


@pytest.mark.parametrize("level", LEVELS)
def test_json_lines_have_the_same_columns_in_each(study: Stored, level: Level) -> None:
    found = [json.loads(line) for line in jsonl_text(study, level).splitlines()]

    names = list(columns(level, rows(study, level)))
    assert [list(row) for row in found] == [names] * len(rows(study, level))
    argv = "pp_argv" if level == "trial" else "argv"
    assert found[0][argv] == list(study.records[0].outcome.run.argv)


@pytest.mark.parametrize("level", LEVELS)
def test_parquet_has_the_same_table_with_types(study: Stored, level: Level) -> None:
    frame = pd.read_parquet(io.BytesIO(parquet_bytes(study, level)))

    assert list(frame.columns) == list(columns(level, rows(study, level)))
    assert len(frame) == len(rows(study, level))
    assert str(frame["trial"].dtype) == "Int64"
    assert str(frame["numa"].dtype) == "string"  # Also where it is empty.


def test_parquet_takes_what_another_build_printed(study: Stored) -> None:
    alone = with_record(study, split_mode=1, new="text", other=0.5, nested={"a": 1})

    frame = pd.read_parquet(io.BytesIO(parquet_bytes(alone, "record")))

    assert [frame[name][0] for name in ("split_mode", "new", "other")] == [1, "text", 0.5]


def test_without_pyarrow_there_is_an_answer(
    study: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(SurroundingsError, match="parquet needs pyarrow") as error:
        export(study, fmt="parquet", level="record", output=tmp_path / "x.parquet")

    assert error.value.hint == "pip install 'lcm-autotune[parquet]'"
    assert list(tmp_path.iterdir()) == []


def test_records_are_as_llama_bench_printed_them(study: Stored) -> None:
    printed = [r.outcome.record for r in study.records if isinstance(r.outcome, Measurement)]

    assert json.loads(llama_bench_text(study)) == printed


@pytest.mark.parametrize("level", LEVELS)
def test_a_study_of_nothing_is_a_header(study: Stored, level: Level) -> None:
    nothing = replace(study, records=(), visited=(), incumbents=())

    assert cells(nothing, level) == []
    assert csv_text(nothing, level).count("\n") == 1
    assert jsonl_text(nothing, level) == ""
    assert json.loads(llama_bench_text(nothing)) == []
    assert len(pd.read_parquet(io.BytesIO(parquet_bytes(nothing, level)))) == 0


@pytest.mark.parametrize(
    ("fmt", "level"), [("csv", "trial"), ("jsonl", "sample"), ("llama-bench", "record")]
)
def test_a_file_has_what_is_printed(
    study: Stored, fmt: str, level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(study, fmt=fmt, level=level, output=None)
    export(study, fmt=fmt, level=level, output=tmp_path / "file")

    said = capsys.readouterr()
    assert (tmp_path / "file").read_text(encoding="utf-8") == said.out
    assert str(tmp_path / "file") in said.err


def test_what_cannot_be_asked_for_is_said(study: Stored) -> None:
    for fmt, level in (("parquet", "record"), ("llama-bench", "trial"), ("llama-bench", "sample")):
        with pytest.raises(ConfigError):
            export(study, fmt=fmt, level=level, output=None)


@pytest.mark.parametrize("fmt", results.ExportFormat)
def test_every_format_that_can_be_typed_is_written(
    study: Stored, fmt: results.ExportFormat, tmp_path: Path
) -> None:
    export(study, fmt=fmt.value, level=None, output=tmp_path / "file")

    assert (tmp_path / "file").stat().st_size > 0


def test_the_words_that_can_be_typed_are_those_that_are_known() -> None:
    assert {level.value for level in results.Level} == set(get_args(Level))
    assert {target.value for target in results.Target} == set(TARGETS)


def test_a_pipe_is_written_to_and_not_replaced(study: Stored) -> None:
    export(study, fmt="csv", level="record", output=Path("/dev/null"))

    assert Path("/dev/null").is_char_device()


def test_a_link_stays_and_permissions_too(study: Stored, tmp_path: Path) -> None:
    target, link = tmp_path / "real.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)

    export(study, fmt="csv", level="record", output=link)

    assert link.is_symlink()
    assert target.read_text().startswith('"build_commit"')
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_place_that_is_not_there_is_said(study: Stored, tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match=r"missing/x\.csv cannot be written"):
        export(study, fmt="csv", level="record", output=tmp_path / "missing" / "x.csv")
