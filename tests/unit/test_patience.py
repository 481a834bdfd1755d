"""How long a phase may take: generous at first, then learned, and never from the wrong thing."""

import pytest

from autotune.llama_cpp import patience as module
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Patience, Phase
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP512 = Trial(Params(n_threads=1), BenchTest(n_prompt=512))
TG128 = Trial(Params(n_threads=1), BenchTest(n_gen=128))


class FakeTime:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(module, "time", fake)
    return fake


@pytest.mark.parametrize(
    ("phase", "seconds"), [(Phase.LOAD, 1800), (Phase.RUN, 1200), (Phase.EXIT, 60)]
)
def test_at_first_it_waits_generously(phase: Phase, seconds: float) -> None:
    assert Patience().allowed(phase, TG128) == seconds


def test_a_large_model_may_come_over_a_slow_network() -> None:
    assert Patience().allowed(Phase.LOAD, TG128, model_bytes=10**12) == 100_000


def test_a_load_from_the_page_cache_says_little_of_one_from_the_disk() -> None:
    patience = Patience()
    patience.saw(Phase.LOAD, TG128, 1.0)
    assert patience.allowed(Phase.LOAD, TG128, model_bytes=20 * 10**9) == 2000


def test_a_repetition_may_take_a_multiple_of_what_one_took() -> None:
    patience = Patience()
    patience.saw(Phase.RUN, TG128, 10.0)
    assert patience.allowed(Phase.RUN, TG128) == pytest.approx(500)


def test_a_warm_up_of_one_token_is_not_taken_for_a_repetition_of_all() -> None:
    """A large model on a slow processor takes a second for a token, and two minutes for 128."""
    patience = Patience()
    patience.saw(Phase.WARMUP, TG128, 1.0)
    assert patience.allowed(Phase.RUN, TG128) > 128


def test_processing_a_prompt_says_nothing_of_generating() -> None:
    patience = Patience()
    patience.saw(Phase.RUN, PP512, 0.1)
    assert patience.allowed(Phase.RUN, TG128) == patience.first_step_s


def test_the_filling_of_a_depth_is_as_long_as_the_depth() -> None:
    patience, deep = Patience(), Trial(Params(n_threads=1), BenchTest(n_gen=4, n_depth=51200))
    patience.saw(Phase.RUN, PP512, 1.0)
    assert patience.allowed(Phase.DEPTH, deep) == pytest.approx(100 * 50)


def test_layers_on_the_gpu_say_little_of_layers_on_the_processor() -> None:
    """512 tokens in a tenth of a second there can be half a minute here."""
    patience = Patience()
    patience.saw(Phase.RUN, Trial(Params(n_gpu_layers=99), PP512.test), 0.1)
    elsewhere = Trial(Params(n_gpu_layers=0), PP512.test)
    assert 100 < patience.allowed(Phase.RUN, elsewhere) < patience.first_step_s


def test_the_longest_counts() -> None:
    patience = Patience()
    for seconds in (10.0, 30.0, 20.0):
        patience.saw(Phase.RUN, TG128, seconds)
    assert patience.allowed(Phase.RUN, TG128) == pytest.approx(1500)


def test_a_clock_learns_from_what_it_sees(clock: FakeTime) -> None:
    patience = Patience(least_s=1)
    run = patience.clock([TG128], 1)
    for phase, seconds in ((Phase.LOAD, 0), (Phase.WARMUP, 4), (Phase.RUN, 5)):
        clock.now += seconds
        run.enter(phase, 0, clock.now, None)
    clock.now += 128
    run.advance(1, clock.now, None)
    learned = [patience.allowed(phase, TG128) for phase in (Phase.LOAD, Phase.RUN)]
    assert learned == [pytest.approx(200), pytest.approx(5 * 50 * 128)]


def test_loading_counts_from_the_start_of_the_program(clock: FakeTime) -> None:
    run = Patience(first_load_s=100).clock([TG128], 1)
    clock.now += 30
    run.enter(Phase.LOAD, 0, clock.now, None)
    assert run.left() == pytest.approx(70)


def test_a_program_that_tells_nothing_has_the_time_of_all_its_repetitions(
    clock: FakeTime,
) -> None:
    run = Patience(first_load_s=100, first_step_s=10).clock([TG128], 3)
    clock.now += 1
    assert run.left() == pytest.approx(100 + 5 * 10 - 1)


def test_a_program_that_tells_its_progress_has_the_time_of_a_load_at_first(
    clock: FakeTime,
) -> None:
    run = Patience(first_load_s=100).clock([TG128], 3, talks=True)
    clock.now += 1
    assert run.left() == pytest.approx(99)


def test_words_alone_are_no_sign_of_work(clock: FakeTime) -> None:
    run = Patience(first_load_s=100).clock([TG128], 3, talks=True)
    assert [run.is_over(clock.now + seconds) for seconds in (99, 101)] == [False, True]


def test_after_the_last_record_it_has_a_minute_to_leave(clock: FakeTime) -> None:
    run = Patience().clock([TG128], 1)
    clock.now += 10
    run.advance(1, clock.now, None)
    assert run.left() == pytest.approx(60)


@pytest.mark.parametrize(
    ("cpu_at_start", "cpu_now", "idle"),
    [(5.0, 5.0, True), (5.0, 99.0, False), (None, 5.0, False), (5.0, None, False)],
)
def test_a_program_that_used_no_processor_hangs(
    clock: FakeTime, cpu_at_start: float | None, cpu_now: float | None, *, idle: bool
) -> None:
    run = Patience().clock([TG128], 1)
    run.enter(Phase.RUN, 0, clock.now, cpu_at_start)
    clock.now += 100
    assert run.was_idle(cpu_now) is idle


def test_it_says_what_was_waited_for(clock: FakeTime) -> None:
    run = Patience().clock([TG128], 1)
    run.enter(Phase.WARMUP, 0, clock.now, None)
    clock.now += 61
    assert run.explained() == "nothing was seen of the warmup of tg128 for 61 s"
