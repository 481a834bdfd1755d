"""What Tab offers, as the shells' scripts ask for it."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from lcm_process import install_lcm, run_lcm

from autotune.cli import main
from autotune.cli.completion import study_names


def offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> list[str]:
    """Give what bash is offered at the end of a line."""
    words = line.split(" ")
    monkeypatch.setenv("_LCM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))

    assert main([]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    return out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lcm ins", ["inspect"]),
        ("lcm run --prof", ["--profile"]),
        ("lcm run --profile c", ["chat", "coding-agent"]),
        ("lcm run --mod", ["--model", "--mode"]),
        ("lcm run --mode s", ["server"]),
        ("lcm run --model m.gguf --optimize --deep --json", ["--json-progress"]),
        ("lcm run --optimize --deep --objective ", ["request", "pp", "tg", "efficiency"]),
        ("lcm inspect m.gguf --for ", ["bench", "cli", "server"]),
        ("lcm --run --profile q", ["quick"]),
        ("lcm run --model ", []),  # The shell offers files.
        ("lcm run --bogus x --prof", ["--profile"]),
    ],
)
def test_names_and_values_are_offered(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    words: Sequence[str],
) -> None:
    assert offered(monkeypatch, capsys, line) == words


@pytest.mark.parametrize(
    ("shell", "answer"), [("fish", "chat"), ("zsh", "_arguments '*: :((\"chat\"))'")]
)
def test_other_shells_are_answered_in_their_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, answer: str
) -> None:
    monkeypatch.setenv("_LCM_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "lcm run --profile ch")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")

    assert main([]) == 0
    assert capsys.readouterr() == (f"{answer}\n", "")


@pytest.mark.parametrize(("line", "code"), [("lcm run --mo", 0), ("lcm run --model m", 1)])
def test_fish_is_told_when_files_are_to_be_offered(
    monkeypatch: pytest.MonkeyPatch, line: str, code: int
) -> None:
    monkeypatch.setenv("_LCM_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "is-args")

    assert main([]) == code


def test_studies_are_offered_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path))
    before = study_names("")
    for name in ("gemma-chat-2", "gemma-chat-1", "other"):
        (tmp_path / "studies" / name).mkdir(parents=True)

    assert before == []
    assert study_names("gem") == ["gemma-chat-1", "gemma-chat-2"]
    assert study_names("la") == ["latest"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lcm results compare o", ["other"]),
        ("lcm results compare other l", ["latest"]),
        ("lcm results compare other latest --across bu", ["build"]),
    ],
)
def test_what_is_compared_is_offered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    words: Sequence[str],
) -> None:
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path))
    (tmp_path / "studies" / "other").mkdir(parents=True)

    assert offered(monkeypatch, capsys, line) == words


def test_bash_itself_completes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(install_lcm(tmp_path).parent), prepend=os.pathsep)
    script = """
        eval "$(_LCM_COMPLETE=source_bash lcm)"
        complete -p lcm
        COMP_WORDS=(lcm run --profile co) COMP_CWORD=3
        _lcm_completion lcm && echo "${COMPREPLY[@]}"
    """

    done = subprocess.run(
        ["bash", "--norc", "-c", script],  # noqa: S607 - whichever bash is here
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        "complete -o default -F _lcm_completion lcm",
        "coding-agent",
    ]


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/lcm.sh"),
        ("zsh", ".zfunc/_lcm"),
        ("fish", ".config/fish/completions/lcm.fish"),
    ],
)
def test_it_is_installed_for_each_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, file: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # Typer then takes the shell's name instead of looking which one has called.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")

    done = run_lcm("--install-completion", shell)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"_LCM_COMPLETE=complete_{shell}" in (tmp_path / file).read_text(encoding="utf-8")


def test_a_tab_loads_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LCM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lcm\nrun\n--profile\nch")
    monkeypatch.setenv("COMP_CWORD", "3")

    done = run_lcm(interpreter_options=["-X", "importtime"])

    loaded = set(re.findall(r"\| +(\w+)", done.stderr))
    assert done.stdout == "chat\n"
    assert loaded & {"optuna", "pandas", "numpy", "sqlalchemy", "rich"} == set()
