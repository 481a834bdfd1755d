"""`lcm` as a process whose memory is measured, and which may not hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_REPOSITORY = Path(__file__).parents[2]
# What it held at most is read where it ends: what the system counts for a child begins with what
# its parent held.
_ENTRY = """
import atexit, sys
def told():
    status = open("/proc/self/status").read()
    open({told!r}, "w").write(status.partition("VmHWM:")[2].split()[0])
atexit.register(told)
from autotune.cli import main
sys.argv[0] = "lcm"
sys.exit(main())
"""
MIB = 1 << 20
LIMIT_MIB = 256
LONGEST_S = 60  # A busy machine; alone, none takes more than some seconds.


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str
    peak_mib: int
    seconds: float


def lcm(*arguments: str | Path, folder: Path) -> Ended:
    """Run it to its end; `folder` is for what it tells of itself."""
    told = folder / "peak.txt"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _ENTRY.format(told=str(told)), *map(str, arguments)],
        env={key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        | {"PYTHONPATH": str(_REPOSITORY), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LONGEST_S,
        check=False,
    )
    return Ended(
        code=done.returncode,
        out=done.stdout,
        err=done.stderr.decode(errors="replace"),
        peak_mib=int(told.read_text()) // 1024,
        seconds=time.monotonic() - start,
    )
