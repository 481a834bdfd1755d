"""The search space of a made-up machine, for a model, a build and what is wished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from fakes.simulated_hosts import dense_8b, hardware
from recorded_builds import capabilities_of

from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params
from autotune.tuning.dimensions import Wishes, make_space
from autotune.tuning.objective import Objective, Part
from autotune.tuning.workload import Value

if TYPE_CHECKING:
    from autotune.hardware import Gpu, Hardware
    from autotune.model import Model
    from autotune.tuning.space import Space

Wish: TypeAlias = Mapping[str, tuple[Value, ...]]
NONE: Wish = {}
TODAY = "0.3.36-2026-10"
PP: tuple[Part, BenchTest] = ("pp", BenchTest(n_prompt=512))
TG: tuple[Part, BenchTest] = ("tg", BenchTest(n_gen=16))
REQUEST = Objective(n_prompt=512, n_gen=256, tests=(PP, TG))
DEFAULTS = Params(
    n_threads=16,
    n_threads_batch=16,
    n_batch=2048,
    n_ubatch=512,
    flash_attn="auto",
    type_k="f16",
    type_v="f16",
)
SEED = replace(DEFAULTS, n_threads=15)


def space_of(
    *gpus: Gpu,
    model: Model | None = None,
    machine: Hardware | None = None,
    build: str = TODAY,
    objective: Objective = REQUEST,
    defaults: Params = DEFAULTS,
    seed: Params = SEED,
    lossy_types: tuple[str, ...] = (),
    wish: Wish = NONE,
    bindings: tuple[str, ...] = (),
) -> Space:
    """What is searched there for a dense model of 8B, where nothing else is said."""
    return make_space(
        hardware=machine or hardware(gpus),
        model=model or dense_8b(),
        capabilities=capabilities_of(build),
        objective=objective,
        defaults=defaults,
        seed=seed,
        wishes=Wishes(parameters=wish, lossy_types=lossy_types),
        bindings=bindings,
    )
