"""Benches to drive: the fake llama-bench as a program, and what is left of it afterwards."""

import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fakes.llama_batched_bench import HELP as BATCHED_HELP
from fakes.programs import BATCHED_WORK, write_program

from autotune.llama_cpp.bench import BatchedBench, Bench, Run
from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.locate import BATCHED_BENCH, BENCH, SERVER, Program
from autotune.llama_cpp.patience import Patience
from autotune.llama_cpp.program_run import Result
from autotune.llama_cpp.records import Outcome

SCRIPT = Path(__file__).with_name("llama_bench.py")
BATCHED_SCRIPT = Path(__file__).with_name("llama_batched_bench.py")
SERVER_SCRIPT = Path(__file__).with_name("llama_server.py")
N_CTX = 4096  # Of the batched ones: what the tiny model was trained on.
TOKEN = "LCM_TEST_TOKEN"  # noqa: S105 - marks whatever a test starts, down to the grandchildren


def fake_bench() -> Program:
    """Give the fake, started as quickly as Python can."""
    command = (sys.executable, "-S", "-E", str(SCRIPT))
    return Program(name="llama-bench", command=command, found_by="tests")


def fake_batched_bench() -> Program:
    """Give the fake of the other one."""
    command = (sys.executable, "-S", "-E", str(BATCHED_SCRIPT))
    return Program(name="llama-batched-bench", command=command, found_by="tests")


def fake_server() -> Program:
    """Give the fake that answers."""
    command = (sys.executable, "-S", "-E", str(SERVER_SCRIPT))
    return Program(name="llama-server", command=command, found_by="tests")


def fake_folder(folder: Path) -> Path:
    """Fill a folder with stand-ins of one build, under their real names."""
    folder.mkdir()
    for name, script in {BENCH: SCRIPT, SERVER: SERVER_SCRIPT}.items():
        words = shlex.join([sys.executable, "-S", "-E", str(script)])
        (folder / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    write_program(folder / BATCHED_BENCH, help_text=BATCHED_HELP, work=BATCHED_WORK)
    return folder


def hasty() -> Patience:
    """What the fake needs, which computes nothing."""
    return Patience(first_load_s=4, first_step_s=2, least_s=0.8, exit_s=0.5, retry_s=5)


def unhurried() -> Patience:
    """What the real one needs for a small model, on a machine that others use too."""
    return Patience(first_load_s=60, first_step_s=30, least_s=3, exit_s=10, retry_s=30)


def bench_of(program: Program, model: Path, *arguments: str) -> Bench:
    return Bench(
        program=program,
        capabilities=ask(program),
        model=model,
        patience=hasty() if str(SCRIPT) in program.command else unhurried(),
        extra_arguments=arguments,
    )


def batched_bench_of(program: Program, model: Path) -> BatchedBench:
    return BatchedBench(
        program=program,
        capabilities=ask(program),
        model=model,
        patience=hasty() if str(BATCHED_SCRIPT) in program.command else unhurried(),
        n_ctx=N_CTX,
    )


def outcomes(run: Run) -> list[tuple[Trial, Outcome]]:
    """Read a run to its end."""
    with run:
        return [(event.trial, event.outcome) for event in run if isinstance(event, Result)]


def marked(token: str) -> list[int]:
    """Find the living processes that carry the token, this one aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"{TOKEN}={token}".encode() in environ.split(b"\0") and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def left_behind(token: str, seconds: float = 2.0) -> Sequence[object]:
    """Give the processes and reading threads that are still there after a moment."""
    deadline = time.monotonic() + seconds
    while True:
        threads = [t for t in threading.enumerate() if t.name == "llama.cpp's output"]
        found = [*marked(token), *threads]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)
