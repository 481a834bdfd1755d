"""What is said of a model on a machine as a whole: the context, the verdict, what would help."""

from dataclasses import replace

import pytest
from fakes.gguf_writer import TensorSpec
from fakes.hosts import GIB, card, cards, dense_model, host, read, recorded, zoo_model
from fakes.machine import NAMES
from fakes.zoo import Spec, Trunk, dense, spec

from autotune.errors import ConfigError
from autotune.hardware import Gpu, Hardware
from autotune.model import Model
from autotune.recommend import (
    Choice,
    Recommendation,
    Request,
    Rung,
    Verdict,
    generate_recommendations,
    judge,
)
from autotune.recommend.answer import PROCESS_BYTES, host_needs

CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072]
WORST_LAST = ["fits", "tight", "will page", "does not fit"]


def recommend(hardware: Hardware, model: Model, n_ctx: int | None = None) -> Recommendation:
    return generate_recommendations(hardware, model, request=Request(n_ctx=n_ctx))


def with_ram(available_bytes: float) -> Hardware:
    return host(available_gib=available_bytes / GIB, total_gib=max(available_bytes / GIB, 62.6))


def context(recommendation: Recommendation) -> Choice:
    (choice,) = [choice for choice in recommendation.choices if choice.key == "--n-ctx"]
    return choice


def rungs(recommendation: Recommendation, cache_type: str) -> list[Rung]:
    return [rung for rung in recommendation.ladder if rung.cache_type == cache_type]


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1 / 0.85 + 0.001, "fits"), (1 / 0.85 - 0.001, "tight"), (1.0, "tight"), (0.999, "will page")],
    ids=["85 %", "above 85 %", "to the byte", "more than there is"],
)
def test_the_verdict_by_what_is_needed_of_what_is_available(
    factor: float, expected: Verdict
) -> None:
    memory = recommend(host(), zoo_model("llama3-8b"), 4096).memory
    needed = host_needs(host(), memory)
    assert judge(with_ram(round(needed * factor)), memory) == expected


def test_without_room_for_cache_and_buffers_it_does_not_fit() -> None:
    memory = recommend(host(), zoo_model("llama3-8b"), 4096).memory
    fixed = host_needs(host(), memory) - memory.host.weights_bytes
    assert judge(with_ram(fixed), memory) == "will page"
    assert judge(with_ram(fixed - 1024), memory) == "does not fit"


def test_a_gpu_that_holds_less_than_planned_does_not_fit() -> None:
    memory = recommend(host(cards(24)), zoo_model("llama3-8b")).memory
    crowded = host([replace(card(24), free_bytes=memory.gpus[0].total_bytes - 1)])
    assert judge(crowded, memory) == "does not fit"


def test_what_an_integrated_gpu_takes_is_the_hosts() -> None:
    mac = host([card(20, integrated=True, backend="Metal")], available_gib=20, total_gib=32)
    memory = recommend(mac, zoo_model("llama3-8b")).memory
    both = memory.host.total_bytes + memory.gpus[0].total_bytes
    assert host_needs(mac, memory) == both + PROCESS_BYTES


def test_what_a_card_takes_is_not_the_hosts() -> None:
    machine = host(cards(24))
    memory = recommend(machine, zoo_model("llama3-8b")).memory
    assert host_needs(machine, memory) == memory.host.total_bytes + PROCESS_BYTES


@pytest.mark.parametrize(
    ("name", "available_gib", "verdict", "step"),
    [
        ("llama3-8b", 56, "fits", ""),
        ("llama3-8b", 6, "tight", "--ctx-size 2048 with a q8_0 cache fits in 5.1 GiB of RAM"),
        ("llama3-8b", 5, "will page", "a quantization whose weights take at most 3.4 GiB in RAM"),
        ("llama3-70b", 4, "will page", "a smaller model: no quantization of this one fits"),
        ("deepseek-v3", 64, "will page", "a smaller model: no quantization of this one fits"),
        ("phi3-mini", 1, "does not fit", "a smaller model: no quantization of this one fits"),
    ],
    ids=["fits", "context", "quantization", "hopeless", "huge", "no room for the cache"],
)
def test_the_next_step_is_what_would_help(
    name: str, available_gib: float, verdict: str, step: str
) -> None:
    machine = host(available_gib=available_gib)
    recommendation = recommend(machine, zoo_model(name), 4096)
    assert recommendation.verdict == verdict
    assert recommendation.next_step.startswith(step)
    assert bool(recommendation.next_step) == bool(step)


def test_weights_that_an_integrated_gpu_holds_would_shrink_with_the_rest() -> None:
    mac = host([card(10.6, integrated=True, backend="Metal")], available_gib=10.6, total_gib=16)
    step = recommend(mac, zoo_model("gpt-oss-20b")).next_step
    assert step.startswith("a quantization whose weights take at most 8.")


def test_the_context_of_the_next_step_fits() -> None:
    machine, model = host(available_gib=6.5), zoo_model("llama3-8b")
    recommendation = recommend(machine, model, 16384)
    assert recommendation.verdict == "will page"
    assert recommendation.next_step.startswith("--ctx-size 8192 with a q8_0 cache fits in")
    (named,) = [rung for rung in rungs(recommendation, "q8_0") if rung.n_ctx == 8192]
    assert named.verdict == "fits"


@pytest.mark.parametrize("available_gib", [0.0, 0.3, 1, 3, 6, 12, 48, 512])
@pytest.mark.parametrize("name", ["llama3-8b", "mamba-2.8b", "qwen3moe-30b-a3b"])
def test_the_verdict_is_as_bad_as_its_memory(name: str, available_gib: float) -> None:
    machine = host(available_gib=available_gib)
    recommendation = recommend(machine, zoo_model(name))
    assert recommendation.verdict == judge(machine, recommendation.memory)
    assert bool(recommendation.next_step) == (recommendation.verdict != "fits")


def test_a_machine_of_which_nothing_could_be_read_still_gets_an_answer() -> None:
    recommendation = recommend(recorded("missing-files"), zoo_model("gemma3-270m"))
    assert recommendation.verdict == "does not fit"
    assert recommendation.params.n_threads == 1


# --- the context ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "model", "expected"),
    [
        ((), zoo_model("llama3-8b"), 8192),
        (cards(24), zoo_model("llama3-8b"), 32768),
        (cards(8), zoo_model("llama3-8b"), 16384),
        (cards(4), zoo_model("llama3-8b"), 4096),
        (cards(0.3), zoo_model("llama3-8b"), 4096),
        (cards(24), zoo_model("gemma2-9b"), 8192),
        ((), dense_model(ctx=4096), 4096),
        ((), dense_model(ctx=6000), 4096),
        ((), dense_model(ctx=512), 512),
        (cards(24), dense_model(ctx=512), 512),
        (cards(12), zoo_model("qwen3moe-30b-a3b"), 4096),
    ],
    ids=[
        "CPU",
        "GPU",
        "small GPU",
        "part of it on a GPU",
        "full GPU",
        "trained on less",
        "trained on 4096",
        "trained between two steps",
        "trained on 512",
        "trained on 512, GPU",
        "experts on the CPU",
    ],
)
def test_the_context_is_what_fits_where_the_rest_runs_best(
    gpus: tuple[Gpu, ...], model: Model, expected: int
) -> None:
    recommendation = recommend(host(gpus), model)
    assert context(recommendation).value == expected
    assert recommendation.params.n_ctx == expected


def test_a_training_context_that_is_not_told_is_no_limit() -> None:
    model = dense_model(ctx=0)
    recommendation = recommend(host(), model)
    assert context(recommendation).value == 8192
    assert [rung for rung in recommendation.ladder if rung.beyond_training] == []
    assert "0 tokens" not in " ".join(context(recommendation).evidence)


@pytest.mark.parametrize("n_ctx", [1, 255, 4096, 5000, 131072, 1_000_000])
def test_a_context_that_is_asked_for_is_given(n_ctx: int) -> None:
    recommendation = recommend(host(), zoo_model("llama3-8b"), n_ctx)
    assert recommendation.params.n_ctx == n_ctx
    assert context(recommendation).value == n_ctx
    assert context(recommendation).reason == f"{n_ctx} tokens, as asked for."


def test_a_longer_context_takes_layers_from_the_gpu() -> None:
    machine, model = host(cards(8)), zoo_model("llama3-8b")
    short, long = (recommend(machine, model, n).params.n_gpu_layers or 0 for n in (4096, 65536))
    assert short == 999
    assert 0 < long < 33


@pytest.mark.parametrize(("n_ctx", "warned"), [(32768, False), (32769, True), (131072, True)])
def test_a_context_beyond_training_is_warned_of(n_ctx: int, *, warned: bool) -> None:
    warnings = recommend(host(), zoo_model("gemma3-270m"), n_ctx).warnings
    beyond = [advice for advice in warnings if "beyond the 32768" in advice.what]
    assert bool(beyond) == warned
    assert {advice.remedy for advice in beyond} <= {"--ctx-size 32768"}


def test_no_context_beyond_an_untold_training_is_warned_of() -> None:
    assert recommend(host(), dense_model(ctx=0), 131072).warnings == ()


# --- the ladder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [(), cards(8), cards(6, 4)], ids=["CPU", "GPU", "two GPUs"])
def test_the_ladder_has_every_context_with_both_caches(gpus: tuple[Gpu, ...]) -> None:
    recommendation = recommend(host(gpus), zoo_model("llama3-8b"))
    for cache_type in ("f16", "q8_0"):
        assert [rung.n_ctx for rung in rungs(recommendation, cache_type)] == CONTEXTS
    assert len(recommendation.ladder) == 14


@pytest.mark.parametrize("gpus", [(), cards(8), cards(6, 4)], ids=["CPU", "GPU", "two GPUs"])
@pytest.mark.parametrize("name", ["llama3-8b", "gemma3-27b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_more_context_never_takes_less(name: str, gpus: tuple[Gpu, ...]) -> None:
    recommendation = recommend(host(gpus), zoo_model(name))
    for cache_type in ("f16", "q8_0"):
        ladder = rungs(recommendation, cache_type)
        caches = [cache_bytes(rung) for rung in ladder]
        verdicts = [WORST_LAST.index(rung.verdict) for rung in ladder]
        on_gpu = [rung.all_on_gpu for rung in ladder]
        assert caches == sorted(caches)
        assert verdicts == sorted(verdicts)
        assert on_gpu == sorted(on_gpu, reverse=True)


def cache_bytes(rung: Rung) -> int:
    return sum(place.kv_cache_bytes for place in (rung.memory.host, *rung.memory.gpus))


def test_q8_0_takes_17_of_32_parts_of_the_cache() -> None:
    recommendation = recommend(host(), zoo_model("llama3-8b"))
    pairs = zip(rungs(recommendation, "f16"), rungs(recommendation, "q8_0"), strict=True)
    ratios = {cache_bytes(small) / cache_bytes(large) for large, small in pairs}
    assert ratios == {17 / 32}


def test_the_ladder_marks_what_is_beyond_training() -> None:
    ladder = rungs(recommend(host(), zoo_model("gemma2-9b")), "f16")
    assert [rung.n_ctx for rung in ladder if rung.beyond_training] == CONTEXTS[3:]


def test_a_cache_type_that_the_rows_do_not_divide_into_is_left_out() -> None:
    """q8_0 packs 32 elements; heads of 80 in one row each do not divide into that."""
    model = dense_model(embd=80, head=80)
    recommendation = recommend(host(), model)
    assert {rung.cache_type for rung in recommendation.ladder} == {"f16"}
    assert recommendation.params.type_k == "f16"


def test_a_model_without_attention_takes_the_same_at_every_context() -> None:
    ladder = rungs(recommend(host(), zoo_model("mamba-2.8b")), "f16")
    assert {cache_bytes(rung) for rung in ladder} == {0}
    assert len({rung.memory.host.recurrent_bytes for rung in ladder}) == 1


def test_the_recommended_configuration_is_its_rung() -> None:
    recommendation = recommend(host(cards(24)), zoo_model("llama3-8b"))
    (rung,) = [
        rung for rung in rungs(recommendation, "f16") if rung.n_ctx == context(recommendation).value
    ]
    assert (rung.memory, rung.verdict) == (recommendation.memory, recommendation.verdict)


# --- the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_machine_gets_a_recommendation(name: str) -> None:
    recommendation = recommend(recorded(name), zoo_model("qwen3-4b"))
    assert len(recommendation.rationale) == len(recommendation.choices)
    assert recommendation.program == "server"


def test_what_the_model_says_of_itself_is_passed_on() -> None:
    t = Trunk("unheard-of", vocab=4096, ctx=4096, layers=2, embd=256, ff=768, heads=(4, 4, 64))
    model = read(spec(t, [dense(t)] * 2))
    recommendation = recommend(host(), model)
    assert model.notes
    assert [advice.what for advice in recommendation.warnings] == list(model.notes)


def test_an_encoder_gets_a_recommendation_without_a_cache() -> None:
    t = Trunk("bert", vocab=4096, ctx=512, layers=2, embd=256, ff=768, heads=(4, 4, 64))
    bare = spec(t, [dense(t)] * 2, tied=True)
    model = read(Spec(bare.metadata, (*bare.tensors, TensorSpec("cls.weight", (256, 256), "f16"))))
    recommendation = recommend(host(), model)
    assert recommendation.memory.host.kv_cache_bytes == 0
    assert context(recommendation).value == 512


def test_what_no_configuration_can_meet_is_an_error_of_the_request() -> None:
    with pytest.raises(ConfigError, match="a context of 0 tokens"):
        recommend(host(), dense_model(ctx=0), 0)
