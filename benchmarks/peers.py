"""This project beside other tuners of llama.cpp: each one's final command before one referee.

The tools run in turn on the real llama-bench, each as its user would start it and with the same
budget. Then fresh processes measure all of their final commands in turns. With `--work`, what a
tool has ended with is kept, and a later call goes on from there.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from attempts import ATTEMPTS
from counted import counted
from llama_cpp_build import find_llama_cpp
from real_model import gemma_path
from referee import N_GEN, N_PROMPT, Judged, Setting, known, take_rounds
from rivals import (
    Dyno,
    LcmDeep,
    LcmQuarter,
    LcmQuick,
    NotRunError,
    Optimus,
    Outcome,
    Place,
    Programs,
    Speed,
    Tool,
    forget,
    run,
    speed_of,
)
from tables import Figure, Table, environment, figures_table, parser, write

_QUARTER = "lcm-quarter"
_LCM = (_QUARTER, "lcm", "lcm-quick")
_DEFAULTS = "defaults"


_NOTES = (
    (
        f"The request is a prompt of {N_PROMPT} tokens and an answer of {N_GEN}; its seconds "
        f"are {N_PROMPT} / pp + {N_GEN} / tg. Loads are the starts of llama-bench with a "
        "model, and runs the timed repetitions that it was asked for, as a script in its "
        "place has noted them; it is in everybody's way alike. Each tool has a home folder of "
        "its own, so that none finds what another, or an earlier run, has kept."
    ),
    (
        "`llama-optimus` has no time budget: it gets as many `--trials` as its budget holds, "
        "reckoned from one measurement of the defaults, and may overrun by half before it is "
        "ended. It runs twice: as its README starts it, and with `--ngl-max 0 --override-mode "
        "none --no-warmup`, with which it tries no layers on a GPU and no experts that are "
        "not there, and so has time for more trials. Its final command is the llama-bench "
        "command that it prints, and not the best of its stages. `llama-dyno` has no budget "
        "either: it runs in its thorough mode if that fits, and else in its quick one."
    ),
    (
        "The referee runs each test once, after llama-bench's own warm-up, in a process of "
        "its own; the order of a round is shuffled, and the next round goes through it "
        "backwards. A prompt or a generation that is the same command for several tools is "
        "measured once in a round and counts for all of them. What is llama.cpp's default is "
        "not said, and on a build without a device no number of layers is. llama-bench cannot "
        "be told a context length or a prompt cache, which `lcm` also sets. Ratios are "
        "Hodges-Lehmann locations of the rounds' log ratios with 95 % intervals "
        "(`autotune/stats.py`); above 1 is faster. A cache of another type than f16 changes "
        "what the model answers, and `lcm` tries none by itself."
    ),
    (
        "Not started: `inferbench-cli` compares engines and tries no parameters, and "
        "`make-localllm-easier` tunes for models of its own. Tuners that are neither on PyPI nor "
        "on npm (llama-optimize, Llama-Optimizer, llama-bench-tuner, llamaseye, llama-autotune) "
        "were not fetched."
    ),
)


def main() -> int:
    """Run the tools, let the referee measure, print, and keep the table."""
    options = _options()
    real = find_llama_cpp()
    if real is None:
        sys.exit("no llama.cpp here: `nox -s llama_cpp` builds one, LCM_LLAMA_DIR names another")
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(options, work.absolute(), real, options.model or gemma_path())
        bench.run_tools()
        if options.only is None:
            bench.write()
    return 0


def _options() -> argparse.Namespace:
    made = parser("peers", __doc__)
    made.add_argument("--budget", type=_seconds, default="8m", help="of each tool (%(default)s)")
    made.add_argument("--rounds", type=int, default=8, help="of the referee (%(default)s)")
    made.add_argument("--seed", type=int, default=1, help="of the referee's order (%(default)s)")
    made.add_argument("--model", type=Path, help="a GGUF; otherwise gemma-3-270m, 253 MB")
    made.add_argument("--work", type=Path, help="where each tool's outcome is kept")
    made.add_argument("--only", help="run this tool, keep its outcome, and write no table")
    made.add_argument(
        "--no-install", action="store_true", help="take only what is installed beside this Python"
    )
    return made.parse_args()


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[\d.]+[sm]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither seconds (90s) nor minutes (8m)")
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


class Bench:
    """One run of this benchmark."""

    def __init__(self, options: argparse.Namespace, work: Path, real: Path, model: Path) -> None:
        self._options = options
        self._work = work
        self._real = real
        self._model = model
        self._programs = Programs(work / "programs", install=not options.no_install)
        self._counted = counted(real, work / "llama.cpp")
        self._facts = environment(llama_cpp=real, model=model)
        self._tools: tuple[Tool, ...] = (
            Optimus(self._programs, lean=False),
            Optimus(self._programs, lean=True),
            Dyno(self._programs),
            LcmQuarter(),  # It gets a quarter of what those before it took.
            LcmDeep(),
            LcmQuick(),
        )

    def run_tools(self) -> None:
        """In turn; what is kept from an earlier call does not run again."""
        for tool in self._tools:
            kept, reason = self._kept(tool), self._reason(tool)
            done = kept.is_file() or reason.is_file()
            if done or self._options.only not in (None, tool.slug):
                continue
            print(f"{tool.name} ...", file=sys.stderr, flush=True)
            forget(kept.parent)
            try:
                outcome = run(tool, self._place(tool))
            except NotRunError as why:
                reason.write_text(str(why), encoding="utf-8")
            else:
                kept.write_text(outcome.to_json(), encoding="utf-8")

    def _place(self, tool: Tool) -> Place:
        peers = [one.wall_s for slug, one in self._outcomes().items() if slug not in _LCM]
        return Place(
            folder=self._kept(tool).parent,
            programs=self._counted,
            model=self._model,
            budget_s=self._options.budget,
            quickest_s=min([self._options.budget, *peers]),
            speed=self._speed,
        )

    @cached_property
    def _speed(self) -> Speed:
        return speed_of(self._real / "llama-bench", self._model)

    def _outcomes(self) -> dict[str, Outcome]:
        """What is there, by the tools' slugs."""
        return {
            tool.slug: Outcome.from_json(self._kept(tool).read_text("utf-8"))
            for tool in self._tools
            if self._kept(tool).is_file()
        }

    def _kept(self, tool: Tool) -> Path:
        return self._work / tool.slug / "outcome.json"

    def _reason(self, tool: Tool) -> Path:
        return self._work / tool.slug / "reason.txt"

    def write(self) -> None:
        """Let the referee measure what there is, and write the table."""
        bench = self._real / "llama-bench"
        llama = known(bench, self._model)
        outcomes = self._outcomes()
        settings = {slug: one.setting.without(llama) for slug, one in outcomes.items()}
        settings[_DEFAULTS] = Setting()
        rounds = take_rounds(
            bench,
            self._model,
            settings.values(),
            rounds=self._options.rounds,
            seed=self._options.seed,
            kept=self._work / "referee.json",
        )
        judged = {slug: Judged(setting, rounds) for slug, setting in settings.items()}
        write(
            self._options.out,
            "peers",
            title="Beside other tuners",
            facts=self._facts | {"budget": f"{self._options.budget:g} s, {len(rounds)} rounds"},
            tables=[
                *_results(outcomes, judged),
                *_against_best(outcomes, judged),
                self._absent(),
            ],
            notes=_NOTES,
        )

    def _absent(self) -> Table:
        """Whoever does not take part, and why."""
        rows = [
            (tool.name, "llama-bench's settings", self._reason(tool).read_text("utf-8"))
            for tool in self._tools
            if self._reason(tool).is_file()
        ]
        names = {"MODEL": str(self._model), "LLAMA_BIN": str(self._counted)}
        rows += [
            (one.requirement, one.looks_for, one.said(self._programs, names, self._work))
            for one in ATTEMPTS
        ]
        return Table(
            title="Who does not take part", header=("tool", "it looks for", "why"), rows=rows
        )


def _results(outcomes: Mapping[str, Outcome], judged: Mapping[str, Judged]) -> Iterator[Table]:
    """What each took and claims, and what the referee says."""
    defaults = judged[_DEFAULTS]
    order = sorted(judged, key=lambda slug: judged[slug].seconds)
    yield Table(
        title="What the referee says of the final commands",
        header=("tool", "pp t/s", "tg t/s", "request s", "ratio to the defaults", "settings"),
        rows=[
            (
                outcomes[slug].tool if slug in outcomes else "llama.cpp's defaults",
                f"{judged[slug].prompt_rate:.0f}",
                f"{judged[slug].generation_rate:.1f}",
                f"{judged[slug].seconds:.3f}",
                _compared(judged[slug], defaults),
                str(judged[slug].setting),
            )
            for slug in order
        ],
    )
    yield Table(
        title="What each took, and what it claims",
        header=("tool", "wall time s", "loads", "runs", "ended", "claims", "command"),
        rows=[
            (
                one.tool,
                f"{one.wall_s:.0f}" if one.wall_s >= 1 else f"{one.wall_s:.2f}",
                one.loads,
                one.runs,
                one.end,
                one.claim,
                f"`{one.command}`",
            )
            for one in outcomes.values()
        ],
    )


def _against_best(outcomes: Mapping[str, Outcome], judged: Mapping[str, Judged]) -> Iterator[Table]:
    """`lcm` in a quarter of the time against the best of the others."""
    peers = [slug for slug in outcomes if slug not in _LCM]
    if not peers or _QUARTER not in outcomes:
        return
    best = min(peers, key=lambda slug: judged[slug].seconds)
    over, least = _seconds_over(judged[_QUARTER], judged[best])
    time = outcomes[_QUARTER].wall_s / outcomes[best].wall_s
    yield figures_table(
        [
            Figure(
                name=f"request seconds of `lcm` in a quarter of the time over those of the best "
                f"peer ({outcomes[best].tool}); {over}",
                aim=1.0,
                measured=least,
            ),
            Figure(
                name=f"its time over that peer's, {outcomes[_QUARTER].wall_s:.0f} s / "
                f"{outcomes[best].wall_s:.0f} s",
                aim=0.25,
                measured=time,
            ),
        ]
    )


def _compared(one: Judged, defaults: Judged) -> str:
    if one.setting == defaults.setting:
        return "1, the same command"
    seen = one.faster_than(defaults)
    return f"{seen.ratio:.3f} ({seen.low:.3f} to {seen.high:.3f})"


def _seconds_over(one: Judged, other: Judged) -> tuple[str, float]:
    """One's request seconds over the other's in words, and the least that they may be."""
    if one.setting == other.setting:
        return "the same command", 1.0
    seen = one.faster_than(other)
    span = f"{1 / seen.high:.3f} to {1 / seen.low:.3f}"
    return f"lower end of the 95 % interval, {1 / seen.ratio:.3f} ({span})", 1 / seen.high


if __name__ == "__main__":
    sys.exit(main())
