"""`lcm verify` as its user has it, after `--deep`; llama-bench is the fake, in milliseconds.

There two threads, llama.cpp's default, are four times as slow as others, which is found. Then
something changes.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes.benches import SCRIPT
from fakes.programs import SERVER_HELP, write_program
from lcm_process import REPOSITORY, run_lcm
from unit.test_schema import errors, undeclared_in

from autotune.params import params_from_json
from autotune.results.profile import Profile, load, save

Json = dict[str, Any]

ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
SLOW_DEFAULTS = "slow=4@2"


class Place(NamedTuple):
    """Where a test finds everything."""

    llama: Path
    results: Path

    @property
    def profiles(self) -> list[Path]:
        return sorted(self.results.glob("profiles/*.json"))

    @property
    def profile(self) -> Profile:
        (path,) = self.profiles
        return load(path)

    @property
    def verifications(self) -> list[Path]:
        return sorted(self.results.glob("studies/*-verify-*"))

    def change_profile(self, **changes: Any) -> None:  # noqa: ANN401 - any of its fields
        (path,) = self.profiles
        save(path, replace(load(path), **changes))

    def update_llama_cpp(self) -> None:
        bench = self.llama / "llama-bench"
        bench.write_text(bench.read_text() + "# another build\n")


def use(place: Place, monkeypatch: pytest.MonkeyPatch, *, cache: Path) -> None:
    monkeypatch.setenv("LCM_LLAMA_DIR", str(place.llama))
    monkeypatch.setenv("LCM_RESULTS_DIR", str(place.results))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LCM_FAKE", SLOW_DEFAULTS)
    monkeypatch.setenv("LCM_FAKE_MS", "1 5")
    monkeypatch.delenv("LCM_LLAMA_BENCH", raising=False)


@pytest.fixture(scope="module")
def tuned_once(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Tune once for all tests of this file."""
    folder = tmp_path_factory.mktemp("verify")
    place = Place(folder / "llama", folder / "results")
    place.llama.mkdir()
    bench = place.llama / "llama-bench"
    bench.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{SCRIPT}" "$@"\n')
    bench.chmod(0o755)
    write_program(place.llama / "llama-server", help_text=SERVER_HELP)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(place, monkeypatch, cache=folder / "cache")
        order = ["run", "--model", str(tiny), "--optimize", "--deep", "--trials", "8"]
        done = run_lcm(*order, "--profile", "quick")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evidence"]["verdict"] == "better"
    return place


@pytest.fixture
def place(tuned_once: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give a copy of its own, as it was after tuning; the build is the same by its dates."""
    own = Place(tmp_path / "llama", tmp_path / "results")
    for kept, copied in zip(tuned_once, own, strict=True):
        shutil.copytree(kept, copied)
    use(own, monkeypatch, cache=tmp_path / "cache")
    return own


def words_of_server(tiny: Path) -> tuple[list[str], str]:
    """Give the words that llama-server would be started with, and what is said of them."""
    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run")
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout), done.stderr


# --- the verdict ---------------------------------------------------------------------------------


def test_what_is_still_better_is_said_to_be(tiny: Path, place: Place) -> None:
    before = place.profile

    done = run_lcm("verify", tiny)

    first, then, changed = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert first.startswith("still better: ")
    assert "x as fast as llama.cpp's defaults (" in first
    assert then.startswith(f"on {before.date}: better, ")
    assert changed == f"nothing changed since {before.date}"
    # Everything that was measured is kept.
    (folder,) = place.verifications
    study = json.loads((folder / "study.json").read_text())
    assert (study["purpose"], study["state"], study["verdict"]) == ("verify", "finished", "better")
    assert {"environment.json", "journal.jsonl", "profile.json", "study.db"} <= {
        file.name for file in folder.iterdir()
    }
    # The profile tells of its last verification, with the parameters that it had.
    assert place.profile.params == before.params
    assert place.profile.study == str(folder)
    assert place.profile.ratio == pytest.approx(study["ratio"], rel=1e-5)


def test_the_answer_for_programs_is_valid(tiny: Path, place: Place) -> None:
    before = place.profile

    done = run_lcm("verify", tiny, "--json", "--quiet")

    answer: Json = json.loads(done.stdout)
    assert errors(answer, "VerifyAnswer") == []
    assert undeclared_in({**answer, "evidence": None}, "VerifyAnswer") == []
    assert (done.returncode, done.stderr) == (0, "")
    assert answer["verdict"] == answer["evidence"]["verdict"] == "better"
    assert answer["evidence"]["candidate"]["params"]["n_threads"] == before.params.n_threads
    assert answer["then"]["ratio"] == before.ratio
    assert answer["changed"] == []


def test_what_is_as_fast_as_the_defaults_is_not_shown(
    tiny: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_FAKE", "")
    before = place.profile

    done = run_lcm("verify", tiny)

    assert done.returncode == 1
    assert done.stdout.startswith("not shown: ")
    assert "--optimize --deep" in done.stderr
    assert place.profile == before  # What was shown before stands.


def test_what_is_worse_is_not_started_with_until_it_is_better_again(
    tiny: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.profile
    monkeypatch.setenv("LCM_FAKE", f"slow=4@{before.params.n_threads}")

    done = run_lcm("verify", tiny)
    words, said = words_of_server(tiny)

    assert done.returncode == 1
    assert done.stdout.startswith("worse: 0.")
    assert place.profile.params == before.params
    assert "--threads" not in words
    assert "with llama.cpp's defaults: lcm verify has shown the profile to be slower" in said

    monkeypatch.setenv("LCM_FAKE", SLOW_DEFAULTS)
    again = run_lcm("verify", tiny)
    words, said = words_of_server(tiny)

    assert again.returncode == 0
    assert again.stdout.startswith("better: ")
    assert words[words.index("--threads") + 1] == str(before.params.n_threads)
    assert "with the profile of" in said


def test_the_defaults_themselves_are_no_better(tiny: Path, place: Place) -> None:
    (journal,) = place.results.glob("studies/*/journal.jsonl")
    *_, last = map(json.loads, journal.read_text().splitlines())
    place.change_profile(params=params_from_json(last["evidence"]["baseline"]["params"]))

    done = run_lcm("verify", tiny)

    assert done.returncode == 1
    assert done.stdout.startswith("not shown: the profile is llama.cpp's defaults\n")
    assert place.verifications == []


def test_a_profile_that_does_not_run_any_more_is_not_shown(
    tiny: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_FAKE", f"crash=11@{place.profile.params.n_threads}")

    done = run_lcm("verify", tiny)

    assert done.returncode == 1
    assert done.stdout.startswith("not shown: the profile does not run here: 1 x crash\n")


def test_what_llama_bench_cannot_be_told_any_more_is_named(tiny: Path, place: Place) -> None:
    place.change_profile(params=replace(place.profile.params, load_mode="mlock"))
    bench = place.llama / "llama-bench"
    without = bench.read_text().replace(
        "exec ", 'test "$1" = --help && filter="grep -v load-mode"\n'
    )
    bench.write_text(f"{without.rstrip()} | ${{filter:-cat}}\n")

    done = run_lcm("verify", tiny, "--json")

    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert errors(answer, "VerifyAnswer") == []
    assert answer["evidence"] is None
    assert "cannot be measured here: load_mode=mlock: llama-bench has no -lm" in answer["reason"]


# --- after an update -----------------------------------------------------------------------------


def test_what_changed_is_named_and_a_new_build_gets_a_profile_of_its_own(
    tiny: Path, place: Place
) -> None:
    before = place.profile
    place.update_llama_cpp()

    done = run_lcm("verify", tiny)
    words, said = words_of_server(tiny)

    assert done.returncode == 0, done.stderr
    assert "\nchanged since: build: files " in done.stdout
    params = [load(path).params for path in place.profiles]
    assert params == [before.params, before.params]
    assert words[words.index("--threads") + 1] == str(before.params.n_threads)
    assert "warning" not in said


def test_what_was_measured_with_another_build_is_started_with_and_that_is_said_once(
    tiny: Path, place: Place
) -> None:
    before = place.profile
    place.update_llama_cpp()

    words, said = words_of_server(tiny)
    _, later = words_of_server(tiny)

    warning = f"lcm: warning: the profile of {before.date} was measured with {before.build}, and "
    assert words[words.index("--threads") + 1] == str(before.params.n_threads)
    assert warning in said
    assert f"is installed: `lcm verify {tiny}` says whether it still holds" in said
    assert "warning" not in later
    assert f"with the profile of {before.date}, measured with {before.build}" in later


def test_a_study_that_is_gone_leaves_its_build_to_be_compared(tiny: Path, place: Place) -> None:
    place.change_profile(study="/nowhere/at-all", build="0.4.0")

    done = run_lcm("verify", tiny, "--budget", "60s")

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[2].startswith("changed since: build: 0.4.0 then, ")
    assert lines[3] == "its study is gone: what else has changed since is not known"


def test_a_request_that_nobody_knows_any_more_is_said_to_be_another(
    tiny: Path, place: Place
) -> None:
    place.change_profile(study="", workload="my-own")
    before = place.profile

    done = run_lcm("verify", tiny)

    assert "my-own, is not known any more: it is verified for chat" in done.stderr
    assert place.profile == before  # It is not for the request of this verdict.


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.usefixtures("place")
def test_without_a_profile_there_is_nothing_to_verify(tiny: Path, tmp_path: Path) -> None:
    done = run_lcm("verify", tiny, "--results-dir", tmp_path / "elsewhere")

    assert (done.returncode, done.stdout) == (3, "")
    assert "lcm: error: there is no profile of " in done.stderr
    assert f"hint: make one: lcm run --model {tiny} --optimize --deep\n" in done.stderr


@pytest.mark.usefixtures("place")
def test_a_budget_that_is_none_is_refused(tiny: Path) -> None:
    done = run_lcm("verify", tiny, "--budget", "soon")

    assert (done.returncode, done.stdout) == (2, "")
    assert "--budget is 'soon'" in done.stderr


@pytest.mark.usefixtures("place")
def test_a_budget_that_is_too_short_is_kept_and_said_to_be(tiny: Path) -> None:
    done = run_lcm("verify", tiny, "--budget", "0.01s")

    assert done.returncode == 1
    assert done.stdout.startswith("not shown: there was no time for a comparison; give a longer")


def test_what_a_file_says_commands_no_terminal(tiny: Path, place: Place) -> None:
    place.change_profile(build="\x1b]0;x\x07\n=cmd()", date="\x1b[31m", study="")

    done = run_lcm("verify", tiny, "--budget", "0.01s")

    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "\\x1b]0;x" in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupt_keeps_what_was_measured_and_says_how_to_go_on(
    tiny: Path, place: Place, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_FAKE_MS", "1 80")
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY, "verify", str(tiny)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
        text=True,
    ) as process:
        until_measured(place)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == code, stderr
    assert stderr.splitlines()[-1] == f"hint: verify again with: lcm verify {tiny}"
    (folder,) = place.verifications
    assert json.loads((folder / "study.json").read_text())["state"] == "interrupted"


def until_measured(place: Place) -> None:
    """Wait until a first test is in the journal."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any('"record"' in f.read_text() for f in place.results.glob("studies/*-verify-*/j*")):
            return
        time.sleep(0.05)
    pytest.fail("nothing was measured in 60 s")
