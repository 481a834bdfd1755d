"""How long the quick path takes, beside llama.cpp's own tool, the official reader and bare Python.

Whole processes on warm files, in turn and in one run (A B C A B C ...), so that whatever else the
machine does meets all of them alike. Shows figures and asserts none: exits with 0.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from fakes.gguf_writer import GgufType, Typed, Value, write_gguf
from fakes.zoo import llama3_70b
from llama_cpp_build import find_llama_cpp
from real_model import gemma_path
from tables import Figure, Table, environment, figures_table, parser, write

from autotune.model import analyze_model

_BARE = "python -c pass"
_LCM, _FIT = "lcm --run --model MODEL --optimize", "llama-fit-params --fit-print on -m MODEL"
_OFFICIAL = "gguf.GGUFReader(MODEL)"
_AIM = 0.3

_READ = "import sys; from gguf import GGUFReader; GGUFReader(sys.argv[1])"


@dataclass
class Row:
    """One thing that is timed, and its times in seconds."""

    name: str
    measure: Callable[[], float]
    rounds: int  # How often it is measured.
    times: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """The middle of the times."""
        return statistics.median(self.times)


def main() -> int:
    """Measure, print, and keep the table."""
    options = _options()
    model: Path = options.model or gemma_path()
    llama_cpp = find_llama_cpp()
    facts = environment(llama_cpp=llama_cpp, model=model, typer=metadata.version("typer"))
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "llama-70b.gguf"
        _write_70b(large)
        rows = _rows(model, large, llama_cpp, options)
        _take_turns(rows.values(), options.rounds)
    write(
        options.out,
        "quick",
        title="The quick path",
        facts=facts,
        tables=[_table(rows), *_figures(rows)],
        notes=_notes(rows),
    )
    return 0


def _options() -> argparse.Namespace:
    made = parser("quick", __doc__)
    made.add_argument("--model", type=Path, help="a GGUF; otherwise gemma-3-270m, 253 MB")
    made.add_argument("--rounds", type=int, default=15, help="times each is run (%(default)s)")
    made.add_argument(
        "--gguf-rounds",
        type=int,
        default=3,
        help="of them with the official reader, which takes 10 to 20 s (%(default)s)",
    )
    options = made.parse_args()
    if options.rounds < 1:
        made.error("--rounds takes at least 1")
    return options


def _rows(
    model: Path, large: Path, llama_cpp: Path | None, options: argparse.Namespace
) -> dict[str, Row]:
    lcm, rounds = _lcm(), options.rounds
    commands: dict[str, Sequence[str | Path]] = {
        _BARE: [sys.executable, "-c", "pass"],
        _LCM: [*lcm, "--run", "--model", model, "--optimize"],
        "the same on a llama of 70B": [*lcm, "--run", "--model", large, "--optimize"],
    }
    if llama_cpp:
        fit = llama_cpp / "llama-fit-params"
        commands[_FIT] = [fit, "--fit-print", "on", "-m", model]
    rows = {name: Row(name, _process(command), rounds) for name, command in commands.items()}
    seldom = min(options.gguf_rounds, rounds)
    if find_spec("gguf") and seldom:
        rows[_OFFICIAL] = Row(_OFFICIAL, _process([sys.executable, "-c", _READ, model]), seldom)
    for name, path in (("MODEL", model), ("70B", large)):
        title = f"analyze_model({name}), in process"
        rows[title] = Row(title, _in_process(path), rounds)
    return rows


def _lcm() -> list[str]:
    """Find the installed command of this environment, which is what a user starts."""
    found = shutil.which("lcm", path=sysconfig.get_path("scripts"))
    if found is None:
        raise SystemExit("lcm is not installed here: `nox -s bench -- quick` does that.")
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


def _take_turns(rows: Collection[Row], rounds: int) -> None:
    """Time each row once per round, after one round that only warms files and caches.

    What is measured in fewer rounds is so in the middle ones of equal shares.
    """
    for row in rows:
        if row.rounds == rounds:
            row.measure()
    for turn in range(rounds):
        for row in rows:
            if turn in {(2 * n + 1) * rounds // (2 * row.rounds) for n in range(row.rounds)}:
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


def _table(rows: Mapping[str, Row]) -> Table:
    against = rows.get(_FIT)
    return Table(
        header=("", "median", "min", "ratio to llama-fit-params", "times"),
        rows=[
            (
                row.name,
                f"{1000 * row.median_s:.1f} ms",
                f"{1000 * min(row.times):.1f} ms",
                f"{row.median_s / against.median_s:.3f}" if against else "-",
                len(row.times),
            )
            for row in rows.values()
        ],
    )


def _figures(rows: Mapping[str, Row]) -> list[Table]:
    if _FIT not in rows:
        return []
    ratio = rows[_LCM].median_s / rows[_FIT].median_s
    return [figures_table([Figure(name="lcm / llama-fit-params", aim=_AIM, measured=ratio)])]


def _notes(rows: Mapping[str, Row]) -> list[str]:
    notes = ["In turn, one of each per round; rows with fewer times took part in fewer rounds."]
    if _FIT not in rows:
        notes.append("No llama.cpp was found: there is nothing to compare with.")
    if _OFFICIAL not in rows:
        notes.append("The official reader took no part.")
    return notes


if __name__ == "__main__":
    sys.exit(main())
