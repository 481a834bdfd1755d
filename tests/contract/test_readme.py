"""The README's commands do what it says.

`lcm` commands are run to the letter, beside a small model that has the README's name for it, and
stand-ins for llama.cpp where its own build would put the programs (`./build/bin`). nox
is not started from within its own session: its commands are held against the sessions that there
are, and what `nox -s demo` runs is run here.
"""

import ast
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import demo
import pytest
from fakes.benches import SCRIPT
from fakes.programs import SERVER_HELP, write_program
from fakes.tiny import write_tiny
from lcm_process import run_lcm

_REPOSITORY = Path(__file__).parents[2]
_README = (_REPOSITORY / "README.md").read_text(encoding="utf-8")
_CONTRIBUTING = (_REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
_TEST_COMMAND = "pip install nox && nox -s tests"
FAKE = (sys.executable, "-S", "-E", str(SCRIPT))
_SECTIONS = {"hardware", "model", "recommended_params", "rationale"}


def _commands(markdown: str) -> list[list[str]]:
    """Give the commands of the fenced `sh` blocks, each as its words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)
    lines = [part for line in "".join(blocks).splitlines() for part in line.split("&&")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _sessions() -> set[str]:
    """Name the functions of the noxfile that are sessions."""
    tree = ast.parse((_REPOSITORY / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(
            ast.unparse(decorator).startswith("nox.session") for decorator in node.decorator_list
        )
    }


def _options(command: Sequence[str]) -> set[str]:
    return {word for word in command if word.startswith("--")} - {"--run"}


_LCM = [words for words in _commands(_README) if words[0] == "lcm"]
_OTHERS = [words for words in _commands(_README + _CONTRIBUTING) if words[0] != "lcm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the README's `model.gguf` in it, and a build of llama.cpp."""
    place = tmp_path_factory.mktemp("readme")
    write_tiny(place / "model.gguf")
    programs = place / "build" / "bin"
    programs.mkdir(parents=True)
    write_program(programs / "llama-bench", help_text="", before=f'exec {shlex.join(FAKE)} "$@"')
    for name in ("llama-cli", "llama-server"):
        write_program(programs / name, help_text=SERVER_HELP, work="echo '> started'")
    with pytest.MonkeyPatch.context() as patch:
        _own_folders(place, patch)
        _measure(place)
    return place


def _measure(place: Path) -> None:
    """Make the study that the README's later commands are about."""
    command = ["run", "--model", "model.gguf", "--optimize", "--deep", "--trials", "4"]
    done = run_lcm(*command, "--no-verify", cwd=place)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the stand-ins can out of the user's folder."""
    _own_folders(folder, monkeypatch)


def _own_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    for variable in ("LCM_LLAMA_BENCH", "LCM_LLAMA_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("command", _LCM, ids=shlex.join)
def test_an_lcm_command_of_the_readme_works(command: list[str], folder: Path) -> None:
    # To the letter, but for how long it measures.
    shorter = ["--trials", "4", "--no-verify"] if "--deep" in command else []
    shorter += ["--budget", "3s"] if command[1] == "verify" else []

    done = run_lcm(*command[1:], *shorter, cwd=folder)

    # `verify` says a clean "no" where the stored profile is llama.cpp's defaults.
    assert done.returncode in ({0, 1} if command[1] == "verify" else {0}), done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", _LCM, ids=shlex.join)
def test_an_lcm_command_of_the_readme_has_help(command: list[str]) -> None:
    # The second word is the command, also where it is spelled `--run`; `results` has its own.
    name = command[1:3] if command[1] == "results" else command[1:2]
    deep = ["--deep"] if "--deep" in command else []
    done = run_lcm(*name, *deep, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert {option for option in _options(command) if option not in done.stdout} == set()


def test_the_two_spellings_of_the_readme_give_the_same_answer(folder: Path) -> None:
    spellings = [words for words in _LCM if words[-1] == "--optimize"]

    answers = [json.loads(run_lcm(*words[1:], cwd=folder).stdout) for words in spellings]

    assert len(answers) == 2
    assert all(answer.keys() >= _SECTIONS for answer in answers)
    assert answers[0]["recommended_params"] == answers[1]["recommended_params"]


@pytest.mark.parametrize("command", _OTHERS, ids=shlex.join)
def test_every_other_command_is_nox_with_a_session_that_exists(command: list[str]) -> None:
    if command[0] == "nox":
        assert command[1:2] in ([], ["-s"])
        assert set(command[2:3]) <= _sessions()
    else:
        assert command in (["pip", "install", "nox"], ["pip", "install", "."])


def test_the_readme_shows_its_two_lines() -> None:
    assert "pip install nox && nox -s demo" in _README
    assert _TEST_COMMAND in _README


def test_ci_runs_the_command_of_the_readme() -> None:
    assert _TEST_COMMAND in (_REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_every_session_has_its_line_of_documentation() -> None:
    tree = ast.parse((_REPOSITORY / "noxfile.py").read_text(encoding="utf-8"))
    lines = {
        n.name: ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.FunctionDef)
    }

    assert {name for name in _sessions() if len(lines[name].splitlines()) != 1} == set()


def test_the_demo_runs_to_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_LLAMA_BENCH", shlex.join(FAKE))
    monkeypatch.setattr(demo, "BUDGET", "3s")

    def run(command: Sequence[str]) -> int:
        assert command[0] == "lcm"
        done = run_lcm(*command[1:])
        assert done.stdout
        return done.returncode

    assert demo.main([], run) == 0
    assert capsys.readouterr().out.count("\n$ lcm ") == 5


def test_the_demo_takes_a_model_of_ones_own_and_stops_at_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        seen.append(command)
        return 3

    assert demo.main(["my model.gguf"], run) == 3
    assert [words[3] for words in seen] == ["my model.gguf"]
    assert "'my model.gguf'" in capsys.readouterr().out


def test_a_block_is_read_as_a_shell_would() -> None:
    text = "```sh\npip install nox && nox -s demo\n\nlcm x 'a b'  # why\n```\n```json\n{}\n```\n"

    assert _commands(text) == [
        ["pip", "install", "nox"],
        ["nox", "-s", "demo"],
        ["lcm", "x", "a b"],
    ]
