"""What came of a visit survives JSON, whatever came."""

import json

import pytest
from fakes.readings import failed, measured, reading, run_facts
from hypothesis import given
from property.params_strategies import params

from autotune.llama_cpp.records import (
    FailureKind,
    Outcome,
    outcome_from_json,
    outcome_to_json,
)
from autotune.params import Params, params_from_json, params_to_json

ODD = Params(
    n_threads=3,
    flash_attn=False,
    tensor_split=(1.0, 2.0),
    devices=("none",),
    tensor_buft_overrides=(("blk\\.1", "CPU"), ("exps", "CPU")),
)


@given(params())
def test_any_configuration_comes_back_from_json(configuration: Params) -> None:
    kept = json.loads(json.dumps(params_to_json(configuration)))

    assert params_from_json(kept) == configuration


def test_only_what_is_set_is_kept() -> None:
    assert params_to_json(Params(n_threads=3, repack=False)) == {"n_threads": 3, "repack": False}


@pytest.mark.parametrize(
    "outcome",
    [
        measured(ODD, "pp", 2.0, run=run_facts(3.5, {"at_s": 1.0}, {"at_s": 2.5})),
        measured(ODD, "tg", 2.0, run=run_facts(None)),
        measured(ODD, "tg", 2.0, joules=31.5),
        *(failed(ODD, "tg", kind) for kind in FailureKind),
    ],
    ids=lambda outcome: getattr(outcome, "kind", "measurement"),
)
def test_any_outcome_comes_back_from_json(outcome: Outcome) -> None:
    kept = json.loads(json.dumps(outcome_to_json(outcome)))

    assert outcome_from_json(kept) == outcome


def test_a_record_of_before_joules_were_kept_has_none() -> None:
    kept = outcome_to_json(measured(ODD, "tg", 2.0))
    del kept["samples_j"]

    assert outcome_from_json(kept) == measured(ODD, "tg", 2.0)


@pytest.mark.parametrize("samples_j", [[1.0, 2.0], [-1.0], [float("nan")], ["1"], 5])
def test_joules_that_cannot_be_those_of_the_repetitions_are_refused(samples_j: object) -> None:
    kept = {**outcome_to_json(measured(ODD, "tg", 2.0)), "samples_j": samples_j}

    with pytest.raises(ValueError, match=r"joules|samples_j"):
        outcome_from_json(kept)


def test_the_first_part_that_failed_is_the_failure_of_a_reading() -> None:
    both = reading(ODD, pp=FailureKind.OOM, tg=FailureKind.CRASH)

    assert both.failure == both.outcomes["pp"]


def test_a_part_that_failed_or_was_lost_is_not_measured() -> None:
    some = reading(ODD, tg=FailureKind.OOM, parts=("pp", "tg"))

    assert (some.measured("pp"), some.measured("tg")) == (None, None)
