"""llama.cpp's own compare-llama-bench.py, which no package of binaries brings along.

As a program it takes the script out of the pinned source, once, into the cache; as a module it
gives the script to the tests, which never download.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from llama_cpp_build import REQUIREMENT, cache_root, fetch_source

NAME = "compare-llama-bench.py"


def script_path() -> Path:
    """Where the script of the pinned version is kept, be it there or not."""
    pinned = re.search(r"^llama-cpp-python==(\S+)", REQUIREMENT.read_text("utf-8"), re.MULTILINE)
    if pinned is None:
        raise LookupError(f"{REQUIREMENT} pins no version of llama-cpp-python.")
    return cache_root() / "llama.cpp" / f"{pinned[1]}-{NAME}"


def ensure_script() -> Path:
    """Give the script, which is taken out of the source if it is not there yet."""
    kept = script_path()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            work = Path(folder)
            source = fetch_source(work, work / "log")
            shutil.copy(source / "scripts" / NAME, work / NAME)
            (work / NAME).replace(kept)
    return kept


if __name__ == "__main__":
    print(ensure_script(), file=sys.stderr)  # noqa: T201 - a program that nox calls
