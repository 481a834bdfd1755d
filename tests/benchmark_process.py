"""A benchmark as its user has it: a process of its own, whose table is read where it wrote it."""

import os
import subprocess
import sys
from pathlib import Path

from lcm_process import REPOSITORY


def run_benchmark(name: str, *arguments: str, out: Path, timeout: float = 300) -> str:
    """Run a benchmark to its end, which must be a good one, and give the table that it wrote."""
    tests = REPOSITORY / "tests"
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *arguments, "--out", str(out)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, tests)))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return (out / f"{name}.md").read_text(encoding="utf-8")
