"""The JSON that `lcm` prints, as types: the contract with every script that reads it.

`docs/schema.json` is generated from these types (`autotune.cli.schema`); the text beside a key is
its description there. A key is never renamed or dropped; new ones may be added.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

SCHEMA_VERSION: Literal[1] = 1

Verdict = Literal["fits", "tight", "will page", "does not fit"]


class GpuSection(TypedDict):
    backend: Annotated[str, "llama.cpp's backend: CUDA, Metal, ROCm, Vulkan, SYCL"]
    name: str
    total_bytes: int
    free_bytes: Annotated[int, "free when this was written; what the plan is made with"]
    integrated: Annotated[bool, "shares the host's memory; llama.cpp uses it only without a card"]
    driver: str
    compute_capability: Annotated[str, "NVIDIA's, as 8.9; empty elsewhere"]


class StorageSection(TypedDict):
    filesystem: str
    device: str
    rotational: Annotated[bool | None, "null where it cannot be told"]
    network: bool


class HardwareSection(TypedDict):
    cpu_cores_physical: Annotated[int, "of the machine"]
    cpu_cores_logical: Annotated[int, "of the machine"]
    cpu_cores_performance: Annotated[int, "physical cores of the fastest kind"]
    cpu_cores_usable: Annotated[int, "physical cores within affinity and cpuset"]
    cpu_threads_usable: Annotated[int, "threads that can run at once, the quota rounded down"]
    cpu_quota: Annotated[float | None, "CPUs' worth of time that a cgroup grants; null: no limit"]
    cpu_name: str
    cpu_architecture: str
    cpu_isa: Annotated[list[str], "instruction sets that llama.cpp has kernels for"]
    cpu_sockets: int
    cpu_numa_nodes: int
    ram_total_gb: Annotated[float, "of the machine, in GiB (2^30 bytes)"]
    ram_available_gb: Annotated[float, "without swapping, under the tightest cgroup limit, in GiB"]
    ram_total_bytes: int
    ram_available_bytes: int
    ram_limit_bytes: Annotated[int | None, "the tightest cgroup limit; null: none"]
    memlock_bytes: Annotated[int | None, "RLIMIT_MEMLOCK; null: unlimited"]
    gpu_type: Annotated[str | None, "the backend of the first GPU that is used; null without one"]
    gpu_vram_gb: Annotated[float, "of the GPUs that are used, in GiB; 0 without one"]
    gpus: list[GpuSection]
    storage: Annotated[StorageSection | None, "what the model lies on"]
    operating_system: str
    wsl: bool
    notes: Annotated[list[str], "what could not be read, and what was assumed instead"]


class ModelSection(TypedDict):
    path: Annotated[str, "the file to hand to llama.cpp: of a split model, the first shard"]
    size_gb: Annotated[float, "of all files, in GiB (2^30 bytes)"]
    size_bytes: int
    files: Annotated[int, "1, or the number of shards"]
    name: str
    architecture: str
    quantization: str
    n_parameters: int
    n_vocab: int
    n_layers: int
    n_ctx_train: Annotated[int, "the context that the model was trained on, in tokens"]
    n_embd: int
    n_expert: Annotated[int, "0 for a dense model"]
    n_expert_used: int
    weights_bytes: Annotated[int, "of the tensors that llama.cpp loads, once each"]
    notes: list[str]


# Logical names; `command` says them in llama.cpp's own flags.
RecommendedParams = TypedDict(
    "RecommendedParams",
    {
        "--threads": Annotated[int, "for text generation"],
        "--threads-batch": Annotated[int, "for prompt processing"],
        "--n-gpu-layers": Annotated[int, "999 means all"],
        "--n-cpu-moe": NotRequired[Annotated[int, "layers whose experts stay on the CPU"]],
        "--tensor-split": NotRequired[Annotated[list[int], "layers by GPU"]],
        "--device": NotRequired[Annotated[list[str], "only where some GPU is to be left alone"]],
        "--n-ctx": Annotated[int, "tokens of all slots together"],
        "--batch-size": int,
        "--ubatch-size": int,
        "--flash-attn": Literal["auto", "on", "off"],
        "--cache-type-k": str,
        "--cache-type-v": str,
        "--mlock": bool,
        "--no-mmap": bool,
        "--numa": NotRequired[Literal["distribute", "isolate", "numactl"]],
        "--cache-ram": Annotated[int, "MiB for llama-server's prompt cache"],
    },
)


class ExactSection(TypedDict):
    """True where a number is llama.cpp's own to the byte, false where it is an estimate."""

    weights_bytes: bool
    kv_cache_bytes: bool
    recurrent_bytes: bool
    compute_bytes: bool


class PlaceSection(TypedDict):
    weights_bytes: int
    kv_cache_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    exact: ExactSection


class MemorySection(TypedDict):
    host: PlaceSection
    gpus: Annotated[list[PlaceSection], "of the GPUs that are used, in the order of hardware.gpus"]


class RungSection(TypedDict):
    n_ctx: int
    cache_type: Annotated[str, "of K and V"]
    kv_cache_bytes: int
    host_bytes: int
    gpu_bytes: list[int]
    total_bytes: int
    all_on_gpu: bool
    beyond_training: Annotated[bool, "more than the model was trained on"]
    verdict: Verdict


class WarningSection(TypedDict):
    what: Annotated[str, "where this machine stands in the way of a recommendation"]
    remedy: str


# Argument lists, ready to be executed without a shell.
CommandSection = TypedDict(
    "CommandSection",
    {
        "dialect": Annotated[
            str, "whose flags these are: those of the installed llama.cpp, if any"
        ],
        "llama-cli": list[str],
        "llama-server": list[str],
        "unsupported": Annotated[list[str], "what the installed program cannot be told, and why"],
    },
)


class RunAnswer(TypedDict):
    """What `lcm run --model M --optimize` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    hardware: HardwareSection
    model: ModelSection
    recommended_params: RecommendedParams
    rationale: list[str]
    warnings: list[WarningSection]
    verdict: Verdict
    next_step: Annotated[str, "what would help; empty where nothing needs to"]
    memory: Annotated[MemorySection, "of llama-server under the recommended parameters"]
    context_ladder: list[RungSection]
    command: CommandSection


class InspectAnswer(TypedDict):
    """What `lcm inspect M --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    model: ModelSection
    memory: MemorySection
    context_ladder: list[RungSection]


class LimitsSection(TypedDict):
    """What this process may use, and what else makes measurements differ."""

    memlock_bytes: Annotated[int | None, "RLIMIT_MEMLOCK; null: unlimited"]
    ram_limit_bytes: Annotated[int | None, "the tightest cgroup limit; null: none"]
    cpu_quota: Annotated[float | None, "CPUs' worth of time that a cgroup grants; null: no limit"]
    cpu_governor: Annotated[str | None, "of the first CPU; null where the system shows none"]
    swap_total_bytes: int
    swap_used_bytes: int


class DeviceSection(TypedDict):
    name: Annotated[str, "as the program names it: CUDA0, Vulkan1"]
    description: str
    total_bytes: int
    free_bytes: int


class DialectSection(TypedDict):
    flash_attn: Annotated[
        Literal["words", "numbers", "switch"] | None,
        "-fa takes on, off and auto; or 0 and 1; or nothing; null: there is none",
    ]
    load_mode: Annotated[str | None, "the flags that choose how the model is loaded"]
    jsonl: Annotated[bool | None, "records come line by line; null: not llama-bench"]


class ProgramSection(TypedDict):
    name: str
    path: Annotated[str | None, "null: it was not found"]
    command: Annotated[list[str], "the words that start it"]
    found_by: Annotated[str, "the kind of place where it was found"]
    version: Annotated[str, "as it prints it; empty where it does not"]
    flavor: Annotated[str, "llama.cpp or ik_llama.cpp; empty where it did not answer"]
    backends: Annotated[list[str], "as far as its libraries and records tell"]
    devices: Annotated[list[DeviceSection], "what it can offload to"]
    dialect: Annotated[DialectSection | None, "null where it did not answer"]
    usable: Annotated[bool, "it answers, is no debug build, and runs where that was tried"]
    runs: Annotated[bool | None, "llama-bench ran the model; null: not tried"]
    repack_off: Annotated[bool, "it runs only with --repack 0"]


class FindingSection(TypedDict):
    kind: Annotated[Literal["problem", "note"], "a problem makes the exit code 1"]
    what: str
    places: Annotated[list[str], "where was looked, for what was not found"]
    remedy: str


class DoctorAnswer(TypedDict):
    """What `lcm doctor --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    healthy: Annotated[bool, "no finding is a problem"]
    hardware: HardwareSection
    limits: LimitsSection
    programs: list[ProgramSection]
    findings: list[FindingSection]
