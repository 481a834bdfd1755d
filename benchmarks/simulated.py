"""How good `lcm --deep` is on simulated machines, which know the best that there is.

Whole sessions against `tests/fakes/simulator.py`, in virtual time: A is a CPU of 16 cores, B a GPU
that holds a part of a dense model, C a mixture of experts beside a smaller GPU; on flat ones no
parameter makes a difference, so every claim is false. Noise, drift, and on the busy ones a
neighbour that computes a third of the time. Shows figures and asserts none: exits with 0.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from fakes.simulator import Options, SimulatedMachine, cpu16, flat, moe, partial_offload
from fakes.tuned import CHAT, LONG_PROMPT, Simulated, tune_simulated

from autotune import __version__
from autotune.tuning.workload import Workload

_SLOWER = -0.01  # A true gain below this is worse than the defaults.
_BUSY = Options(bursts=1 / 3, smt=False)


@dataclass(frozen=True)
class Row:
    """A kind of machine, and what is asked of it."""

    name: str
    make: Callable[..., SimulatedMachine]
    workload: Workload
    options: Options


_ROWS = (
    Row("A", cpu16, CHAT, Options()),
    Row("B", partial_offload, LONG_PROMPT, Options()),
    Row("C", moe, LONG_PROMPT, Options()),
    Row("flat", flat, CHAT, Options()),
    Row("A, busy", cpu16, CHAT, _BUSY),
    Row("flat, busy", flat, CHAT, _BUSY),
)


def main() -> int:
    """Tune and print."""
    options = _options()
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"lcm {__version__}, Python {python}; {options.budget:g} virtual seconds each\n")
    print(
        f"{'':<12}{'seeds':>6}{'median':>9}{'p90':>8}{'worst':>8}{'slower':>8}{'claims':>8}{'loads':>7}"
    )
    start = time.monotonic()
    for row in _ROWS:
        if options.machines and row.name not in options.machines:
            continue
        done = [_tuned(row, seed, options.budget) for seed in range(options.seeds)]
        print(_line(row.name, done), flush=True)
    print(f"\n{time.monotonic() - start:.0f} s")
    return 0


def _tuned(row: Row, seed: int, budget_s: float) -> Simulated:
    machine = row.make(seed, **row.options)
    return tune_simulated(machine, row.workload, budget_s=budget_s, seed=seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(f"'{row.name}'" for row in _ROWS)
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"some of {names}")
    parser.add_argument("--seeds", type=int, default=30, help="machines of a kind (%(default)s)")
    parser.add_argument(
        "--budget", type=float, default=900, help="virtual seconds of each (%(default)s)"
    )
    options = parser.parse_args()
    if unknown := set(options.machines) - {row.name for row in _ROWS}:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {names}")
    if options.seeds < 1:
        parser.error("--seeds takes at least 1")
    return options


def _line(name: str, done: list[Simulated]) -> str:
    """Regret against the best that fits, shares of the sessions, loads of the model."""
    regrets = sorted(one.regret for one in done)
    tenth = (
        statistics.quantiles(regrets, n=10, method="inclusive")[-1]
        if len(regrets) > 1
        else regrets[0]
    )
    slower = sum(one.gain < _SLOWER for one in done) / len(done)
    claims = sum(one.tuned.verification.verdict == "better" for one in done) / len(done)
    loads = statistics.median(one.machine.n_loads for one in done)
    return (
        f"{name:<12}{len(done):>6}{statistics.median(regrets):>9.1%}{tenth:>8.1%}{regrets[-1]:>8.1%}"
        f"{slower:>8.0%}{claims:>8.0%}{loads:>7.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
