"""Killed at 200 random moments: no process stays, and no record is lost that was finished."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from fakes.benches import TOKEN, bench_of, fake_bench, left_behind, marked, outcomes
from lcm_process import REPOSITORY

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.program_run import Result
from autotune.llama_cpp.records import Failure, FailureKind, Measurement
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

CHILD_KILLS, DRIVER_KILLS, REAL_KILLS = 110, 90, 200
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TRIALS = [Trial(Params(n_threads=n), BenchTest(n_gen=4)) for n in range(1, 9)]

# What a command does with a run: Ctrl-C and SIGTERM are exceptions, every result is written down.
DRIVER = """
import sys
sys.path[:0] = sys.argv[2:]
import signal
from pathlib import Path
from fakes.benches import bench_of, fake_bench
from autotune.llama_cpp.program_run import Result
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Measurement, Test
from autotune.params import Params
signal.signal(signal.SIGTERM, signal.default_int_handler)
kept = {}
def keep(event):
    if isinstance(event, Result) and isinstance(event.outcome, Measurement):
        kept[event.trial.params.n_threads] = event
bench = bench_of(fake_bench(), Path(sys.argv[1]))
trials = [Trial(Params(n_threads=n), Test(n_gen=4)) for n in range(1, 200)]
print("ready", flush=True)
run = bench.run(trials, repetitions=1)
try:
    with run:
        for event in run:
            keep(event)
finally:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    for result in run.rescued:
        keep(result)
    print(*kept, flush=True)
"""


def started(log: Path) -> list[int]:
    """Give the processes that the fake has logged."""
    if not log.exists():
        return []
    return [int(line.split()[1]) for line in log.read_text().splitlines() if "start" in line]


def test_llama_bench_killed_at_random_costs_one_trial_each_time(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, log, chance = uuid.uuid4().hex, tmp_path / "log", random.Random(1)  # noqa: S311
    monkeypatch.setenv(TOKEN, token)
    monkeypatch.setenv("LCM_FAKE_MS", "5 4")
    bench = bench_of(fake_bench(), tiny)
    bench.observe = lambda: _kill_soon(log, chance)
    monkeypatch.setenv("LCM_FAKE_LOG", str(log))
    killed = measured = 0
    while killed < CHILD_KILLS:
        log.unlink(missing_ok=True)
        results = outcomes(bench.run(TRIALS, repetitions=1))
        assert sorted(trial.params.n_threads or 0 for trial, _ in results) == list(range(1, 9))
        flushed = log.read_text().count("record")
        measured = sum(isinstance(outcome, Measurement) for _, outcome in results)
        assert measured >= flushed
        killed += len(results) - measured
    assert left_behind(token) == []


@pytest.mark.llama_cpp
def test_the_real_one_killed_at_random_leaves_nothing_and_each_trial_has_its_outcome(
    llama_cpp_dir: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, chance = uuid.uuid4().hex, random.Random(3)  # noqa: S311
    monkeypatch.setenv(TOKEN, token)
    command = (str(llama_cpp_dir / "llama-bench"),)
    bench = bench_of(Program(name="llama-bench", command=command, found_by="tests"), tiny)
    trials = [Trial(Params(n_threads=1, n_ubatch=32 * n), BenchTest(n_gen=12)) for n in range(1, 9)]
    killed = measured = 0
    while killed < REAL_KILLS:
        told = []
        with bench.run(trials, repetitions=1) as run:
            for event in run:
                if isinstance(event, Result):
                    told.append(event)
                elif chance.random() < 0.3:
                    time.sleep(chance.random() * 0.03)
                    for pid in marked(token):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, chance.choice(SIGNALS))
        assert Counter(event.trial for event in told) == Counter(trials)
        kinds = [event.outcome.kind for event in told if isinstance(event.outcome, Failure)]
        assert set(kinds) <= {FailureKind.CRASH, FailureKind.INTERRUPTED}
        killed += len(kinds)
        measured += len(told) - len(kinds)
    assert measured > 0
    assert left_behind(token) == []


def _kill_soon(log: Path, chance: random.Random) -> dict[str, float]:
    """Called after each record; every other time it ends the program a moment later."""
    pids = started(log)
    if pids and chance.random() < 0.5:
        time.sleep(chance.random() * 0.01)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[-1], chance.choice(SIGNALS))
    return {}


def test_the_driver_killed_at_random_leaves_nothing_and_tells_all(
    tiny: Path, tmp_path: Path
) -> None:
    chance = random.Random(2)  # noqa: S311
    for n in range(DRIVER_KILLS):
        token, log = uuid.uuid4().hex, tmp_path / f"log{n}"
        number = SIGNALS[n % len(SIGNALS)]
        script = [sys.executable, "-S", "-c", DRIVER, str(tiny)]
        with subprocess.Popen(
            [*script, str(REPOSITORY), str(REPOSITORY / "tests")],
            env=os.environ | {TOKEN: token, "LCM_FAKE_LOG": str(log), "LCM_FAKE_MS": "2 1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as driver:
            assert driver.stdout
            driver.stdout.readline()
            time.sleep(chance.random() * 0.15)
            driver.send_signal(number)
            told = driver.stdout.read().split()
        flushed = log.read_text().count("record") if log.exists() else 0
        assert left_behind(token) == []
        assert told == [str(n) for n in range(1, len(told) + 1)]
        if number != signal.SIGKILL:  # Nobody can tell anything after that.
            assert len(told) >= flushed


@pytest.mark.llama_cpp
def test_runs_that_end_or_are_stopped_leave_no_file_open(llama_cpp_dir: Path, tiny: Path) -> None:
    command = (str(llama_cpp_dir / "llama-bench"),)
    bench = bench_of(Program(name="llama-bench", command=command, found_by="tests"), tiny)
    trials = [Trial(Params(n_threads=1), BenchTest(n_gen=4))]
    n_open = []
    for n in range(40):
        with bench.run(trials, repetitions=1) as run:
            for _ in run:
                if n % 3 == 2:
                    run.stop()
        n_open.append(len([*Path("/proc/self/fd").iterdir()]))
    assert n_open == [n_open[0]] * 40
