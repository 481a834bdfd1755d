"""What the program does, shown on a model that is written on the spot or on one's own.

Called by `nox -s demo`; the commands are run as a user runs them and their output is left as it is.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fakes.tiny import write_tiny

Runner = Callable[[Sequence[str]], int]


class Step(NamedTuple):
    """One command and the sentence that says what to look at in its answer."""

    why: str
    command: list[str]


# Long enough to find what a laptop has to give for a small model, and short enough to watch.
BUDGET = "90s"


def steps(model: str, results: str) -> list[Step]:
    """Give the commands of the demonstration, in their order."""
    keeping = ["--results-dir", results]
    return [
        Step(
            "The recommendation for this model on this machine, as JSON for the next program; "
            "`rationale` gives the reason for each number.",
            ["lcm", "--run", "--model", model, "--optimize"],
        ),
        Step(
            "What the model is and what it needs: memory by part and place, and per context.",
            ["lcm", "inspect", model],
        ),
        Step(
            "Why one number is what it is, and what it rests on.",
            ["lcm", "run", "--model", model, "--optimize", "--explain", "threads"],
        ),
        Step(
            f"The same by measuring, for {BUDGET}: llama.cpp's defaults against what looks better, "
            "and a verdict from fresh, interleaved measurements. `evidence` has it all; to keep "
            "the defaults is a full answer.",
            ["lcm", "run", "--model", model, "--optimize", "--deep", "--budget", BUDGET, *keeping],
        ),
        Step(
            "What came of it, in short form; without --format it is a page to look at.",
            ["lcm", "results", "report", "latest", "--format", "markdown", *keeping],
        ),
    ]


def demonstrate(model: str, results: str, run: Runner) -> int:
    """Run every step; give the exit code of the first that fails, or 0."""
    for number, step in enumerate(steps(model, results), start=1):
        print(f"\n[{number}] {step.why}\n$ {shlex.join(step.command)}", flush=True)
        if code := run(step.command):
            return code
    return 0


def run_as_user(command: Sequence[str]) -> int:
    """Run the installed command with this terminal's output."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def main(arguments: Sequence[str] | None = None, run: Runner = run_as_user) -> int:
    """Demonstrate with the model that is named, or with one of random weights."""
    parser = argparse.ArgumentParser(prog="nox -s demo --", description=__doc__)
    parser.add_argument("model", nargs="?", help="a GGUF file; without one, a small one is written")
    model: str | None = parser.parse_args(arguments).model
    with tempfile.TemporaryDirectory() as folder:
        if model:
            return demonstrate(model, folder, run)
        written = Path(folder) / "demo.gguf"
        write_tiny(written)
        megabytes = written.stat().st_size / 1e6
        print(f"Without a model of yours: {written.name}, {megabytes:.0f} MB of random weights.")
        return demonstrate(str(written), folder, run)


if __name__ == "__main__":
    sys.exit(main())
