"""What is predicted of configurations that were not measured."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes.readings import Came, knowing, reading
from fakes.simulated_hosts import card, dense_30b, hardware, moe_30b

from autotune.llama_cpp.records import FailureKind
from autotune.params import ALL_LAYERS, Params
from autotune.tuning.frontier import Frontier, Promise
from autotune.tuning.memory import Memory
from autotune.tuning.space import Dimension, Space
from autotune.tuning.visits import Reading

N_ALL = 41  # Layers of the dense model, its output among them.
BASE = Params(
    n_threads=8, n_threads_batch=8, n_batch=2048, n_ubatch=512, flash_attn="auto", type_k="f16"
)
SPACE = Space(
    dimensions=(
        Dimension(name="n_threads", values=tuple(range(1, 17))),
        Dimension(name="n_gpu_layers", values=tuple(range(N_ALL + 1))),
        Dimension(name="n_ubatch", values=(512, 1024, 2048)),
        Dimension(name="no_kv_offload", values=(False, True)),
    ),
    fixed=replace(BASE, n_gpu_layers=20, no_kv_offload=False),
    all_layers=N_ALL,
)
MEMORY = Memory(hardware((card(24),)), dense_30b(), n_ctx=4096, n_tested=512)


def at(n_gpu_layers: int, **changes: object) -> Params:
    return replace(SPACE.fixed, n_gpu_layers=n_gpu_layers, **changes)  # type: ignore[arg-type]


def line(n_gpu_layers: int) -> float:
    """Seconds of either part: half a second for each layer on the host."""
    return 1 + 0.5 * (N_ALL - n_gpu_layers)


def on_the_line(params: Params, *, pp_factor: float = 1, tg_factor: float = 1) -> Reading:
    seconds = line(params.n_gpu_layers or 0)
    return reading(params, pp=pp_factor * seconds, tg=tg_factor * seconds)


def promised(readings: Sequence[Reading], options: Sequence[Params], over: Params) -> Promise:
    found = Frontier(knowing(*readings), MEMORY, SPACE).best_promise(options, over)
    assert found
    return found


SEEN = [on_the_line(at(20)), on_the_line(at(24))]


def test_what_lies_on_the_line_is_predicted() -> None:
    promise = promised(SEEN, [at(28)], at(24))

    assert (promise.params, round(promise.gain, 9)) == (at(28), round(1 - line(28) / line(24), 9))


def test_fewer_layers_on_the_gpu_promise_a_loss() -> None:
    assert promised(SEEN, [at(22)], at(24)).gain == pytest.approx(1 - line(22) / line(24))


def test_the_option_that_promises_most_is_the_one() -> None:
    assert promised(SEEN, [at(26), at(30), at(22)], at(24)).params == at(30)


def test_threads_of_generation_move_no_prompt() -> None:
    seen = [on_the_line(at(20)), reading(at(24, n_threads=4), pp=line(24), tg=99.0)]

    promise = promised(seen, [at(24)], at(20))

    # Prompts are known of each; generation is not, of different threads.
    assert promise.gain == pytest.approx((line(20) - line(24)) / (2 * line(20)))


LEVEL = [reading(at(n), pp=20.0, tg=10.0) for n in (20, 24)]  # Where layers make no difference.


def test_a_switch_multiplies_each_part_by_its_own_factor_wherever_it_was_seen() -> None:
    seen = [*LEVEL, reading(at(20, no_kv_offload=True), pp=10.0, tg=12.0)]

    promise = promised(seen, [at(28, no_kv_offload=True)], at(24))

    assert promise.gain == pytest.approx(1 - 22 / 30)


def test_a_ubatch_moves_prompts_alone() -> None:
    seen = [*LEVEL, reading(at(20, n_ubatch=2048), pp=10.0)]

    promise = promised(seen, [at(28, n_ubatch=2048)], at(24))

    assert promise.gain == pytest.approx(1 - (10 + 10) / 30)


def test_a_switch_that_was_never_seen_promises_nothing() -> None:
    promise = promised(SEEN, [at(30, no_kv_offload=True), at(20, n_threads=3)], at(24))

    assert promise.params == at(20, n_threads=3)


@pytest.mark.parametrize(
    ("pp", "tg", "expected"),
    [(1.0, 1.0, None), (FailureKind.OOM, None, None), (FailureKind.CRASH, None, at(30))],
    ids=["measured", "failed for good", "failed once"],
)
def test_what_is_known_or_has_failed_is_no_option(
    pp: Came, tg: Came, expected: Params | None
) -> None:
    knowledge = knowing(*SEEN, reading(at(30), pp=pp, tg=tg))

    promise = Frontier(knowledge, MEMORY, SPACE).best_promise([at(30)], at(24))

    assert (promise and promise.params) == expected


def test_nothing_is_promised_over_what_was_not_measured() -> None:
    assert Frontier(knowing(), MEMORY, SPACE).best_promise([at(30)], at(24)) is None


def test_without_another_placement_there_is_no_slope() -> None:
    assert promised(SEEN[:1], [at(30)], at(20)).gain == 0


def test_experts_on_the_host_are_the_layers_of_a_mixture() -> None:
    memory = Memory(hardware((card(16),)), moe_30b(), n_ctx=4096, n_tested=512)
    dimension = Dimension(name="n_cpu_moe", values=tuple(range(49)))
    space = replace(SPACE, dimensions=(dimension,))

    def with_experts(n: int) -> Params:
        return replace(BASE, n_gpu_layers=ALL_LAYERS, n_cpu_moe=n)

    seen = [reading(with_experts(n), pp=10.0, tg=10 + 1.0 * n) for n in (10, 14)]

    frontier = Frontier(knowing(*seen), memory, space)
    promise = frontier.best_promise([with_experts(6)], with_experts(10))

    assert promise
    assert promise.gain == pytest.approx(4 / 30)
