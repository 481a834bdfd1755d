"""A llama-bench that notes how it is started: what every tool asks of it is counted alike."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

STARTS = "BENCH_STARTS"  # The variable that names the file of the starts.

_COUNTED = """#!/bin/sh
[ -n "$BENCH_STARTS" ] && {{ printf '%s\\t' "$@"; echo; }} >> "$BENCH_STARTS"
exec {bench} "$@"
"""


def counted(real: Path, folder: Path) -> Path:
    """Make a folder of llama.cpp's programs, whose llama-bench notes each start.

    It becomes the real one, so that whoever waits for it or ends it has that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for program in real.iterdir():
        link = folder / program.name
        if program.name != "llama-bench" and not link.is_symlink():
            link.symlink_to(program)
    bench = folder / "llama-bench"
    bench.write_text(_COUNTED.format(bench=shlex.quote(str(real / "llama-bench"))), "utf-8")
    bench.chmod(0o755)
    return folder


def loads_of(starts: Path) -> list[list[str]]:
    """The command lines that loaded a model, of those that were noted."""
    lines = starts.read_text(encoding="utf-8").splitlines()
    begun = [line.removesuffix("\t").split("\t") for line in lines]
    return [words for words in begun if "-m" in words or "--model" in words]


def timed_runs(words: Sequence[str]) -> int:
    """How many runs a command line of llama-bench asks for, warm-ups aside."""
    values: dict[str, list[str]] = {}
    for flag, value in pairs(words):
        if not re.fullmatch(r"-[a-z-]+", value):
            values.setdefault(flag, []).extend(value.split(","))
    prompts = [n for n in values.pop("-p", ["512"]) if n != "0"]
    generations = [n for n in values.pop("-n", ["128"]) if n != "0"]
    tests = len(prompts) + len(generations)
    repetitions = int(values.pop("-r", ["5"])[0])
    for flag in ("-m", "--model", "-ts", "-ot", "--override-tensor", "-o"):
        values.pop(flag, None)
    points = 1
    for each in values.values():
        points *= len(each)
    return points * tests * repetitions


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag, and the word behind it."""
    for flag, value in pairwise(words):
        if flag.startswith("-"):
            yield flag, value
