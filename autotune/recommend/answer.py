"""Put the rules together: `generate_recommendations(hardware, model) -> Recommendation`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autotune.errors import ConfigError
from autotune.hardware import Hardware, Storage
from autotune.model import Model
from autotune.model.footprint import Footprint
from autotune.params import DEFAULT_CACHE_TYPE, Params, Program, load_mode
from autotune.recommend import rules
from autotune.recommend.devices import device_advice
from autotune.recommend.placement import MIB, Placement, on_cpu, place, used_gpus
from autotune.recommend.rules import COMFORTABLE_SHARE, Advice, Choice, gib

Verdict = Literal["fits", "tight", "will page", "does not fit"]

LADDER_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
LADDER_TYPES = ("f16", "q8_0")

DEFAULT_CONTEXT = 4096  # The specification.
# Without a GPU a prompt of 8K tokens already takes minutes; `--ctx-size` asks for more.
CPU_CONTEXT = 8192
# The most that is recommended unasked: what more context costs, other models could use.
GPU_CONTEXT = 32768

# An allowance, not a measurement, for what is beside weights, caches and compute buffers: the
# program, its vocabulary and its threads' stacks.
PROCESS_BYTES = 300 * MIB
# Below two bits a weight, hardly any model is published, and none that is worth running.
SMALLEST_BITS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user has fixed."""

    n_ctx: int | None = None
    program: Program = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One context and cache type: what it takes, and whether this machine has it."""

    n_ctx: int
    cache_type: str
    memory: Footprint
    all_on_gpu: bool
    verdict: Verdict
    beyond_training: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Parameters for one model on one machine, with the reasons."""

    params: Params
    choices: tuple[Choice, ...]
    warnings: tuple[Advice, ...]
    verdict: Verdict
    next_step: str  # What would help; "" where nothing needs to.
    program: Program  # The one that `memory` counts.
    memory: Footprint
    ladder: tuple[Rung, ...]

    @property
    def rationale(self) -> tuple[str, ...]:
        """The reasons, in the order of the choices."""
        return tuple(choice.reason for choice in self.choices)


def generate_recommendations(
    hardware: Hardware,
    model: Model,
    *,
    storage: Storage | None = None,
    request: Request | None = None,
) -> Recommendation:
    """Recommend llama.cpp parameters for `model` on `hardware`.

    Args:
        hardware: what `detect_hardware` found.
        model: what `analyze_model` read.
        storage: what the model's file lies on, where that is known.
        request: what the user has fixed.

    Raises:
        ConfigError: the request cannot be met by any configuration.
    """
    request = request or Request()
    found, hardware = hardware.gpus, replace(hardware, gpus=used_gpus(hardware.gpus))
    ladder = context_ladder(
        hardware,
        model,
        lambda n_ctx, cache_type: _placed(hardware, model, n_ctx, cache_type, request.program),
    )
    context, placement = _context(hardware, model, request, ladder)
    host_bytes = host_needs(hardware, placement.memory)
    mlock, memlock = rules.mlock(hardware, model, host_bytes)
    no_mmap = rules.no_mmap(storage)
    ruled = (
        rules.threads(hardware.cpu),
        rules.threads_batch(hardware.cpu),
        rules.n_gpu_layers(hardware, model, placement),
        rules.n_cpu_moe(model, placement),
        rules.tensor_split(hardware, placement),
        rules.device(found, hardware, placement),
        context,
        *rules.batch(hardware, placement),
        rules.flash_attn(model, placement.params),
        *rules.cache_types(placement.params),
        mlock,
        no_mmap,
        rules.numa(hardware.cpu),
        rules.cache_ram(hardware.memory.available_bytes, host_bytes),
    )
    choices = tuple(choice for choice in ruled if choice is not None)
    verdict = judge(hardware, placement.memory)
    return Recommendation(
        params=_params(placement.params, choices, locked=bool(mlock.value) and memlock is None),
        choices=choices,
        warnings=_warnings(hardware, model, placement.params, memlock),
        verdict=verdict,
        next_step=_next_step(hardware, model, placement, verdict, ladder),
        program=request.program,
        memory=placement.memory,
        ladder=ladder,
    )


def _params(placed: Params, choices: Sequence[Choice], *, locked: bool) -> Params:
    """The placement, with what the other rules chose."""
    chosen = {choice.key: choice.value for choice in choices}
    numbers = {key: chosen[key] for key in ("--threads", "--threads-batch", "--cache-ram")}
    threads, threads_batch, cache_ram = (
        value if isinstance(value, int) else None for value in numbers.values()
    )
    devices = chosen.get("--device")
    return replace(
        placed,
        n_threads=threads,
        n_threads_batch=threads_batch,
        flash_attn="auto",
        cache_ram=cache_ram,
        devices=tuple(map(str, devices)) if isinstance(devices, list) else None,
        load_mode=load_mode(mapped=not chosen["--no-mmap"], locked=locked),
        numa="distribute" if "--numa" in chosen else None,
    )


def _placed(
    hardware: Hardware, model: Model, n_ctx: int, cache_type: str, program: Program
) -> Placement:
    """The best placement for a context, with the batch that fits beside it."""

    def attempt(size: int) -> Placement:
        params = Params(
            n_ctx=n_ctx, n_batch=size, n_ubatch=size, type_k=cache_type, type_v=cache_type
        )
        if not hardware.gpus:
            return on_cpu(model, params, program)
        return place(model, params, hardware.gpus, program)

    if not hardware.gpus:
        return attempt(rules.CPU_BATCH)
    larger = attempt(rules.GPU_BATCH)
    return larger if larger.params.n_gpu_layers else attempt(rules.CPU_BATCH)


def context_ladder(
    hardware: Hardware, model: Model, configure: Callable[[int, str], Placement]
) -> tuple[Rung, ...]:
    """What each context and cache type takes in the configuration that `configure` gives it."""
    rungs = []
    for cache_type in LADDER_TYPES:
        for n_ctx in LADDER_CONTEXTS:
            try:
                placement = configure(n_ctx, cache_type)
            except ConfigError:  # This model's cache rows cannot be of this type.
                continue
            rungs.append(
                Rung(
                    n_ctx=n_ctx,
                    cache_type=cache_type,
                    memory=placement.memory,
                    all_on_gpu=placement.complete,
                    verdict=judge(hardware, placement.memory),
                    beyond_training=n_ctx > model.shape.n_ctx_train > 0,
                )
            )
    return tuple(rungs)


def _context(
    hardware: Hardware, model: Model, request: Request, ladder: Sequence[Rung]
) -> tuple[Choice, Placement]:
    """The context: what was asked for, or the most that fits where the rest runs best."""
    trained = model.shape.n_ctx_train
    if request.n_ctx is not None:
        value, reason = request.n_ctx, f"{request.n_ctx} tokens, as asked for."
    else:
        value, reason = _fitting_context(hardware, trained, ladder)
    choice = Choice(
        key="--n-ctx",
        value=value,
        reason=reason,
        evidence=(
            f"the model was trained on {trained or 'an untold number of'} tokens",
            "`context_ladder` shows the others",
        ),
    )
    return choice, _placed(hardware, model, value, DEFAULT_CACHE_TYPE, request.program)


def _fitting_context(hardware: Hardware, trained: int, ladder: Sequence[Rung]) -> tuple[int, str]:
    allowed = [rung for rung in ladder if rung.cache_type == DEFAULT_CACHE_TYPE]
    allowed = [rung for rung in allowed if not rung.beyond_training and rung.verdict == "fits"]
    least = min(DEFAULT_CONTEXT, trained or DEFAULT_CONTEXT)
    on_gpu = [
        rung.n_ctx for rung in allowed if rung.all_on_gpu and least <= rung.n_ctx <= GPU_CONTEXT
    ]
    if on_gpu:
        return max(on_gpu), f"{max(on_gpu)} tokens fit on the GPU beside every layer."
    if not hardware.gpus:
        on_host = [rung.n_ctx for rung in allowed if rung.n_ctx <= CPU_CONTEXT]
        if on_host:
            return max(on_host), f"{max(on_host)} tokens, for a CPU; --ctx-size asks for more."
    why = "the default" if least == DEFAULT_CONTEXT else "all that the model was trained on"
    return least, f"{least} tokens, {why}: more would take memory from the layers."


def host_needs(hardware: Hardware, memory: Footprint) -> int:
    """Bytes of host memory that a configuration takes, with what integrated GPUs take of it."""
    shared = sum(
        place.total_bytes
        for gpu, place in zip(hardware.gpus, memory.gpus, strict=False)
        if gpu.integrated
    )
    return memory.host.total_bytes + shared + PROCESS_BYTES


def judge(hardware: Hardware, memory: Footprint) -> Verdict:
    """Whether the machine has what a configuration needs.

    Weights are mapped from the file, so without room for them llama.cpp reads them from disk again
    and again instead of failing; caches and compute buffers must have room.
    """
    for gpu, place_ in zip(hardware.gpus, memory.gpus, strict=False):
        if place_.total_bytes > gpu.free_bytes:
            return "does not fit"
    available = hardware.memory.available_bytes
    needed = host_needs(hardware, memory)
    if needed <= COMFORTABLE_SHARE * available:
        return "fits"
    if needed <= available:
        return "tight"
    if needed - memory.host.weights_bytes <= available:
        return "will page"
    return "does not fit"


def _warnings(
    hardware: Hardware, model: Model, params: Params, memlock: Advice | None
) -> tuple[Advice, ...]:
    warnings = [memlock] if memlock else []
    trained, n_ctx = model.shape.n_ctx_train, params.n_ctx or 0
    if n_ctx > trained > 0:
        warnings.append(
            Advice(
                what=f"{n_ctx} tokens of context are beyond the {trained} of the model's training",
                remedy=f"--ctx-size {trained}",
            )
        )
    if hardware.cpu.physical_cores == 2 and hardware.cpu.max_threads >= 2:  # noqa: PLR2004
        warnings.append(
            Advice(
                what=(
                    "reserving one of two cores halves the speed of text generation when nothing "
                    "else runs"
                ),
                remedy="--threads 2 on an idle machine",
            )
        )
    if not any(cache.k_elements or cache.state_elements for cache in model.caches):
        warnings.append(
            Advice(
                what="this model keeps no cache: it is an encoder, and generates no text",
                remedy="llama-server --embedding, with --ubatch-size as long as the longest input",
            )
        )
    warnings += [*device_advice(hardware)]
    warnings += [Advice(what=note, remedy="see docs/numbers.md") for note in model.notes]
    return tuple(warnings)


def _next_step(
    hardware: Hardware,
    model: Model,
    placement: Placement,
    verdict: Verdict,
    ladder: Sequence[Rung],
) -> str:
    """What would help where it does not fit well."""
    if verdict == "fits":
        return ""
    n_ctx = placement.params.n_ctx or 0
    smaller = [rung for rung in ladder if rung.verdict == "fits" and rung.n_ctx <= n_ctx]
    if smaller:
        best = max(smaller, key=lambda rung: (rung.n_ctx, rung.cache_type == DEFAULT_CACHE_TYPE))
        cache = "" if best.cache_type == DEFAULT_CACHE_TYPE else f" with a {best.cache_type} cache"
        needed = gib(host_needs(hardware, best.memory))
        return f"--ctx-size {best.n_ctx}{cache} fits in {needed} of RAM"
    spare = COMFORTABLE_SHARE * hardware.memory.available_bytes
    weights = placement.memory.host.weights_bytes
    weights += sum(
        place_.weights_bytes
        for gpu, place_ in zip(hardware.gpus, placement.memory.gpus, strict=False)
        if gpu.integrated
    )
    room = spare - host_needs(hardware, placement.memory) + weights
    smallest = SMALLEST_BITS / 8 * model.n_parameters / max(model.weight_bytes, 1)
    if room >= smallest * weights:
        return (
            f"a quantization whose weights take at most {gib(room)} in RAM (these take "
            f"{gib(weights)}), or close other programs"
        )
    return f"a smaller model: no quantization of this one fits in the {gib(spare)} to spare"
