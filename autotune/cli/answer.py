"""The JSON that `lcm` prints, as types: the contract with every script that reads it.

`docs/schema.json` is generated from these types (`autotune.cli.schema`); the text beside a key is
its description there. A key is never renamed or dropped; new ones may be added.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from autotune.params import SplitMode

SCHEMA_VERSION: Literal[1] = 1

Verdict = Literal["fits", "tight", "will page", "does not fit"]


class GpuSection(TypedDict):
    backend: Annotated[str, "llama.cpp's backend: CUDA, Metal, ROCm, Vulkan, SYCL, RPC"]
    name: str
    total_bytes: int
    free_bytes: Annotated[int, "free when this was written; what the plan is made with"]
    integrated: Annotated[bool, "shares the host's memory; llama.cpp uses it only without a card"]
    driver: str
    compute_capability: Annotated[str, "NVIDIA's, as 8.9; empty elsewhere"]
    device: Annotated[str | None, "what the installed llama.cpp calls it; null: not in its list"]
    sources: Annotated[list[str], "who tells of it: NVML, sysfs, ROCm-SMI, sysctl, llama.cpp"]
    usable: Annotated[bool | None, "the installed llama.cpp lists it; null: it was not asked"]


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
    gpus: Annotated[list[GpuSection], "first those that can be used, then those that stay idle"]
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
        "--tensor-split": NotRequired[
            Annotated[list[float], "layers by GPU, or shares of them, in the order of --device"]
        ],
        "--split-mode": NotRequired[Annotated[SplitMode, "how several GPUs share the work"]],
        "--main-gpu": NotRequired[Annotated[int, "the only one that is used, counted from 0"]],
        "--device": NotRequired[
            Annotated[list[str], "only where some GPU is left alone, or their order is another"]
        ],
        "--parallel": NotRequired[Annotated[int, "llama-server's slots, as measured"]],
        "--kv-unified": NotRequired[Annotated[bool, "one cache that all slots share"]],
        "--n-ctx": Annotated[int, "tokens of all slots together"],
        "--batch-size": int,
        "--ubatch-size": int,
        "--flash-attn": Literal["auto", "on", "off"],
        "--cache-type-k": str,
        "--cache-type-v": str,
        "--mlock": bool,
        "--no-mmap": bool,
        "--numa": NotRequired[Literal["distribute", "isolate", "numactl"]],
        "numactl": NotRequired[Annotated[str, "what llama.cpp is bound by: node0, or interleave"]],
        "--no-op-offload": NotRequired[Annotated[bool, "prompts of layers on the CPU stay there"]],
        "--no-kv-offload": NotRequired[Annotated[bool, "the cache stays in the host's memory"]],
        "--no-repack": NotRequired[Annotated[bool, "weights are used as they lie in the file"]],
        "--cache-ram": Annotated[int, "MiB for llama-server's prompt cache"],
    },
)


# The field of `Params` that each of them is.
FIELDS = {
    "--threads": "n_threads",
    "--threads-batch": "n_threads_batch",
    "--n-gpu-layers": "n_gpu_layers",
    "--n-cpu-moe": "n_cpu_moe",
    "--tensor-split": "tensor_split",
    "--split-mode": "split_mode",
    "--main-gpu": "main_gpu",
    "--device": "devices",
    "--parallel": "n_parallel",
    "--kv-unified": "kv_unified",
    "--n-ctx": "n_ctx",
    "--batch-size": "n_batch",
    "--ubatch-size": "n_ubatch",
    "--flash-attn": "flash_attn",
    "--cache-type-k": "type_k",
    "--cache-type-v": "type_v",
    "--numa": "numa",
    "numactl": "numactl",
    "--cache-ram": "cache_ram",
    "--no-op-offload": "no_op_offload",
    "--no-kv-offload": "no_kv_offload",
}
# Those that are not a field of their own: they say no to how weights are loaded.
OF_LOADING = {"--mlock": "load_mode", "--no-mmap": "load_mode", "--no-repack": "repack"}


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


GainVerdict = Literal["better", "not shown", "worse"]


class WorkloadSection(TypedDict):
    """The request that was tuned for."""

    name: str
    n_prompt: Annotated[int, "tokens of the prompt"]
    n_gen: Annotated[int, "tokens that are generated"]
    n_depth: Annotated[int, "tokens in the cache before"]
    n_parallel: NotRequired[
        Annotated[int, "requests at once; their rates and seconds are those of all together"]
    ]
    objective: Annotated[
        Literal["request", "pp", "tg", "efficiency"],
        "whose seconds are minimised; efficiency: the joules of a request",
    ]


class SamplesSection(TypedDict):
    """One test of the verification, as llama-bench timed it."""

    round: Annotated[str, "in which round, in the order in which they ran"]
    test: Annotated[str, "llama-bench's name of it: pp512, tg64 @ d4096"]
    samples_ns: Annotated[list[int], "of each repetition"]
    samples_j: NotRequired[
        Annotated[list[float], "joules of each repetition; empty where nobody can tell"]
    ]
    disturbed: Annotated[str, "what else the machine did; empty if nothing"]


class SideSection(TypedDict):
    """One of two configurations that were compared."""

    params: Annotated[dict[str, int | float | str | bool | list[str]], "in llama-bench's names"]
    pp_tokens_per_s: Annotated[float | None, "median of all that was measured; null: not measured"]
    tg_tokens_per_s: float | None
    request_s: Annotated[float | None, "seconds of one request, by those medians"]
    pp_tokens_per_joule: NotRequired[
        Annotated[float | None, "of the whole machine, its idle share in it; null: not told"]
    ]
    tg_tokens_per_joule: NotRequired[float | None]
    request_j: NotRequired[Annotated[float | None, "joules of one request, by those medians"]]
    memory: Annotated[MemorySection, "as it is served, with the context of --n-ctx"]
    samples: Annotated[list[SamplesSection], "of the verification alone, raw"]


class WorkerSection(TypedDict):
    """A machine that works on a shared study, and whether the winner holds there."""

    host: str
    pid: int
    machine: str
    state: Annotated[str, "working, verifying, finished, interrupted, failed, or silent"]
    verdict: Annotated[str, "of its own verification; empty until it is known"]
    ratio: Annotated[float | None, "how many times as fast as llama.cpp's defaults, there"]
    low: float | None
    high: float | None
    params: Annotated[
        dict[str, int | float | str | bool | list[str]] | None, "what it has verified"
    ]


class FleetSection(TypedDict):
    """The shared study that was measured for, and where its winner holds."""

    study: Annotated[str, "its name in the database"]
    storage: Annotated[str, "the database, without a password"]
    workers: Annotated[list[WorkerSection], "all that there were until now, this one included"]


class AtWorkSection(WorkerSection):
    """A worker, what it has done, and what it is at."""

    seen_s_ago: Annotated[float, "since its last heartbeat, by the two machines' clocks"]
    trials: Annotated[int, "that it has measured"]
    measuring: Annotated[str, "what for, as `kind` of a trial; empty if nothing"]
    measuring_params: dict[str, int | float | str | bool | list[str]] | None


class SharedStudySection(TypedDict):
    """A study that many machines work on."""

    name: str
    model: str
    workload: str
    trials: Annotated[int, "that were measured, by all"]
    begun_in_vain: Annotated[int, "left by a worker that died, or begun by two at once"]
    baseline_cost: Annotated[float | None, "seconds of a request, or joules; null: not measured"]
    best_cost: Annotated[float | None, "the least that the search has seen; nothing is proven"]
    best_params: dict[str, int | float | str | bool | list[str]] | None
    workers: list[AtWorkSection]


class FleetStatusAnswer(TypedDict):
    """What `lcm fleet status --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    storage: Annotated[str, "the database, without a password"]
    studies: list[SharedStudySection]


class ServedSideSection(TypedDict):
    """All requests of the workload at once, to a real llama-server."""

    seconds: Annotated[list[float], "of each time, until all were answered"]
    measured_s: Annotated[float | None, "what llama-batched-bench says of the same share"]


class ServedSection(TypedDict):
    """Whether a real llama-server serves what was measured."""

    agreement: Annotated[
        Literal["confirmed", "of another size", "contradicted", "failed", "not compared"],
        "of its ratio with the one that was measured, by the rule",
    ]
    ratio: Annotated[float | None, "how many times as fast it served the candidate; null: did not"]
    of_measured: Annotated[float | None, "that ratio over the measured one; 1: the same"]
    share: Annotated[float, "of each request's tokens; below 1 where there was no time for all"]
    baseline: ServedSideSection
    candidate: Annotated[ServedSideSection | None, "null: nothing was better, or it failed"]
    failure: Annotated[str, "whose server failed, and how; empty if none did"]
    rule: str


class EvidenceSection(TypedDict):
    """What was measured, and what it shows."""

    verdict: Annotated[GainVerdict, "of the candidate against llama.cpp's defaults"]
    workload: WorkloadSection
    baseline: Annotated[SideSection, "llama.cpp's own defaults"]
    candidate: Annotated[SideSection | None, "the best that was found; null: the defaults"]
    winner: Annotated[bool, "the candidate is what is recommended"]
    ratio: Annotated[
        float | None, "how many times as fast, or as efficient, as the defaults; null: not compared"
    ]
    low: Annotated[float | None, "lower end of the interval of the ratio"]
    high: float | None
    confidence: Annotated[float | None, "of that interval"]
    pairs: Annotated[int, "interleaved rounds that it rests on"]
    chance: Annotated[float | None, "that equally fast ones would look this different, either way"]
    rule: Annotated[str, "how the interval is made"]
    complete: Annotated[bool, "false: it was interrupted, and --resume goes on"]
    trials: Annotated[int, "visits of configurations, the verification's included"]
    failures: Annotated[dict[str, int], "by kind"]
    elapsed_s: float
    waited_s: Annotated[float, "of it, for a busy machine"]
    disturbed_rounds: Annotated[int, "of the verification, that do not count"]
    study: Annotated[str, "the folder that holds everything; study.db is an Optuna study"]
    fleet: NotRequired[Annotated[FleetSection, "only with --storage"]]
    served: NotRequired[
        Annotated[
            ServedSection | None,
            "of several requests at once, a real llama-server's word; null: none was asked",
        ]
    ]


class StudySection(TypedDict):
    """One study in the folder of results."""

    name: Annotated[str, "what it is called on the command line"]
    model: str
    workload: str
    purpose: Annotated[Literal["tune", "verify"], "what it was measured for"]
    machine: str
    build: Annotated[str, "of llama.cpp, as that prints it"]
    started: Annotated[str, "ISO 8601, UTC"]
    state: Literal["running", "interrupted", "finished"]
    verdict: Annotated[str, "as in `evidence`; empty until it is known"]
    ratio: Annotated[float | None, "how many times as fast as llama.cpp's defaults"]
    low: float | None
    high: float | None
    folder: str


class ListAnswer(TypedDict):
    """What `lcm results list --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    studies: list[StudySection]
    unreadable: Annotated[list[str], "folders whose study.json says nothing that this lcm reads"]


class ShowAnswer(TypedDict):
    """What `lcm results show --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    study: StudySection
    trials: Annotated[int, "configurations that were visited"]
    records: Annotated[int, "tests that llama-bench finished or failed at"]
    failures: Annotated[dict[str, int], "tests that failed, by kind"]
    params: Annotated[
        dict[str, int | float | str | bool | list[str]] | None,
        "what it ships, in llama-bench's names; null: nothing yet",
    ]
    evidence: Annotated[EvidenceSection | None, "null: no session came to an end"]
    environment: Annotated[dict[str, object], "as in environment.json; empty in old studies"]


class DifferenceSection(TypedDict):
    what: Annotated[str, "machine, driver, kernel, model, file, build, arguments, request, ..."]
    a: str
    b: str


class FigureSection(TypedDict):
    side: Annotated[str, "baseline: llama.cpp's defaults; candidate: the best that was found"]
    name: Annotated[str, "as in `evidence`"]
    a: float | None
    b: float | None
    ratio: Annotated[float | None, "how many times as fast b is"]


class CompareAnswer(TypedDict):
    """What `lcm results compare --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    a: StudySection
    b: StudySection
    different: Annotated[list[DifferenceSection], "what --across allows, and what is harmless"]
    figures: list[FigureSection]
    interleaved: Annotated[bool, "false: what the machine did on each day is in the ratio"]


class MeasuredSection(TypedDict):
    """The profile that was measured for this model, machine and build of llama.cpp."""

    date: str
    build: str
    verdict: Annotated[str, "as in `evidence`; empty where it was not verified"]
    ratio: Annotated[float | None, "how many times as fast as llama.cpp's defaults"]
    low: float | None
    high: float | None
    workload: str
    params: Annotated[dict[str, int | float | str | bool | list[str]], "in llama-bench's names"]
    profile: Annotated[str, "the file; `lcm run --model M` starts with it, unless it is worse"]


class ThenSection(TypedDict):
    """A profile as it was before it was verified."""

    date: Annotated[str, "when it was measured, or verified last"]
    build: str
    verdict: Annotated[str, "as in `evidence`; empty where it was not verified"]
    ratio: Annotated[float | None, "how many times as fast as llama.cpp's defaults"]
    low: float | None
    high: float | None
    workload: str
    study: Annotated[str, "the folder that holds the rest"]
    profile: Annotated[str, "the file"]


class ChangeSection(TypedDict):
    what: Annotated[str, "build, driver, kernel, file, ..."]
    then: str
    now: str


class VerifyAnswer(TypedDict):
    """What `lcm verify M --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    verdict: Annotated[GainVerdict, "of the profile, against llama.cpp's defaults here and now"]
    reason: Annotated[str, "why nothing was compared; empty where it was"]
    evidence: Annotated[EvidenceSection | None, "null: nothing was measured"]
    then: ThenSection
    changed: Annotated[list[ChangeSection], "since the profile was measured, as far as is known"]


class Recommended(TypedDict):
    """What every answer of `lcm run --model M --optimize` has."""

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


class RunAnswer(Recommended, total=False):
    """What `lcm run --model M --optimize` prints, with --deep or without."""

    measured: Annotated[MeasuredSection, "where there is a profile, without --deep"]
    evidence: Annotated[EvidenceSection, "with --deep"]


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


class EnergySection(TypedDict):
    """What counts the machine's joules."""

    of: Annotated[list[str], "what is counted: CPU package 0, memory of package 0, GPU 0"]
    gap: Annotated[str, "what is missing; empty if nothing is"]
    remedy: str


class DoctorAnswer(TypedDict):
    """What `lcm doctor --json` prints."""

    schema_version: Annotated[Literal[1], "changes when a key changes its meaning"]
    healthy: Annotated[bool, "no finding is a problem"]
    hardware: HardwareSection
    limits: LimitsSection
    energy: EnergySection
    programs: list[ProgramSection]
    findings: list[FindingSection]
