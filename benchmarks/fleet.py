"""How much sooner a search is over when several machines work on one study.

Workers in virtual time (`tests/fakes/crew.py`), each on its own machine: the same one in another
weather, or drawn from other passes of a recording. The search and the shared study are the real
ones, on Optuna's storage in memory: a claim costs nothing there, on a database milliseconds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from fakes.crew import Hand, alike, crew
from fakes.replay import RecordedMachine
from fakes.tuned import N_CTX, memory_of
from fakes.virtual import VirtualMachine
from places import Place, places
from tables import Cell, Table, environment, parser, write

from autotune.params import Params
from autotune.tuning.lab import Limits
from autotune.tuning.visits import DECIDING

WORKERS = (1, 2, 4, 8, 16)
PLACES = ("A", "B", "C", "layered-rpc")
# What is near the best: a search that has it has done its work.
_NEAR = 0.02
_BUDGET_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search of some workers."""

    near_s: float | None  # When all believed in what is near the best; None: not all ever did.
    over_s: float  # When the last had ended its search.
    measured: int  # Configurations by all of them, within the fixed time.
    used: float  # The share of what was measured in all that the search was answered by.
    regret: float  # Of what they agreed on.


def main() -> int:
    """Search, and write the table."""
    options = _options()
    start = time.monotonic()
    tasks = [
        (name, n, seed)
        for name in options.places
        for n in options.workers
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(max_workers=options.jobs) as pool:
        runs = dict(zip(tasks, pool.map(_one, tasks), strict=True))
    took_s = time.monotonic() - start
    write(
        options.out,
        "fleet",
        title="Many machines on one study",
        facts=environment(
            seeds=f"{options.seeds} of each", took=f"{took_s:.0f} s with {options.jobs} processes"
        ),
        tables=[
            _table(places()[name], options.workers, options.seeds, runs) for name in options.places
        ],
        notes=[_NOTE],
    )
    return 0


def _options() -> argparse.Namespace:
    made = parser("fleet", __doc__)
    made.add_argument("places", nargs="*", metavar="PLACE", help=f"some of {', '.join(places())}")
    made.add_argument("--workers", type=int, nargs="+", default=list(WORKERS), help="how many")
    made.add_argument("--seeds", type=int, default=3, help="machines of a kind (%(default)s)")
    made.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    options = made.parse_args()
    options.places = options.places or list(PLACES)
    if unknown := [name for name in options.places if name not in places()]:
        made.error(f"there is no {', '.join(unknown)}; there are {', '.join(places())}")
    return options


def _one(task: tuple[str, int, int]) -> Run:
    name, n, seed = task
    place = places()[name]
    machines = [alike(_made(place, seed, nth), nth) for nth in range(n)]
    plan = place.plan_for(machines[0], Limits(budget_s=_BUDGET_S), seed)
    hands, _ = crew(machines, plan)
    w = place.workload
    size = (w.n_prompt, w.n_gen, w.n_depth)
    _, best_s = machines[0].optimum(
        *size, n_ctx=N_CTX, program="server", feasible=memory_of(machines[0], w).fits
    )

    def regret(params: Params) -> float:
        return machines[0].request_seconds(params, *size) / best_s - 1

    near = [_near_since(hand, regret) for hand in hands]
    measured = [r for hand in hands for r in hand.measured if r.visit.kind not in DECIDING]
    learned = sum(r.visit.kind not in DECIDING for r in hands[0].searched)
    return Run(
        near_s=max(s for s in near if s is not None) if None not in near else None,
        over_s=max(hand.searched_s for hand in hands),
        measured=sum(r.elapsed_s <= place.moments[0] for r in measured),
        used=learned / len(measured),
        regret=statistics.median(regret(hand.tuned.incumbent) for hand in hands if hand.tuned),
    )


def _made(place: Place, seed: int, nth: int) -> VirtualMachine:
    """The nth of some that are alike: of a recording, a seed draws answers, and no machine."""
    machine = place.make(seed)
    return place.make(100 * seed + nth) if isinstance(machine, RecordedMachine) else machine


def _near_since(hand: Hand, regret: Callable[[Params], float]) -> float | None:
    """Since when what a worker believed in was near the best, to the end."""
    since: float | None = None
    for at, params in hand.leads:
        near = regret(params) <= _NEAR
        since = (at if since is None else since) if near else None
    return since


def _table(
    place: Place,
    workers: Sequence[int],
    seeds: int,
    runs: dict[tuple[str, int, int], Run],
) -> Table:
    rows: list[list[Cell]] = []
    alone: float | None = None
    for n in workers:
        found = [runs[place.name, n, seed] for seed in range(seeds)]
        near = [run.near_s for run in found if run.near_s is not None]
        over_s = statistics.median(run.over_s for run in found)
        alone = over_s if alone is None else alone
        rows.append(
            [
                n,
                f"{statistics.median(near):.0f} s" if near else "-",
                f"{len(near)} of {seeds}",
                f"{over_s:.0f} s",
                f"{alone / over_s:.2f}",
                f"{statistics.median(run.measured for run in found):.0f}",
                f"{100 * statistics.median(run.used for run in found):.0f}",
                f"{100 * statistics.median(run.regret for run in found):.1f}",
            ]
        )
    return Table(
        title=f"{place.name}: {place.what}",
        header=(
            "workers",
            "within 2 % of the best after",
            "in",
            "search over after",
            "times as fast",
            f"measured in {place.moments[0]:.0f} s",
            "of all used, %",
            "regret at the end, %",
        ),
        rows=rows,
    )


_NOTE = (
    "Medians over seeds, in virtual time. Within 2 % of the best: since when what every worker "
    "believed in was, to the end, by the machine's truth and not by what was seen; of the seeds in "
    "which that came about. Of all used: what the search was answered by, of all that was "
    "measured; the rest was measured ahead on a guess that was wrong."
)


if __name__ == "__main__":
    sys.exit(main())
