"""Programs that tune something of llama.cpp, and do not take part: each is tried, and says why."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rivals import NotRunError, Programs

_LIMIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A program that is no such tuner, or does not start: what it says when it is asked to tune."""

    requirement: str
    program: str
    arguments: str
    looks_for: str

    def said(self, programs: Programs, names: Mapping[str, str], folder: Path) -> str:
        """Start it, as far as it goes, and give how it ended.

        Args:
            programs: where it is, or is installed.
            names: what the words of `arguments` stand for on this machine.
            folder: where it may write.
        """
        try:
            program = programs.find(self.program, self.requirement)
        except NotRunError as reason:
            return str(reason)
        words = [_with(word, names) for word in self.arguments.split()]
        path = os.pathsep.join([names["LLAMA_BIN"], os.environ.get("PATH", "")])
        try:
            done = subprocess.run(
                [str(program), *words],
                cwd=folder,
                env=os.environ | {"HOME": str(folder), "PATH": path, "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"was still running after {_LIMIT_S} s"
        last = _last_line(done.stdout + done.stderr, names)
        return f"ended with {done.returncode}: {last}"


ATTEMPTS = (
    Attempt(
        requirement="llama-parameter-scout==0.1.0",
        program="llama-parameter-scout",
        arguments="--llama-bench LLAMA_BIN/llama-bench --model-path MODEL --n-prompt 512 "
        "--n-generation 128 --n-depth 0 --n-ctx 640 --threads 2 --batch-size 512 "
        "--ubatch-size 512 --n-gpu-layers 0 --cpu-only --yes --journal-path journal.json",
        looks_for="threads, batches, layers, cache types",
    ),
    Attempt(
        requirement="polyserve==0.1.0",
        program="polyserve",
        arguments="bench MODEL --budget 60s",
        looks_for="batches, layers, slots, cache types of a server",
    ),
    Attempt(
        requirement="fituna==0.3.6",
        program="fituna",
        arguments="run --model MODEL --target-tps 50 --max-quality-loss 5 "
        "--quality-corpus MODEL --out fituna",
        looks_for="a quantization and the layers on a GPU",
    ),
    Attempt(
        requirement="sigilant-sweep==0.16.0",
        program="sigilant-sweep",
        arguments="run --model MODEL --backend local",
        looks_for="a context length and a cache type",
    ),
    Attempt(
        requirement="quantpicker==0.1.0",
        program="quantpicker",
        arguments="--llama-dir LLAMA_BIN MODEL",
        looks_for="a quantization",
    ),
)


def _with(word: str, names: Mapping[str, str]) -> str:
    for name, path in names.items():
        word = word.replace(name, path)
    return word


def _last_line(text: str, names: Mapping[str, str]) -> str:
    """The last thing that a program printed, an error if there is one, without the paths here."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    errors = [line for line in lines if re.search("error", line, re.IGNORECASE)]
    line = (errors or lines or ["nothing"])[-1]
    for name, path in names.items():
        line = line.replace(path, name)
    return line[:160]
