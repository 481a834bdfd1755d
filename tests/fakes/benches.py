"""The fake llama-bench as the driver finds it: a program of its own process."""

import sys
from pathlib import Path

from autotune.llama_cpp.locate import Program

SCRIPT = Path(__file__).with_name("llama_bench.py")


def fake_bench() -> Program:
    """Give the fake, started as quickly as Python can."""
    command = (sys.executable, "-S", "-E", str(SCRIPT))
    return Program(name="llama-bench", command=command, found_by="tests")
