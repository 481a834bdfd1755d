"""The tools of the peers' benchmark: how they are counted, and how what they print is read."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from counted import STARTS, counted, loads_of, timed_runs
from fakes.benches import SCRIPT
from referee import Setting
from rivals import Dyno, LcmQuarter, NotRunError, Optimus, Place, Programs, Speed, of_words

_SPEED = Speed(prompt=600, generation=90, load_s=0.5)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(
        folder=tmp_path,
        programs=tmp_path / "llama.cpp",
        model=tmp_path / "model.gguf",
        budget_s=480,
        quickest_s=400,
        speed=_SPEED,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Give an environment in which each of the peers is installed."""
    for name, program in (("llama-optimus", "llama-optimus"), ("llama-dyno", "dyno")):
        folder = tmp_path / "programs" / name / "bin"
        folder.mkdir(parents=True)
        (folder / program).touch()
    return Programs(tmp_path / "programs", install=False)


def test_each_start_is_noted_word_by_word_and_the_real_one_runs(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "llama-bench").write_text(f'#!/bin/sh\nexec "{SCRIPT}" "$@"\n', encoding="utf-8")
    (real / "llama-bench").chmod(0o755)
    (real / "llama-server").touch()
    monkeypatch.setenv(STARTS, str(tmp_path / "starts.txt"))
    monkeypatch.setenv("LCM_FAKE_MS", "1 1")

    bench = counted(real, tmp_path / "counted") / "llama-bench"
    subprocess.run([bench, "--version"], capture_output=True, check=True)
    words = ["-m", str(tiny), "-p", "8", "-n", "0", "-ot", r"a\.b c=CPU", "-o", "jsonl"]
    done = subprocess.run([bench, *words], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["n_prompt"] == 8
    assert loads_of(tmp_path / "starts.txt") == [words]
    assert (tmp_path / "counted" / "llama-server").is_symlink()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-m M", 2 * 5),
        ("-m M -p 512 -n 0 -r 1", 1),
        ("-m M -p 0 -n 64,128 -t 1,2 -ub 256,512 -r 3 -o jsonl", 2 * 2 * 2 * 3),
        ("-m M -p 64 -n 64 --no-warmup -r 2 --progress", 2 * 2),
    ],
)
def test_runs_are_counted_over_the_whole_grid(words: str, expected: int) -> None:
    assert timed_runs(words.split()) == expected


def test_a_command_line_of_llama_bench_is_read() -> None:
    words = "llama-bench --model M -t 2 --batch-size 4096 -ub 100 -ngl 7 --flash-attn 1 -ctk q8_0"

    assert of_words(words.split()) == Setting(
        threads=2,
        threads_batch=2,
        n_batch=4096,
        n_ubatch=100,
        n_gpu_layers=7,
        flash_attn="on",
        type_k="q8_0",
    )


def trials_of(command: list[str]) -> int:
    return int(command[command.index("--trials") + 1])


def test_optimus_gets_as_many_trials_as_its_budget_holds(place: Place, programs: Programs) -> None:
    plain = trials_of(Optimus(programs, lean=False).command(place))
    lean = trials_of(Optimus(programs, lean=True).command(place))

    trial_s = 0.5 + 1.25 * 3 * 192 / 90
    assert 1 <= plain < lean
    assert 0.8 * 480 < 2 * lean * trial_s < 480


def test_a_budget_that_holds_no_trial_of_optimus_is_said(place: Place, programs: Programs) -> None:
    with pytest.raises(NotRunError, match="more than 20 s"):
        Optimus(programs, lean=False).command(replace(place, budget_s=20))


def test_lcm_in_a_quarter_is_told_less_than_a_quarter_of_the_quickest(place: Place) -> None:
    *_, budget = LcmQuarter().command(place)

    assert budget == "93s"  # Of 100 s.


def test_a_tool_that_is_not_installed_is_said(tmp_path: Path, place: Place) -> None:
    nothing = Programs(tmp_path / "none", install=False)

    with pytest.raises(NotRunError, match="not installed: pip install llama-dyno"):
        Dyno(nothing).command(place)


def test_the_final_command_of_optimus_is_the_one_that_it_benchmarks(
    place: Place, programs: Programs
) -> None:
    bench = place.programs / "llama-bench"
    said = (
        f"$LLAMA_BIN/llama-server --model $MODEL -t 1 --batch-size 9\n"
        f"{bench} --model {place.model} -t 2 --batch-size 5137 --ubatch-size 77 -ngl 0 "
        "--flash-attn 0 -n 128 -p 256 -r 6 --no-warmup --progress \n"
        "| gemma3 | CPU | 2 | pp256 | 655.78 ± 28.22 |\n"
        "| gemma3 | CPU | 2 | tg128 | 95.01 ± 1.20 |\n"
        f"{bench} --model {place.model} -n 128 -p 256 -r 6 --no-warmup --progress \n"
        "| gemma3 | CPU | 2 | pp256 | 650.11 ± 9.99 |\n"
        "| gemma3 | CPU | 2 | tg128 | 94.10 ± 1.10 |\n"
    )

    setting, claim = Optimus(programs, lean=True).found(place, said)

    assert setting.n_ubatch == 77
    assert setting.flash_attn == "off"
    assert claim == "pp256 655.78, tg128 95.01 t/s; the defaults 650.11, 94.10"


def test_where_optimus_was_ended_the_best_of_its_stage_counts(
    place: Place, programs: Programs
) -> None:
    said = "".join(
        f"Trial {n} finished with value: {rate} and parameters: {{'batch': {batch}, "
        f"'u_batch': 64, 'threads': 2, 'gpu_layers': 0}}. Best is trial {best} with value: {top}.\n"
        for n, rate, batch, best, top in ((0, 90.5, 10, 0, 90.5), (1, 80.0, 20, 0, 90.5))
    )

    setting, claim = Optimus(programs, lean=True).found(
        place, f"A new study created in memory\n{said}"
    )

    assert setting.n_batch == 10
    assert claim == "tg 90.5 t/s, the best so far when it was ended"


def test_optimus_without_a_trial_has_nothing_to_show(place: Place, programs: Programs) -> None:
    with pytest.raises(NotRunError):
        Optimus(programs, lean=True).found(place, "# Starting warmup... #")


DYNO = """\
 #  ngl  fa  ctk/ctv    batch  threads  pp t/s  tg t/s      ±  score  status
 1   99  ✓   f16/f16      512     auto   608.0    87.8  ±26.3  243.9    OK
 2   99  ✗   q4_0/q4_0    256        2   658.0    86.8   ±6.3  258.2    OK
"""


def test_the_winner_of_dyno_is_what_it_would_benchmark_next(
    place: Place, programs: Programs
) -> None:
    final = (
        "Next: dyno bench M --ngl 99 --fa --ctk f16 --ctv q8_0 --batch 1024 --ubatch 512 "
        "--threads 0\n"
    )

    setting, claim = Dyno(programs).found(place, DYNO + final)

    assert setting == Setting(
        n_batch=1024, n_ubatch=512, flash_attn="on", type_k="f16", type_v="q8_0"
    )
    assert claim == "pp 658.0, tg 86.8 t/s, compared with nothing"


def test_where_dyno_was_ended_its_best_trial_counts(place: Place, programs: Programs) -> None:
    setting, claim = Dyno(programs).found(place, DYNO)

    assert setting == Setting(
        threads=2,
        threads_batch=2,
        n_batch=256,
        n_ubatch=256,
        flash_attn="off",
        type_k="q4_0",
        type_v="q4_0",
    )
    assert claim.endswith("the best so far when it was ended")


@pytest.mark.parametrize(("budget_s", "mode"), [(480, "--thorough"), (60, "--quick")])
def test_dyno_is_as_thorough_as_its_budget_holds(
    place: Place, programs: Programs, budget_s: float, mode: str
) -> None:
    assert Dyno(programs).command(replace(place, budget_s=budget_s))[-1] == mode
