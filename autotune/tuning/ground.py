"""What is here, whether it really runs, and that it stays what it is while it is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autotune.errors import (
    ConfigError,
    LlamaCppNotFound,
    LlamaCppUnusable,
    ModelNotFound,
    OtherStudy,
    SurroundingsError,
)
from autotune.hardware import Hardware, Storage, detect_hardware, storage_of
from autotune.hardware.energy import Metered, metered
from autotune.hardware.listed import with_listed
from autotune.llama_cpp import numactl
from autotune.llama_cpp.capabilities import Capabilities, ask_once, build_identity, cache_folder
from autotune.llama_cpp.devices import list_devices
from autotune.llama_cpp.locate import BATCHED_BENCH, BENCH, SERVER, Program, find_program
from autotune.llama_cpp.preflight import Preflight, preflight, slow_build
from autotune.model import Model, analyze_model
from autotune.recommend import Recommendation, Request, generate_recommendations
from autotune.recommend.placement import device_names, used_gpus
from autotune.tuning.dimensions import Wishes
from autotune.tuning.lab import Limits
from autotune.tuning.workload import Workload


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
class Serving:
    """What measures several requests at once, and what serves them."""

    batched: Program
    batched_can: Capabilities
    server: Program
    server_can: Capabilities


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
    serving: Serving | None = None  # Where several requests are there at once.
    bindings: tuple[str, ...] = ()  # To NUMA nodes, those that work here.
    metered: Metered = field(default_factory=Metered)  # What counts joules here.


def look_around(order: Order, environ: Mapping[str, str]) -> Ground:
    """Find out what is here, and that it really runs.

    Raises:
        SurroundingsError: the model or llama-bench is missing or unusable.
        ConfigError: a wish cannot be met.
    """
    model, machine, meter = analyze_model(order.model), detect_hardware(), metered()
    _refuse_unmetered(order.workload, meter)
    program = find_program(BENCH, given=order.llama_bench, environ=environ)
    capabilities = ask_once(program, cache_folder(environ))
    _refuse_slow_build(program)
    serving = _serving(order, program, environ) if order.workload.n_parallel > 1 else None
    listed = list_devices(program, capabilities, *order.arguments)
    flight = preflight(program, capabilities, model.path, extra_arguments=order.arguments)
    if not flight.usable:
        raise LlamaCppUnusable(f"{program.path} does not run: {flight.reason}", hint=flight.remedy)
    if listed is not None:
        hardware = with_listed(machine, listed, asked=str(program.path))
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
        serving=serving,
        bindings=numactl.working((node.number for node in machine.nodes), environ),
        metered=meter,
    )


def _refuse_unmetered(workload: Workload, meter: Metered) -> None:
    """Joules that are not counted cannot be spared; a part of them would be spared by the rest."""
    if workload.objective != "efficiency":
        return
    if workload.n_parallel > 1:
        raise ConfigError(
            "--objective efficiency is for one request at a time: llama-batched-bench does not "
            f"say when a test begins, and {workload.name} has {workload.n_parallel} at once",
            hint="leave --objective out, or take a workload of one request",
        )
    if not meter.is_whole:
        raise SurroundingsError(
            f"--objective efficiency: the energy of this machine cannot be read: {meter.gap}",
            hint=meter.remedy,
        )


def _serving(order: Order, bench: Program, environ: Mapping[str, str]) -> Serving:
    """The programs that lie beside the llama-bench, or are found as that is."""
    beside = {**environ, "LCM_LLAMA_BENCH": str(bench.path)} if order.llama_bench else environ
    batched, server = (find_program(name, environ=beside) for name in (BATCHED_BENCH, SERVER))
    cache = cache_folder(environ)
    return Serving(
        batched=batched,
        batched_can=ask_once(batched, cache),
        server=server,
        server_can=ask_once(server, cache),
    )


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
    one = workload.n_prompt + workload.n_gen + workload.n_depth
    needed = workload.n_parallel * one
    if workload.n_parallel > 1 and order.n_ctx is not None and order.n_ctx < needed:
        raise ConfigError(
            f"--ctx-size {order.n_ctx} does not hold {workload.n_parallel} requests of {one} "
            "tokens at once",
            hint=f"give at least {needed}, or leave it out",
        )

    def recommend(n_ctx: int | None) -> Recommendation:
        request = Request(n_ctx=n_ctx)
        return generate_recommendations(hardware, model, storage=storage, request=request)

    quick = recommend(order.n_ctx)
    enough = (quick.params.n_ctx or 0) >= needed or order.n_ctx is not None
    return quick if enough else recommend(needed)


def n_ctx_of(order: Order, here: Ground) -> int:
    """Tokens of context of all slots together, as it is served."""
    return here.recommendation.params.n_ctx or order.workload.n_prompt


def sameness_of(here: Ground) -> Callable[[], None]:
    """What is to be called now and then: the files that are measured stay what they are.

    It raises ModelNotFound or LlamaCppNotFound where one is gone, and OtherStudy where one has
    changed: what llama-bench says from then on is of something else.
    """
    model, build = _stamps(here), build_identity(here.program)

    def check() -> None:
        for path, (size, changed) in _stamps(here).items():
            size_before, changed_before = model[path]
            if size != size_before:
                raise _changed(path, f"{size_before} bytes then, {size} bytes now")
            if changed != changed_before:
                raise _changed(path, "written since")
        if _build_now(here) != build:
            raise _changed(here.program.path, "another build of llama.cpp lies there now")

    return check


def _stamps(here: Ground) -> dict[Path, tuple[int, int]]:
    """By what a change of the model's files is seen."""
    stamps = {}
    for path in here.model.files:
        try:
            status = path.stat()
        except OSError as error:
            raise ModelNotFound(
                f"{path} is gone, while it was measured: {error.strerror}",
                hint="put it back as it was",
            ) from error
        stamps[path] = status.st_size, status.st_mtime_ns
    return stamps


def _build_now(here: Ground) -> str:
    try:
        return build_identity(here.program)
    except OSError as error:
        raise LlamaCppNotFound(
            f"{here.program.path} is gone, while it was measuring: {error.strerror}",
            hint="put it back as it was",
        ) from error


def _changed(path: Path, how: str) -> OtherStudy:
    return OtherStudy(
        f"{path} was replaced or changed, while it was measured: {how}",
        hint="put it back as it was",
    )
