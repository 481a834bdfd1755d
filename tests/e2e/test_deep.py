"""`lcm run --optimize --deep` as its user has it, with a llama-bench that takes milliseconds."""

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from fakes.benches import SCRIPT
from lcm_process import REPOSITORY, run_lcm
from unit.test_schema import errors

import autotune

ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
BENCH = shlex.join([sys.executable, "-S", "-E", str(SCRIPT)])


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of results; llama-bench is the fake, one of whose tests takes 3 ms."""
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LCM_LLAMA_BENCH", BENCH)
    monkeypatch.setenv("LCM_FAKE_MS", "1 3")
    return tmp_path / "results"


# The fake sleeps, and takes so little CPU time that what others take is not judged: what runs
# beside these tests does not decide them.
def arguments(tiny: Path, *more: str, budget: str = "6s") -> list[str]:
    limit = [] if "--until" in more and "07:00" not in more else ["--budget", budget]
    return ["run", "--model", str(tiny), "--optimize", "--deep", *limit, *more]


def measured(tiny: Path, *more: str, budget: str = "6s") -> dict[str, Any]:
    done = run_lcm(*arguments(tiny, *more, budget=budget))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def studies(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("studies/*/study.db"))


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="lcm", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials()


def test_the_answer_is_valid_and_carries_its_evidence(tiny: Path, results: Path) -> None:
    answer = measured(tiny)

    evidence = answer["evidence"]
    assert errors(answer) == []
    assert evidence["verdict"] in {"better", "not shown", "worse"}
    assert evidence["trials"] > 5
    assert evidence["elapsed_s"] < 6 * 1.05 + 15
    assert Path(evidence["study"]).parent.parent == results
    assert evidence["baseline"]["params"]["n_threads"] == 2  # As the fake takes it by itself.


def test_a_setting_that_is_slower_is_left(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_FAKE", "slow=4@2")  # The default of the fake is two threads.
    monkeypatch.setenv("LCM_FAKE_MS", "1 20")

    answer = measured(tiny, budget="15s")

    evidence = answer["evidence"]
    assert evidence["verdict"] == "better"
    assert evidence["winner"]
    assert 1 < evidence["low"] < evidence["ratio"] < evidence["high"]
    assert answer["recommended_params"]["--threads"] != 2
    assert answer["recommended_params"]["--threads"] == evidence["candidate"]["params"]["n_threads"]
    sides = [evidence["baseline"], evidence["candidate"]]
    assert all(side["samples"] and side["request_s"] > 0 for side in sides)
    # It is what `lcm run` starts with, and what the quick answer shows beside the rules' own.
    quick = json.loads(run_lcm("run", "--model", str(tiny), "--optimize").stdout)
    assert errors(quick) == []
    assert quick["measured"]["verdict"] == "better"
    assert quick["measured"]["params"]["n_threads"] == answer["recommended_params"]["--threads"]


def test_programs_have_it_as_one_call(tiny: Path, tmp_path: Path) -> None:
    kept = tmp_path / "own.db"

    tuned = autotune.tune(tiny, budget_s=4, study=kept)

    assert tuned.verification.verdict in {"better", "not shown", "worse"}
    assert tuned.seconds(tuned.baseline)
    assert len(optuna.load_study(study_name="lcm", storage=f"sqlite:///{kept}").trials) > 3


def test_what_is_measured_can_be_read_by_optuna(tiny: Path, results: Path) -> None:
    answer = measured(tiny)

    (folder,) = studies(results)
    trials = trials_of(folder)
    assert len(trials) == answer["evidence"]["trials"]
    assert {trial.user_attrs["kind"] for trial in trials} >= {"baseline", "seed", "race"}
    assert all(trial.state.is_finished() for trial in trials)
    complete = [trial for trial in trials if trial.value is not None]
    assert all(trial.params.keys() == trials[0].params.keys() for trial in complete)


def test_nothing_measured_is_no_answer(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_FAKE", "oom")

    done = run_lcm(*arguments(tiny))

    assert (done.returncode, done.stdout) == (3, "")
    assert "does not run" in done.stderr


def test_defaults_that_cannot_be_measured_are_no_answer(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The preflight's tests pass: only what is longer than they are fails.
    monkeypatch.setenv("LCM_FAKE", "long-oom")

    done = run_lcm(*arguments(tiny))

    assert (done.returncode, done.stdout) == (4, "")
    assert "defaults could not be measured, oom" in done.stderr
    assert "ran: " in done.stderr


def test_a_crash_costs_one_configuration(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_FAKE", "crash=11@1")

    answer = measured(tiny)

    assert answer["evidence"]["failures"]["crash"] >= 1
    assert answer["recommended_params"]["--threads"] == 2


def popen(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
        text=True,
    )


def until_trials(results: Path, n: int) -> None:
    """Wait until so many trials are finished."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(finished(folder) >= n for folder in studies(results)):
            return
        time.sleep(0.1)
    pytest.fail(f"there were no {n} trials in 60 s")


def finished(folder: Path) -> int:
    """Count finished trials, past Optuna: it would make the tables that are being made just now."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True) as database:
            states = database.execute("select state from trials").fetchall()
    except sqlite3.Error:
        return 0
    return sum(state not in {"RUNNING", "WAITING"} for (state,) in states)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupt_keeps_everything_and_says_how_to_go_on(
    tiny: Path, results: Path, number: signal.Signals, code: int
) -> None:
    with popen(arguments(tiny, budget="30s")) as process:
        until_trials(results, 6)
        process.send_signal(number)
        asked = time.monotonic()
        stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == code, stderr
    assert time.monotonic() - asked < 13
    assert json.loads(stdout)["evidence"]["complete"] is False
    hint = stderr.splitlines()[-1]
    assert hint.startswith("hint: go on with: lcm run --model ")
    assert hint.endswith(" --resume")
    (folder,) = studies(results)
    before = {t.number for t in trials_of(folder) if t.state.is_finished()}

    again = run_lcm(*arguments(tiny, "--resume", budget="30s"))

    assert again.returncode == 0, again.stderr
    assert studies(results) == [folder]
    after = trials_of(folder)
    assert before < {t.number for t in after}
    assert json.loads((folder / "study.json").read_text())["state"] == "finished"


def test_a_second_interrupt_ends_it_at_once(
    tiny: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is a better setting, whose verification takes longer than anyone waits.
    monkeypatch.setenv("LCM_FAKE", "slow=3@2")
    monkeypatch.setenv("LCM_FAKE_MS", "1 200")
    with popen(arguments(tiny, budget="60s")) as process:
        until_trials(results, 4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130, stderr
    assert time.monotonic() - asked < 5
    assert "--resume" in stderr


def test_a_killed_study_goes_on_where_it_was(tiny: Path, results: Path) -> None:
    with popen(arguments(tiny, "--trials", "14", budget="60s")) as process:
        until_trials(results, 7)
        process.kill()
        process.communicate()
    (folder,) = studies(results)
    finished = {
        t.number: t.user_attrs["outcomes"] for t in trials_of(folder) if t.state.is_finished()
    }

    answer = measured(tiny, "--trials", "14", "--resume", budget="60s")

    after = {t.number: t for t in trials_of(folder)}
    assert all(after[n].user_attrs["outcomes"] == outcomes for n, outcomes in finished.items())
    assert all(t.state.is_finished() for t in after.values())
    interrupted = [t for t in after.values() if t.user_attrs.get("failure") == "interrupted"]
    told = [t for t in after.values() if "outcomes" in t.user_attrs]
    assert len(told) == answer["evidence"]["trials"]
    assert len(told) + len(interrupted) == len(after)


def interrupted_study(tiny: Path, results: Path, *more: str) -> Path:
    with popen(arguments(tiny, *more, budget="60s")) as process:
        until_trials(results, 3)
        process.kill()
        process.communicate()
    (folder,) = studies(results)
    return folder


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--param", "n_ubatch=128,512"], "parameters: "),
        (["--ctx-size", "512"], "context: "),
        (["--objective", "tg"], "request: "),
        ([], ""),
    ],
    ids=["space", "context", "objective", "the same"],
)
def test_a_study_of_something_else_is_refused(
    tiny: Path, results: Path, more: list[str], difference: str
) -> None:
    folder = interrupted_study(tiny, results)

    done = run_lcm(*arguments(tiny, "--resume", "--trials", "5", *more))

    assert done.returncode == (5 if difference else 0), done.stderr
    if difference:
        assert str(folder) in done.stderr
        assert difference in done.stderr
        assert " then, " in done.stderr
        assert done.stdout == ""


def test_another_model_file_is_refused(tiny: Path, results: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny.read_bytes())
    interrupted_study(model, results)
    os.utime(model, (1, 1))

    done = run_lcm(*arguments(model, "--resume"))

    assert done.returncode == 5
    assert "model file changed: " in done.stderr


def test_two_may_not_write_one_study(tiny: Path, results: Path) -> None:
    with popen(arguments(tiny, budget="60s")) as process:
        until_trials(results, 2)
        done = run_lcm(*arguments(tiny, "--resume"))
        process.kill()
        process.communicate()

    assert done.returncode == 2
    assert "another lcm is writing" in done.stderr


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--budget", "soon"], "--budget is 'soon'"),
        (["--until", "late"], "--until is 'late'"),
        (["--until", "07:00"], "--budget and --until exclude each other"),
        (["--resume", "--fresh"], "--resume and --fresh exclude each other"),
        (["--fresh", "--storage", "mysql://db/x"], "--fresh is for a study of this machine alone"),
        (["--resume"], "there is no unfinished study"),
        (["--param", "n_ubatch"], "--param n_ubatch"),
        (["--param", "n_gpu_layers=1"], "n_gpu_layers moves nothing here"),
        (["--param", "n_threads=4000"], "is beyond what is there"),
        (["--profile", "chess"], "chess"),
        (["--allow-lossy-kv", "q9_9"], "q9_9"),
        (["--objective", "fun"], "fun"),
        (["--mode", "server"], "--mode"),
        (["--llama-bench", "/nowhere/llama-bench"], "/nowhere/llama-bench"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_asked_is_refused_before_anything_is_measured(
    tiny: Path, results: Path, more: list[str], problem: str
) -> None:
    done = run_lcm(*arguments(tiny, *more))

    assert done.returncode == 2, done.stderr
    assert problem in done.stderr
    assert done.stdout == ""
    assert studies(results) == []


@pytest.mark.parametrize("option", [["--budget", "10m"], ["--resume"], ["--param", "n_ubatch=64"]])
def test_options_for_measuring_are_not_for_anything_else(tiny: Path, option: list[str]) -> None:
    done = run_lcm("run", "--model", str(tiny), "--optimize", *option)

    assert done.returncode == 2
    assert f"{option[0]} is for measuring" in done.stderr


def test_what_is_fixed_is_not_searched(tiny: Path, results: Path) -> None:
    answer = measured(
        tiny, "--param", "n_threads=1", "--param", "flash_attn=on,off", "--trials", "9"
    )

    assert answer["recommended_params"]["--threads"] == 1
    (folder,) = studies(results)
    assert {t.user_attrs["params"]["n_threads"] for t in trials_of(folder)} == {1}


def test_without_verification_nothing_is_claimed(tiny: Path) -> None:
    evidence = measured(tiny, "--no-verify", "--trials", "8")["evidence"]

    assert evidence["verdict"] == "not shown"
    assert evidence["pairs"] == 0


def test_each_event_is_a_line_where_there_is_no_terminal(tiny: Path) -> None:
    done = run_lcm(*arguments(tiny, "--trials", "6"))

    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stderr.splitlines())
    assert "llama.cpp's defaults" in done.stderr
    assert "start it with: " in done.stderr
