"""The short form of fuzzing: every seed, everything that ever broke, and some thousand mutations.

`nox -s fuzz -- SECONDS` is the long one, which goes on where coverage leads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = Path(__file__).parent
_CRASHES = _HERE / "crashes"
SEED = 20_261_128
# What takes some ten seconds in all.
TARGETS = {"gguf": 2000, "bench": 500, "toml": 2000, "study": 80}
# Of processor time for one input, so that a busy machine fails none; the slowest takes 0.4 s.
_LONGEST_S = 5.0


class Target(NamedTuple):
    one_input: Callable[[bytes], None]
    seeds: Callable[[], tuple[bytes, ...]]
    mutations: Callable[[int, int], list[bytes]]


def target(name: str) -> Target:
    module = importlib.import_module(f"fuzz.{name}_target")
    return Target(module.one_input, module.seeds, module.mutations)


def passes(one_input: Callable[[bytes], None], data: bytes) -> bool:
    """Give it; only an error of the project's own may come out, and it is caught within."""
    start = time.process_time()
    one_input(data)
    return time.process_time() - start < _LONGEST_S


def crashes() -> list[Path]:
    return sorted(file for file in _CRASHES.glob("*/*") if file.is_file())


@pytest.mark.parametrize("file", crashes(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_broke_once_breaks_nothing_any_more(file: Path) -> None:
    assert passes(target(file.parent.name).one_input, file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_real_is_read(name: str) -> None:
    found = target(name)

    assert [data[:40] for data in found.seeds() if not passes(found.one_input, data)] == []


@pytest.mark.parametrize(("name", "number"), TARGETS.items(), ids=TARGETS)
def test_what_is_broken_is_refused_by_name_or_read(name: str, number: int) -> None:
    found = target(name)

    slow = [d for d in found.mutations(number, SEED) if not passes(found.one_input, d)]

    assert slow == []


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)
def test_the_fuzzer_itself_finds_nothing_in_a_moment(tmp_path: Path) -> None:
    # Coverage would measure the fuzzer and not the project.
    environ = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}

    done = subprocess.run(
        [sys.executable, _HERE / "run.py", "all", "--seconds", "4", "--corpus", tmp_path],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("stat::number_of_executed_units") == len(TARGETS)
