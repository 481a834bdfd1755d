"""The rooms of autotune/ know each other in one direction only (docs/design.md)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from contract.layers import (
    ARROWS,
    HOMES,
    PACKAGE,
    Sources,
    cycles,
    hidden_imports,
    stray_packages,
    stray_prints,
    wrong_arrows,
)

_REPOSITORY = Path(__file__).parents[2]
_CHECKS = [wrong_arrows, cycles, stray_packages, stray_prints, hidden_imports]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return {
        path.relative_to(_REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((_REPOSITORY / PACKAGE).rglob("*.py"))
    }


@pytest.mark.parametrize("check", _CHECKS)
def test_the_project_keeps_to_its_plan(
    check: Callable[[Sources], list[str]], sources: Sources
) -> None:
    assert check(sources) == []


def test_every_room_is_in_the_plan(sources: Sources) -> None:
    rooms = {path.split("/")[1].removesuffix(".py") for path in sources} - {"__init__"}

    assert rooms <= ARROWS.keys()


def test_hardware_model_and_llama_cpp_do_not_know_each_other() -> None:
    strangers = {"hardware", "model", "llama_cpp"}

    assert all(ARROWS[room].isdisjoint(strangers) for room in strangers)


_MODEL = {"autotune/model/__init__.py": "", "autotune/model/gguf.py": "class Header: ..."}


@pytest.mark.parametrize(
    "line",
    [
        "from autotune.recommend import rules",
        "import autotune.recommend.rules",
        "from autotune import recommend",
        "def f():\n    from autotune.recommend import rules",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from autotune.recommend import R",
        "from ..recommend import rules",
        "from .. import recommend",
        "import importlib\nimportlib.import_module('autotune.recommend')",
        "from autotune.hardware.cpu import Cpu",
        "from autotune.llama_cpp import locate",
        "import autotune.cli",
    ],
)
def test_an_arrow_against_the_plan_is_seen(line: str) -> None:
    tree = {
        **_MODEL,
        "autotune/__init__.py": "",
        "autotune/cli/__init__.py": "",
        "autotune/recommend/__init__.py": "",
        "autotune/model/reader.py": line,
    }

    (problem,) = wrong_arrows(tree)

    assert problem.startswith("autotune/model/reader.py:")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("autotune/params.py", "from autotune.errors import ConfigError"),
        ("autotune/recommend/rules.py", "from autotune.model import Model"),
        ("autotune/tuning/session.py", "import autotune.llama_cpp.bench"),
        ("autotune/cli/console.py", "from autotune import __version__"),
        ("autotune/__main__.py", "from autotune.cli import main"),
        ("autotune/model/reader.py", "from .gguf import Header"),
    ],
)
def test_an_arrow_of_the_plan_is_free(path: str, line: str) -> None:
    assert wrong_arrows({**_MODEL, "autotune/__init__.py": "", path: line}) == []


def test_a_room_that_is_in_no_plan_may_know_nothing() -> None:
    assert wrong_arrows({"autotune/helpers.py": "import autotune.errors"}) == [
        "autotune/helpers.py:1: helpers may not know errors"
    ]


def test_the_public_api_names_rooms_for_type_checkers_only() -> None:
    line = "from autotune.model import analyze_model"
    typed = f"if TYPE_CHECKING:\n    {line}"

    assert wrong_arrows({**_MODEL, "autotune/__init__.py": typed}) == []
    assert len(wrong_arrows({**_MODEL, "autotune/__init__.py": line})) == 1


@pytest.mark.parametrize(
    "reader",
    [
        "from autotune.model import footprint",
        "from autotune.model.footprint import weights",
        "def late():\n    from . import footprint",
        "from autotune.model import analyze_model",
    ],
    ids=["module", "name", "late", "through the package"],
)
def test_a_cycle_is_seen(reader: str) -> None:
    tree = {
        "autotune/model/__init__.py": "from autotune.model.footprint import weights",
        "autotune/model/footprint.py": "from autotune.model.reader import Model",
        "autotune/model/reader.py": reader,
    }

    (cycle,) = cycles(tree)

    assert "autotune.model.reader" in cycle


def test_a_tree_without_a_cycle_has_none() -> None:
    tree = {
        "autotune/__init__.py": "if TYPE_CHECKING:\n    from autotune.model import Model",
        "autotune/model/__init__.py": "from autotune.model.reader import Model",
        "autotune/model/reader.py": "from autotune import __version__\nimport autotune.errors",
        "autotune/errors.py": "",
    }

    assert cycles(tree) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("autotune/tuning/session.py", "import optuna"),
        ("autotune/cli/run.py", "def f():\n    import optuna.samplers"),
        ("autotune/results/store.py", "from pandas import DataFrame"),
        ("autotune/model/reader.py", "import psutil"),
        ("autotune/hardware/cpu.py", "import typer"),
        ("autotune/recommend/rules.py", "import numpy"),
        ("autotune/cli/console.py", "from rich.table import Table"),
    ],
)
def test_a_package_away_from_its_home_is_seen(path: str, line: str) -> None:
    assert len(stray_packages({path: line})) == 1


@pytest.mark.parametrize(("package", "home"), HOMES.items())
def test_a_package_at_home_is_free(package: str, home: str) -> None:
    path = f"{home}any.py" if home.endswith("/") else home

    assert stray_packages({path: f"import {package}, json"}) == []


def test_print_belongs_to_the_console() -> None:
    tree = dict.fromkeys(["autotune/cli/console.py", "autotune/cli/run.py"], "\nprint('x')")

    assert stray_prints(tree) == ["autotune/cli/run.py:2: only autotune/cli/console.py prints"]


@pytest.mark.parametrize("call", ["import_module(name)", "importlib.import_module(f'{a}.b')"])
def test_an_import_by_a_computed_name_is_seen(call: str) -> None:
    assert len(hidden_imports({"autotune/cli/run.py": call})) == 1
    assert hidden_imports({"autotune/__init__.py": call}) == []
