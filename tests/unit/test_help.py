"""`--help` of every command: a screen, and an example."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from autotune.cli import main
from autotune.cli.app import app

# A terminal has 24 lines, and the last is for the next command.
_LINES, _COLUMNS = 23, 80


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - click's, or Typer's copy
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _paths(below, (*path, name))


COMMANDS = [*_paths(typer.main.get_command(app)), ("run", "--deep")]


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(("lcm", *path)))
def test_help_fits_a_screen_and_has_an_example(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= _LINES
    assert max(map(len, lines)) <= _COLUMNS
    assert any(line.startswith("  Example: lcm ") for line in lines)


def test_every_option_of_measuring_is_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    options = {name for p in run.params for name in p.opts if name.startswith("--")}

    main(["run", "--help"])
    main(["run", "--deep", "--help"])

    shown = capsys.readouterr().out
    assert {option for option in options if option not in shown} == set()
