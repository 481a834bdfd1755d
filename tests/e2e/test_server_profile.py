"""`--profile server` and its like: measured by one program, confirmed by another, then served."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from fakes.benches import TOKEN, fake_folder, left_behind
from lcm_process import _ENTRY_POINT, REPOSITORY, run_lcm
from unit.test_schema import errors

WORKLOAD = """
[request]
n_prompt = 32
n_gen = 8
n_parallel = 8
[search]
budget = "14s"
"""
# With so much fixed, only the slots are searched.
SLOTS_ALONE = """
[parameters]
n_threads = 2
n_threads_batch = 2
n_batch = 2048
n_ubatch = 512
flash_attn = "auto"
load_mode = "auto"
repack = true
kv_unified = true
"""


# Which of the two it is, a busy machine decides; the rule is for tests/unit/test_confirm.py.
SUPPORTS = {"confirmed", "of another size"}
NOT_SHOWN = {
    "contradicts": ("contradicted", "A real llama-server contradicts: it answered 8 requests"),
    "dies-asked": ("failed", "could not confirm it: llama-server with llama.cpp's defaults: crash"),
}


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    token = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN, token)
    return token


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    path = tmp_path / "crowd.toml"
    path.write_text(WORKLOAD, encoding="utf-8")
    return path


def run(model: Path, crowd: Path, *more: str, code: int = 0) -> dict[str, Any]:
    done = run_lcm("run", "--model", model, "--optimize", "--deep", "--profile", crowd, *more)
    assert done.returncode == code, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["stderr"] = done.stderr
    return answer


def flags(command: list[str]) -> dict[str, str]:
    return dict(zip(command, [*command[1:], ""], strict=True))


class TestWithFakes:
    """Slots of the fakes share what a step takes, so that eight are faster than the default four.

    Their server is as much faster as their llama-batched-bench says, unless it is told otherwise.
    """

    @pytest.fixture
    def crowd(self, crowd: Path) -> Path:
        crowd.write_text(WORKLOAD + SLOTS_ALONE, encoding="utf-8")
        return crowd

    @pytest.fixture(autouse=True)
    def results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("LCM_LLAMA_DIR", str(fake_folder(tmp_path / "llama")))
        monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("LCM_FAKE_MS", "1 200")
        return tmp_path / "results"

    def test_a_gain_that_the_server_shows_is_shipped_as_it_was_measured(
        self, tiny: Path, crowd: Path, token: str
    ) -> None:
        answer = run(tiny, crowd)
        evidence = answer["evidence"]
        assert errors({key: answer[key] for key in answer if key != "stderr"}) == []
        assert evidence["verdict"] == "better"
        assert evidence["served"]["agreement"] in SUPPORTS
        assert evidence["served"]["ratio"] > 1
        assert evidence["candidate"]["params"]["n_parallel"] == 8
        command = flags(answer["command"]["llama-server"])
        assert command["--parallel"] == "8"
        assert int(command["--ctx-size"]) >= 8 * (32 + 8)
        said = evidence["served"]["candidate"]["seconds"]
        assert (len(said) >= 1, "it answered 8 requests at once" in answer["stderr"]) == (
            True,
            True,
        )
        assert left_behind(token) == []

        shown = run_lcm("results", "show", "latest").stdout
        assert "it answered 8 requests at once" in " ".join(shown.split())
        applied = run_lcm("results", "apply", "latest", "--for", "sh").stdout
        assert "\n  --parallel 8 \\\n" in applied
        chat = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run").stdout
        assert "--parallel 8" in chat

        verified = run_lcm("verify", tiny, "--budget", "7s", "--json")
        again = json.loads(verified.stdout)
        assert (verified.returncode, again["verdict"]) == (0, "better")
        assert again["evidence"]["served"]["agreement"] in SUPPORTS

    @pytest.mark.parametrize("fault", list(NOT_SHOWN))
    def test_a_gain_that_the_server_does_not_show_is_not_claimed(
        self, monkeypatch: pytest.MonkeyPatch, tiny: Path, crowd: Path, fault: str
    ) -> None:
        monkeypatch.setenv("LCM_FAKE_SERVER", fault)
        answer = run(tiny, crowd)
        evidence, (agreement, said) = answer["evidence"], NOT_SHOWN[fault]
        assert (evidence["verdict"], evidence["winner"]) == ("not shown", False)
        assert evidence["served"]["agreement"] == agreement
        assert evidence["ratio"] > 1.1
        assert flags(answer["command"]["llama-server"])["--parallel"] == "4"
        assert said in " ".join(answer["stderr"].split())
        assert "Not confirmed: the best candidate is" in answer["stderr"]

    def test_an_interrupt_while_a_server_is_asked_keeps_what_was_measured(
        self, monkeypatch: pytest.MonkeyPatch, tiny: Path, crowd: Path, token: str
    ) -> None:
        monkeypatch.setenv("LCM_FAKE_SERVER", "never-answers")
        command = [sys.executable, "-c", _ENTRY_POINT, "run", "--model", str(tiny), "--optimize"]
        with subprocess.Popen(
            [*command, "--deep", "--profile", str(crowd), "--budget", "5s"],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr
            for line in process.stderr:
                if "asking a real llama-server" in line:
                    break
            time.sleep(1)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=60)
        answer = json.loads(stdout)
        assert (process.returncode, answer["evidence"]["served"]) == (130, None)
        assert (time.monotonic() - began < 10, left_behind(token)) == (True, [])

    @pytest.mark.parametrize("name", ["llama-batched-bench", "llama-server"])
    def test_a_program_that_is_missing_is_named_with_the_way_to_get_it(
        self, tmp_path: Path, tiny: Path, crowd: Path, name: str
    ) -> None:
        (tmp_path / "llama" / name).unlink()
        done = run_lcm("run", "--model", tiny, "--optimize", "--deep", "--profile", crowd)
        assert done.returncode == 3
        assert f"error: {name} was not found; looked at:" in done.stderr
        assert "llama-batched-bench" in done.stderr.split("hint: ")[1]

    def test_a_context_that_does_not_hold_all_requests_is_refused(
        self, tiny: Path, crowd: Path
    ) -> None:
        done = run_lcm(
            *("run", "--model", tiny, "--optimize", "--deep", "--profile", crowd),
            *("--ctx-size", "256"),
        )
        assert done.returncode == 2
        assert "--ctx-size 256 does not hold 8 requests of 40 tokens at once" in done.stderr


@pytest.mark.llama_cpp
def test_the_real_programs_measure_confirm_and_name_what_is_shipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llama_cpp_dir: Path, tiny: Path, crowd: Path
) -> None:
    monkeypatch.setenv(TOKEN, token := uuid.uuid4().hex)
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    answer = run(tiny, crowd, "--budget", "12s")
    served, command = answer["evidence"]["served"], flags(answer["command"]["llama-server"])
    assert errors({key: answer[key] for key in answer if key != "stderr"}) == []
    assert served["failure"] == ""
    assert all(seconds > 0 for seconds in served["baseline"]["seconds"])
    assert answer["evidence"]["workload"]["n_parallel"] == 8
    shipped = answer["evidence"]["candidate" if answer["evidence"]["winner"] else "baseline"]
    assert int(command["--parallel"]) == shipped["params"]["n_parallel"]
    assert ("--kv-unified" in command) == shipped["params"]["kv_unified"]
    assert left_behind(token) == []
