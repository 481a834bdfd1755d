"""What was at its limit of power during a test, and when that is news."""

from dataclasses import replace

import pytest

from autotune.hardware.power_limit import limited
from autotune.params import Params
from autotune.tuning.power import PowerLimits
from autotune.tuning.visits import Kind

# A test of 10 s.
BEFORE = {
    "at_s": 1000.0,
    "power_limits": 3.0,
    "package0_energy_j": 5000.0,
    "package0_limit_w": 65.0,
    "gpu0_power_capped_s": 70.0,
    "gpu0_throttle_reasons": 0.0,
    "gpu1_throttle_reasons": 0.0,
}
AFTER = BEFORE | {"at_s": 1010.0, "package0_energy_j": 5400.0}


@pytest.mark.parametrize(
    ("after", "held"),
    [
        ({}, ()),
        ({"package0_energy_j": 5640.0}, ("CPU package 0",)),  # 64 of 65 W.
        ({"package0_energy_j": 5600.0}, ()),
        ({"package0_energy_j": 5900.0}, ("CPU package 0",)),  # For a moment more is allowed.
        ({"power_limits": 4.0}, ("CPU",)),
        ({"power_limits": 4.0, "package0_energy_j": 5640.0}, ("CPU package 0",)),
        ({"gpu0_power_capped_s": 70.4}, ()),
        ({"gpu0_power_capped_s": 71.0}, ("GPU 0",)),
        ({"gpu0_throttle_reasons": 4.0}, ()),  # It counts, and has not.
        ({"gpu1_throttle_reasons": 4.0 + 1.0}, ("GPU 1",)),
        ({"gpu1_throttle_reasons": 0x8 + 0x20}, ()),
        ({"gpu0_power_capped_s": 75.0, "gpu1_throttle_reasons": 4.0}, ("GPU 0", "GPU 1")),
    ],
    ids=str,
)
def test_what_is_at_its_limit(after: dict[str, float], held: tuple[str, ...]) -> None:
    assert limited(BEFORE, AFTER | after) == held


def test_what_is_not_known_is_at_no_limit() -> None:
    assert limited({}, {"at_s": 5.0}) == ()


A = Params(n_threads=4)
B = replace(A, n_threads=8)
CAPPED = AFTER | {"gpu0_power_capped_s": 75.0}


def told(limits: PowerLimits, params: Params, *, kind: Kind = Kind.TAIL) -> str:
    return limits.news(kind, "tg", params, BEFORE, CAPPED)


def test_a_limit_that_the_defaults_met_at_first_is_never_news() -> None:
    limits = PowerLimits()

    assert [told(limits, A, kind=Kind.BASELINE), told(limits, B), told(limits, A)] == ["", "", ""]


def test_a_limit_that_a_configuration_meets_again_is_its_own() -> None:
    limits, news = PowerLimits(), "GPU 0 was held back by its limit of power"

    assert [told(limits, A), told(limits, A), told(limits, B)] == [news, "", news]


def test_what_is_usual_of_one_is_news_of_another() -> None:
    limits = PowerLimits()
    told(limits, A, kind=Kind.BASELINE)

    said = limits.news(Kind.TAIL, "tg", B, BEFORE, CAPPED | {"package0_energy_j": 5700.0})

    assert said == "CPU package 0 was held back by its limit of power"
