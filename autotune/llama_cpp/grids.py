"""Put trials together that one llama-bench process can run: the full grids that it knows.

llama-bench takes a list of values for each option and runs every combination, in an order of its
own (`get_cmd_params_instances` in tools/llama-bench). What differs in model parameters loads the
model again, so it never shares a grid; context and thread parameters do, and cost no reload.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
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
    axes: tuple[tuple[Any, ...], ...]  # One of values for each of CONTEXT_FIELDS.
    depths: tuple[int, ...]
    tests: tuple[tuple[int, int], ...]  # (n_prompt, n_gen)

    def trials(self) -> list[Trial]:
        """The combinations in the order in which llama-bench runs them."""
        in_order = sorted(self.tests, key=_kind)
        return [
            Trial(
                replace(self.model_params, **dict(zip(CONTEXT_FIELDS, values, strict=True))),
                Test(n_prompt=n_prompt, n_gen=n_gen, n_depth=depth),
            )
            for values in itertools.product(*self.axes)
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
    if not trials:
        return None
    points = [_point(trial) for trial in trials]
    varying = [
        name for name in CONTEXT_FIELDS if len({getattr(p.params, name) for p in trials}) > 1
    ]
    if len({point.model_params for point in points}) > 1 or len(varying) > 1:
        return None
    tests = tuple(dict.fromkeys(point.tests[0] for point in points))
    depths = tuple(dict.fromkeys(point.depths[0] for point in points))
    axes = dict(zip(CONTEXT_FIELDS, points[0].axes, strict=True))
    # Where nothing varies, a list of one value several times still repeats the tests.
    name = varying[0] if varying else next((n for n in axes if axes[n] != (None,)), None)
    if name:
        step = len(tests) * len(depths)
        axes[name] = tuple(getattr(trial.params, name) for trial in trials[::step])
        if None in axes[name]:
            return None
    grid = replace(points[0], axes=tuple(axes.values()), depths=depths, tests=tests)
    return grid if grid.trials() == list(trials) else None


def _layers(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Each distinct trial once, then each that is there a second time, and so on."""
    layers: list[list[Trial]] = []
    seen: Counter[Trial] = Counter()
    for trial in trials:
        if seen[trial] == len(layers):
            layers.append([])
        layers[seen[trial]].append(trial)
        seen[trial] += 1
    return layers


def _rectangles(trials: Sequence[Trial]) -> list[Grid]:
    """Few grids of distinct trials; one, where they are a full grid.

    Which way of cutting gives the fewest depends on the axis that is merged first, so each is
    tried as the first.
    """
    points = [_point(trial) for trial in trials]
    axes = [*CONTEXT_FIELDS, _DEPTHS, _TESTS]
    varying = [name for name in axes if len({_values(point, name) for point in points}) > 1]
    orders = [varying[i:] + varying[:i] for i in range(len(varying))] or [[]]
    return min((_merged(points, order) for order in orders), key=len)


def _merged(grids: list[Grid], order: Sequence[str]) -> list[Grid]:
    """Along one axis after the other, put together what is alike along all others."""
    for axis in order:
        rank = {value: n for n, value in enumerate(_all_values(grids, axis))}
        groups: dict[Grid, list[Any]] = {}
        for grid in grids:
            values = _values(grid, axis)
            # None means "not sent" and cannot stand in a list beside a value.
            alike = _with_values(grid, axis, (None,) if None in values else ())
            groups.setdefault(alike, []).extend(values)
        grids = [
            _with_values(alike, axis, tuple(sorted(values, key=rank.__getitem__)))
            for alike, values in groups.items()
        ]
    return grids


_DEPTHS, _TESTS = "n_depth", "tests"  # Axes beside the fields of `Params`.


def _all_values(grids: Sequence[Grid], axis: str) -> dict[Any, None]:
    return dict.fromkeys(value for grid in grids for value in _values(grid, axis))


def _values(grid: Grid, axis: str) -> tuple[Any, ...]:
    if axis == _DEPTHS:
        return grid.depths
    return grid.tests if axis == _TESTS else grid.axes[CONTEXT_FIELDS.index(axis)]


def _with_values(grid: Grid, axis: str, values: tuple[Any, ...]) -> Grid:
    if axis == _DEPTHS:
        return replace(grid, depths=values)
    if axis == _TESTS:
        return replace(grid, tests=values)
    here = CONTEXT_FIELDS.index(axis)
    return replace(grid, axes=(*grid.axes[:here], values, *grid.axes[here + 1 :]))


def _point(trial: Trial) -> Grid:
    return Grid(
        model_params=model_params(trial.params),
        axes=tuple((getattr(trial.params, name),) for name in CONTEXT_FIELDS),
        depths=(trial.test.n_depth,),
        tests=((trial.test.n_prompt, trial.test.n_gen),),
    )
