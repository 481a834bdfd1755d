"""What the command line asks of `--deep`, checked and put in order."""

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cli.deep import Start
from autotune.cli.storage import storage_of
from autotune.errors import ConfigError
from autotune.tuning.dimensions import LOSSY_TYPES, Wishes
from autotune.tuning.ground import Order
from autotune.tuning.lab import Limits
from autotune.tuning.workload import (
    Objective,
    Value,
    load_workload,
    parse_duration,
    parse_parameter,
)

DEFAULT_WORKLOAD = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as they were typed."""

    model: Path
    n_ctx: int | None
    budget: str | None
    until: str | None
    trials: int | None
    profile: str | None
    objective: Objective | None
    lossy_types: str | None
    parameters: tuple[str, ...]
    seed: int
    resume: bool
    fresh: bool
    results_dir: Path | None
    llama_bench: str | None
    verify: bool
    storage: str | None
    per_machine: bool
    arguments: tuple[str, ...]


def order_of(asked: Asked) -> tuple[Order, Start]:
    """Read the options.

    Raises:
        ConfigError: one of them is wrong, or two exclude each other.
    """
    if asked.resume and asked.fresh:
        raise ConfigError("--resume and --fresh exclude each other", hint="leave one of them out")
    workload = load_workload(asked.profile or DEFAULT_WORKLOAD)
    if asked.objective:
        workload = replace(workload, objective=asked.objective)
    parameters: dict[str, tuple[Value, ...]] = dict(workload.parameters)
    for text in asked.parameters:
        name, values = parse_parameter(text)
        parameters[name] = values
    order = Order(
        model=asked.model,
        workload=workload,
        wishes=Wishes(parameters=parameters, lossy_types=_lossy_types(asked.lossy_types)),
        limits=Limits(
            budget_s=_budget_s(asked, workload.budget_s),
            from_now=asked.until is not None,
            trials=asked.trials,
        ),
        n_ctx=asked.n_ctx,
        llama_bench=asked.llama_bench,
        arguments=asked.arguments,
        seed=asked.seed,
        verify=asked.verify,
    )
    storage = storage_of(asked.storage)
    if asked.per_machine and storage is None:
        raise ConfigError("--per-machine is for a shared study", hint="give --storage too")
    if asked.fresh and storage is not None:
        raise ConfigError(
            "--fresh is for a study of this machine alone: a shared one is not only its own",
            hint="leave it out; optuna delete-study removes a study from a database",
        )
    start = Start(
        resume=asked.resume,
        fresh=asked.fresh,
        results_dir=asked.results_dir,
        storage=storage,
        per_machine=asked.per_machine,
    )
    return order, start


def _budget_s(asked: Asked, of_workload: float | None) -> float | None:
    if asked.budget and asked.until:
        raise ConfigError("--budget and --until exclude each other", hint="leave one of them out")
    if asked.budget:
        try:
            return parse_duration(asked.budget)
        except ValueError as error:
            raise ConfigError(f"--budget is {error}", hint="for example --budget 10m") from None
    if asked.until:
        return seconds_until(asked.until, dt.datetime.now().astimezone())
    # So many trials are a limit of their own.
    return None if asked.trials else of_workload


def seconds_until(text: str, now: dt.datetime) -> float:
    """Seconds to the next time that a clock shows `text`.

    Raises:
        ConfigError: it is no time of day.
    """
    try:
        time_of_day = dt.time.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--until is {text!r}, not a time of day", hint="for example --until 07:00"
        ) from None
    then = dt.datetime.combine(now.date(), time_of_day, tzinfo=now.tzinfo)
    if then <= now:
        then += dt.timedelta(days=1)
    return (then - now).total_seconds()


def _lossy_types(text: str | None) -> tuple[str, ...]:
    types = tuple(filter(None, (text or "").split(",")))
    unknown = [name for name in types if name not in LOSSY_TYPES]
    if unknown:
        raise ConfigError(
            f"--allow-lossy-kv {','.join(unknown)}: no such type of cache",
            hint=f"one or more of {', '.join(LOSSY_TYPES)}; q8_0 loses least",
        )
    return types
