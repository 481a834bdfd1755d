"""Whether what was found once still holds: the same configuration, verified anew.

It is measured to the letter, against llama.cpp's defaults as they are here and now.
"""

from dataclasses import replace

from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.dialect import Target, render
from autotune.params import Params
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective
from autotune.tuning.session import Plan
from autotune.tuning.space import Dimension, Space
from autotune.tuning.workload import DIMENSIONS


def as_served(params: Params, quick: Params) -> Params:
    """A measured configuration with the context and what no bench knows, as the rules have it."""
    return replace(params, n_ctx=quick.n_ctx, cache_ram=quick.cache_ram)


def as_measured(params: Params) -> Params:
    """A profile's parameters without those that no llama-bench knows."""
    return replace(params, n_ctx=None, cache_ram=None)


def recheck(plan: Plan, known: Params) -> Plan:
    """A plan that verifies `known` against its baseline, and searches nothing."""
    return replace(plan, known=known, space=_wide_enough(plan, known), seeds=())


def _wide_enough(plan: Plan, known: Params) -> Space:
    """The space with every value of `known`, which may be one that no search would try today."""
    space = plan.space
    every = Space(
        dimensions=tuple(Dimension(name=name, values=()) for name in DIMENSIONS),
        fixed=plan.baseline,
        all_layers=space.all_layers,
    )
    ours, its = every.point(plan.baseline), every.point(known)
    values = {
        name: tuple(dict.fromkeys((*space.values_of(name), ours[name], its[name])))
        for name in DIMENSIONS
        if space.has(name) or ours[name] != its[name]
    }
    dimensions = tuple(Dimension(name=name, values=all_) for name, all_ in values.items())
    return replace(space, dimensions=dimensions)


def is_the_defaults(plan: Plan, known: Params) -> bool:
    """It changes no part of a request, so there is nothing to compare."""
    key = plan.objective.key
    return all(key(known, part) == key(plan.baseline, part) for part in plan.objective.parts)


def obstacle(
    known: Params,
    objective: Objective,
    capabilities: Capabilities,
    memory: Memory,
    *,
    target: Target = "bench",
) -> str:
    """Why it cannot be measured here; "" if it can.

    Args:
        known: the configuration.
        objective: the tests that it would be measured by.
        capabilities: of the program that would measure.
        memory: what fits here.
        target: that program.
    """
    asked = [objective.trial(known, part).params for part in objective.parts]
    unsaid = {what: None for p in asked for what in render(p, target, capabilities).unsupported}
    if unsaid:
        return "; ".join(unsaid)
    return "" if memory.fits(known) else "it does not fit into the memory that is free now"
