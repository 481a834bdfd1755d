"""The referee of the peers' benchmark: what is measured once, in what order, and what it says."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.benches import SCRIPT
from referee import N_GEN, N_PROMPT, Judged, Known, Round, Setting, known, take_rounds

DEFAULTS = Setting()
ONE_THREAD = Setting(threads=1)  # Of the generation alone.


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file of the fake llama-bench's starts; one of its tests takes a millisecond."""
    monkeypatch.setenv("LCM_FAKE_MS", "1 1")
    monkeypatch.setenv("LCM_FAKE_LOG", str(tmp_path / "log.txt"))
    return tmp_path / "log.txt"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "rounds.json"


def started(log: Path) -> list[str]:
    return [line for line in log.read_text("utf-8").splitlines() if line.startswith("start")]


def test_a_prompt_that_two_settings_share_is_measured_once_a_round(
    tiny: Path, kept: Path, log: Path
) -> None:
    settings = [DEFAULTS, ONE_THREAD]

    rounds = take_rounds(SCRIPT, tiny, settings, rounds=3, seed=1, kept=kept)

    assert [len(one) for one in rounds] == [3, 3, 3]  # A prompt and two generations.
    assert len(started(log)) == 9


def test_each_second_round_goes_back_through_the_order_of_the_first(tiny: Path, kept: Path) -> None:
    settings = [Setting(n_ubatch=n) for n in (64, 128, 256)]

    rounds = take_rounds(SCRIPT, tiny, settings, rounds=4, seed=1, kept=kept)

    orders = [list(one) for one in rounds]
    assert orders[1] == orders[0][::-1]
    assert orders[3] == orders[2][::-1]
    assert orders[2] != orders[0]


def test_rounds_that_are_kept_are_not_measured_again(tiny: Path, kept: Path, log: Path) -> None:
    first = take_rounds(SCRIPT, tiny, [DEFAULTS], rounds=2, seed=1, kept=kept)
    log.unlink()

    more = take_rounds(SCRIPT, tiny, [DEFAULTS], rounds=3, seed=1, kept=kept)

    assert more[:2] == first
    assert len(started(log)) == 2


def test_rounds_of_other_settings_do_not_count(tiny: Path, kept: Path, log: Path) -> None:
    take_rounds(SCRIPT, tiny, [DEFAULTS], rounds=2, seed=1, kept=kept)
    log.unlink()

    take_rounds(SCRIPT, tiny, [ONE_THREAD], rounds=2, seed=1, kept=kept)

    assert len(started(log)) == 4


def test_the_defaults_are_those_of_the_llama_bench(tiny: Path) -> None:
    defaults = known(SCRIPT, tiny).defaults

    assert defaults["n_batch"] == 2048
    assert defaults["n_ubatch"] == 512
    assert defaults["flash_attn"] == "auto"
    assert defaults["threads"] == defaults["threads_batch"] == 2


@pytest.mark.parametrize("only_cpu", [True, False])
def test_layers_are_void_only_where_there_is_no_device(*, only_cpu: bool) -> None:
    llama = Known(defaults={"n_gpu_layers": -1}, only_cpu=only_cpu)

    left = Setting(n_gpu_layers=12).without(llama)

    assert left == (DEFAULTS if only_cpu else Setting(n_gpu_layers=12))


def test_saying_the_defaults_is_the_same_as_saying_nothing() -> None:
    llama = Known(defaults={"n_ubatch": 512, "threads": 2, "flash_attn": "auto"}, only_cpu=True)
    said = Setting(n_ubatch=512, threads=2, flash_attn="auto", n_batch=64)

    assert said.without(llama) == Setting(n_batch=64)


def test_the_threads_of_each_part_are_its_own() -> None:
    setting = Setting(threads=1, threads_batch=2, n_ubatch=64)

    assert setting.prompt == ("-p", str(N_PROMPT), "-n", "0", "-t", "2", "-ub", "64")
    assert setting.generation == ("-p", "0", "-n", str(N_GEN), "-t", "1", "-ub", "64")


def rounds_of(*rates: tuple[Setting, float, float]) -> Round:
    return {
        shlex.join(part): rate
        for setting, prompt, generation in rates
        for part, rate in ((setting.prompt, prompt), (setting.generation, generation))
    }


def test_a_request_is_a_prompt_and_its_answer() -> None:
    judged = Judged(DEFAULTS, [rounds_of((DEFAULTS, 512, 64))])

    assert judged.seconds == 1 + 4


def test_faster_is_above_one() -> None:
    halved = replace(DEFAULTS, n_ubatch=64)
    rounds = [rounds_of((DEFAULTS, 512, 64), (halved, 1024, 128))] * 8

    seen = Judged(halved, rounds).faster_than(Judged(DEFAULTS, rounds))

    assert math.isclose(seen.ratio, 2)
    assert seen.shown_better
