"""`tune(model) -> Tuned`: all of it as one call, for programs; `lcm` adds folders and words."""

import os
from collections.abc import Callable
from pathlib import Path

from autotune.hardware.activity import Activity
from autotune.tuning import events
from autotune.tuning.clock import RealClock
from autotune.tuning.dimensions import Wishes
from autotune.tuning.ground import Order, look_around, sameness_of
from autotune.tuning.instruments import bench_of, servers_of
from autotune.tuning.lab import Limits
from autotune.tuning.plan import memory_of, plan_of
from autotune.tuning.session import Session, Tuned
from autotune.tuning.study import Study
from autotune.tuning.workload import load_workload


def tune(
    model: str | os.PathLike[str],
    *,
    workload: str = "chat",
    budget_s: float | None = None,
    study: Path | None = None,
    seed: int = 0,
    tell: Callable[[events.Event], None] = lambda _: None,
) -> Tuned:
    """Measure with llama-bench, and say what is better than llama.cpp's defaults, if anything is.

    Args:
        model: a GGUF file.
        workload: a preset's name, or a TOML file.
        budget_s: seconds that it may take; None: as the workload says.
        study: where to keep the Optuna study, a new SQLite file; None: in memory.
        seed: of the search's choices.
        tell: is called for everything that happens.

    Raises:
        AutotuneError: the model or llama-bench is missing, or nothing could be measured.
    """
    request = load_workload(workload)
    limits = Limits(budget_s=request.budget_s if budget_s is None else budget_s)
    wishes = Wishes(parameters=dict(request.parameters))
    order = Order(model=Path(model), workload=request, wishes=wishes, limits=limits, seed=seed)
    ground = look_around(order, os.environ)
    plan, facts = plan_of(order, ground, ())
    activity = Activity()
    return Session(
        plan,
        bench=bench_of(order, ground, activity),
        study=Study.create(study, plan.space, facts, seed=seed),
        memory=memory_of(order, ground, plan.objective),
        clock=RealClock(),
        observe=activity.read,
        tell=tell,
        check=sameness_of(ground),
        serves=servers_of(order, ground),
    ).run()
