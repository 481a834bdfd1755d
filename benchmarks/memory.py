"""How far the memory that `lcm` counts lies from what the real llama.cpp says, model by model.

The configurations and the comparison are those of `tests/e2e/test_memory.py`. Ends with 1 where a
number is outside of its bounds.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fakes.zoo import ZOO
from llama_cpp_build import find_llama_cpp
from memory_table import (
    ESTIMATED,
    HIGHEST,
    LOWEST,
    MEBI,
    OTHERS,
    Cell,
    Oracle,
    cases,
    misfits,
    oracle,
)
from real_model import gemma_path
from tables import Figure, Table, environment, figures_table, parser, write

from autotune.model import analyze_model
from autotune.model.footprint import footprint
from autotune.params import Params

_BOUNDS = {
    "weights": "the same MiB",
    "KV cache": "the same MiB",
    "recurrent state": "the same MiB",
    "KV cache and recurrent state": "the same MiB",
    "compute": f"{LOWEST - 1:+.0%} to {HIGHEST - 1:+.0%}, where it is estimated",
}
_NOTE = (
    "llama.cpp prints whole MiB. Context is what a model keeps between tokens: its KV cache, its "
    "recurrent state, or both. A model without a figure for compute is one whose buffer is counted "
    "without a bound on its error."
)


def main() -> int:
    """Compare, print, and keep the table."""
    chosen, out = _options()
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        raise SystemExit("no llama.cpp here: `nox -s llama_cpp` builds one.")
    facts = environment(llama_cpp=llama_cpp)
    start = time.monotonic()
    with oracle(llama_cpp) as asked:
        compared = dict(_compared(asked, chosen))
    parts = _by_part(compared)
    outside = [f"{name}: {m}" for name, (cells, _) in compared.items() for m in misfits(cells)]
    figure = Figure(name="numbers outside of their bounds", aim=0, measured=len(outside))
    write(
        out,
        "memory",
        title="Memory, against llama.cpp's own numbers",
        facts={**facts, "took": f"{time.monotonic() - start:.0f} s"},
        tables=[
            figures_table([figure]),
            Table(
                title="The largest error of each part",
                header=("part", "numbers", "models", "lowest", "highest", "bounds", "outside"),
                rows=[_part_row(part, cells) for part, cells in parts.items()],
            ),
            Table(
                title="Model by model",
                header=("model", "configurations", "weights", "context", "compute"),
                rows=[_model_row(name, cells) for name, (cells, _) in compared.items()],
            ),
        ],
        notes=[_NOTE, *outside],
    )
    return 1 if outside else 0


def _options() -> tuple[list[str], Path]:
    made = parser("memory", __doc__)
    made.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join(ZOO)}")
    options = made.parse_args()
    names: list[str] = options.models
    if unknown := ", ".join(name for name in names if name not in ZOO):
        made.error(f"there is no {unknown}; there are {', '.join(ZOO)}")
    return names, options.out


def _compared(asked: Oracle, chosen: Sequence[str]) -> Iterator[tuple[str, tuple[list[Cell], str]]]:
    """Of each model, what was compared, and what its context is made of."""
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen or (*ESTIMATED, *OTHERS):
            file = Path(folder) / f"{name}.gguf"
            ZOO[name]().write(file)
            yield name, (asked.cells(name, file, cases(name)), _context_of(file))
            print(name, file=sys.stderr)
    if not chosen:
        gemma = gemma_path()
        cells = asked.cells(gemma.stem, gemma, cases("gemma3-270m"))
        yield gemma.stem, (cells, _context_of(gemma))


def _context_of(file: Path) -> str:
    host = footprint(analyze_model(file), Params(n_ctx=4096), program="bench").host
    both = {"KV cache": host.kv_cache_bytes, "recurrent state": host.recurrent_bytes}
    return " and ".join(name for name, n_bytes in both.items() if n_bytes)


def _by_part(compared: dict[str, tuple[list[Cell], str]]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {part: [] for part in _BOUNDS}
    for cells, context in compared.values():
        for cell in cells:
            found[context if cell.part == "context" else cell.part].append(cell)
    return {part: cells for part, cells in found.items() if cells}


def _part_row(part: str, cells: list[Cell]) -> tuple[str | int, ...]:
    lowest, highest = _compute(cells) if part == "compute" else _whole(cells)
    outside = sum(not cell.fits for cell in cells)
    models = len({cell.model for cell in cells})
    return part, len(cells), models, lowest, highest, _BOUNDS[part], outside


def _model_row(name: str, cells: list[Cell]) -> tuple[str | int, ...]:
    by_part = defaultdict(list)
    for cell in cells:
        by_part[cell.part].append(cell)
    calls = len({cell.case for cell in cells})
    lowest, highest = _compute(by_part["compute"])
    compute = lowest if lowest == "-" else f"{lowest} to {highest}"
    return name, calls, *(_furthest(by_part[part]) for part in ("weights", "context")), compute


def _furthest(cells: Iterable[Cell]) -> str:
    return f"{max(abs(off) for off in _off(cells))} MiB"


def _whole(cells: Iterable[Cell]) -> tuple[str, str]:
    off = list(_off(cells))
    return f"{min(off):+d} MiB", f"{max(off):+d} MiB"


def _off(cells: Iterable[Cell]) -> Iterator[int]:
    for cell in cells:
        yield cell.counted_bytes // MEBI - cell.printed_mib


def _compute(cells: Iterable[Cell]) -> tuple[str, str]:
    """The lowest and the highest error of those that are held to bounds."""
    errors = [cell.error for cell in cells if cell.case.estimates]
    return (f"{min(errors):+.1%}", f"{max(errors):+.1%}") if errors else ("-", "-")


if __name__ == "__main__":
    sys.exit(main())
