"""The command as its user has it: a process of its own, entered at `autotune.cli:main`."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

# What the installed script does, written out so that the tests need no installation.
_ENTRY_POINT = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"


def run_lcm(
    *arguments: str | Path,
    cwd: Path | None = None,
    interpreter_options: Sequence[str] = (),
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run `lcm` with `arguments` to its end and give what it said."""
    return subprocess.run(
        [sys.executable, *interpreter_options, "-c", _ENTRY_POINT, *map(str, arguments)],
        cwd=cwd,
        # -c puts the working folder on the path; a file there must not pass for one of our modules.
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def install_lcm(folder: Path) -> Path:
    """Write the program `lcm` into a folder, for shells, and give its path."""
    words = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-P", "-c", _ENTRY_POINT]
    program = folder / "lcm"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program
