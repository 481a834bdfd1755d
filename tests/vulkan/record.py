"""Record what the Vulkan build and Vulkan's own tool say of lavapipe: `nox -s vulkan -- record`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fakes.listings import FOLDER
from fakes.tiny import write_tiny

# -ngl 4 of the tiny model's 7 layers is a model that lies in two places.
_TESTS = ("-ngl", "0,4,99", "-p", "32", "-n", "4", "-r", "2", "-o", "jsonl")
# Vulkan's tool says before its answer what it would need for a window.
_NO_WINDOW = re.compile(r"^('DISPLAY'|error: XDG_RUNTIME_DIR).*\n", re.MULTILINE)


def main() -> int:
    """Write the four files."""
    bench = Path(os.environ["LCM_LLAMA_DIR"]) / "llama-bench"
    listed = _run(bench, "--list-devices")
    _write("txt", listed.stdout)
    _write("log", listed.stderr)
    _write("vulkaninfo", _NO_WINDOW.sub("", _run("vulkaninfo", "--summary").stdout))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny.gguf"
        write_tiny(model)
        records = _run(bench, "-m", model, *_TESTS).stdout
        _write("jsonl", records.replace(f"{folder}{os.sep}", ""))
    return 0


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True)


def _write(kind: str, text: str) -> None:
    (FOLDER / f"vulkan-lavapipe.{kind}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
