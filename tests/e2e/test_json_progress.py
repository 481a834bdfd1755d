"""`--json-progress` and `--quiet`: what another program is told while `lcm` measures."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.benches import SCRIPT
from lcm_process import install_lcm, run_lcm

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
BENCH = shlex.join([sys.executable, "-S", "-E", str(SCRIPT)])
TUNING = ("--optimize", "--deep", "--trials", "6", "--llama-bench", BENCH)
# No CPU time is judged then: what runs beside these tests does not hold them up.
RPC = ("--", "--rpc", "127.0.0.1:1")


@pytest.fixture(scope="module", autouse=True)
def _fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("lcm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCM_RESULTS_DIR", str(folder / "results"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("LCM_FAKE", "slow=4@2")
        patch.setenv("LCM_FAKE_MS", "1 4")
        yield


def told(stderr: str) -> Iterator[dict[str, Any]]:
    for line in stderr.splitlines():
        yield json.loads(line, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def lines(tiny: Path) -> list[dict[str, Any]]:
    """Give what was told of a whole session."""
    done = run_lcm("run", "--model", tiny, *TUNING, "--json-progress", *RPC)
    assert done.returncode == 0
    assert json.loads(done.stdout)["evidence"]["verdict"] == "better"
    return list(told(done.stderr))


@pytest.fixture(scope="module")
def page() -> str:
    text = DOCS.read_text(encoding="utf-8")
    return text.partition("## `--json-progress`")[2].partition("\n## ")[0]


def test_every_event_and_key_is_documented(lines: list[dict[str, Any]], page: str) -> None:
    names = {line["event"] for line in lines}

    words = names.union(*lines)
    assert {"note", "stage", "measuring", "trial", "incumbent", "round"} <= names
    assert words <= set(re.findall(r"`(\w+)`", page))


def test_the_line_that_is_documented_has_the_keys_of_one(
    lines: list[dict[str, Any]], page: str
) -> None:
    (shown,) = re.findall(r'^{"event": "round".*$', page, re.MULTILINE)

    told_round = next(line for line in lines if line["event"] == "round")
    assert json.loads(shown).keys() == told_round.keys()


def test_the_time_that_is_over_only_grows(lines: list[dict[str, Any]]) -> None:
    elapsed = [line["elapsed_s"] for line in lines if "elapsed_s" in line]

    assert elapsed == sorted(elapsed)
    assert all(0 <= line["fraction"] <= 1 for line in lines if line.get("fraction") is not None)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--deep", "--optimize", "--budget", "soon"), "--budget is 'soon'"),
        (("--bogus",), "no such option: --bogus"),
        (("--optimize",), "--json-progress is for measuring"),
        (("--optimize", "--deep", "--quiet"), "--quiet and --json-progress exclude each other"),
    ],
)
def test_an_error_is_an_object_too(tiny: Path, options: tuple[str, ...], problem: str) -> None:
    done = run_lcm("run", "--model", tiny, "--json-progress", *options)

    (line,) = told(done.stderr)
    assert (done.returncode, done.stdout) == (2, "")
    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert problem in line["message"]
    assert line["hint"]


def test_quiet_leaves_the_answer_alone(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, *TUNING, "--quiet", *RPC)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["evidence"]["trials"] > 5


@pytest.mark.parametrize("option", [[], ["--json-progress"]], ids=["lines", "JSON"])
def test_a_reader_that_is_gone_costs_no_answer(
    tiny: Path, tmp_path: Path, option: list[str]
) -> None:
    command = [str(install_lcm(tmp_path)), "run", "--model", str(tiny), *TUNING, *option, *RPC]
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, check=False)

    os.close(writer)
    assert json.loads(done.stdout)["evidence"]["trials"] > 5
