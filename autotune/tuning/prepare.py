"""Everything before the first measurement: what is here, whether it runs, and what to search."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError, LlamaCppUnusable, OtherStudy, SurroundingsError
from autotune.hardware import Gpu, Hardware, Storage, detect_hardware, storage_of
from autotune.hardware.activity import Activity
from autotune.llama_cpp.bench import Bench
from autotune.llama_cpp.capabilities import (
    Capabilities,
    Device,
    ask_once,
    build_identity,
    cache_folder,
    devices,
)
from autotune.llama_cpp.locate import BENCH, Program, find_program
from autotune.llama_cpp.plausibility import LEAST_ACTIVE_SHARE
from autotune.llama_cpp.preflight import Preflight, preflight, slow_build
from autotune.llama_cpp.records import State
from autotune.model import Model, analyze_model
from autotune.params import Params, params_from_json, params_to_json
from autotune.recommend import Recommendation, Request, generate_recommendations
from autotune.recommend.placement import device_names, used_gpus
from autotune.tuning.environment import differences, facts_of, space_of
from autotune.tuning.lab import Limits
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective, objective_of
from autotune.tuning.search import Seed
from autotune.tuning.session import Plan
from autotune.tuning.space import Space, Wishes, explicit, make_space
from autotune.tuning.study import Study
from autotune.tuning.workload import Workload

_MIB = 1 << 20
# The name of a device in llama.cpp: a backend, and a number where there may be several.
_DEVICE = re.compile(r"([A-Za-z]+)(\d*)$")
# How much faster a whole test is than the first few tokens after a load.
_COLD = 2.0
# llama.cpp's own short names, beside the ones that it gives its backends elsewhere.
_BACKENDS = {"MTL": "Metal"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user has asked for."""

    model: Path
    workload: Workload
    wishes: Wishes
    limits: Limits
    n_ctx: int | None = None
    llama_bench: str | None = None
    arguments: tuple[str, ...] = ()  # For llama-bench, always.
    seed: int = 0
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A llama-bench that runs here, and what it runs."""

    program: Program
    capabilities: Capabilities
    machine: Hardware  # As it is; profiles are kept by it.
    hardware: Hardware  # The same with the devices that this llama-bench uses, and no others.
    devices: tuple[str, ...] | None  # To be named, where it would take others too.
    storage: Storage
    model: Model
    recommendation: Recommendation
    flight: Preflight


def look_around(order: Order, environ: Mapping[str, str]) -> Ground:
    """Find out what is here, and that it really runs.

    Raises:
        SurroundingsError: the model or llama-bench is missing or unusable.
        ConfigError: a wish cannot be met.
    """
    model, machine = analyze_model(order.model), detect_hardware()
    program = find_program(BENCH, given=order.llama_bench, environ=environ)
    capabilities = ask_once(program, cache_folder(environ))
    _refuse_slow_build(program)
    offered = devices(program, capabilities, *order.arguments)
    flight = preflight(program, capabilities, model.path, extra_arguments=order.arguments)
    if not flight.usable:
        raise LlamaCppUnusable(f"{program.path} does not run: {flight.reason}", hint=flight.remedy)
    if capabilities.has("--list-devices"):
        hardware = with_devices(machine, offered)
    else:  # An old build: what it was built with tells whether it uses a GPU at all.
        hardware = replace(machine, gpus=() if flight.backends == "CPU" else machine.gpus)
    used = used_gpus(hardware.gpus)
    storage = storage_of(model.path)
    recommendation = _recommendation(order, hardware, storage, model)
    return Ground(
        program=program,
        capabilities=capabilities,
        machine=machine,
        hardware=replace(hardware, gpus=used),
        devices=tuple(device_names(hardware.gpus, used, n_gpu_layers=1)) or None,
        storage=storage,
        model=model,
        recommendation=recommendation,
        flight=flight,
    )


def with_devices(hardware: Hardware, offered: Sequence[Device]) -> Hardware:
    """The hardware with the devices that the binary uses, which are what counts."""
    detected = {(gpu.backend, gpu.index): gpu for gpu in hardware.gpus}
    integrated = {gpu.name for gpu in hardware.gpus if gpu.integrated}
    gpus = []
    for device in offered:
        if not device.total_mib:  # BLAS is listed among them, and has no memory of its own.
            continue
        match = _DEVICE.match(device.name)
        word, number = (match[1], int(match[2] or 0)) if match else (device.name, 0)
        backend = _BACKENDS.get(word, word)
        free = device.free_mib * _MIB
        known = detected.get((backend, number))
        if known:
            gpus.append(replace(known, free_bytes=min(known.free_bytes, free)))
            continue
        gpus.append(
            Gpu(
                backend=backend,
                index=number,
                name=device.description,
                total_bytes=device.total_mib * _MIB,
                free_bytes=free,
                integrated=device.description in integrated,
                driver="",
                compute_capability="",
            )
        )
    return replace(hardware, gpus=tuple(gpus))


def _refuse_slow_build(program: Program) -> None:
    slow = slow_build(program)
    if slow:
        raise LlamaCppUnusable(
            f"{program.path} is {slow}: what it measures is true of no other build",
            hint="build it with -DCMAKE_BUILD_TYPE=Release",
        )


def _recommendation(
    order: Order, hardware: Hardware, storage: Storage, model: Model
) -> Recommendation:
    """The quick one, with a context in which the workload's request fits."""
    workload = order.workload
    needed = workload.n_prompt + workload.n_gen + workload.n_depth

    def recommend(n_ctx: int | None) -> Recommendation:
        request = Request(n_ctx=n_ctx)
        return generate_recommendations(hardware, model, storage=storage, request=request)

    quick = recommend(order.n_ctx)
    enough = (quick.params.n_ctx or 0) >= needed or order.n_ctx is not None
    return quick if enough else recommend(needed)


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
    )
    baseline = _baseline(order, here, objective)
    return _planned(order, here, objective, baseline, seeds)


def _baseline(order: Order, here: Ground, objective: Objective) -> Params:
    """What llama.cpp takes by itself; what goes on a GPU as its `--fit` decides it."""
    settings, repack = here.flight.settings, False if here.flight.repack_off else None
    said = explicit(Params(repack=repack, devices=here.devices), settings)
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
        capabilities=here.capabilities,
        objective=objective,
        defaults=baseline,
        seed=quick,
        wishes=order.wishes,
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
    before = kept["plan"]
    pp_rate, tg_rate = before["rates"]
    objective = objective_of(
        order.workload, pp_rate=pp_rate, tg_rate=tg_rate, on_gpu=bool(here.hardware.gpus)
    )
    seeds = [Seed(source=name, params=params_from_json(p)) for name, p in before["seeds"]]
    order = replace(order, seed=before["seed"])
    plan, facts = _planned(order, here, objective, params_from_json(before["baseline"]), seeds)
    changed = differences(kept["environment"], facts["environment"])
    changed += differences(kept["space"], facts["space"])
    if changed:
        raise OtherStudy(
            f"{database.parent} was measured under other circumstances",
            details=changed,
            hint="--fresh begins a new study; this one stays as it is",
        )
    return plan


def memory_of(order: Order, here: Ground, objective: Objective) -> Memory:
    """What fits here, as it will be served and in llama-bench."""
    n_ctx = here.recommendation.params.n_ctx or order.workload.n_prompt
    return Memory(here.hardware, here.model, n_ctx=n_ctx, n_tested=objective.longest_test())


def bench_of(order: Order, here: Ground, activity: Activity) -> Bench:
    """The llama-bench that measures."""
    return Bench(
        program=here.program,
        capabilities=here.capabilities,
        model=here.model.path,
        observe=observer_of(order, activity),
        extra_arguments=order.arguments,
        active_share=LEAST_ACTIVE_SHARE if here.model.shape.n_expert else 1.0,
    )


def observer_of(order: Order, activity: Activity) -> Callable[[], State]:
    """What tells the machine's state around a test.

    A ggml-rpc-server on this machine is the device that is measured, and no foreign program; as it
    cannot be told from one, CPU time is not judged.
    """
    if not {"--rpc", "-rpc"} & {*order.arguments}:
        return activity.read
    return lambda: {key: value for key, value in activity.read().items() if key != "own_s"}
