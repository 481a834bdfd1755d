"""What every test stands on: no outside llama.cpp by accident, and the real things on request."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from fakes.tiny import write_tiny
from llama_cpp_build import TOOLS, LlamaCppError, find_llama_cpp
from real_model import gemma_path

_TESTS = Path(__file__).parent

_Command: TypeAlias = str | bytes | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@pytest.fixture(autouse=True)
def _no_outside_llama_cpp(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    _path_without_llama_cpp: str,
) -> None:
    """Keep a test from llama.cpp's programs unless it is marked `llama_cpp`.

    A test that starts one by accident passes here and fails, or takes minutes, on another machine.
    Fakes that a test writes or that lie among the tests are its own affair.
    """
    if request.node.get_closest_marker("llama_cpp"):
        return
    inside = (tmp_path_factory.getbasetemp().resolve(), _TESTS)
    start = subprocess.Popen.__init__

    def guarded_start(
        self: subprocess.Popen[bytes],
        args: _Command,
        *rest: Any,  # noqa: ANN401 - passed on as they come
        **options: Any,  # noqa: ANN401
    ) -> None:
        program = Path(shutil.which(name := _program_of(args)) or name)
        if program.stem in TOOLS and not any(program.resolve().is_relative_to(p) for p in inside):
            pytest.fail(f"{program.name} was started without @pytest.mark.llama_cpp")
        start(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", guarded_start)
    # The test's own child processes are kept from it by having no way to find it.
    monkeypatch.setenv("PATH", _path_without_llama_cpp)
    for variable in ("LCM_LLAMA_BENCH", "LCM_LLAMA_DIR"):
        monkeypatch.delenv(variable, raising=False)


def _program_of(args: _Command) -> str:
    """Name the program of a command in any form that `subprocess` takes."""
    if isinstance(args, (str, bytes)):
        return (shlex.split(os.fsdecode(args)) or [""])[0]
    return os.fsdecode(args if isinstance(args, os.PathLike) else args[0])


@pytest.fixture(scope="session")
def _path_without_llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a PATH that leads to everything but llama.cpp's programs."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(
        str(_mirror(Path(folder), tmp_path_factory.mktemp("path")))
        if any(shutil.which(tool, path=folder) for tool in TOOLS)
        else folder
        for folder in folders
    )


def _mirror(folder: Path, into: Path) -> Path:
    """Link all but llama.cpp's programs; a distribution has them in /usr/bin, beside cc."""
    for program in folder.iterdir():
        if program.stem not in TOOLS:
            (into / program.name).symlink_to(program)
    return into


@pytest.fixture(scope="session")
def llama_cpp_dir() -> Path:
    """Give the folder of the real llama.cpp's programs; the test carries the mark `llama_cpp`."""
    try:
        folder = find_llama_cpp()
    except LlamaCppError as problem:
        pytest.fail(str(problem))
    if folder is None:
        reason = "no llama.cpp here: `nox -s llama_cpp` builds one, LCM_LLAMA_DIR names another"
        # Where nobody reads the list of what was skipped, a missing tool must not pass.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return folder


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Give the path of the real model, gemma-3-270m in Q4_K_M."""
    return gemma_path()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the path of a model of random weights that the real llama.cpp runs; only to be read."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny(path)
    return path
