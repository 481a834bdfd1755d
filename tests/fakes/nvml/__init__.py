"""Build the stand-in for NVML and run hardware detection against it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "nvml.c"
STATE = "NVML_STAND_IN"

_DETECT = """
import dataclasses, json, sys
from autotune.hardware import Root, detect_hardware
json.dump(dataclasses.asdict(detect_hardware(Root(sys.argv[1]))), sys.stdout)
"""


def build(folder: Path) -> Path:
    """Compile the library under the name that pynvml loads."""
    library = folder / "libnvidia-ml.so.1"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", "-shared", "-fPIC", *warnings, "-o", library, SOURCE], check=True)  # noqa: S607 - the compiler of this machine.
    return library


def detect(machine: Path, library: Path, state: Path, environ: dict[str, str]) -> dict[str, Any]:
    """Detect the hardware in a process of its own that finds this library first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    given = {
        "LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        STATE: str(state),
    }
    done = subprocess.run(
        [sys.executable, "-c", _DETECT, str(machine)],
        env=kept | given | environ,
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
