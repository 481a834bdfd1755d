"""The rules, over recorded machines: which value, and does the reason say what limits it?"""

from dataclasses import replace

import pytest
from fakes.hosts import GIB, MIB, card, dense_model, host, recorded, zoo_model
from fakes.machine import NAMES

from autotune.hardware import Cpu, Gpu, Hardware, Storage
from autotune.llama_cpp.dialect import render
from autotune.model import Model
from autotune.params import ALL_LAYERS
from autotune.recommend import Choice, Recommendation, Request, generate_recommendations, rules

NVME = Storage(filesystem="ext4", device="/dev/nvme0n1p2", rotational=False, network=False)
DISK = replace(NVME, device="/dev/sda1", rotational=True)
NFS = replace(NVME, filesystem="nfs4", device="server:/models", rotational=None, network=True)
UNTOLD = replace(NVME, device="/dev/mapper/root", rotational=None)

# What the process may run at once, by hand from the comments of the recordings.
THREADS = {
    "amd-gpu": (15, 16),
    "arm-big-little": (4, 8),
    "cgroup-v1": (1, 1),
    "compact-cores": (4, 12),
    "container-memory": (7, 8),
    "container-quota": (2, 2),
    "hybrid-no-smt": (8, 20),
    "hybrid-smt": (8, 12),
    "intel-arc": (8, 12),
    "missing-files": (1, 1),
    "nested-cgroup": (3, 3),
    "one-socket-smt": (7, 8),
    "restricted": (4, 4),
    "sandbox": (1, 2),
    "two-socket-numa": (63, 64),
    "wsl": (9, 10),
}


def cpu_of(name: str, **changes: object) -> Cpu:
    return replace(recorded(name).cpu, **changes)  # type: ignore[arg-type]


def recommend(
    hardware: Hardware, model: Model | None = None, storage: Storage | None = None
) -> Recommendation:
    return generate_recommendations(hardware, model or dense_model(), storage=storage)


def chosen(recommendation: Recommendation, key: str) -> Choice:
    (choice,) = [choice for choice in recommendation.choices if choice.key == key]
    return choice


# --- threads -------------------------------------------------------------------------------------


def test_every_recorded_machine_has_its_threads_written_down() -> None:
    assert sorted(THREADS) == NAMES


@pytest.mark.parametrize(("name", "expected"), THREADS.items(), ids=THREADS)
def test_threads_of_a_recorded_machine(name: str, expected: tuple[int, int]) -> None:
    cpu = recorded(name).cpu
    assert (rules.threads(cpu).value, rules.threads_batch(cpu).value) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one-socket-smt", "Detected 8 physical cores; reserving 1 for system."),
        (
            "container-quota",
            (
                "A container's quota grants 2 CPUs of the 64 visible; the rule of physical cores "
                "less one would say 31."
            ),
        ),
        (
            "nested-cgroup",
            (
                "A container's quota grants 3.5 CPUs of the 32 visible; the rule of physical cores "
                "less one would say 15."
            ),
        ),
        (
            "restricted",
            "This process may use 4 cores of 8; the rule of physical cores less one would say 7.",
        ),
        (
            "hybrid-no-smt",
            (
                "Of 8 performance and 12 efficiency cores only the first are used, because every "
                "thread waits for the last; the rule of physical cores less one would say 19."
            ),
        ),
        ("missing-files", "Detected 1 physical core; using it."),
    ],
    ids=["plain", "quota", "quota of 3.5", "affinity", "hybrid", "one core"],
)
def test_the_reason_for_threads_names_what_limits_them(name: str, said: str) -> None:
    assert rules.threads(recorded(name).cpu).reason == said


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(0.2, 1), (0.99, 1), (1.0, 1), (2.0, 2), (2.9, 2), (31.5, 31), (64.0, 31)],
)
def test_a_quota_is_rounded_down_and_never_below_one(quota: float, expected: int) -> None:
    assert rules.threads(cpu_of("container-quota", quota=quota)).value == expected


def test_affinity_to_efficiency_cores_alone_uses_those() -> None:
    only_efficient = cpu_of(
        "hybrid-no-smt",
        usable_cpus=tuple(range(8, 14)),
        usable_cores=6,
        usable_performance_cores=0,
    )
    assert rules.threads(only_efficient).value == 6
    assert rules.threads_batch(only_efficient).value == 6
    assert "performance" not in rules.threads(only_efficient).reason


@pytest.mark.parametrize(("fast", "expected"), [(2, 6), (3, 6), (4, 4), (5, 5)])
def test_a_few_performance_cores_are_not_left_alone(fast: int, expected: int) -> None:
    mixed = cpu_of(
        "hybrid-no-smt",
        usable_cpus=(0, 1, 8, 9, 10, 11),
        usable_cores=6,
        usable_performance_cores=fast,
    )
    assert rules.threads(mixed).value == expected


def test_a_quota_below_the_performance_cores_wins() -> None:
    assert rules.threads(cpu_of("hybrid-no-smt", quota=3.0)).value == 3


def test_both_threads_of_one_core_count_as_one_core() -> None:
    one_core = cpu_of(
        "one-socket-smt", usable_cpus=(0, 8), usable_cores=1, usable_performance_cores=1
    )
    assert rules.threads(one_core).value == 1


@pytest.mark.parametrize("cores", [1, 2, 3, 4])
def test_threads_are_physical_cores_less_one_and_at_least_one(cores: int) -> None:
    cpu = cpu_of(
        "one-socket-smt",
        physical_cores=cores,
        logical_cores=cores,
        performance_cores=cores,
        usable_cpus=tuple(range(cores)),
        usable_cores=cores,
        usable_performance_cores=cores,
    )
    assert rules.threads(cpu).value == max(cores - 1, 1)


@pytest.mark.parametrize(
    ("name", "warned"), [("sandbox", True), ("one-socket-smt", False), ("missing-files", False)]
)
def test_reserving_one_of_two_cores_is_warned_of(name: str, *, warned: bool) -> None:
    warnings = recommend(recorded(name)).warnings
    assert any(advice.remedy.startswith("--threads 2") for advice in warnings) == warned


def test_one_of_two_cores_by_quota_is_no_core_to_win_back() -> None:
    machine = recorded("sandbox")
    limited = replace(machine, cpu=replace(machine.cpu, quota=1.0))
    assert [advice for advice in recommend(limited).warnings if "--threads" in advice.remedy] == []


# --- mlock ---------------------------------------------------------------------------------------


def lockable(limit: int | None, *, available_gib: float = 56, total_gib: float = 62.6) -> Hardware:
    machine = host(available_gib=available_gib, total_gib=total_gib)
    return replace(machine, memory=replace(machine.memory, memlock_bytes=limit))


def test_memory_of_one_and_a_half_models_locks_it() -> None:
    model = zoo_model("llama3-8b")
    total = 1.5 * model.file_bytes / GIB

    above = recommend(lockable(None, total_gib=total + 0.01), model)
    below = recommend(lockable(None, total_gib=total - 0.01), model)

    assert (chosen(above, "--mlock").value, chosen(below, "--mlock").value) == (True, False)
    assert "more than 1.5 x the model's 4.6 GiB" in chosen(above, "--mlock").reason
    assert "not more than 1.5 x the model's 4.6 GiB" in chosen(below, "--mlock").reason


def test_a_containers_limit_is_its_memory() -> None:
    # 4 GiB of 256: the machine's own memory is no one's to lock.
    recommendation = recommend(recorded("container-memory"), zoo_model("llama3-8b"))
    assert chosen(recommendation, "--mlock").value is False


def test_memory_that_others_use_now_is_not_locked() -> None:
    choice = chosen(recommend(lockable(None, available_gib=3), zoo_model("llama3-8b")), "--mlock")
    assert choice.value is False
    assert choice.reason.endswith("But only 3.0 GiB is available now.")


@pytest.mark.parametrize("limit", [None, 20 * GIB], ids=["unlimited", "enough"])
def test_a_lock_that_takes_effect_is_in_the_command(limit: int | None) -> None:
    recommendation = recommend(lockable(limit), zoo_model("llama3-8b"))
    assert recommendation.warnings == ()
    assert recommendation.params.load_mode == "mmap+mlock"
    assert "mmap+mlock" in render(recommendation.params, "cli").arguments


def test_a_lock_that_cannot_take_effect_is_warned_of_and_left_out_of_the_command() -> None:
    recommendation = recommend(lockable(8 * MIB), zoo_model("llama3-8b"))

    (advice,) = recommendation.warnings
    assert chosen(recommendation, "--mlock").value is True
    assert "this process may lock 8 MiB" in advice.what
    assert "ulimit -l unlimited" in advice.remedy
    assert "LimitMEMLOCK=infinity" in advice.remedy
    assert "--load-mode" not in render(recommendation.params, "cli").arguments


def test_no_lock_is_no_warning() -> None:
    recommendation = recommend(lockable(8 * MIB, available_gib=3), zoo_model("llama3-8b"))
    assert [advice for advice in recommendation.warnings if "mlock" in advice.what] == []


# --- storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "expected", "said"),
    [
        (None, False, "unknown"),
        (NVME, False, "pages quickly"),
        (DISK, True, "rotational"),
        (NFS, True, "network"),
    ],
    ids=["not told", "nvme", "disk", "nfs"],
)
def test_memory_mapping_is_left_out_on_slow_storage(
    storage: Storage | None, *, expected: bool, said: str
) -> None:
    choice = rules.no_mmap(storage)
    assert choice.value is expected
    assert said in choice.reason


def test_storage_of_an_unknown_kind_is_not_called_quick() -> None:
    choice = rules.no_mmap(UNTOLD)
    assert choice.value is False
    assert "quickly" not in choice.reason


@pytest.mark.parametrize(
    ("storage", "limit", "mode"),
    [
        (NVME, None, "mmap+mlock"),
        (NVME, 8 * MIB, None),
        (DISK, None, "mlock"),
        (DISK, 8 * MIB, "none"),
    ],
    ids=["mapped and locked", "mapped", "read and locked", "read"],
)
def test_lock_and_mapping_are_one_load_mode(
    storage: Storage, limit: int | None, mode: str | None
) -> None:
    recommendation = recommend(lockable(limit), zoo_model("llama3-8b"), storage)
    assert recommendation.params.load_mode == mode


# --- numa, cache, batch --------------------------------------------------------------------------


def test_several_numa_nodes_are_all_used() -> None:
    recommendation = recommend(recorded("two-socket-numa"))
    assert chosen(recommendation, "--numa").value == "distribute"
    assert recommendation.params.numa == "distribute"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "two-socket-numa"])
def test_one_numa_node_is_no_choice(name: str) -> None:
    recommendation = recommend(recorded(name))
    assert "--numa" not in {choice.key for choice in recommendation.choices}
    assert recommendation.params.numa is None


@pytest.mark.parametrize(
    "changes",
    [
        {"usable_cpus": tuple(range(32)), "usable_cores": 32, "usable_performance_cores": 32},
        {"quota": 8.0},
    ],
    ids=["affinity", "quota"],
)
def test_a_process_that_has_a_part_of_the_machine_is_not_spread_over_all_nodes(
    changes: dict[str, object],
) -> None:
    # llama.cpp would pin threads to CPUs that this process may not use, or away from its memory.
    assert rules.numa(cpu_of("two-socket-numa", **changes)) is None


@pytest.mark.parametrize(
    ("available_gib", "needed_gib", "expected_mib"),
    [(64, 4, 8192), (20, 10, 1536), (21, 10, 1536), (11, 10, 0), (10, 10, 0), (4, 10, 0)],
    ids=["plenty", "a share", "in steps", "little left", "nothing left", "less than nothing"],
)
def test_the_prompt_cache_is_a_share_of_what_the_model_leaves(
    available_gib: int, needed_gib: int, expected_mib: int
) -> None:
    assert rules.cache_ram(available_gib * GIB, needed_gib * GIB).value == expected_mib


def test_llama_server_alone_is_given_the_prompt_cache() -> None:
    params = recommend(host()).params
    assert "--cache-ram" in render(params, "server").arguments
    assert "--cache-ram" not in render(params, "cli").arguments


@pytest.mark.parametrize(
    ("gpus", "expected", "said"),
    [
        ((), 256, "for a CPU"),
        ((card(24),), 512, "a GPU with room"),
        ((card(0.3, 24),), 256, "a GPU without room"),
    ],
    ids=["CPU", "GPU", "full GPU"],
)
def test_the_batch_is_512_on_a_gpu_and_256_elsewhere(
    gpus: tuple[Gpu, ...], expected: int, said: str
) -> None:
    recommendation = recommend(host(gpus), zoo_model("llama3-8b"))
    sizes = [chosen(recommendation, key).value for key in ("--batch-size", "--ubatch-size")]
    assert sizes == [expected, expected]
    assert said in chosen(recommendation, "--batch-size").reason
    assert recommendation.params.n_batch == recommendation.params.n_ubatch == expected


@pytest.mark.parametrize("gpus", [(), (card(24),)], ids=["CPU", "GPU"])
def test_caches_keep_the_models_quality(gpus: tuple[Gpu, ...]) -> None:
    recommendation = recommend(host(gpus), zoo_model("llama3-8b"))
    types = [chosen(recommendation, f"--cache-type-{which}").value for which in "kv"]
    assert types == ["f16", "f16"]


@pytest.mark.parametrize("gpus", [(), (card(24),)], ids=["CPU", "GPU"])
def test_flash_attention_is_llama_cpps_choice(gpus: tuple[Gpu, ...]) -> None:
    recommendation = recommend(host(gpus), zoo_model("llama3-8b"))
    assert chosen(recommendation, "--flash-attn").value == "auto"
    assert recommendation.params.flash_attn == "auto"


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ((), "No GPU was detected; everything stays on the CPU."),
        ((card(24),), "every layer fits with cache and compute buffers."),
        ((card(4),), "18 of 33 layers fit with cache and compute buffers."),
        ((card(0.3, 24),), "not one layer fits with cache and compute buffers."),
    ],
    ids=["none", "all", "some", "full"],
)
def test_the_reason_for_the_layers_says_how_many_fit(gpus: tuple[Gpu, ...], said: str) -> None:
    recommendation = recommend(host(gpus), zoo_model("llama3-8b"))
    assert chosen(recommendation, "--n-gpu-layers").reason.endswith(said)


def test_where_the_specifications_factor_errs_the_reason_says_both() -> None:
    # 8 GiB are 1.7 times the model, and do not hold a cache of 32K tokens beside it.
    recommendation = generate_recommendations(
        host([card(8)]), zoo_model("llama3-8b"), request=Request(n_ctx=32768)
    )
    choice = chosen(recommendation, "--n-gpu-layers")
    assert choice.value != ALL_LAYERS
    assert "more than 1.2 x, which the rule takes for enough; but 27 of 33" in choice.reason


def test_experts_on_the_cpu_come_with_their_numbers() -> None:
    choice = chosen(recommend(host([card(12)]), zoo_model("qwen3moe-30b-a3b")), "--n-cpu-moe")
    assert "only 8 of 128 experts do" in choice.reason
    assert "of 48 layers" in choice.reason


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(0, "0 MiB"), (170 * MIB, "170 MiB"), (GIB, "1.0 GiB"), (4.85 * GIB, "4.8 GiB")],
)
def test_bytes_are_shown_in_the_unit_that_reads_best(n_bytes: float, shown: str) -> None:
    assert rules.gib(n_bytes) == shown


def test_choices_that_do_not_apply_are_left_out() -> None:
    keys = [choice.key for choice in recommend(host()).choices]
    assert len(keys) == len(set(keys))
    assert {"--n-cpu-moe", "--tensor-split", "--numa"}.isdisjoint(keys)


def test_every_choice_has_a_reason_that_is_a_sentence() -> None:
    choices = recommend(recorded("two-socket-numa"), zoo_model("llama3-8b")).choices
    wrong = [choice.key for choice in choices if choice.reason[-1:] != "." or not choice.evidence]
    assert wrong == []
