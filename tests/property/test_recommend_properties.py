"""Laws that hold for every machine, whatever is in it."""

from dataclasses import replace

from fakes.hosts import GIB, MIB, card, recorded, zoo_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autotune.errors import ConfigError
from autotune.hardware import Cpu, Gpu, Hardware, Memory
from autotune.llama_cpp.dialect import render
from autotune.params import ALL_LAYERS
from autotune.recommend import Recommendation, Request, generate_recommendations, judge
from autotune.recommend.placement import budget_bytes, staging_bytes, taken, used_gpus

WORST_LAST = ["fits", "tight", "will page", "does not fit"]

# Dense, windowed, mixtures with and without recurrent layers, and without any attention.
MODELS = st.sampled_from(
    [
        "llama3.2-1b",
        "llama3-8b",
        "gemma3-27b",
        "gpt-oss-20b",
        "deepseek-v2-lite",
        "jamba-mini",
        "mamba-2.8b",
        "gemma3-270m",
    ]
)

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def cpus(draw: st.DrawFn) -> Cpu:
    """Give a processor that may be of one kind of core or two, and how much of it is ours."""
    physical = draw(st.integers(1, 128))
    threads = draw(st.sampled_from([1, 2]))
    fast = draw(st.one_of(st.just(physical), st.integers(1, physical)))
    logical = physical + fast * (threads - 1)
    usable = draw(st.integers(1, physical))
    usable_fast = draw(st.integers(max(usable - (physical - fast), 0), min(usable, fast)))
    quota = draw(st.one_of(st.none(), st.floats(0.1, 200)))
    return replace(
        recorded("one-socket-smt").cpu,
        numa_nodes=draw(st.integers(1, 4)),
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=fast,
        smt=threads > 1,
        usable_cpus=tuple(range(usable + draw(st.integers(0, usable_fast * (threads - 1))))),
        usable_cores=usable,
        usable_performance_cores=usable_fast,
        quota=quota,
    )


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    total = draw(st.integers(0, 512 * 1024)) * MIB
    limit = draw(st.one_of(st.none(), st.integers(0, 64 * 1024).map(lambda mib: mib * MIB)))
    usable = total if limit is None else min(total, limit)
    return Memory(
        total_bytes=total,
        available_bytes=int(usable * draw(st.floats(0, 1))),
        limit_bytes=limit,
        swap_total_bytes=0,
        swap_free_bytes=0,
        memlock_bytes=draw(st.one_of(st.none(), st.integers(0, total))),
    )


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    total = draw(st.integers(256, 96 * 1024)) * MIB
    return Gpu(
        backend=draw(st.sampled_from(["CUDA", "ROCm", "Vulkan"])),
        index=index,
        name=f"card {index}",
        total_bytes=total,
        free_bytes=int(total * draw(st.floats(0, 1))),
        integrated=draw(st.booleans()),
        driver="",
        compute_capability="",
    )


@st.composite
def machines(draw: st.DrawFn) -> Hardware:
    n_gpus = draw(st.integers(0, 3))
    return replace(
        recorded("one-socket-smt"),
        cpu=draw(cpus()),
        memory=draw(memories()),
        gpus=tuple(draw(gpus(index)) for index in range(n_gpus)),
    )


contexts = st.one_of(st.none(), st.integers(1, 200_000))


def with_one_gpu(free_bytes: int) -> Hardware:
    gpu = replace(card(0, 96), free_bytes=free_bytes)
    return replace(recorded("one-socket-smt"), gpus=(gpu,))


def on_gpus(recommendation: Recommendation) -> tuple[int, int]:
    """Order placements: by layers on the GPU, then by layers whose experts are there too."""
    params = recommendation.params
    return params.n_gpu_layers or 0, -(params.n_cpu_moe or 0)


@given(hardware=machines(), name=MODELS, n_ctx=contexts)
@quick
def test_no_gpu_is_given_more_than_may_be_planned_with(
    hardware: Hardware, name: str, n_ctx: int | None
) -> None:
    model = zoo_model(name)
    recommendation = generate_recommendations(hardware, model, request=Request(n_ctx=n_ctx))
    used, params = used_gpus(hardware.gpus), recommendation.params
    needed = [gpu.total_bytes for gpu in recommendation.memory.gpus]
    if params.n_gpu_layers:
        first = taken(params, used)[0]
        needed[first] += staging_bytes(model, params.n_gpu_layers, params.n_cpu_moe or 0)
    assert [n <= budget_bytes(gpu) for n, gpu in zip(needed, used, strict=True)] == [True] * len(
        used
    )


@given(hardware=machines(), name=MODELS)
@quick
def test_threads_are_within_what_the_process_may_use(hardware: Hardware, name: str) -> None:
    params = generate_recommendations(hardware, zoo_model(name)).params
    assert 1 <= (params.n_threads or 0) <= hardware.cpu.max_threads
    assert 1 <= (params.n_threads_batch or 0) <= hardware.cpu.max_threads
    assert (params.n_threads or 0) <= (params.n_threads_batch or 0)
    assert (params.n_threads or 0) <= max(hardware.cpu.physical_cores - 1, 1)


@given(hardware=machines(), name=MODELS, n_ctx=contexts)
@quick
def test_every_choice_has_a_reason_and_evidence(
    hardware: Hardware, name: str, n_ctx: int | None
) -> None:
    request = Request(n_ctx=n_ctx)
    recommendation = generate_recommendations(hardware, zoo_model(name), request=request)
    assert all(choice.reason and choice.evidence for choice in recommendation.choices)
    assert all(line for choice in recommendation.choices for line in choice.evidence)
    keys = [choice.key for choice in recommendation.choices]
    assert len(keys) == len(set(keys))


@given(hardware=machines(), name=MODELS, n_ctx=st.one_of(st.none(), st.integers(-10, 10**9)))
@example(hardware=recorded("missing-files"), name="llama3-8b", n_ctx=1)
@quick
def test_the_only_error_is_one_of_the_request(
    hardware: Hardware, name: str, n_ctx: int | None
) -> None:
    request = Request(n_ctx=n_ctx)
    try:
        recommendation = generate_recommendations(hardware, zoo_model(name), request=request)
    except ConfigError:
        assert n_ctx is not None
        assert n_ctx < 1
    else:
        assert recommendation.verdict == judge(
            replace(hardware, gpus=used_gpus(hardware.gpus)), recommendation.memory
        )


@given(
    name=MODELS,
    n_ctx=contexts,
    free_mib=st.tuples(st.integers(0, 60 * 1024), st.integers(0, 60 * 1024)),
)
@quick
def test_more_free_memory_never_means_less_on_the_gpu(
    name: str, n_ctx: int | None, free_mib: tuple[int, int]
) -> None:
    """At one context: without one asked for, a larger GPU may be given a longer one."""
    less, more = (
        on_gpus(
            generate_recommendations(
                with_one_gpu(mib * MIB), zoo_model(name), request=Request(n_ctx=n_ctx or 4096)
            )
        )
        for mib in sorted(free_mib)
    )
    assert less <= more


@given(
    hardware=machines(),
    name=MODELS,
    available=st.tuples(st.integers(0, 400_000), st.integers(0, 400_000)),
)
@quick
def test_more_memory_never_makes_the_verdict_worse(
    hardware: Hardware, name: str, available: tuple[int, int]
) -> None:
    less, more = (
        generate_recommendations(
            replace(
                hardware,
                memory=replace(
                    hardware.memory,
                    available_bytes=mib * MIB,
                    total_bytes=512 * GIB,
                    limit_bytes=None,
                ),
            ),
            zoo_model(name),
            request=Request(n_ctx=4096),
        ).verdict
        for mib in sorted(available)
    )
    assert WORST_LAST.index(more) <= WORST_LAST.index(less)


@given(hardware=machines(), name=MODELS)
@quick
def test_a_context_that_nobody_asked_for_is_within_training(hardware: Hardware, name: str) -> None:
    model = zoo_model(name)
    n_ctx = generate_recommendations(hardware, model).params.n_ctx or 0
    assert 0 < n_ctx <= model.shape.n_ctx_train


@given(hardware=machines(), name=MODELS)
@quick
def test_the_command_says_what_was_recommended(hardware: Hardware, name: str) -> None:
    recommendation = generate_recommendations(hardware, zoo_model(name))
    arguments = render(recommendation.params, "server").arguments
    chosen = {choice.key: choice.value for choice in recommendation.choices}

    def said(flag: str) -> str:
        return arguments[arguments.index(flag) + 1]

    assert said("--threads") == str(chosen["--threads"])
    assert said("--ctx-size") == str(chosen["--n-ctx"])
    assert said("--n-gpu-layers") == str(chosen["--n-gpu-layers"])
    assert ("--tensor-split" in arguments) == ("--tensor-split" in chosen)
    assert ("--n-cpu-moe" in arguments) == ("--n-cpu-moe" in chosen)


@given(hardware=machines(), name=MODELS)
@quick
def test_all_layers_are_on_gpus_only_where_there_is_one(hardware: Hardware, name: str) -> None:
    params = generate_recommendations(hardware, zoo_model(name)).params
    if not hardware.gpus:
        assert params.n_gpu_layers == 0
    assert (params.n_gpu_layers or 0) <= ALL_LAYERS
    several = len(used_gpus(hardware.gpus)) > 1 and bool(params.n_gpu_layers)
    alone = params.devices is not None and len(params.devices) == 1
    assert (params.tensor_split is not None or (several and alone)) == several
