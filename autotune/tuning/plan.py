"""What to search, and what the study belongs to: begun, gone on with, or shared with others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError, OtherStudy, SurroundingsError
from autotune.llama_cpp.capabilities import build_contents, build_identity
from autotune.params import DEFAULTS, Params, params_from_json, params_to_json
from autotune.tuning.dimensions import make_space
from autotune.tuning.environment import differences, facts_of, facts_of_fleet, space_of
from autotune.tuning.ground import Ground, Order, n_ctx_of
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective, objective_of
from autotune.tuning.search import Seed
from autotune.tuning.session import Plan
from autotune.tuning.space import Space, explicit
from autotune.tuning.study import Study
from autotune.tuning.study.database import unreadable

# How much faster a whole test is than the first few tokens after a load.
_COLD = 2.0
_FASTEST = 1e12  # Tokens per second; nothing is.


def plan_of(order: Order, here: Ground, seeds: Sequence[Seed]) -> tuple[Plan, dict[str, Any]]:
    """Decide what to search, and say what the study belongs to.

    Raises:
        ConfigError: a wish names what cannot be searched here.
        SurroundingsError: the model fits nowhere.
    """
    objective = objective_of(
        order.workload,
        pp_rate=_COLD * here.flight.pp_rate,
        tg_rate=_COLD * here.flight.tg_rate,
        on_gpu=bool(here.hardware.gpus),
        metered=here.metered,
    )
    baseline = _baseline(order, here, objective)
    return _planned(order, here, objective, baseline, seeds)


def _baseline(order: Order, here: Ground, objective: Objective) -> Params:
    """What llama.cpp takes by itself; what goes on a GPU as its `--fit` decides it."""
    settings, repack = here.flight.settings, False if here.flight.repack_off else None
    said = explicit(Params(repack=repack, devices=here.devices), settings)
    if objective.n_parallel > 1:
        slots, unified = DEFAULTS["n_parallel"], DEFAULTS["kv_unified"]
        said = replace(said, n_parallel=int(slots), kv_unified=bool(unified))
    placed = memory_of(order, here, objective).as_by_default(said)
    if placed is None:
        raise SurroundingsError(
            f"{here.model.name} does not fit into this machine's memory, with "
            f"{here.recommendation.params.n_ctx} tokens of context",
            hint=here.recommendation.next_step or "try a smaller model",
        )
    return placed


def _planned(
    order: Order, here: Ground, objective: Objective, baseline: Params, seeds: Sequence[Seed]
) -> tuple[Plan, dict[str, Any]]:
    quick = here.recommendation.params
    space = make_space(
        hardware=here.hardware,
        model=here.model,
        capabilities=here.serving.batched_can if here.serving else here.capabilities,
        objective=objective,
        defaults=baseline,
        seed=quick,
        wishes=order.wishes,
        bindings=here.bindings,
    )
    plan = Plan(
        hardware=here.hardware,
        objective=objective,
        space=space,
        baseline=_within(space, memory_of(order, here, objective)),
        seeds=(Seed(source="quick recommendation", params=quick), *seeds),
        seed=order.seed,
        limits=order.limits,
        verify=order.verify,
        # A ggml-rpc-server dies with a client that is stopped in the middle of a request.
        may_stop_tests=not {"--rpc", "-rpc"} & {*order.arguments},
    )
    facts = {
        "environment": facts_of(
            hardware=here.hardware,
            model=here.model,
            build=build_identity(here.program),
            arguments=order.arguments,
            workload=order.workload,
            n_ctx=order.n_ctx,
            metered=here.metered,
        ),
        "space": space_of(space, objective),
        "plan": {
            "baseline": params_to_json(baseline),
            "rates": [_COLD * here.flight.pp_rate, _COLD * here.flight.tg_rate],
            "seeds": [[seed.source, params_to_json(seed.params)] for seed in plan.seeds[1:]],
            "seed": order.seed,
        },
    }
    return plan, facts


def _within(space: Space, memory: Memory) -> Params:
    """The baseline of a space; where a wish takes memory, layers make room as far as they may."""
    layers = [v for v in space.values_of("n_gpu_layers") if type(v) is int]
    start = memory.fitted(space.fixed)
    smaller = [space.with_value(space.fixed, "n_gpu_layers", n) for n in sorted(layers)[::-1]]
    for params in (start, *smaller):
        if params is not None and space.holds(params) and memory.fits(params):
            return params
    raise ConfigError(
        "what --param asks for does not fit into this machine's memory",
        hint="leave n_gpu_layers, n_cpu_moe or n_ubatch free, or ask for less",
    )


def plan_as_before(order: Order, here: Ground, database: Path) -> Plan:
    """The plan of a study that is to go on, if it is true of what is here.

    Raises:
        OtherStudy: something has changed; each difference is a line.
        SurroundingsError: the study cannot be read.
    """
    kept = Study.facts_of(database)
    try:
        plan, facts = _as_kept(order, here, kept)
        environment, space = dict(kept["environment"]), dict(kept["space"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(database, "its plan is none of ours") from error
    changed = differences(environment, facts["environment"])
    changed += differences(space, facts["space"])
    if changed:
        raise OtherStudy(
            f"{database.parent} was measured under other circumstances",
            details=changed,
            hint="--fresh begins a new study; this one stays as it is",
        )
    return plan


def plan_with_others(order: Order, here: Ground, study: str, kept: Mapping[str, Any]) -> Plan:
    """The plan of a shared study, if it is true of this machine too.

    Args:
        order: what this machine's user has asked for.
        here: what this machine has.
        study: its name.
        kept: what it says of itself.

    Raises:
        OtherStudy: this machine differs; each difference is a line.
        SurroundingsError: the study is none of ours.
    """
    try:
        plan, facts = _as_kept(order, here, kept)
        environment, space = dict(kept["environment"]), dict(kept["space"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SurroundingsError(
            f"the study {study} has no plan of ours", hint="was it made by another program?"
        ) from None
    facts = facts_between_machines(here, facts)
    words = ("there", "here")
    differing = differences(environment, facts["environment"], words)
    differing += differences(space, facts["space"], words)
    if differing:
        raise OtherStudy(
            f"this machine cannot join the study {study}",
            details=differing,
            hint="--per-machine opens a study of its own for machines like this one",
        )
    return plan


def facts_between_machines(here: Ground, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a study belongs to that several machines work on."""
    build = f"{here.capabilities.version}, {build_contents(here.program)}"
    return {**facts, "environment": facts_of_fleet(facts["environment"], build=build)}


def _as_kept(order: Order, here: Ground, kept: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """The plan that a study says it is of, and what it would be of here.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it does not say it as we do.
    """
    before = kept["plan"]
    pp_rate, tg_rate = map(_rate, before["rates"])
    baseline = params_from_json(before["baseline"])
    seeds = [Seed(source=str(name), params=params_from_json(p)) for name, p in before["seeds"]]
    objective = objective_of(
        order.workload,
        pp_rate=pp_rate,
        tg_rate=tg_rate,
        on_gpu=bool(here.hardware.gpus),
        metered=here.metered,
    )
    order = replace(order, seed=int(before["seed"]))
    return _planned(order, here, objective, baseline, seeds)


def _rate(kept: float) -> float:
    if not 0 < kept < _FASTEST:
        raise ValueError(f"a rate of {kept}")
    return float(kept)


def memory_of(order: Order, here: Ground, objective: Objective) -> Memory:
    """What fits here, as it will be served and in llama-bench."""
    n_tested = None if here.serving else objective.longest_test()
    return Memory(here.hardware, here.model, n_ctx=n_ctx_of(order, here), n_tested=n_tested)
