"""The command in this process, which is ten times as fast; `process.py` has it as its user does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hostile.said import Lcm, Said

from autotune.cli import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def lcm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Lcm:
    """Run the command, in a folder of its own and with results of its own."""
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The command sets it for matplotlib, which is loaded once in this process.
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "cache" / "matplotlib"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        capfdbinary.readouterr()
        code = app.main(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
        return Said(code, *capfdbinary.readouterr())

    return run
