"""A night to spoil: `lcm run --optimize --deep` on the real llama-bench, as a process of its own.

One session takes about five seconds on a machine that does nothing else: the model is small, the
request is over in a moment, and one thread computes, so that what this machine does beside it slows
nothing down many times.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.benches import TOKEN
from lcm_process import REPOSITORY, run_lcm

ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
# The long form repeats each fault at many moments; the short one is for every change.
LONG = os.environ.get("LCM_FAULTS") == "long"

REQUEST = """\
[request]
n_prompt = 64
n_gen = 16
[parameters]
n_threads = 1
n_threads_batch = 1
"""
TRIALS, BUDGET_S = 10, 20
# Beyond the budget: 5 %, but at least 15 s (docs/tuning.md), and what comes before and after it.
GRACE_S = 15 + 10
_PATIENCE_S = 60.0


def moments(short: int, many: int) -> pytest.MarkDecorator:
    """Repeat a test at so many moments; the name of one that fails has its seed."""
    seeds = range(many if LONG else short)
    chances = [pytest.param(seed, id=f"seed-{seed}") for seed in seeds]
    return pytest.mark.parametrize("chance", chances, indirect=True)


@dataclass(frozen=True)
class Ended:
    """What a process has left."""

    code: int
    stdout: str
    stderr: str
    took_s: float

    @property
    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.stdout)
        return answer

    @property
    def error(self) -> str:
        """The sentence of `lcm: error: ...`, and what is below it."""
        return self.stderr.partition("lcm: error: ")[2]


class Running:
    """A session at work."""

    def __init__(self, process: subprocess.Popen[str], night: "Night") -> None:
        self.process = process
        self._night = night
        self._began = time.monotonic()

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something that is to happen during the session."""
        deadline = time.monotonic() + _PATIENCE_S
        while not reached():
            if self.process.poll() is not None:
                ended = self.end()
                pytest.fail(f"it ended with {ended.code} before {what}:\n{ended.stderr}")
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come in {_PATIENCE_S} s")
            time.sleep(0.005)

    def until_trials(self, n: int) -> None:
        self.until(lambda: self._night.n_trials() >= n, f"{n} trials")

    def until_some_moment(self, chance: random.Random, *, most: int = 5) -> None:
        """Any moment after the first trial: between two lines of a file, or within a test."""
        self.until_trials(chance.randint(1, most))
        time.sleep(chance.random() * 0.2)

    def benches(self) -> list[int]:
        """The llama-bench processes that run just now."""
        return [pid for pid in _children(self.process.pid) if _name(pid) == "llama-bench"]

    def until_benches(self) -> list[int]:
        """Wait for a llama-bench; it may have ended by the time that it is looked at."""
        found: list[int] = []

        def is_there() -> bool:
            found.extend(self.benches())
            return bool(found)

        self.until(is_there, "llama-bench started")
        return found

    def kill_benches(self, number: signal.Signals = signal.SIGKILL) -> None:
        for pid in self.until_benches():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop the program, so that its files stay as they are."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT | os.WEXITED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self, timeout: float = BUDGET_S + GRACE_S + 60) -> Ended:
        """Wait for its end."""
        stdout, stderr = self.process.communicate(timeout=timeout)
        took_s = time.monotonic() - self._began
        return Ended(self.process.returncode, stdout, stderr, took_s)


@dataclass
class Night:
    """What is measured, and where it is kept; it can be begun and resumed."""

    model: Path
    request: Path  # The workload.
    results: Path
    token: str
    options: tuple[str, ...] = ()
    for_bench: tuple[str, ...] = ()  # What stands behind `--`.
    environ: dict[str, str] = field(default_factory=dict)
    trials: int = TRIALS
    budget_s: float = BUDGET_S

    @property
    def folder(self) -> Path:
        """The study that was begun last."""
        return max(path.parent for path in self.results.glob("studies/*/study.json"))

    def n_trials(self) -> int:
        """Count the trials that are over, by the journal."""
        journals = sorted(self.results.glob("studies/*/journal.jsonl"), reverse=True)
        return journals[0].read_bytes().count(b'{"type": "trial"') if journals else 0

    def arguments(self, *more: str) -> list[str]:
        return [
            *("run", "--model", str(self.model), "--optimize", "--deep"),
            *("--profile", str(self.request), "--results-dir", str(self.results)),
            *("--trials", str(self.trials), "--budget", f"{self.budget_s}s"),
            *self.options,
            *more,
            *(["--", *self.for_bench] if self.for_bench else []),
        ]

    @contextmanager
    def started(self, *more: str, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Start it; whatever happens, it is gone in the end."""
        words = [sys.executable, "-c", ENTRY, *self.arguments(*more)]
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environ() | dict(environ or {}),
            text=True,
        ) as process:
            try:
                yield Running(process, self)
            finally:
                process.send_signal(signal.SIGCONT)
                process.kill()

    def run(self, *more: str, environ: Mapping[str, str] | None = None) -> Ended:
        """Run it to its end."""
        with self.started(*more, environ=environ) as running:
            return running.end()

    def resumed(self) -> Ended:
        return self.run("--resume")

    def _environ(self) -> dict[str, str]:
        own = {TOKEN: self.token, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"}
        return os.environ | own | self.environ

    def asked(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Ask `lcm results` something about these results."""
        return run_lcm("results", *words, "--results-dir", self.results)


def _children(pid: int) -> list[int]:
    """A process belongs to the thread that started it."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # A thread that has just ended.
            found += map(int, children.read_text(encoding="ascii").split())
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
