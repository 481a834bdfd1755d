"""How long the quick path takes, beside a bare interpreter and llama.cpp's own tool.

Whole processes on warm files, in turn and in one run (A B C A B C ...), so that whatever else the
machine does meets all of them alike. Shows figures and asserts none: exits with 0.
"""

import argparse
import contextlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fakes.gguf_writer import GgufType, Typed, Value, write_gguf
from fakes.zoo import llama3_70b
from llama_cpp_build import find_llama_cpp
from real_model import gemma_path

from autotune import __version__
from autotune.model import analyze_model

_LCM, _FIT = "lcm --run --model MODEL --optimize", "llama-fit-params --fit-print on -m MODEL"

# `import gguf` loads numpy; what is timed is the reading alone, which is what it is compared with.
_OFFICIAL_READER = """
import sys, time
from gguf import GGUFReader
start = time.perf_counter()
GGUFReader(sys.argv[1])
print(time.perf_counter() - start)
"""


@dataclass
class Row:
    """One thing that is timed, and its times in seconds."""

    name: str
    measure: Callable[[], float]
    times: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The middle of the times."""
        return statistics.median(self.times) * 1000


def main() -> int:
    """Measure and print."""
    options = _options()
    model: Path = options.model or gemma_path()
    llama_cpp = find_llama_cpp()
    print(_environment(model, llama_cpp))
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "llama-70b.gguf"
        _write_70b(large)
        rows = _rows(model, large, llama_cpp)
        _take_turns(rows.values(), options.rounds)
        if options.gguf:
            # Once: it takes a hundred times longer than all of the others.
            name = "gguf.GGUFReader(MODEL), in process"
            rows[name] = Row(name, lambda: _official_reader(model))
            rows[name].times.append(rows[name].measure())
    _print_table(rows)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s startup --", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF; otherwise gemma-3-270m, 253 MB")
    parser.add_argument("--rounds", type=int, default=15, help="times each is run (%(default)s)")
    parser.add_argument("--gguf", action="store_true", help="add the official reader; 10 to 20 s")
    return parser.parse_args()


def _rows(model: Path, large: Path, llama_cpp: Path | None) -> dict[str, Row]:
    lcm = _lcm()
    commands: dict[str, Sequence[str | Path]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        _LCM: [*lcm, "--run", "--model", model, "--optimize"],
        "the same on a llama of 70B": [*lcm, "--run", "--model", large, "--optimize"],
    }
    if llama_cpp:
        fit = llama_cpp / "llama-fit-params"
        commands[_FIT] = [fit, "--fit-print", "on", "-m", model]
    rows = {name: Row(name, _process(command)) for name, command in commands.items()}
    for name, path in (("MODEL", model), ("70B", large)):
        title = f"analyze_model({name}), in process"
        rows[title] = Row(title, _in_process(path))
    return rows


def _lcm() -> list[str]:
    """Find the installed command of this environment, which is what a user starts."""
    found = shutil.which("lcm", path=sysconfig.get_path("scripts"))
    if found is None:
        raise SystemExit("lcm is not installed here: `nox -s startup` does that.")
    return [found]


def _process(command: Sequence[str | Path]) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        elapsed = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return elapsed

    return measure


def _in_process(path: Path) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        analyze_model(path)
        return time.perf_counter() - start

    return measure


def _official_reader(model: Path) -> float:
    command = [sys.executable, "-c", _OFFICIAL_READER, str(model)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _take_turns(rows: Collection[Row], rounds: int) -> None:
    """Time each row once per round, after one round that only warms files and caches."""
    for row in rows:
        row.measure()
    for _ in range(rounds):
        for row in rows:
            row.times.append(row.measure())


def _write_70b(path: Path) -> None:
    """Write a sparse file of 40 GB that has the header of the real one, vocabulary included."""
    model = llama3_70b()
    vocabulary: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token{n}" for n in range(128_256)],
        "tokenizer.ggml.token_type": Typed(GgufType.INT32, [1] * 128_256),
        "tokenizer.ggml.merges": [f"a{n} b{n}" for n in range(280_147)],
    }
    write_gguf(path, metadata={**model.metadata, **vocabulary}, tensors=model.tensors)


def _environment(model: Path, llama_cpp: Path | None) -> str:
    built = "none found: nothing to compare with"
    if llama_cpp:
        command = [str(llama_cpp / "llama-fit-params"), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        built = (said.stdout + said.stderr).partition("\n")[0]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu_name()}, {os.cpu_count()} logical, load {load}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": f"lcm {__version__}, Python {platform.python_version()}, "
        f"typer {metadata.version('typer')}",
        "llama.cpp": built,
        "MODEL": f"{model.name}, {model.stat().st_size / 1e6:.0f} MB",
    }
    return "\n".join(f"{key:<10} {value}" for key, value in facts.items())


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE):
            return found[1]
    return platform.processor() or "unknown"


def _print_table(rows: Mapping[str, Row]) -> None:
    against = rows.get(_FIT)
    print(f"\n{'':<48}{'median':>10}{'min':>10}{'ratio':>8}{'times':>7}")
    for row in rows.values():
        ratio = f"{row.median_ms / against.median_ms:.3f}" if against else "-"
        fastest = min(row.times) * 1000
        print(
            f"{row.name:<48}{row.median_ms:>7.1f} ms{fastest:>7.1f} ms{ratio:>8}{len(row.times):>7}"
        )
    if against:
        print(f"\nlcm / llama-fit-params: {rows[_LCM].median_ms / against.median_ms:.2f}")


if __name__ == "__main__":
    sys.exit(main())
