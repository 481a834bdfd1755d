"""What one parameter did is told by tests between which nothing else was changed."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from autotune.llama_cpp import records
from autotune.llama_cpp.records import Measurement, RunFacts
from autotune.params import Params
from autotune.results.effects import Effect, effects
from autotune.results.journal import Record, Trial
from autotune.results.stored import Visited

BASELINE = Params(n_batch=2048, n_ubatch=512, n_threads=8, n_threads_batch=8)
TESTS = {"pp": records.Test(n_prompt=512), "tg": records.Test(n_gen=64)}
RUN = RunFacts(argv=(), removed_environment={}, started_at=0.0, ended_at=1.0, load_s=None)


def visited(params: Params, *, at_s: float = 0.0, disturbed: str = "", **rates: float) -> Visited:
    """A trial that measured these tokens per second of each part."""
    trial = Trial(
        number=int(at_s),
        kind="race",
        source="",
        params=params,
        parts=tuple(rates),
        seconds=None,
        disturbed=disturbed,
        elapsed_s=at_s,
    )
    measured = {
        part: Measurement(
            params=params,
            test=TESTS[part],
            samples_ns=(round(1e9 * TESTS[part].n_tokens / rate),),
            build_commit="",
            build_number=0,
            run=RUN,
            record={},
        )
        for part, rate in rates.items()
    }
    records = tuple(Record(trial=trial.number, part=p, outcome=m) for p, m in measured.items())
    return Visited(trial=trial, records=records)


def found(*trials: Visited) -> dict[tuple[str, str, object], Effect]:
    """The effects by part, parameter and value."""
    return {(e.part, e.parameter, e.value): e for e in effects(trials, BASELINE)}


def test_a_value_is_compared_with_the_default_where_nothing_else_differs() -> None:
    (effect,) = effects(
        [visited(BASELINE, pp=100), visited(replace(BASELINE, n_ubatch=1024), pp=150)], BASELINE
    )

    assert (effect.test, effect.parameter) == ("pp512", "n_ubatch")
    assert (effect.default, effect.value) == (512, 1024)
    assert effect.seen.ratio == pytest.approx(1.5)
    assert effect.seen.pairs == 1


def test_two_parameters_changed_at_once_tell_of_neither() -> None:
    both = replace(BASELINE, n_ubatch=256, flash_attn=True)

    assert found(visited(BASELINE, pp=100), visited(both, pp=150)) == {}


def test_pairs_are_found_beside_any_other_configuration() -> None:
    other = replace(BASELINE, flash_attn=True)
    seen = found(
        visited(other, pp=100),
        visited(replace(other, n_ubatch=256), pp=110),
        visited(BASELINE, pp=90),
        visited(replace(BASELINE, n_ubatch=256), pp=99),
    )

    assert seen["pp", "n_ubatch", 256].seen.pairs == 2
    assert seen["pp", "n_ubatch", 256].seen.ratio == pytest.approx(1.1)
    assert seen["pp", "flash_attn", True].seen.pairs == 2


@pytest.mark.parametrize(
    ("changed", "part", "parameter"),
    [
        (replace(BASELINE, n_ubatch=4), "pp", "n_ubatch"),
        (replace(BASELINE, n_batch=4), "pp", "n_batch"),
        (replace(BASELINE, n_threads_batch=4), "pp", "n_threads_batch"),
        (replace(BASELINE, n_threads=4), "tg", "n_threads"),
    ],
)
def test_a_parameter_is_told_of_by_the_part_that_it_moves(
    changed: Params, part: str, parameter: str
) -> None:
    seen = found(visited(BASELINE, pp=100, tg=10), visited(changed, pp=110, tg=11))

    assert set(seen) == {(part, parameter, 4)}


def test_threads_for_prompts_are_those_for_answers_where_they_are_not_said() -> None:
    bare = replace(BASELINE, n_threads_batch=None)
    seen = effects([visited(bare, pp=100), visited(replace(bare, n_threads=4), pp=50)], bare)

    assert [(e.parameter, e.default, e.value) for e in seen] == [("n_threads_batch", 8, 4)]


def test_what_is_not_said_is_as_it_is_by_default() -> None:
    unsaid = replace(BASELINE, n_ubatch=None)

    assert found(visited(BASELINE, pp=100), visited(unsaid, pp=200)) == {}


def test_both_caches_are_one_parameter() -> None:
    seen = found(
        visited(BASELINE, tg=10),
        visited(replace(BASELINE, type_k="q8_0", type_v="q8_0"), tg=11),
        visited(replace(BASELINE, type_k="q8_0"), tg=12),
    )

    assert set(seen) == {("tg", "cache_type", "q8_0"), ("tg", "cache_type", "q8_0/f16")}


def test_a_disturbed_test_tells_nothing() -> None:
    slow = visited(replace(BASELINE, n_ubatch=256), pp=10, disturbed="other programs used 1 CPU")

    assert found(visited(BASELINE, pp=100), slow) == {}


def test_each_test_is_in_one_pair_with_the_one_nearest_in_time() -> None:
    """The machine slows down by half; the value is 10 % faster at any time."""
    changed = replace(BASELINE, n_ubatch=256)
    trials = [visited(BASELINE, at_s=t, pp=100 / t) for t in (1.0, 2.0, 3.0)]

    seen = found(*trials, visited(changed, at_s=2.1, pp=55))

    assert seen["pp", "n_ubatch", 256].seen.pairs == 1
    assert seen["pp", "n_ubatch", 256].seen.ratio == pytest.approx(1.1)


def test_tests_of_another_length_are_not_compared() -> None:
    longer = visited(replace(BASELINE, n_ubatch=256), pp=100)
    measured = longer.records[0].outcome
    assert isinstance(measured, Measurement)
    other = replace(measured, test=records.Test(n_prompt=1024))
    longer = replace(longer, records=(replace(longer.records[0], outcome=other),))

    assert found(visited(BASELINE, pp=100), longer) == {}


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.06])
def test_of_values_that_change_nothing_few_look_as_if_they_did(noise: float) -> None:
    claims = [
        effect.seen.shown_better or effect.seen.shown_worse
        for seed in range(80)
        for effect in effects(_equal(random.Random(seed), noise), BASELINE)  # noqa: S311
    ]

    assert len(claims) == 80 * 9
    assert sum(claims) / len(claims) < 0.07


def _equal(chance: random.Random, noise: float) -> Sequence[Visited]:
    """Sixty visits of configurations that are all as fast."""
    return [
        visited(
            replace(
                BASELINE,
                n_ubatch=chance.choice([256, 512, 1024]),
                flash_attn=chance.choice([True, False, "auto"]),
                load_mode=chance.choice(["auto", "none"]),
                n_threads_batch=chance.choice([4, 8]),
            ),
            at_s=float(number),
            pp=100 * math.exp(chance.gauss(0, noise)),
            tg=10 * math.exp(chance.gauss(0, noise)),
        )
        for number in range(60)
    ]
