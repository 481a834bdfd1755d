"""No shell is ever used; nothing but the named programs runs; nothing is written anywhere else."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from fakes.benches import SCRIPT
from fakes.programs import SERVER_HELP, write_program
from hostile.names import WORST, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REPOSITORY = Path(__file__).parents[2]
_STUDIES = Path(__file__).parents[1] / "fixtures" / "studies"

# --- by the sources ------------------------------------------------------------------------------

# What would run text, or make objects of it.
_FORBIDDEN = frozenset(
    "os.system os.popen os.execl os.execlp os.execvp os.spawnl os.spawnv os.startfile pty.spawn "
    "subprocess.getoutput subprocess.getstatusoutput eval exec compile __import__ input "
    "pickle.load pickle.loads marshal.loads shelve.open yaml.load yaml.unsafe_load yaml.full_load "
    "asyncio.create_subprocess_shell runpy.run_path importlib.import_module code.interact".split()
)
_STARTERS = frozenset(
    "subprocess.run subprocess.Popen subprocess.call subprocess.check_output subprocess.check_call "
    "os.execv os.execve".split()
)
# The only places that start a program, each from an argument list: llama.cpp's; numactl, to see
# whether it may bind; and a GPU vendor's tool at a fixed path, where the kernel hides the GPU.
_START_PROGRAMS = {
    "autotune/llama_cpp/process.py",
    "autotune/cli/start.py",
    "autotune/llama_cpp/numactl.py",
    "autotune/hardware/tools.py",
}
# The public API names each room's function and imports it when it is first used.
_PUBLIC_API = "autotune/__init__.py"


class Call(NamedTuple):
    path: str
    line: int
    name: str
    node: ast.Call


def calls() -> list[Call]:
    return [
        Call(path.relative_to(_REPOSITORY).as_posix(), node.lineno, ast.unparse(node.func), node)
        for path in sorted((_REPOSITORY / "autotune").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def runs_text(found: Sequence[Call]) -> list[str]:
    """List calls that give a text to a shell or an interpreter."""
    return [
        f"{call.path}:{call.line}: {call.name}"
        for call in found
        if (call.name in _FORBIDDEN and call.path != _PUBLIC_API)
        or any(word.arg == "shell" for word in call.node.keywords)
        or (call.name in _STARTERS and isinstance(call.node.args[0], ast.Constant | ast.JoinedStr))
    ]


def test_no_source_runs_text() -> None:
    assert runs_text(calls()) == []


def test_programs_are_started_at_four_places() -> None:
    assert {call.path for call in calls() if call.name in _STARTERS} == _START_PROGRAMS


@pytest.mark.parametrize(
    "line",
    [
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.run('ls -l')",
        "subprocess.Popen(f'ls {x}')",
        "eval(x)",
        "pickle.loads(x)",
        "yaml.load(x)",
    ],
)
def test_a_line_that_runs_text_is_seen(line: str) -> None:
    (node,) = (node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))

    assert runs_text([Call("autotune/x.py", 1, ast.unparse(node.func), node)]) != []


# --- by what happens -----------------------------------------------------------------------------

# Python tells of every file that it opens to write and every program that it starts.
_HOOK = """
import json, os, sys
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TREES = {{"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.link": 2,
         "os.symlink": 2, "os.truncate": 1, "os.chmod": 1, "os.utime": 1, "shutil.rmtree": 1,
         "sqlite3.connect": 1}}
def say(kind, value):
    text = os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else repr(value)
    os.write(told, (json.dumps([kind, text, os.getcwd()]) + "\\n").encode())
def hook(event, arguments):
    if event == "open" and not isinstance(arguments[0], int) and (arguments[2] or 0) & WRITES:
        say("write", arguments[0])
    elif event in TREES:
        for value in arguments[: TREES[event]]:
            say("write", value)
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn"):
        say("run", arguments[0])
    elif event in ("os.system", "pty.spawn"):
        say("shell", arguments[0])
    elif event in ("socket.connect", "socket.bind", "urllib.Request"):
        say("network", arguments[1])
sys.addaudithook(hook)
"""


class Happened(NamedTuple):
    kind: str
    path: str


@pytest.fixture
def place(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder in which each program tells what it does, with a model of the worst name."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(_HOOK.format(told=str(tmp_path / "told")))
    work = tmp_path / "work"
    work.mkdir()
    (work / named(WORST, ".gguf")).hardlink_to(tiny)
    (work / "w.toml").write_text("[request]\nn_prompt = 64\nn_gen = 16\n")
    shutil.copytree(_STUDIES / "format-2", tmp_path / "results" / "studies" / "kept")
    shutil.copytree(_STUDIES / "format-1", tmp_path / "results" / "studies" / "older")
    write_program(tmp_path / "llama-server", help_text=SERVER_HELP)
    write_program(tmp_path / "llama-cli", help_text=SERVER_HELP)
    bench = tmp_path / "llama-bench"
    words = shlex.join([sys.executable, "-S", "-E", str(SCRIPT)])
    bench.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    bench.chmod(0o755)
    for name, value in {
        "LCM_RESULTS_DIR": tmp_path / "results",
        "XDG_CACHE_HOME": tmp_path / "cache",
        "HOME": tmp_path / "home",
        "TMPDIR": tmp_path / "temporary",
        "LCM_LLAMA_DIR": tmp_path,
        "LCM_FAKE_MS": "0 1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    (tmp_path / "temporary").mkdir()
    return work


def happened(place: Path, *arguments: str) -> list[Happened]:
    """Run a command, and give what it has started and what it has opened to write."""
    told = place.parent / "told"
    told.unlink(missing_ok=True)
    entry = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", entry, *arguments],
        cwd=place,
        env={key: value for key, value in os.environ.items() if "COVERAGE" not in key}
        | {"PYTHONPATH": f"{place.parent / 'hooks'}{os.pathsep}{_REPOSITORY}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in {0, 1, 3}, done.stderr
    return list(_read(told))


def _read(told: Path) -> Iterator[Happened]:
    for line in told.read_text().splitlines() if told.exists() else ():
        kind, path, folder = json.loads(line)
        # A program without a path is one that the system looks for. No link is followed.
        looked_for = kind == "run" and os.sep not in path
        yield Happened(kind, path if looked_for else os.path.normpath(Path(folder, path)))


MODEL = named(WORST, ".gguf")
_DEEP = ["--optimize", "--deep", "--trials=3", "--no-verify", "--budget=20s", "--profile=./w.toml"]
COMMANDS = {
    "quick": ["run", f"--model={MODEL}", "--optimize"],
    "inspect": ["inspect", "--", MODEL],
    "start": ["run", f"--model={MODEL}", "--mode=server"],
    "dry run": ["run", f"--model={MODEL}", "--dry-run"],
    "doctor": ["doctor", f"--model={MODEL}"],
    "deep": ["run", f"--model={MODEL}", *_DEEP],
    "list": ["results", "list"],
    "show": ["results", "show", "kept"],
    "older": ["results", "show", "older"],
    "export": ["results", "export", "kept"],
    "report": ["results", "report", "kept"],
    "compare": ["results", "compare", "kept", "kept"],
    "apply": ["results", "apply", "kept", "--for", "systemd"],
    "verify": ["verify", "--", MODEL],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_command_runs_and_writes_only_what_is_named(arguments: list[str], place: Path) -> None:
    seen = happened(place, *arguments)

    base = place.parent
    programs = {str(base / name) for name in ("llama-bench", "llama-server", "llama-cli")}
    # Matplotlib asks fontconfig for its list, by words of its own, where it has not kept one.
    programs |= {"fc-list"} if "report" in arguments else set()
    assert {one.path for one in seen if one.kind == "run"} <= programs
    assert [one for one in seen if one.kind in {"shell", "network"}] == []
    folders = (str(base / "results"), str(base / "cache"))
    ours = (*folders, *(f"{folder}{os.sep}" for folder in folders), "/dev/null", "/proc/self/")
    written = {one.path for one in seen if one.kind == "write"}
    assert [path for path in written if path not in folders and not path.startswith(ours)] == []
    assert not list(base.rglob("pwned"))


def test_what_happens_is_seen(place: Path) -> None:
    seen = [*happened(place, "doctor"), *happened(place, *COMMANDS["dry run"])]

    assert Happened("run", str(place.parent / "llama-bench")) in seen
    assert any(one.kind == "write" and "capabilities" in one.path for one in seen)


def test_settings_of_matplotlib_in_the_working_folder_start_nothing(place: Path) -> None:
    (place / "matplotlibrc").write_text(
        "text.usetex: True\ntext.latex.preamble: \\write18{touch pwned}\nbackend: module://evil\n"
    )

    seen = happened(place, *COMMANDS["report"])

    assert {one.path for one in seen if one.kind == "run"} <= {
        "fc-list",
        str(place.parent / "llama-server"),
    }
    assert (place.parent / "results" / "studies" / "kept" / "report.html").exists()
