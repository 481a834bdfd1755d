"""How far the memory that `lcm` counts lies from what the real llama.cpp says, model by model.

The configurations and the comparison are those of `tests/e2e/test_memory.py`. Ends with 1 where a
number is outside of its bounds.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from fakes.zoo import ZOO
from llama_cpp_build import find_llama_cpp
from memory_table import ESTIMATED, HEADER, HIGHEST, LOWEST, OTHERS, cases, misfits, oracle, summary
from real_model import gemma_path

from autotune import __version__


def main() -> int:
    """Compare and print."""
    chosen = _chosen()
    names = chosen or [*ESTIMATED, *OTHERS]
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        raise SystemExit("no llama.cpp here: `nox -s llama_cpp` builds one.")
    print(_environment(llama_cpp))
    print(f"{'compute':<10} from {LOWEST - 1:+.0%} to {HIGHEST - 1:+.0%}, where it is estimated\n")
    print(HEADER)
    outside: list[str] = []
    start = time.monotonic()
    with oracle(llama_cpp) as asked, tempfile.TemporaryDirectory() as folder:
        for name in names:
            file = Path(folder) / f"{name}.gguf"
            ZOO[name]().write(file)
            cells = asked.cells(name, file, cases(name))
            print(summary(name, cells), flush=True)
            outside += [f"{name}: {misfit}" for misfit in misfits(cells)]
        if not chosen:
            gemma = gemma_path()
            cells = asked.cells(gemma.stem, gemma, cases("gemma3-270m"))
            print(summary(gemma.stem, cells))
            outside += [f"{gemma.stem}: {misfit}" for misfit in misfits(cells)]
    print(f"\n{time.monotonic() - start:.0f} s, {len(outside)} numbers outside of their bounds")
    print("\n".join(outside))
    return 1 if outside else 0


def _chosen() -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join(ZOO)}")
    names: list[str] = parser.parse_args().models
    if unknown := ", ".join(name for name in names if name not in ZOO):
        parser.error(f"there is no {unknown}; there are {', '.join(ZOO)}")
    return names


def _environment(llama_cpp: Path) -> str:
    command = [str(llama_cpp / "llama-fit-params"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    facts = {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": f"lcm {__version__}, Python {platform.python_version()}",
        "llama.cpp": (said.stdout + said.stderr).partition("\n")[0],
    }
    return "\n".join(f"{key:<10} {value}" for key, value in facts.items())


if __name__ == "__main__":
    sys.exit(main())
