"""The quick path has a tenth of a second, so it loads nothing heavy.

It looks at modules and not at milliseconds, which differ from run to run: `nox -s startup` does.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from lcm_process import run_lcm

# Each takes between a third of the budget and three times of it.
HEAVY = {"optuna", "pandas", "numpy", "sqlalchemy", "pydantic", "rich"}

_IMPORT = re.compile(r"^import time: .*\| +(\S+)$", re.MULTILINE)


def _modules_loaded(stderr: str) -> set[str]:
    """Give the packages that `-X importtime` saw, whoever imported them."""
    return {name.partition(".")[0] for name in _IMPORT.findall(stderr)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["--run", "--model", "MODEL", "--optimize"],
        ["run", "--model", "MODEL", "--optimize"],
        ["inspect", "MODEL"],
        ["inspect", "MODEL", "--json"],
    ],
    ids=" ".join,
)
def test_the_quick_path_loads_nothing_heavy(arguments: Sequence[str], tiny: Path) -> None:
    command = [str(tiny) if word == "MODEL" else word for word in arguments]

    done = run_lcm(*command, interpreter_options=["-X", "importtime"])

    loaded = _modules_loaded(done.stderr)
    assert done.returncode == 0, done.stderr
    assert {"autotune", "typer"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_recommending_does_not_load_what_starts_or_examines(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--optimize", interpreter_options=["-X", "importtime"])

    modules = set(_IMPORT.findall(done.stderr))
    others = {"cli.start", "cli.saved", "cli.diagnosis", "cli.deep", "llama_cpp.checkup"}
    others |= {"llama_cpp.process", "llama_cpp.devices", "hardware.metal", "hardware.tools"}
    assert done.returncode == 0
    assert "autotune.cli.compose" in modules
    assert modules & {f"autotune.{name}" for name in others} == set()


@pytest.mark.parametrize("question", ["--help", "--version"])
def test_a_question_about_lcm_looks_at_no_machine_and_no_model(question: str) -> None:
    done = run_lcm(question, interpreter_options=["-X", "importtime"])

    modules = set(_IMPORT.findall(done.stderr))
    rooms = {f"autotune.{room}" for room in ("hardware", "model", "recommend", "llama_cpp")}
    assert done.returncode == 0
    assert "autotune.cli" in modules
    assert modules & rooms == set()


def test_a_heavy_import_would_be_seen() -> None:
    trace = "import time:   10 |   20 |   numpy.linalg\nimport time:  1 |  2 | json\n"

    assert _modules_loaded(trace) == {"numpy", "json"}
