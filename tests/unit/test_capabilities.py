"""What a program can is what its help says, for every build that was recorded."""

import json
import os
import stat
from pathlib import Path

import pytest
from recorded_builds import BUILDS, FOLDER, capabilities_of

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp import capabilities
from autotune.llama_cpp.capabilities import (
    ask,
    ask_once,
    parse_help,
    parse_variables,
)
from autotune.llama_cpp.locate import Program

HELP = "usage: it\n\noptions:\n  -h, --help\n  -m, --model <file>    (default: x)\n"


def stub(path: Path, body: str) -> Program:
    """Give a program that is a shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Program(name="llama-bench", command=(str(path),), found_by="the test")


def test_builds_of_three_years_and_of_a_fork_were_recorded() -> None:
    years = {
        json.loads((FOLDER / build / "source.json").read_text())["date"][:4] for build in BUILDS
    }
    assert years >= {"2024", "2025", "2026"}
    assert len(BUILDS) >= 5


@pytest.mark.parametrize("build", BUILDS)
def test_each_recorded_help_is_understood(build: str) -> None:
    options = capabilities_of(build).options
    assert {"-m", "-p", "-n", "-b", "-t", "-ngl", "-o", "-r", "-ts", "-ctk"} <= options.keys()


@pytest.mark.parametrize(
    ("flag", "choices", "builds"),
    [
        ("-fa", ("0", "1"), ["0.3.0-2024-09", "b6666-2025-10", "0.3.23-2026-05"]),
        ("-fa", ("on", "off", "auto"), ["0.3.24-2026-06", "0.3.36-2026-10"]),
        ("-mmp", ("0", "1"), ["0.2.56-2024-03", "0.3.24-2026-06"]),
        (
            "-lm",
            ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio"),
            ["0.3.36-2026-10"],
        ),
    ],
    ids=["-fa as a number", "-fa as a word", "-mmp", "-lm"],
)
def test_the_values_of_a_flag_are_those_of_the_build(
    flag: str, choices: tuple[str, ...], builds: list[str]
) -> None:
    assert {build: capabilities_of(build).choices(flag) for build in builds} == dict.fromkeys(
        builds, choices
    )


@pytest.mark.parametrize(
    ("flag", "since"),
    [
        ("-fa", "0.3.0-2024-09"),
        ("--progress", "0.3.0-2024-09"),
        ("-ncmoe", "b6666-2025-10"),
        ("-lm", "b10262-2026-08"),
        ("--repack", "0.3.36-2026-10"),
    ],
)
def test_a_flag_is_there_from_its_build_on(flag: str, since: str) -> None:
    dated = sorted(
        (json.loads((FOLDER / build / "source.json").read_text())["date"], build)
        for build in BUILDS
        if capabilities_of(build).flavor == "llama.cpp"
    )
    first = [build for _, build in dated].index(since)
    has = [capabilities_of(build).has(flag) for _, build in dated]
    assert has == [False] * first + [True] * (len(dated) - first)


def test_records_are_streamed_from_september_2024_on() -> None:
    assert not capabilities_of("0.2.56-2024-03").streams_records
    assert capabilities_of("0.3.0-2024-09").streams_records


def test_values_that_are_no_choice_are_not_taken_for_one() -> None:
    assert parse_help("  -pg <pp,tg>      (default: )")["-pg"] == ()


def test_a_flag_has_the_variable_that_stands_below_it() -> None:
    variables = parse_variables(
        "-t,    --threads N                      number of threads (env: LLAMA_ARG_THREADS)\n"
        "-tb,   --threads-batch N                as --threads\n"
        "-kvo,  --kv-offload, -nkvo, --no-kv-offload\n"
        "                                        whether to, see\n"
        "                                        --no-op-offload\n"
        "                                        (env: LLAMA_ARG_KV_OFFLOAD)\n"
    )
    assert variables == {
        **dict.fromkeys(["-t", "--threads"], "LLAMA_ARG_THREADS"),
        **dict.fromkeys(
            ["-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"], "LLAMA_ARG_KV_OFFLOAD"
        ),
    }


@pytest.mark.parametrize(
    ("build", "flag", "variable"),
    [
        ("0.3.36-2026-10", "--batch-size", "LLAMA_ARG_BATCH"),
        ("0.3.36-2026-10", "--no-kv-offload", "LLAMA_ARG_KV_OFFLOAD"),
        ("0.3.36-2026-10", "--hf-repo", "LLAMA_ARG_HF_REPO"),
        ("0.3.9-2025-05", "--no-kv-offload", "LLAMA_ARG_NO_KV_OFFLOAD"),
        ("0.3.9-2025-05", "--mlock", "LLAMA_ARG_MLOCK"),
        ("0.2.56-2024-03", "--threads", None),
    ],
)
def test_the_variables_of_a_server_are_those_of_its_build(
    build: str, flag: str, variable: str | None
) -> None:
    text = (FOLDER / build / "server_help.txt").read_text(encoding="utf-8")
    assert parse_variables(text).get(flag) == variable


def test_a_program_that_is_none_of_llama_cpp_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlamaCppUnusable, match=r"does not print llama\.cpp's options"):
        ask(stub(tmp_path / "llama-bench", "echo hello"))


def test_what_a_program_says_as_it_falls_is_the_hint(tmp_path: Path) -> None:
    program = stub(tmp_path / "llama-bench", "echo 'libggml.so: cannot open' >&2; exit 127")
    with pytest.raises(LlamaCppUnusable) as caught:
        ask(program)
    assert "libggml.so: cannot open" in caught.value.hint + caught.value.message


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "llama-bench"
    path.write_bytes(b"\x00\x01")
    path.chmod(0o755)
    program = Program(name="llama-bench", command=(str(path),), found_by="the test")
    with pytest.raises(LlamaCppUnusable, match="cannot be executed"):
        ask(program)


def test_a_program_that_does_not_answer_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "HELP_TIMEOUT_S", 0.3)
    with pytest.raises(LlamaCppUnusable, match="did not answer"):
        ask(stub(tmp_path / "llama-bench", "exec sleep 60"))


def test_the_same_program_is_asked_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    body = f"echo x >> {asked}; cat <<'END'\n{HELP}\nEND"
    program = stub(tmp_path / "llama-bench", body)

    answers = [ask_once(program, tmp_path / "cache") for _ in range(3)]

    assert asked.read_text() == "x\n"
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("changed", ["llama-bench", "libggml-cpu.so"])
def test_a_program_or_library_that_changed_is_asked_anew(tmp_path: Path, changed: str) -> None:
    program = stub(tmp_path / "llama-bench", f"cat <<'END'\n{HELP}\nEND")
    library = tmp_path / "libggml-cpu.so"
    library.write_bytes(b"old")
    before = capabilities.identity(program)

    os.utime(tmp_path / changed, ns=(1, 1))

    assert capabilities.identity(program) != before


def test_what_is_remembered_badly_is_asked_again(tmp_path: Path) -> None:
    program = stub(tmp_path / "llama-bench", f"cat <<'END'\n{HELP}\nEND")
    first = ask_once(program, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text('{"options": 7}')

    assert ask_once(program, tmp_path / "cache") == first


def test_what_was_remembered_before_variables_were_is_asked_again(tmp_path: Path) -> None:
    said = "-m, --model FNAME   (env: LLAMA_ARG_MODEL)"
    program = stub(tmp_path / "llama-server", f"cat <<'END'\n{said}\nEND")
    first = ask_once(program, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    old = json.loads(kept.read_text())
    del old["variables"]
    kept.write_text(json.dumps(old))

    assert ask_once(program, tmp_path / "cache") == first
    assert first.variables["--model"] == "LLAMA_ARG_MODEL"
    assert ask_once(program, tmp_path / "cache") == first


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    program = stub(tmp_path / "llama-bench", f"cat <<'END'\n{HELP}\nEND")
    (tmp_path / "file").write_text("")
    assert ask_once(program, tmp_path / "file" / "cache").has("-m")
