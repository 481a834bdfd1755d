"""The specification's rules, one function a parameter, with exact knowledge over them.

Each function gives a `Choice`: the value, one sentence of reason, and the evidence it rests on.
Where what is known exactly contradicts the rule, the exact knowledge wins and the reason says both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.hardware import Cpu, Gpu, Hardware, Storage
from autotune.model import Model
from autotune.params import ALL_LAYERS, Params
from autotune.recommend.placement import MIB, Placement, budget_bytes, device_names

# More than this share of the available memory leaves too little for page cache and other programs.
COMFORTABLE_SHARE = 0.85

GIB = 1 << 30

# The specification: everything is offloaded when VRAM exceeds the model by this factor ...
VRAM_FACTOR = 1.2
# ... and the model is locked in memory when RAM exceeds it by this one.
MLOCK_FACTOR = 1.5
# The specification: 512 on a GPU with enough VRAM, 256 or lower on a CPU.
GPU_BATCH, CPU_BATCH = 512, 256

# llama-server keeps finished prompts in up to 8192 MiB of memory that no model needs
# (`--cache-ram`, common/common.h); a share of what is left is enough to keep the last few.
DEFAULT_CACHE_RAM_MIB = 8192
CACHE_RAM_SHARE = 0.15
# What is available changes by the second; the recommendation need not.
CACHE_RAM_STEP_MIB = 256

# Generating text waits for memory, which a few cores saturate; with fewer fast ones than this, the
# slow ones are worth waiting for (20 cores gained nothing above 3 or 4 threads: llama.cpp #12966).
ENOUGH_FAST_CORES = 4

Json = int | float | bool | str | list[float] | list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One recommended parameter, with why."""

    key: str  # The logical name, as in `recommended_params`: --n-gpu-layers.
    value: Json
    reason: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Where this machine stands in the way of a recommendation, and the remedy."""

    what: str
    remedy: str


def threads(cpu: Cpu) -> Choice:
    """Physical cores less one, within what the process may use, on cores of the fastest kind."""
    rule = max(cpu.physical_cores - 1, 1)
    most, limit = _most_threads(cpu)
    value = min(rule, most)
    detected = f"Detected {_count(cpu.physical_cores, 'physical core')}"
    if value < rule:
        reason = f"{limit}; the rule of physical cores less one would say {rule}."
    elif cpu.physical_cores == 1:
        reason = f"{detected}; using it."
    else:
        reason = f"{detected}; reserving 1 for system."
    return Choice(key="--threads", value=value, reason=reason, evidence=_cpu_evidence(cpu))


def threads_batch(cpu: Cpu) -> Choice:
    """Every core that the process may use: prompts are bound by arithmetic.

    Slow cores help here, because a thread that is done takes the next rows of the matrix
    (`ggml_threadpool_chunk_add` in ggml/src/ggml-cpu).
    """
    return Choice(
        key="--threads-batch",
        value=cpu.max_cores,
        reason=f"Prompt processing scales with cores: all {cpu.max_cores} that fit this process.",
        evidence=_cpu_evidence(cpu),
    )


def _most_threads(cpu: Cpu) -> tuple[int, str]:
    """The threads that run well at once, and what limits them."""
    fast = cpu.usable_performance_cores if cpu.usable_performance_cores >= ENOUGH_FAST_CORES else 0
    if cpu.quota is not None and cpu.max_threads < (fast or cpu.usable_cores):
        grant = f"A container's quota grants {cpu.quota:g} CPUs"
        return cpu.max_threads, f"{grant} of the {cpu.logical_cores} visible"
    if fast and fast < cpu.usable_cores:
        kinds = f"{fast} performance and {cpu.usable_cores - fast} efficiency cores"
        return fast, f"Of {kinds} only the first are used, because every thread waits for the last"
    granted = f"This process may use {_count(cpu.max_cores, 'core')} of {cpu.physical_cores}"
    return cpu.max_cores, granted


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _cpu_evidence(cpu: Cpu) -> tuple[str, ...]:
    quota = "no CPU quota" if cpu.quota is None else f"a CPU quota of {cpu.quota:g}"
    return (
        (
            f"{cpu.physical_cores} physical and {cpu.logical_cores} logical cores on "
            f"{_count(cpu.sockets, 'socket')}, {cpu.performance_cores} of them of the fastest kind"
        ),
        (
            f"{_count(len(cpu.usable_cpus), 'logical CPU')} ({cpu.usable_cores} physical) in this "
            f"process's affinity and cpuset, {quota}"
        ),
    )


def n_gpu_layers(hardware: Hardware, model: Model, placement: Placement) -> Choice:
    """What the search over the GPUs' free memory found, beside what the rule says."""
    evidence = tuple(
        f"{gpu.name}: {gib(place.total_bytes)} needed of {gib(budget_bytes(gpu))} that may be "
        f"planned with ({gib(gpu.free_bytes)} free, {gib(gpu.total_bytes)} in all{_told_by(gpu)})"
        for gpu, place in zip(hardware.gpus, placement.memory.gpus, strict=True)
    )
    return Choice(
        key="--n-gpu-layers",
        value=placement.params.n_gpu_layers or 0,
        reason=_offload_reason(hardware, model, placement),
        evidence=evidence or ("no GPU in sysfs, NVML or Metal",),
    )


def _told_by(gpu: Gpu) -> str:
    return f"; {gpu.device} by {' and '.join(gpu.sources)}" if gpu.sources else ""


def _offload_reason(hardware: Hardware, model: Model, placement: Placement) -> str:
    if not hardware.gpus:
        return f"{_why_without_gpu(hardware)}; everything stays on the CPU."
    by = "".join(
        f" {gpu.name} is driven by {gpu.backend}, as this llama.cpp does not list it by "
        f"{gpu.own_backend}."
        for gpu in hardware.gpus
        if gpu.own_backend
    )
    return _what_fits(hardware, model, placement) + by


def _why_without_gpu(hardware: Hardware) -> str:
    names = ", ".join(gpu.name for gpu in hardware.idle_gpus)
    if not names:
        return "No GPU was detected"
    if hardware.asked:
        return f"The installed llama.cpp lists no device for {names}"
    return f"Whether {names} can be used, only an installed llama.cpp tells"


def _what_fits(hardware: Hardware, model: Model, placement: Placement) -> str:
    free, value = sum(gpu.free_bytes for gpu in hardware.gpus), placement.params.n_gpu_layers or 0
    memory = f"{gib(free)} of VRAM is free for a model of {gib(model.file_bytes)}"
    if placement.complete:
        return f"{memory}; every layer fits with cache and compute buffers."
    if value == ALL_LAYERS:
        fitting = "all layers fit when some experts stay on the CPU"
    elif value:
        fitting = f"{value} of {model.n_offloadable} layers fit with cache and compute buffers"
    else:
        fitting = "not one layer fits with cache and compute buffers"
    if free <= VRAM_FACTOR * model.file_bytes:
        return f"{memory}; {fitting}."
    return f"{memory}, more than {VRAM_FACTOR} x, which the rule takes for enough; but {fitting}."


def n_cpu_moe(model: Model, placement: Placement) -> Choice | None:
    """Experts on the CPU, where the mixture does not fit."""
    kept = placement.params.n_cpu_moe
    if not kept:
        return None
    return Choice(
        key="--n-cpu-moe",
        value=kept,
        reason=(
            f"The experts of {kept} of {len(model.layers)} layers stay on the CPU: attention runs "
            f"for every token, but only {model.shape.n_expert_used} of "
            f"{model.shape.n_expert} experts do."
        ),
        evidence=(
            f"one layer's experts are up to {gib(max(x.expert_bytes for x in model.layers))}",
        ),
    )


def tensor_split(hardware: Hardware, placement: Placement) -> Choice | None:
    """Layers by device, where there are several."""
    split = placement.params.tensor_split
    if not split:
        return None
    return Choice(
        key="--tensor-split",
        value=shares(split),
        reason="Each GPU gets the layers that its own free memory holds, the output included.",
        evidence=tuple(f"{gpu.name}: {gib(gpu.free_bytes)} free" for gpu in hardware.gpus),
    )


def shares(split: Sequence[float]) -> list[float]:
    """Whole numbers of layers as such."""
    return [int(share) if share == int(share) else share for share in split]


def device(found: Sequence[Gpu], hardware: Hardware, placement: Placement) -> Choice | None:
    """The devices by name, where llama.cpp would take others by itself."""
    alone = [*(placement.params.devices or ())]
    names = alone or device_names(found, hardware.gpus, placement.params.n_gpu_layers or 0)
    if not names:
        return None
    reason = "A GPU without room is left alone: llama.cpp would copy weights to it for prompts."
    if alone:
        reason = (
            "One GPU holds it alone: a token goes through all layers in turn, wherever they are."
        )
    return Choice(
        key="--device",
        value=names,
        reason=reason,
        evidence=tuple(f"{gpu.name}: {gib(gpu.free_bytes)} free" for gpu in found),
    )


def batch(hardware: Hardware, placement: Placement) -> tuple[Choice, Choice]:
    """Logical and physical batch size."""
    size = placement.params.n_batch or CPU_BATCH
    where = "a CPU"
    if hardware.gpus:
        where = "a GPU with room for it" if size == GPU_BATCH else "a GPU without room for more"
    logical = Choice(
        key="--batch-size",
        value=size,
        reason=f"{size} tokens a batch, for {where}.",
        evidence=(f"the specification: {GPU_BATCH} with enough VRAM, {CPU_BATCH} or lower on CPU",),
    )
    physical = Choice(
        key="--ubatch-size",
        value=placement.params.n_ubatch,
        reason="One physical batch a logical one: more would only wait for each other.",
        evidence=(f"compute buffers then take {gib(_compute_bytes(placement))} in all",),
    )
    return logical, physical


def _compute_bytes(placement: Placement) -> int:
    return sum(place.compute_bytes for place in placement.memory.places)


def flash_attn(model: Model, params: Params) -> Choice:
    """llama.cpp's own choice by device."""
    heads = max(model.shape.heads, default=0)
    scores = 4 * (params.n_ubatch or CPU_BATCH) * (params.n_ctx or 0) * heads
    return Choice(
        key="--flash-attn",
        value="auto",
        reason="llama.cpp turns it on wherever the device supports it.",
        evidence=(
            f"without it, attention scores would take {gib(scores)} more",
            "a quantized V cache requires it",
        ),
    )


def cache_types(params: Params) -> tuple[Choice, Choice]:
    """f16: smaller types lose quality, which no rule may trade away."""
    evidence = ("`context_ladder` shows what q8_0 would save",)
    reason = "f16 keeps the model's quality; a smaller type is the user's decision."
    return (
        Choice(key="--cache-type-k", value=params.type_k, reason=reason, evidence=evidence),
        Choice(key="--cache-type-v", value=params.type_v, reason=reason, evidence=evidence),
    )


def mlock(hardware: Hardware, model: Model, host_bytes: int) -> tuple[Choice, Advice | None]:
    """Lock the model in memory where there is plenty; name the limit that stands in the way."""
    ram, limit = hardware.memory.usable_total_bytes, hardware.memory.memlock_bytes
    plenty = ram > MLOCK_FACTOR * model.file_bytes
    value = plenty and host_bytes <= COMFORTABLE_SHARE * hardware.memory.available_bytes
    comparison = "more" if plenty else "not more"
    size = gib(model.file_bytes)
    reason = f"{gib(ram)} of RAM is {comparison} than {MLOCK_FACTOR} x the model's {size}."
    if plenty and not value:
        reason += f" But only {gib(hardware.memory.available_bytes)} is available now."
    shown = "unlimited" if limit is None else gib(limit)
    choice = Choice(
        key="--mlock",
        value=value,
        reason=reason,
        evidence=(f"this process may lock {shown} (RLIMIT_MEMLOCK)",),
    )
    if not value or limit is None or limit >= host_bytes:
        return choice, None
    return choice, Advice(
        what=(
            f"--mlock cannot take effect: this process may lock {shown}, the model needs "
            f"{gib(host_bytes)}; llama.cpp would go on unlocked, so `command` leaves it out"
        ),
        remedy="ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; docker: --ulimit memlock=-1",
    )


def no_mmap(storage: Storage | None) -> Choice:
    """Read the whole file at once from storage where page faults are expensive."""
    slow = storage is not None and storage.slow
    if storage is None:
        reason = "The model's storage is unknown; memory mapping is the default."
        evidence: tuple[str, ...] = ("nothing was said of where the file lies",)
    else:
        kind = "network" if storage.network else "rotational"
        evidence = (
            f"{storage.device or 'the device'} with {storage.filesystem or 'no known type'}",
        )
        reason = (
            f"The model lies on {kind} storage: reading it in one go beats page faults."
            if slow
            else "The model lies on storage that pages quickly; memory mapping starts sooner."
            if storage.rotational is False
            else "Whether the storage is slow cannot be told; memory mapping is the default."
        )
    return Choice(key="--no-mmap", value=slow, reason=reason, evidence=evidence)


def numa(cpu: Cpu) -> Choice | None:
    """Spread over the nodes, where there are several and all of them may be used.

    llama.cpp pins its threads to the CPUs of every node, whatever affinity and cpuset say
    (`set_numa_thread_affinity`, ggml/src/ggml-cpu); with a part of the machine that is wrong.
    """
    whole = cpu.usable_cores == cpu.physical_cores <= cpu.max_threads
    if cpu.numa_nodes < 2 or not whole:  # noqa: PLR2004 - one node is no choice
        return None
    return Choice(
        key="--numa",
        value="distribute",
        reason=f"{cpu.numa_nodes} NUMA nodes: threads and pages are spread over all of them.",
        evidence=("whether one node alone is faster can only be measured",),
    )


def cache_ram(available_bytes: int, host_bytes: int) -> Choice:
    """llama-server's prompt cache, within what the model leaves."""
    left = max(available_bytes - host_bytes, 0)
    share = int(left * CACHE_RAM_SHARE) // MIB
    value = min(DEFAULT_CACHE_RAM_MIB, share // CACHE_RAM_STEP_MIB * CACHE_RAM_STEP_MIB)
    return Choice(
        key="--cache-ram",
        value=value,
        reason=(
            f"llama-server keeps finished prompts in up to {value} MiB, {CACHE_RAM_SHARE:.0%} of "
            f"the RAM that the model leaves; its default is {DEFAULT_CACHE_RAM_MIB} MiB."
        ),
        evidence=(f"{gib(left)} of RAM is left", "llama-server only"),
    )


def gib(n_bytes: float) -> str:
    """Bytes for people: 4.8 GiB, 170 MiB."""
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"
