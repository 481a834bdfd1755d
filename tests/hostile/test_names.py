"""Whatever a model, a folder or a file of settings is called: each command works, to the byte."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes.benches import SCRIPT
from fakes.programs import SERVER_HELP, write_program
from hostile.names import (
    NAMES,
    WORST,
    named,
    no_control_characters,
    restored,
    strict_json,
    words_in_sh,
)
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli import console
from autotune.shell import operand, quoted

if TYPE_CHECKING:
    from hostile.said import Lcm

_EVERY_NAME = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
_BENCH = shlex.join([sys.executable, "-S", "-E", str(SCRIPT)])
_PRESET = "[request]\nn_prompt = 64\nn_gen = 16\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a llama-server and a llama-cli, the only ones there are."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("llama-server", "llama-cli"):
        write_program(folder / name, help_text=SERVER_HELP)
    monkeypatch.setenv("LCM_LLAMA_DIR", str(folder))
    return folder


def model_called(name: bytes, folder: Path, tiny: Path) -> str:
    path = folder / named(name, ".gguf")
    path.hardlink_to(tiny)
    return path.name


# --- what is printed -----------------------------------------------------------------------------


@_EVERY_NAME
def test_the_answer_is_strict_json_with_the_very_name(
    name: bytes, lcm: Lcm, tiny: Path, tmp_path: Path
) -> None:
    model = model_called(name, tmp_path, tiny)

    said = lcm("run", f"--model={model}", "--optimize")

    answer: Any = strict_json(said.out)
    assert restored(answer["model"]["path"]) == os.fsencode(model)
    assert restored(answer["command"]["llama-server"][2]) == os.fsencode(model)
    assert no_control_characters(said.out + said.err)


@_EVERY_NAME
def test_each_quick_command_takes_it(name: bytes, lcm: Lcm, tiny: Path, tmp_path: Path) -> None:
    model = model_called(name, tmp_path, tiny)

    for words in (["inspect"], ["inspect", "--json"]):
        said = lcm(*words, "--", model)
        assert (said.code, no_control_characters(said.out + said.err)) == (0, True)
    explained = lcm("run", f"--model={model}", "--optimize", "--explain", "threads")
    assert (explained.code, no_control_characters(explained.out)) == (0, True)
    missing = lcm("inspect", "--", f"no{model}")
    assert (missing.code, no_control_characters(missing.err)) == (3, True)


@_EVERY_NAME
@pytest.mark.parametrize("is_shown", [False, True], ids=["to a program", "on a terminal"])
@pytest.mark.usefixtures("programs")
def test_a_shell_reads_the_command_to_the_byte(
    name: bytes, *, is_shown: bool, lcm: Lcm, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_called(name, Path.cwd(), tiny)
    monkeypatch.setattr(console, "is_shown", lambda: is_shown)

    said = lcm("run", f"--model={model}", "--mode=server", "--dry-run", "--", "--alias", model)

    words = words_in_sh(said.out)
    assert words[1:3] == [b"--model", os.fsencode(model)]
    assert words[-2:] == [b"--alias", os.fsencode(model)]
    assert not is_shown or no_control_characters(said.out)
    assert no_control_characters(said.err)
    assert not Path("pwned").exists()


@given(st.binary().filter(lambda word: b"\0" not in word and not word.endswith(b"\n")))
def test_a_quoted_word_is_read_by_sh_to_the_byte(word: bytes) -> None:
    shown = quoted([os.fsdecode(word)])

    assert shown.isprintable()
    assert words_in_sh(shown.encode()) == [word]


def test_a_word_that_ends_a_line_is_read_by_bash_to_the_byte() -> None:
    shown = quoted(["a'\n\n"])

    assert shown.isprintable()
    assert words_in_sh(shown.encode(), "bash") == [b"a'\n\n"]


@pytest.mark.parametrize(("path", "given_as"), [("-m.gguf", "./-m.gguf"), ("a/-m", "a/-m")])
def test_a_path_is_no_option(path: str, given_as: str) -> None:
    assert operand(path) == given_as


# --- files of settings ---------------------------------------------------------------------------


@_EVERY_NAME
@pytest.mark.usefixtures("programs")
def test_a_saved_answer_may_have_any_name(
    name: bytes, lcm: Lcm, tiny: Path, tmp_path: Path
) -> None:
    model = model_called(name, tmp_path, tiny)
    saved = tmp_path / named(name, ".json")
    saved.write_bytes(lcm("run", f"--model={model}", "--optimize").out)

    said = lcm("run", f"--model={model}", f"--config={saved.name}", "--dry-run")

    assert said.code == 0, said.err
    assert b"warning: --mlock" in said.err or b"warning" not in said.err
    assert no_control_characters(said.err)


# --- measuring, and everything that comes out ----------------------------------------------------

# llama-bench reads a comma as the end of a path; each of these is all that there is in one place.
_PLACES = {
    "no UTF-8": (b"\xff\xfe m", b"r\x80 esults", b"w\xffork"),
    "terminal": (b"\x1b[2J\n", b"new\nline", b"\x1b[31m"),
    "shell": (b"$(touch pwned)`id`;'\"", b"a b'$(touch pwned)", b"$x;'"),
    "options": (b"-m%s?#", b"-%41?mode=ro#x", b"--help"),
    "worst": (WORST, WORST, WORST),
}


@pytest.mark.parametrize("places", _PLACES.values(), ids=_PLACES)
@pytest.mark.usefixtures("programs")
def test_a_night_under_any_names_comes_out_again(
    places: tuple[bytes, bytes, bytes],
    lcm: Lcm,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, folder, workload = places
    model = model_called(name, tmp_path, tiny)
    results, preset = tmp_path / named(folder), tmp_path / named(workload, ".toml")
    preset.write_text(_PRESET)
    monkeypatch.setenv("LCM_RESULTS_DIR", str(results))
    monkeypatch.setenv("LCM_LLAMA_BENCH", _BENCH)
    monkeypatch.setenv("LCM_FAKE_MS", "0 1")

    measured = lcm(
        *("run", f"--model={model}", "--optimize", "--deep", "--trials=3", "--budget=20s"),
        *("--no-verify", f"--profile=./{preset.name}"),
    )

    assert measured.code == 0, measured.err
    answer: Any = strict_json(measured.out)
    (study,) = (results / "studies").iterdir()
    assert restored(answer["model"]["path"]) == os.fsencode(model)
    assert restored(answer["evidence"]["study"]) == os.fsencode(study)
    assert no_control_characters(measured.err)
    (start,) = [line for line in measured.err.splitlines() if b"start it with: " in line]
    assert os.fsencode(model) in words_in_sh(start.partition(b": ")[2].partition(b": ")[2])
    for file in ("study.json", "environment.json", "profile.json"):
        strict_json((study / file).read_bytes())
    for line in (study / "journal.jsonl").read_bytes().splitlines():
        strict_json(line)
    _comes_out(lcm, study, tmp_path)
    _is_applied(lcm, study.name, tmp_path / model, monkeypatch)
    assert not (tmp_path / "pwned").exists()


def _comes_out(lcm: Lcm, study: Path, tmp_path: Path) -> None:
    shown = [
        lcm("results", *words) for words in (["list"], ["show"], ["report", "--format=markdown"])
    ]
    assert [said.code for said in shown] == [0, 0, 0]
    assert all(no_control_characters(said.out + said.err) for said in shown)
    for words in (["list"], ["show"], ["compare", study.name, study.name]):
        strict_json(lcm("results", *words, "--json").out)
    for line in lcm("results", "export", "--format=jsonl").out.splitlines():
        strict_json(line)
    lcm("results", "export").out.decode()
    parquet = lcm("results", "export", "--format=parquet", "-o", str(tmp_path / "out.parquet"))
    assert (parquet.code, no_control_characters(parquet.err)) == (0, True)
    strict_json(lcm("results", "export", "--format=llama-bench").out)
    page = lcm("results", "report")
    assert page.out == os.fsencode(study / "report.html") + b"\n"
    assert no_control_characters(page.err)


def _is_applied(lcm: Lcm, study: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tool's text has the path, or the tool is refused by name."""
    for tool in ("env", "llama-server-ini", "llama-swap", "ollama", "systemd", "docker-compose"):
        said = lcm("results", "apply", study, "--for", tool)
        assert said.code in {0, 2}, said.err
        assert said.code == 0 or (said.out == b"" and b"hint: " in said.err)
        assert no_control_characters(said.out + said.err)
    for shown in (False, True):
        monkeypatch.setattr(console, "is_shown", lambda shown=shown: shown)
        said = lcm("results", "apply", study, "--for", "sh")
        lines = [line for line in said.out.splitlines(keepends=True) if line[:2] != b"# "]
        words = words_in_sh(b"".join(lines)) if lines else []
        assert os.fsencode(model) in words
        assert not shown or no_control_characters(said.out)


@_EVERY_NAME
def test_doctor_tries_a_model_of_any_name(
    name: bytes,
    lcm: Lcm,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_called(name, tmp_path, tiny)
    monkeypatch.setenv("LCM_LLAMA_BENCH", _BENCH)
    monkeypatch.setenv("LCM_FAKE_MS", "0 1")

    said = lcm("doctor", f"--model={model}", "--json")

    answer: Any = strict_json(said.out)
    bench = next(one for one in answer["programs"] if one["name"] == "llama-bench")
    assert bench["runs"] is True
    assert no_control_characters(said.out + said.err)


def test_llama_bench_gets_a_path_and_not_a_flag(
    lcm: Lcm, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "-v").hardlink_to(tiny)
    told = tmp_path / "told"
    bench = tmp_path / "bench.sh"
    bench.write_text(
        f'#!/bin/sh\nprintf "%s\\0" "$@" >> {told}\nprintf "\\n" >> {told}\nexec {_BENCH} "$@"\n'
    )
    bench.chmod(0o755)
    monkeypatch.setenv("LCM_LLAMA_BENCH", str(bench))

    assert lcm("doctor", "--model=-v").code in {0, 1}

    calls = [line.split(b"\0") for line in told.read_bytes().splitlines()]
    models = [words[words.index(b"-m") + 1] for words in calls if b"-m" in words]
    assert models == [b"./-v"]


@pytest.mark.parametrize("name", [WORST, NAMES["no UTF-8"], NAMES["dash"]], ids=repr)
def test_verify_names_the_model_and_how_to_measure_it(
    name: bytes,
    lcm: Lcm,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_called(name, tmp_path, tiny)
    monkeypatch.setenv("LCM_LLAMA_BENCH", _BENCH)

    said = lcm("verify", "--", model)

    assert said.code == 3
    hint = next(line for line in said.err.splitlines() if line.startswith(b"hint: "))
    words = words_in_sh(hint.partition(b"make one: ")[2])
    assert words[:3] == [b"lcm", b"run", b"--model"]
    assert os.path.samefile(words[3], tiny)  # noqa: PTH121 - bytes
    assert no_control_characters(said.err)


def test_the_program_sees_the_bytes(tiny: Path, tmp_path: Path, programs: Path) -> None:
    """Through the whole process, as a shell starts it."""
    model = model_called(WORST, tmp_path, tiny)
    told = tmp_path / "told"
    write_program(
        programs / "llama-cli", help_text=SERVER_HELP, work=f'printf "%s\\0" "$@" > {told}'
    )
    entry = "import sys; from autotune.cli import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", entry, "run", f"--model={model}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        check=True,
    )

    assert told.read_bytes().split(b"\0")[1] == os.fsencode(model)
