"""What counts as a disturbance of a test, and what a machine that is at rest may do."""

import pytest

from autotune.tuning.disturbance import disturbance, quiet

# A test of 10 s on 4 CPUs, with 3 threads, during which nobody else did anything.
BEFORE = {
    "at_s": 1000.0,
    "busy_s": 500.0,
    "own_s": 50.0,
    "pressure_memory_s": 7.0,
    "swapped_pages": 4000.0,
    "throttles": 12.0,
    "gpu0_throttle_reasons": 1.0,
    "gpu0_foreign_processes": 2.0,
    "gpu1_throttle_reasons": 0.0,
    "gpu1_foreign_processes": 0.0,
}
AFTER = BEFORE | {"at_s": 1010.0, "busy_s": 530.0, "own_s": 80.0}
# 10 s in which nothing of ours ran.
REST = BEFORE | {"at_s": 1010.0}


def judged(after: dict[str, float], *, n_threads: int = 3, n_cpus: int = 4) -> str:
    return disturbance(BEFORE, AFTER | after, n_threads=n_threads, n_cpus=n_cpus)


@pytest.mark.parametrize(
    ("after", "phrase"),
    [
        ({}, ""),
        ({"busy_s": 530.9}, ""),
        ({"busy_s": 538.0}, "other programs used 0.8 CPUs"),
        ({"busy_s": 531.1}, "other programs used 0.1 CPUs"),
        ({"busy_s": 520.0}, ""),  # Fewer than our own: sampled.
        ({"pressure_memory_s": 7.4}, ""),
        ({"pressure_memory_s": 8.2}, "memory was short 12% of the time"),
        ({"swapped_pages": 4256.0}, ""),
        ({"swapped_pages": 4257.0}, "257 pages were swapped"),
        ({"throttles": 13.0}, "the CPU was slowed down by heat"),
        ({"gpu0_throttle_reasons": 0x4}, ""),
        ({"gpu0_throttle_reasons": 0x4 | 0x1 | 0x2 | 0x10 | 0x100}, ""),
        ({"gpu0_throttle_reasons": 0x4 | 0x20}, "GPU 0 was slowed down by heat"),
        ({"gpu1_throttle_reasons": 0x48}, "GPU 1 was slowed down by heat"),
        ({"gpu0_throttle_reasons": 0x88}, "GPU 0 was slowed down by its power supply"),
        ({"gpu0_throttle_reasons": 0x8}, "GPU 0 was slowed down by heat or its power supply"),
        ({"gpu0_foreign_processes": 1.0}, ""),
        ({"gpu0_foreign_processes": 3.0}, "another program began to use GPU 0"),
        ({"gpu1_foreign_processes": 1.0}, "another program began to use GPU 1"),
    ],
    ids=str,
)
def test_each_kind_of_disturbance_has_its_phrase(after: dict[str, float], phrase: str) -> None:
    assert judged(after) == phrase


@pytest.mark.parametrize(
    ("n_threads", "n_cpus", "foreign_cpus", "disturbed"),
    [
        (4, 4, 0.09, False),
        (4, 4, 0.11, True),
        (3, 4, 0.11, True),  # The one idle CPU is for the kernel and for us.
        (2, 4, 0.59, False),
        (2, 4, 0.61, True),
        (8, 16, 3.5, False),
        (8, 16, 3.7, True),
        (8, 4, 0.11, True),
    ],
)
def test_what_others_may_use_depends_on_what_the_test_leaves_idle(
    n_threads: int, n_cpus: int, foreign_cpus: float, *, disturbed: bool
) -> None:
    busy_s = AFTER["busy_s"] + 10 * foreign_cpus

    phrase = judged({"busy_s": busy_s}, n_threads=n_threads, n_cpus=n_cpus)

    assert bool(phrase) == disturbed


@pytest.mark.parametrize(
    ("n_cpus", "foreign_s", "disturbed"),
    [(2, 0.029, False), (2, 0.031, True), (64, 0.25, False), (64, 0.26, True)],
)
def test_ticks_of_the_clock_are_no_program(
    n_cpus: int, foreign_s: float, *, disturbed: bool
) -> None:
    after = BEFORE | {"at_s": 1000.1, "own_s": 50.1, "busy_s": 500.1 + foreign_s}

    phrase = disturbance(BEFORE, after, n_threads=n_cpus, n_cpus=n_cpus)

    assert bool(phrase) == disturbed


@pytest.mark.parametrize(("own_s", "disturbed"), [(50.9, False), (51.1, True)])
def test_a_test_whose_own_time_is_not_seen_is_not_taken_for_another_program(
    own_s: float, *, disturbed: bool
) -> None:
    assert bool(judged({"own_s": own_s})) == disturbed


@pytest.mark.parametrize("key", BEFORE)
@pytest.mark.parametrize("reading", ["before", "after", "both"])
def test_what_was_not_read_is_not_judged(key: str, reading: str) -> None:
    after = AFTER | {key: AFTER[key] + 0x80}
    before = {name: value for name, value in BEFORE.items() if name != key or reading == "after"}
    after = {name: value for name, value in after.items() if name != key or reading == "before"}

    assert disturbance(before, after, n_threads=3, n_cpus=4) == ""
    assert quiet(before, after | {"busy_s": BEFORE["busy_s"]}) == ""


def test_readings_of_the_same_moment_say_nothing() -> None:
    assert disturbance(BEFORE, AFTER | {"at_s": 1000.0}, n_threads=3, n_cpus=4) == ""
    assert disturbance({}, {}, n_threads=3, n_cpus=4) == ""
    assert quiet({}, {}) == ""


def test_a_gpu_that_was_hot_when_the_test_started_was_slow_in_it() -> None:
    hot = BEFORE | {"gpu0_throttle_reasons": 64.0}

    phrase = disturbance(hot, AFTER, n_threads=3, n_cpus=4)

    assert phrase == "GPU 0 was slowed down by heat"


@pytest.mark.parametrize(
    ("after", "phrase"),
    [
        ({}, ""),
        ({"busy_s": 501.4}, ""),
        ({"busy_s": 501.6}, "other programs used 0.2 CPUs"),
        ({"busy_s": 504.0, "own_s": 54.0}, ""),  # We tidied up.
        ({"at_s": 1000.1, "busy_s": 500.029}, ""),
        ({"pressure_memory_s": 7.6}, "memory was short 6% of the time"),
        ({"gpu0_throttle_reasons": 0x20}, "GPU 0 was slowed down by heat"),
        ({"swapped_pages": 5000.0, "throttles": 13.0, "gpu0_foreign_processes": 3.0}, ""),
    ],
    ids=str,
)
def test_a_machine_is_quiet_when_others_hardly_use_it(after: dict[str, float], phrase: str) -> None:
    assert quiet(BEFORE, REST | after) == phrase
