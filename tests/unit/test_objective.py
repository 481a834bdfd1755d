"""The seconds of a request, and which tests of llama-bench stand for them."""

from dataclasses import replace

import pytest
from fakes.readings import run_facts

from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Progress
from autotune.llama_cpp.records import Measurement
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params
from autotune.tuning.objective import Objective, Part, Quantity, objective_of
from autotune.tuning.workload import Workload

CHAT = Workload(name="chat", description="", n_prompt=512, n_gen=256, n_depth=100)
OBJECTIVE = Objective(
    n_prompt=1000,
    n_gen=300,
    tests=(("pp", BenchTest(n_prompt=500)), ("tg", BenchTest(n_gen=10, n_depth=64))),
)
PARAMS = Params(n_threads=4, n_threads_batch=9, n_batch=2048, n_ubatch=512, n_ctx=4096)


@pytest.mark.parametrize(
    ("pp_rate", "tg_rate", "on_gpu", "expected"),
    [
        (3.0, 0.1, False, (256, 8)),  # Never less.
        (200.0, 13.0, False, (256, 16)),  # 300 and 19.5 tokens in the time, rounded down.
        (400.0, 1e6, False, (512, 64)),  # Never more, nor more than the request has.
        (1.0, 1.0, True, (512, 8)),  # As long as may be, so that ubatches can be told apart.
    ],
)
def test_a_test_is_as_long_as_the_machine_is_fast_within_limits(
    pp_rate: float,
    tg_rate: float,
    on_gpu: bool,  # noqa: FBT001
    expected: tuple[int, int],
) -> None:
    objective = objective_of(CHAT, pp_rate=pp_rate, tg_rate=tg_rate, on_gpu=on_gpu)

    assert (objective.test("pp").n_prompt, objective.test("tg").n_gen) == expected


def test_a_request_with_few_tokens_is_not_tested_with_more() -> None:
    short = replace(CHAT, n_prompt=40, n_gen=3)

    objective = objective_of(short, pp_rate=1e3, tg_rate=1e3, on_gpu=True)

    assert [test.n_tokens for _, test in objective.tests] == [40, 3]


@pytest.mark.parametrize(
    ("which", "parts"), [("request", ("pp", "tg")), ("pp", ("pp",)), ("tg", ("tg",))]
)
def test_only_the_parts_that_count_are_tested(which: Part, parts: tuple[Part, ...]) -> None:
    workload = replace(CHAT, objective=which)

    objective = objective_of(workload, pp_rate=100, tg_rate=10, on_gpu=False)

    assert objective.parts == parts


def test_every_test_is_at_the_depth_of_the_workload() -> None:
    objective = objective_of(CHAT, pp_rate=100, tg_rate=10, on_gpu=False)

    assert ([test.n_depth for _, test in objective.tests], objective.longest_test()) == (
        [100, 100],
        356,
    )


@pytest.mark.parametrize(("part", "n_threads"), [("pp", 9), ("tg", 4)])
def test_each_part_is_asked_for_with_its_own_threads(part: Part, n_threads: int) -> None:
    trial = OBJECTIVE.trial(PARAMS, part)

    asked = Params(n_threads=n_threads, n_batch=2048, n_ubatch=512)  # And no context of its own.
    assert trial == (asked, OBJECTIVE.test(part))


def test_prompts_without_threads_of_their_own_use_those_of_generation() -> None:
    trial = OBJECTIVE.trial(replace(PARAMS, n_threads_batch=None), "pp")

    assert trial.params.n_threads == 4


@pytest.mark.parametrize(
    ("name", "value", "moved"),
    [
        ("n_threads", 5, ["tg"]),
        ("n_threads_batch", 5, ["pp"]),
        ("n_ubatch", 256, ["pp"]),
        ("n_batch", 512, ["pp"]),
        ("flash_attn", True, ["pp", "tg"]),
        ("n_gpu_layers", 3, ["pp", "tg"]),
        ("n_ctx", 8192, []),
        ("cache_ram", 0, []),
    ],
)
def test_a_parameter_changes_the_key_of_the_parts_that_it_moves(
    name: str, value: object, moved: list[str]
) -> None:
    changed = replace(PARAMS, **{name: value})  # type: ignore[arg-type]

    parts = [p for p in OBJECTIVE.parts if OBJECTIVE.key(changed, p) != OBJECTIVE.key(PARAMS, p)]

    assert parts == moved


@pytest.mark.parametrize(
    ("part", "samples_s", "seconds"),
    [("pp", [2.0], 4.0), ("tg", [0.1, 0.2, 9.0], 6.0), ("tg", [0.1, 0.2], 4.5)],
)
def test_a_part_takes_its_share_of_the_middle_repetition(
    part: Part, samples_s: list[float], seconds: float
) -> None:
    took = OBJECTIVE.part_seconds(part, [round(s * 1e9) for s in samples_s])

    assert took == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("samples_s", "seconds"),
    [
        ([0.9, 0.3, 0.5], 0.8),  # It captured graphs in the first.
        ([9.0, 3.0, 5.0], 10.0),  # Beside seconds, that is nothing.
        ([0.9], 1.8),  # There is no other.
    ],
)
def test_a_short_first_repetition_on_a_gpu_does_not_count(
    samples_s: list[float], seconds: float
) -> None:
    objective = replace(OBJECTIVE, first_counts=False)

    took = objective.part_seconds("pp", [round(s * 1e9) for s in samples_s])

    assert took == pytest.approx(seconds)


@pytest.mark.parametrize(("part", "rate"), [("pp", 500.0), ("tg", 150.0)])
def test_seconds_of_a_part_are_tokens_per_second_too(part: Part, rate: float) -> None:
    assert OBJECTIVE.rate(part, 2.0) == rate


def measured(part: Part, samples_ns: tuple[int, ...], samples_j: tuple[float, ...]) -> Measurement:
    trial = OBJECTIVE.trial(PARAMS, part)
    return Measurement(
        params=trial.params,
        test=trial.test,
        samples_ns=samples_ns,
        build_commit="",
        build_number=0,
        run=run_facts(),
        record={},
        samples_j=samples_j,
    )


@pytest.mark.parametrize(
    ("first_counts", "samples_j", "expected"),
    [
        (True, (1.0, 2.0, 6.0), 90.0),  # Their mean: 3 joules for 10 of 300 tokens.
        (False, (9.0, 2.0, 6.0), 120.0),  # On a GPU without the first.
        (True, (), None),  # Nobody could tell.
        (True, (0.0, 0.0, 0.0), None),  # The counter had not moved.
    ],
)
def test_a_part_takes_its_share_of_the_joules(
    first_counts: bool,  # noqa: FBT001
    samples_j: tuple[float, ...],
    expected: float | None,
) -> None:
    objective = replace(OBJECTIVE, first_counts=first_counts)

    assert objective.part_joules("tg", measured("tg", (10**8,) * 3, samples_j)) == expected


@pytest.mark.parametrize(
    ("minimises", "metered_s", "joules", "expected"),
    [
        ("seconds", 0.0, None, 6.0),  # 0.2 s for 10 of 300 tokens.
        ("joules", 0.1, 4.0, 120.0),
        ("joules", 0.5, 4.0, None),  # Too short for the meter.
        ("joules", 0.1, None, None),
    ],
)
def test_what_a_running_test_costs_is_told_by_the_clock_or_by_the_meter(
    minimises: Quantity, metered_s: float, joules: float | None, expected: float | None
) -> None:
    objective = replace(OBJECTIVE, minimises=minimises, metered_s=metered_s)
    began = Progress(
        trial=OBJECTIVE.trial(PARAMS, "tg"), phase=Phase.RUN, repetition=1, at=5.0, joules=7.0
    )
    now = replace(began, at=5.2, joules=None if joules is None else 7.0 + joules)

    cost = objective.cost_between("tg", began, now)

    assert cost == (None if expected is None else pytest.approx(expected))
