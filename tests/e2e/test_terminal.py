"""What a person sees: the real command on a real terminal, tmux, held against recorded screens.

Numbers and times are masked. `LCM_RECORD_SCREENS=1 pytest tests/e2e/test_terminal.py` writes the
recorded screens anew, to be looked at before they are committed.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes.benches import SCRIPT
from lcm_process import install_lcm
from programs_here import needed

from autotune.results.studies import Folder

SCREENS = Path(__file__).parents[1] / "fixtures" / "screens"
BENCH = (sys.executable, "-S", "-E", str(SCRIPT))

# Of the two threads that the fake takes by itself, one alone is four times as fast. With --rpc no
# CPU time is judged: what runs beside this test must not be seen on its screens.
TUNING = shlex.split(
    "--optimize --deep --trials 5 --param n_threads=1,2 --param n_threads_batch=2 "
    "--param n_batch=2048 --param n_ubatch=512 --param load_mode=auto --param flash_attn=auto "
    "--param repack=on -- --rpc 127.0.0.1:1"
)
COLOUR = "\x1b\\[(3[0-7]|38)"


class Screen(NamedTuple):
    """What is seen at one moment."""

    text: str
    has_colour: bool


class Terminal:
    """A tmux of its own, of which nobody else's knows."""

    def __init__(self, sockets: Path) -> None:
        self.sockets = sockets
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TMUX")},
            "TMUX_TMPDIR": str(sockets),
            "LC_ALL": "C.UTF-8",
        }

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-u", "-L", "lcm", "-f", "/dev/null", *words]
        done = subprocess.run(
            command, env=self._environ, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout

    def start(self, command: Sequence[str], columns: int = 80) -> None:
        """Run a command; the terminal stays when it has ended, and says so."""
        script = f"{shlex.join(command)}; echo [ended: $?]; exec cat"
        size = ["-x", str(columns), "-y", "24"]
        self._tmux("new-session", "-d", *size, "sh", "-c", script)

    def resize(self, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", "24")

    def type(self, *keys: str) -> None:
        """Press keys: a text as it is, or the name of a key."""
        self._tmux("send-keys", *keys)

    def until(self, pattern: str, *, within_s: float = 60) -> Screen:
        """Give the first screen on which a pattern is seen."""
        ends = time.monotonic() + within_s
        while True:
            shown = self._tmux("capture-pane", "-p", "-e")
            text = re.sub(r"\x1b\[[\d;]*m", "", shown)
            if re.search(pattern, text, re.MULTILINE):
                return Screen(text, has_colour=bool(re.search(COLOUR, shown)))
            if time.monotonic() > ends:
                pytest.fail(f"{pattern!r} was not seen in {within_s} s, but:\n{text}")
            time.sleep(0.03)

    def close(self) -> None:
        subprocess.run(
            ["tmux", "-L", "lcm", "kill-server"],  # noqa: S607 - whichever tmux is here
            env=self._environ,
            capture_output=True,
            check=False,
        )


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    needed("tmux")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(install_lcm(tmp_path).parent), prepend=os.pathsep)
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LCM_LLAMA_BENCH", shlex.join(BENCH))
    monkeypatch.setenv("LCM_FAKE", "slow=4@2")
    monkeypatch.setenv("LCM_FAKE_MS", "1 10")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # A socket's path has at most a hundred characters, and pytest's folders have more.
    with tempfile.TemporaryDirectory(prefix="lcm") as sockets:
        terminal = Terminal(Path(sockets))
        yield terminal
        terminal.close()


def run_on(terminal: Terminal, tiny: Path, answer: Path, *, columns: int = 80) -> None:
    """Tune, with the answer in a file, as one does who wants to see the table."""
    command = shlex.join(["lcm", "run", "--model", str(tiny), *TUNING])
    terminal.start(["sh", "-c", f"{command} > {shlex.quote(str(answer))}"], columns)


def masked(screen: str) -> str:
    """Without what differs from run to run: numbers, the bar, and what is measured just now."""
    screen = re.sub(r"[━╸╺]+ +", "<bar> ", screen)
    screen = re.sub(r"(?m)^(now +).*|^(\w+ +).*…$", r"\1\2<...>", screen)
    screen = re.sub(r"\d[\d.:]*", "#", screen)
    return "\n".join(line.rstrip() for line in screen.strip().splitlines()) + "\n"


def view_of(screen: Screen) -> str:
    """What stands below the rule."""
    return screen.text.rpartition("─")[2]


def _end(screen: str) -> str:
    """The table, whose columns are as wide as their numbers, and the sentences in one line."""
    lines = screen.partition("\nlcm: ")[0].splitlines()
    rows = [re.sub(" {2,}", "  ", line) for line in lines[:3]]
    return masked("\n".join([*rows, " ".join(lines[3:])]))


def assert_recorded(name: str, screen: str) -> None:
    screen = screen.rstrip() + "\n"
    file = SCREENS / f"{name}.txt"
    if os.environ.get("LCM_RECORD_SCREENS"):
        file.write_text(screen, encoding="utf-8")
    assert screen == file.read_text(encoding="utf-8")


def test_tuning_is_seen_and_its_end_stays(terminal: Terminal, tiny: Path, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    run_on(terminal, tiny, answer)

    tuning = terminal.until("round 1 of 16")
    end = terminal.until(r"\[ended: 0\]").text

    assert tuning.has_colour
    assert_recorded("tuning", masked(view_of(tuning)))
    table = re.search(r"configuration .*\n.*\n.*", end)
    assert table
    assert len({len(line) for line in table.group().splitlines()}) == 1
    assert_recorded("end", _end(end[table.start() :]))
    assert "━" not in end
    assert json.loads(answer.read_text())["evidence"]["verdict"] == "better"


def test_a_terminal_that_becomes_narrower_is_not_littered(
    terminal: Terminal, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(terminal.sockets)
    run_on(terminal, tiny, tmp_path / "answer.json")

    terminal.until("new best")
    terminal.resize(60)
    narrow = terminal.until("round 1 of 16")

    assert narrow.text.count("─" * 40) == 1
    assert_recorded("tuning-60-columns", masked(view_of(narrow)))
    assert not narrow.has_colour


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("help", ["--help"]),
        ("run-help", ["run", "--help"]),
        ("run-deep-help", ["run", "--deep", "--help"]),
    ],
)
def test_help_is_seen_whole(terminal: Terminal, name: str, words: list[str]) -> None:
    terminal.start(["lcm", *words])

    screen = terminal.until(r"\[ended: 0\]").text

    assert screen.startswith("Usage: lcm")
    assert_recorded(name, screen)


def test_what_a_model_needs_is_a_table(terminal: Terminal, tiny: Path) -> None:
    terminal.start(["lcm", "inspect", str(tiny), "--n-gpu-layers", "0"])

    assert_recorded("inspect", terminal.until(r"\[ended: 0\]").text)


def test_a_list_of_studies_fits_whatever_is_in_it(terminal: Terminal, tmp_path: Path) -> None:
    for name, machine in (
        ("gemma-3-270m-chat-20261001-073000", "AMD EPYC, 2 cores"),
        (f"{'a-very-long-name-' * 5}chat-20261001-080000", "日本語の機械 🚀 with a long name"),
    ):
        study = Folder(
            path=tmp_path / "results" / "studies" / name,
            model=name,
            workload="chat",
            started=name[-15:],
            machine=machine,
            build="0.5.0-dev (build 1, commit 0c1e570)",
        )
        study.path.mkdir(parents=True)
        study.write()
    terminal.start(["lcm", "results", "list"])

    assert_recorded("results-list", terminal.until(r"\[ended: 0\]").text)


def test_an_error_is_two_lines_with_the_next_step(terminal: Terminal) -> None:
    terminal.start(["lcm", "run", "--model", "model.gguf", "--trials", "3"])

    assert_recorded("error", terminal.until(r"\[ended: 2\]").text)


def test_tab_completes_in_bash(terminal: Terminal, tmp_path: Path) -> None:
    start = tmp_path / "bashrc"
    start.write_text("eval \"$(_LCM_COMPLETE=source_bash lcm)\"\nPS1='> '\n")
    terminal.start(["bash", "--rcfile", str(start), "-i"])

    terminal.until("^>")
    terminal.type("-l", "lcm run --prof")
    terminal.type("Tab")
    terminal.until("^> lcm run --profile")
    terminal.type("-l", "co")
    terminal.type("Tab")
    terminal.until("^> lcm run --profile coding-agent")
