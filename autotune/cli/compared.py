"""`lcm results compare A B`: two studies side by side."""

from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import SCHEMA_VERSION, CompareAnswer
from autotune.cli.kept import kept_study
from autotune.cli.listed import study_section
from autotune.errors import printable
from autotune.results.compare import Comparison, Figure, compare
from autotune.results.stored import Stored
from autotune.words import THE_DEFAULTS, digits, quality, ratios

_SIDES = {"baseline": THE_DEFAULTS, "candidate": "best candidate"}
_UNITS = {
    "pp_tokens_per_s": "pp t/s",
    "tg_tokens_per_s": "tg t/s",
    "request_s": "request s",
    "pp_tokens_per_joule": "pp t/J",
    "tg_tokens_per_joule": "tg t/J",
    "request_j": "request J",
}
# Drift between two days is in the ratio, and nothing here could take it out.
NOT_INTERLEAVED = (
    "The two were not measured in turns: what the machine did on each day is in the ratio."
)


def print_comparison(
    first: str, second: str, across: tuple[str, ...], results_dir: Path | None, *, as_json: bool
) -> None:
    """Print both, and how many times as fast the second is."""
    one, other = kept_study(first, results_dir), kept_study(second, results_dir)
    comparison = compare(one, other, across)
    if as_json:
        console.answer(_answer(one, other, comparison))
        return
    rows = [["", "", "A", "B", "B is"]]
    rows += [_row(figure) for figure in comparison.figures]
    lines = [f"A: {one.folder.name}", f"B: {other.folder.name}"]
    lines += [f"{c.what}: {c.then} in A, {c.now} in B" for c in comparison.different]
    told = "\n".join(map(printable, lines))
    console.text(f"{told}\n{console.table(rows, '<<>>>')}\n{NOT_INTERLEAVED}")


def _row(figure: Figure) -> list[str]:
    cells = ("-" if value is None else digits(value) for value in (figure.first, figure.second))
    unit = _UNITS[figure.name]
    good = quality("efficiency" if unit.endswith("J") else "").good
    ratio = "-" if figure.ratio is None else f"{ratios(figure.ratio)[0]}x as {good}"
    return [_SIDES[figure.side], unit, *cells, ratio]


def _answer(one: Stored, other: Stored, comparison: Comparison) -> CompareAnswer:
    return {
        "schema_version": SCHEMA_VERSION,
        "a": study_section(one.folder),
        "b": study_section(other.folder),
        "different": [{"what": c.what, "a": c.then, "b": c.now} for c in comparison.different],
        "figures": [
            {"side": f.side, "name": f.name, "a": f.first, "b": f.second, "ratio": f.ratio}
            for f in comparison.figures
        ],
        "interleaved": False,
    }
