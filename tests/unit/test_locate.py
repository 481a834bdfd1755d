"""llama.cpp is found where people have it, and missing with a list of places."""

import os
import stat
from pathlib import Path

import pytest

from autotune.errors import ConfigError, LlamaCppNotFound
from autotune.llama_cpp.locate import find_program


def program(path: Path) -> str:
    """Put an executable file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give the variables of a machine with nothing installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autotune.llama_cpp.locate._HOMEBREW", (str(tmp_path / "brew"),))
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


def test_a_file_that_is_given_comes_first(environ: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path / "bin" / "llama-bench")
    given = program(tmp_path / "mine" / "my-bench")
    found = find_program("llama-bench", given=given, environ=environ)
    assert (found.command, found.found_by) == ((given,), "--llama-bench")


def test_a_folder_may_be_given(environ: dict[str, str], tmp_path: Path) -> None:
    given = program(tmp_path / "mine" / "llama-bench")
    found = find_program("llama-bench", given=str(tmp_path / "mine"), environ=environ)
    assert found.command == (given,)


def test_a_prefix_may_be_given(environ: dict[str, str], tmp_path: Path) -> None:
    docker = program(tmp_path / "bin" / "docker")
    environ["LCM_LLAMA_BENCH"] = "docker run --rm 'an image' llama-bench"
    found = find_program("llama-bench", environ=environ)
    assert found.command == (docker, "run", "--rm", "an image", "llama-bench")


def test_the_path_of_a_file_with_spaces_is_no_prefix(
    environ: dict[str, str], tmp_path: Path
) -> None:
    given = program(tmp_path / "my llama" / "llama-bench")
    environ["LCM_LLAMA_BENCH"] = given
    assert find_program("llama-bench", environ=environ).command == (given,)


@pytest.mark.parametrize("value", ["nowhere/llama-bench", "no-such-tool run it", "", "'unbalanced"])
def test_what_is_named_and_is_no_program_is_an_error(
    environ: dict[str, str], tmp_path: Path, value: str
) -> None:
    """It is not passed over for another, which would then be measured instead."""
    program(tmp_path / "bin" / "llama-bench")
    environ["LCM_LLAMA_BENCH"] = value
    if not value:  # Set to nothing is not set.
        assert find_program("llama-bench", environ=environ).found_by == "PATH"
        return
    with pytest.raises(ConfigError, match="LCM_LLAMA_BENCH names"):
        find_program("llama-bench", environ=environ)


def test_the_variable_of_llama_bench_names_no_other_program(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["LCM_LLAMA_BENCH"] = program(tmp_path / "mine" / "llama-bench")
    server = program(tmp_path / "bin" / "llama-server")
    assert find_program("llama-server", environ=environ).command == (server,)


@pytest.mark.parametrize("by_folder", [False, True])
def test_the_others_are_looked_for_beside_the_llama_bench_that_is_named(
    environ: dict[str, str], tmp_path: Path, *, by_folder: bool
) -> None:
    bench = Path(program(tmp_path / "mine" / "llama-bench"))
    environ["LCM_LLAMA_BENCH"] = str(bench.parent if by_folder else bench)
    beside = program(tmp_path / "mine" / "llama-server")
    program(tmp_path / "bin" / "llama-server")
    found = find_program("llama-server", environ=environ)
    assert (found.command, found.found_by) == ((beside,), "beside the llama-bench named")


PLACES = [
    ("dir/llama-bench", {"LCM_LLAMA_DIR": "dir"}, "LCM_LLAMA_DIR", ()),
    ("bin/llama-bench", {}, "PATH", ()),
    ("bin/llama", {}, "the single binary on PATH", ("bench",)),
    ("home/.llama-app/llama", {}, "llama.app", ("bench",)),
    ("home/.local/bin/llama", {}, "llama.app", ("bench",)),
    ("brew/llama-bench", {}, "Homebrew", ()),
    ("build/bin/llama-bench", {}, "a build here", ()),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_each_place_is_looked_at(
    environ: dict[str, str], tmp_path: Path, place: tuple[str, dict[str, str], str, tuple[str, ...]]
) -> None:
    file, variables, found_by, subcommand = place
    path = program(tmp_path / file)
    environ |= {key: str(tmp_path / value) for key, value in variables.items()}
    found = find_program("llama-bench", environ=environ)
    assert (found.command, found.found_by) == ((path, *subcommand), found_by)


@pytest.mark.parametrize("earlier", range(len(PLACES) - 1))
def test_an_earlier_place_wins(environ: dict[str, str], tmp_path: Path, earlier: int) -> None:
    for file, variables, _, _ in PLACES[earlier : earlier + 2]:
        program(tmp_path / file)
        environ |= {key: str(tmp_path / value) for key, value in variables.items()}
    assert find_program("llama-bench", environ=environ).found_by == PLACES[earlier][2]


def test_it_is_found_beside_a_server_that_is_linked_into_path(
    environ: dict[str, str], tmp_path: Path
) -> None:
    server = program(tmp_path / "opt" / "llama.cpp" / "llama-server")
    bench = program(tmp_path / "opt" / "llama.cpp" / "llama-bench")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llama-server").symlink_to(server)
    found = find_program("llama-bench", environ=environ)
    assert (found.command, found.found_by) == ((bench,), "beside llama-server")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no bit that forbids execution")
def test_a_file_that_may_not_be_executed_is_passed_over(
    environ: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "bin" / "llama-bench"
    path.parent.mkdir()
    path.write_text("")
    later = program(tmp_path / "build" / "bin" / "llama-bench")
    assert find_program("llama-bench", environ=environ).command == (later,)


def test_what_is_nowhere_is_missed_with_every_place(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(LlamaCppNotFound) as caught:
        find_program("llama-bench", environ=environ)
    said = str(caught.value)
    for place in ("bin/llama-bench", "home/.llama-app/llama", "brew/llama-bench", "build/bin"):
        assert str(tmp_path / place) in said
    assert "LCM_LLAMA_BENCH" in said
    assert caught.value.exit_code == 3
    assert caught.value.hint
