"""`lcm fleet status`: how far shared studies are, and who does what there."""

import time
from collections.abc import Sequence

from autotune.cli import console
from autotune.cli.answer import (
    SCHEMA_VERSION,
    AtWorkSection,
    FleetStatusAnswer,
    SharedStudySection,
)
from autotune.cli.joined import worker_section
from autotune.cli.storage import server_of, storage_of
from autotune.errors import ConfigError
from autotune.params import params_to_json
from autotune.tuning.study.server import Pulse
from autotune.tuning.study.standing import Standing, Working, standings
from autotune.tuning.study.workers import Worker
from autotune.words import counted, digits, duration, ratios

_AT_WORK = ("working", "verifying")


def print_status(storage: str | None, *, as_json: bool) -> None:
    """Print every shared study of a database.

    Raises:
        ConfigError: no database was named.
        SurroundingsError: it cannot be used.
    """
    address = storage_of(storage)
    if address is None:
        raise ConfigError(
            "no database is named", hint="give --storage URL, or set LCM_STORAGE; see docs/fleet.md"
        )
    server = server_of(address)
    found = standings(server)
    pulse, where = server.pulse, server.where
    server.close()
    if as_json:
        console.answer(_answer(found, where, pulse))
        return
    if not found:
        console.note(f"no shared study in {where}")
    for n, standing in enumerate(found):
        console.text(("\n" if n else "") + _in_words(standing, pulse))


def state_of(worker: Worker, pulse: Pulse) -> str:
    """As it said last, unless it has said nothing for long though it was at work."""
    silent = time.time() - worker.seen_at > pulse.grace_s
    return "silent" if silent and worker.state in _AT_WORK else worker.state


def _in_words(standing: Standing, pulse: Pulse) -> str:
    head = f"{standing.name}: {standing.model}, {standing.workload}"
    course = counted(standing.trials, "trial")
    if standing.failed:
        course += f", {standing.failed} begun in vain"
    if standing.best and standing.baseline:
        (gain,) = ratios(standing.baseline / standing.best)
        course += f"; the best looks {gain}x as fast as llama.cpp's defaults"
    rows = [["host", "pid", "seen", "state", "trials", "measures", "verified here"]]
    rows += [_row(working, pulse) for working in standing.workers]
    return "\n".join([head, course, console.table(rows, "<>><><<")])


def _row(working: Working, pulse: Pulse) -> list[str]:
    worker = working.worker
    seen = f"{duration(max(time.time() - worker.seen_at, 0.0))} ago"
    return [
        worker.host,
        str(worker.pid),
        seen,
        state_of(worker, pulse),
        str(working.trials),
        working.measuring or "-",
        _verified(worker),
    ]


def _verified(worker: Worker) -> str:
    holding = worker.holding
    if holding is None:
        return "-"
    if holding.ratio is None:
        return holding.verdict
    return f"{holding.verdict}, {digits(holding.ratio)}x"


def _answer(found: Sequence[Standing], where: str, pulse: Pulse) -> FleetStatusAnswer:
    return {
        "schema_version": SCHEMA_VERSION,
        "storage": where,
        "studies": [_section(standing, pulse) for standing in found],
    }


def _section(standing: Standing, pulse: Pulse) -> SharedStudySection:
    best = standing.best_params
    return {
        "name": standing.name,
        "model": standing.model,
        "workload": standing.workload,
        "trials": standing.trials,
        "begun_in_vain": standing.failed,
        "baseline_cost": standing.baseline,
        "best_cost": standing.best,
        "best_params": params_to_json(best) if best else None,
        "workers": [_at_work(working, pulse) for working in standing.workers],
    }


def _at_work(working: Working, pulse: Pulse) -> AtWorkSection:
    worker, params = working.worker, working.params
    return {
        **worker_section(worker),
        "state": state_of(worker, pulse),
        "seen_s_ago": round(max(time.time() - worker.seen_at, 0.0), 1),
        "trials": working.trials,
        "measuring": working.measuring,
        "measuring_params": params_to_json(params) if params else None,
    }
