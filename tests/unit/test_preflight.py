"""A build can answer --help and die in its first prompt; the preflight finds out, and says why."""

from pathlib import Path

import pytest
from fakes.programs import BENCH_HELP, OLD_BENCH_HELP, WORKS, records, write_program

from autotune.errors import LlamaCppUnusable
from autotune.hardware import detect_hardware
from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.locate import Program, find_program
from autotune.llama_cpp.preflight import Preflight, preflight, slow_build


def program_at(path: Path) -> Program:
    return Program(name="llama-bench", command=(str(path),), found_by="the test")


def fly(
    folder: Path, *, work: str, before: str = "", help_text: str = BENCH_HELP, timeout: float = 30
) -> Preflight:
    """Write a llama-bench and try it on a model that it never looks at."""
    path = folder / "llama-bench"
    program = program_at(write_program(path, help_text=help_text, before=before, work=work))
    return preflight(program, ask(program), folder / "model.gguf", timeout=timeout)


def test_a_program_that_measures_both_is_usable(tmp_path: Path) -> None:
    flight = fly(tmp_path, work=WORKS)

    assert flight.usable
    assert flight.backends == "CPU"
    assert flight.pp_rate > 0
    assert flight.tg_rate > 0


def test_it_is_asked_for_a_prompt_and_a_generation_of_the_model(tmp_path: Path) -> None:
    fly(tmp_path, work=f'echo "$@" >"$0.args"\n{WORKS}')

    words = (tmp_path / "llama-bench.args").read_text().split()

    assert words[words.index("-m") + 1] == str(tmp_path / "model.gguf")
    assert (words[words.index("-p") + 1], words[words.index("-n") + 1]) == ("16", "2")
    assert words[words.index("-o") + 1] == "jsonl"
    assert "--no-warmup" in words


def test_a_flag_that_an_old_build_does_not_have_is_not_given(tmp_path: Path) -> None:
    fly(tmp_path, work=f'echo "$@" >"$0.args"\n{WORKS}', help_text=OLD_BENCH_HELP)

    assert "--no-warmup" not in (tmp_path / "llama-bench.args").read_text()


def test_an_illegal_instruction_is_explained(tmp_path: Path) -> None:
    flight = fly(tmp_path, work="kill -ILL $$", help_text=OLD_BENCH_HELP)

    assert not flight.usable
    assert "SIGILL" in flight.reason
    assert "an instruction that this processor does not have" in flight.reason
    assert "portable build" in flight.reason


@pytest.mark.parametrize("signal", ["ILL", "SEGV"])
def test_what_dies_of_repacking_runs_without_it(signal: str, tmp_path: Path) -> None:
    work = f'case "$*" in *"--repack 0"*) ;; *) kill -{signal} $$ ;; esac\n{WORKS}'

    flight = fly(tmp_path, work=work)

    assert (flight.usable, flight.repack_off) == (True, True)
    assert f"SIG{signal}" in flight.reason
    assert "--repack 0" in flight.reason
    assert "--no-repack" in flight.remedy


def test_what_dies_without_repacking_too_is_not_usable(tmp_path: Path) -> None:
    flight = fly(tmp_path, work='echo x >>"$0.runs"; kill -ILL $$')

    assert (flight.usable, flight.repack_off) == (False, False)
    assert "SIGILL" in flight.reason
    assert len((tmp_path / "llama-bench.runs").read_text().split()) == 2


def test_another_failure_is_not_tried_twice(tmp_path: Path) -> None:
    flight = fly(
        tmp_path, work='echo x >>"$0.runs"; echo "error: failed to load model" >&2; exit 1'
    )

    assert not flight.usable
    assert "failed to load model" in flight.reason
    assert "another model" in flight.remedy
    assert len((tmp_path / "llama-bench.runs").read_text().split()) == 1


@pytest.mark.parametrize(
    ("said", "in_words"),
    [
        ("warning: debug build, performance may be affected", "debug build"),
        ("warning: asserts enabled, performance may be affected", "assertions"),
        ("warning: sanitizer enabled, performance may be affected", "sanitizer"),
    ],
)
def test_a_slow_build_is_refused_with_the_reason(said: str, in_words: str, tmp_path: Path) -> None:
    flight = fly(tmp_path, before=f"echo '{said}' >&2", work=WORKS)

    assert not flight.usable
    assert in_words in flight.reason
    assert "CMAKE_BUILD_TYPE=Release" in flight.remedy
    assert in_words in slow_build(program_at(tmp_path / "llama-bench"))


def test_both_warnings_are_named(tmp_path: Path) -> None:
    before = "echo 'warning: asserts enabled, x' >&2; echo 'warning: debug build, x' >&2"

    reason = fly(tmp_path, before=before, work=WORKS).reason

    assert "assertions" in reason
    assert "debug build" in reason


@pytest.mark.parametrize(
    "work",
    ["", records((16, 0)), records((16, 0), (0, 3)), "echo '{'", "echo '{\"n_prompt\": 16}'"],
    ids=["nothing", "half", "other tests", "no JSON", "no record"],
)
def test_output_that_is_not_what_was_asked_for_is_refused(work: str, tmp_path: Path) -> None:
    flight = fly(tmp_path, work=work)

    assert not flight.usable
    assert "record" in flight.reason


def test_a_program_that_never_ends_is_stopped(tmp_path: Path) -> None:
    flight = fly(tmp_path, work="sleep 60", timeout=0.3)

    assert not flight.usable
    assert "did not end in time" in flight.reason


def test_a_program_without_lines_of_json_is_refused_unseen(tmp_path: Path) -> None:
    flight = fly(tmp_path, work="exit 9", help_text=BENCH_HELP.replace("jsonl|", ""))

    assert not flight.usable
    assert "jsonl" in flight.reason
    assert "update" in flight.remedy


@pytest.mark.parametrize(
    "said",
    [
        (
            "llama-bench: error while loading shared libraries: libggml.so.0: cannot open shared "
            "object file: No such file or directory"
        ),
        "Error loading shared library libggml.so.0: No such file or directory",
        "dyld[1]: Library not loaded: libggml.so.0",
    ],
    ids=["glibc", "musl", "macOS"],
)
def test_a_library_that_is_missing_is_named(said: str, tmp_path: Path) -> None:
    path = tmp_path / "llama-bench"
    write_program(path, help_text="", before=f"echo '{said}' >&2; exit 127")

    with pytest.raises(
        LlamaCppUnusable, match=r"shared library libggml\.so\.0 is missing"
    ) as raised:
        ask(program_at(path))

    assert raised.value.hint


def test_a_program_that_dies_before_its_help_is_named(tmp_path: Path) -> None:
    path = tmp_path / "llama-bench"
    write_program(path, help_text="", before="kill -ILL $$")

    with pytest.raises(LlamaCppUnusable, match=r"signal 4"):
        ask(program_at(path))


def test_a_program_that_is_gone_meanwhile_is_named(tmp_path: Path) -> None:
    program = program_at(write_program(tmp_path / "llama-bench", help_text=BENCH_HELP))
    capabilities = ask(program)
    program.path.unlink()

    with pytest.raises(LlamaCppUnusable, match="cannot be executed"):
        preflight(program, capabilities, tmp_path / "model.gguf")


@pytest.mark.llama_cpp
def test_the_real_one_runs_the_real_model(llama_cpp_dir: Path, gemma: Path) -> None:
    program = find_program("llama-bench", given=str(llama_cpp_dir))

    flight = preflight(program, ask(program), gemma)

    assert flight.usable
    assert not flight.repack_off
    assert "CPU" in flight.backends
    # What llama.cpp takes by itself is known from its own record.
    assert flight.settings["n_threads"] == detect_hardware().cpu.physical_cores
    assert (flight.settings["n_batch"], flight.settings["n_ubatch"]) == (2048, 512)
    assert slow_build(program) == ""


@pytest.mark.llama_cpp
def test_the_real_one_refuses_what_is_no_model(llama_cpp_dir: Path, tmp_path: Path) -> None:
    program = find_program("llama-bench", given=str(llama_cpp_dir))
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing more")

    flight = preflight(program, ask(program), tmp_path / "model.gguf")

    assert not flight.usable
    assert "failed to load model" in flight.reason


@pytest.mark.llama_cpp
def test_the_real_one_without_a_library_is_named(llama_cpp_dir: Path, tmp_path: Path) -> None:
    """A program of a newer system on an older one: it asks for a library that is not there."""
    program = (llama_cpp_dir / "llama-bench").read_bytes()
    assert b"libstdc++.so.6" in program
    copy = tmp_path / "llama-bench"
    copy.write_bytes(program.replace(b"libstdc++.so.6", b"libstdc++.so.9"))
    copy.chmod(0o755)
    for library in llama_cpp_dir.glob("lib*"):
        (tmp_path / library.name).symlink_to(library)

    with pytest.raises(LlamaCppUnusable, match=r"shared library libstdc\+\+\.so\.9 is missing"):
        ask(program_at(copy))
