"""Put trials together that one llama-bench process can run: the full grids that it knows.

llama-bench takes a list of values for each option and runs every combination, in an order of its
own (`get_cmd_params_instances` in tools/llama-bench). What differs in model parameters loads the
model again, so it never shares a grid; context and thread parameters do, and cost no reload.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from autotune.llama_cpp.records import Test
from autotune.params import Params

# Parameters whose change needs a new context or thread pool at most, outermost loop first.
CONTEXT_FIELDS = (
    "no_op_offload",
    "n_batch",
    "n_ubatch",
    "type_k",
    "type_v",
    "no_kv_offload",
    "flash_attn",
    "n_threads",
)


class Trial(NamedTuple):
    """One configuration and the test that times it."""

    params: Params
    test: Test


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Every combination of some values, under one set of model parameters."""

    model_params: Params  # With every context field unset.
    axes: Mapping[str, tuple[Any, ...]]  # By context field, in their order.
    depths: tuple[int, ...]
    tests: tuple[tuple[int, int], ...]  # (n_prompt, n_gen)

    def trials(self) -> list[Trial]:
        """The combinations in the order in which llama-bench runs them."""
        in_order = sorted(self.tests, key=_kind)
        return [
            Trial(
                replace(self.model_params, **dict(zip(self.axes, values, strict=True))),
                Test(n_prompt=n_prompt, n_gen=n_gen, n_depth=depth),
            )
            for values in itertools.product(*self.axes.values())
            for depth in self.depths
            for n_prompt, n_gen in in_order
        ]


def _kind(test: tuple[int, int]) -> int:
    """All prompt tests run first, then generation, then both in one."""
    n_prompt, n_gen = test
    return 2 if n_prompt and n_gen else 1 if n_gen else 0


def model_params(params: Params) -> Params:
    """What a load of the model depends on."""
    return replace(params, **dict.fromkeys(CONTEXT_FIELDS))


def split(trials: Sequence[Trial]) -> list[Grid]:
    """The grids that `trials` are made of; each repeated trial is in a grid once more.

    A sequence that is one grid as it stands keeps its order and its repetitions, so that A B B A is
    one run. Any other is cut into layers without repetition, and these into rectangles.
    """
    whole = _as_one_grid(trials)
    if whole:
        return [whole]
    return [grid for layer in _layers(trials) for grid in _rectangles(layer)]


def _as_one_grid(trials: Sequence[Trial]) -> Grid | None:
    """One grid over a single varying parameter, if it gives these trials in this order."""
    points = [_point(trial) for trial in trials]
    varying = [
        name for name in CONTEXT_FIELDS if len({getattr(p.params, name) for p in trials}) > 1
    ]
    if len({point.model_params for point in points}) > 1 or len(varying) > 1:
        return None
    tests = tuple(dict.fromkeys(point.tests[0] for point in points))
    depths = tuple(dict.fromkeys(point.depths[0] for point in points))
    step = len(tests) * len(depths)
    axes = dict(points[0].axes)
    if varying:
        axes[varying[0]] = tuple(getattr(t.params, varying[0]) for t in trials[::step])
    grid = replace(points[0], axes=axes, depths=depths, tests=tests)
    return grid if grid.trials() == list(trials) else None


def _layers(trials: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Each distinct trial once, then each that is there a second time, and so on."""
    left = list(trials)
    while left:
        layer = list(dict.fromkeys(left))
        yield layer
        for trial in layer:
            left.remove(trial)


def _rectangles(trials: Sequence[Trial]) -> list[Grid]:
    """Single points, merged along one axis at a time for as long as two of them match."""
    grids = [_point(trial) for trial in trials]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(range(len(grids)), 2):
            union = _union(grids[a], grids[b])
            if union:
                grids[a] = union
                del grids[b]
                merged = True
                break
    return grids


def _point(trial: Trial) -> Grid:
    return Grid(
        model_params=model_params(trial.params),
        axes={name: (getattr(trial.params, name),) for name in CONTEXT_FIELDS},
        depths=(trial.test.n_depth,),
        tests=((trial.test.n_prompt, trial.test.n_gen),),
    )


def _union(a: Grid, b: Grid) -> Grid | None:
    """One grid of both, where they differ along one axis only."""
    if a.model_params != b.model_params:
        return None
    differing = [name for name in CONTEXT_FIELDS if a.axes[name] != b.axes[name]]
    others = [a.depths != b.depths, a.tests != b.tests]
    if len(differing) + sum(others) != 1:
        return None
    if differing:
        (name,) = differing
        # None means "not sent" and cannot stand in a list beside a value.
        if None in a.axes[name] + b.axes[name]:
            return None
        return replace(a, axes={**a.axes, name: a.axes[name] + b.axes[name]})
    if others[0]:
        return replace(a, depths=a.depths + b.depths)
    return replace(a, tests=a.tests + b.tests)
