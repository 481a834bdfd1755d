"""The logic around the llama.cpp build, with a project of five lines in the place of llama.cpp."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import llama_cpp_build
import pytest
from llama_cpp_build import TOOLS, LlamaCppError, cache_root, cmake_flags, parse_cpuinfo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="llama.cpp is not built there")

needs_cmake = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("ninja") is None,
    reason="cmake and ninja come with `nox -s tests`",
)

_PROJECT = f"""
cmake_minimum_required(VERSION 3.20)
project(tiny C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
add_library(tiny SHARED tiny.c)
foreach(tool {" ".join(TOOLS)})
  add_executable(${{tool}} main.c)
  target_link_libraries(${{tool}} tiny)
endforeach()
"""


class Fetcher:
    """Stands in for the download: counts its calls and writes a project that may build."""

    def __init__(self, main: str = "int tiny(void); int main(void) { return tiny(); }") -> None:
        self.main = main
        self.calls = 0

    def __call__(self, work: Path, log: Path) -> Path:
        assert log.is_file()
        self.calls += 1
        source = work / "source"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(_PROJECT, encoding="utf-8")
        (source / "tiny.c").write_text("int tiny(void) { return 0; }", encoding="utf-8")
        (source / "main.c").write_text(self.main, encoding="utf-8")
        return source


def _tools_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for tool in TOOLS:
        (folder / tool).write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / tool).chmod(0o755)
    return folder


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@needs_cmake
def test_a_build_runs_wherever_it_is_moved_and_is_made_once(tmp_path: Path) -> None:
    target, fetch = tmp_path / "cache" / "built", Fetcher()

    llama_cpp_build.build(target, fetch)
    llama_cpp_build.build(target, fetch)

    assert fetch.calls == 1
    assert _names(target.parent) == {"built", "built.lock", "built.log"}
    moved = target.rename(tmp_path / "elsewhere")
    assert subprocess.run([moved / "llama-bench"], check=False).returncode == 0


@needs_cmake
def test_a_failed_build_leaves_its_log_and_nothing_that_looks_finished(tmp_path: Path) -> None:
    target = tmp_path / "built"

    with pytest.raises(LlamaCppError, match=r"(?s)no_such_thing.*Log: .*built\.log") as failure:
        llama_cpp_build.build(target, Fetcher(main="int main(void) { return no_such_thing; }"))

    assert _names(tmp_path) == {"built.lock", "built.log"}
    assert len(str(failure.value).splitlines()) < 40


@needs_cmake
def test_the_remains_of_a_killed_build_are_no_build(tmp_path: Path) -> None:
    target = tmp_path / "built"
    (tmp_path / "built.build-killed" / "tree").mkdir(parents=True)
    (_tools_in(target) / "llama-cli").unlink()

    llama_cpp_build.build(target, Fetcher())

    assert _names(tmp_path) == {"built", "built.lock", "built.log"}
    assert (target / "llama-cli").is_file()


@needs_cmake
def test_of_two_at_once_one_builds_and_both_have_it(tmp_path: Path) -> None:
    fetch = Fetcher()
    threads = [
        threading.Thread(target=llama_cpp_build.build, args=(tmp_path / "built", fetch))
        for _ in range(2)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert fetch.calls == 1
    assert (tmp_path / "built" / "llama-bench").is_file()


@needs_cmake
def test_a_lock_whose_holder_was_killed_is_free(tmp_path: Path) -> None:
    holder = (
        "import fcntl, os, signal, sys; handle = open(sys.argv[1], 'w');"
        "fcntl.flock(handle, fcntl.LOCK_EX); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", holder, tmp_path / "built.lock"], check=False)

    llama_cpp_build.build(tmp_path / "built", Fetcher())

    assert (tmp_path / "built" / "llama-bench").is_file()


def test_a_missing_build_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))

    with pytest.raises(LlamaCppError, match=r"No cmake: `pip install cmake ninja`"):
        llama_cpp_build.build(tmp_path / "built", Fetcher())


@pytest.mark.parametrize("variable", ["LCM_LLAMA_BENCH", "LCM_LLAMA_DIR", "PATH"])
def test_what_the_user_has_is_used(
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = _tools_in(tmp_path / "llama.cpp")
    value = folder / "llama-bench" if variable == "LCM_LLAMA_BENCH" else folder
    monkeypatch.setenv(variable, str(value))

    assert llama_cpp_build.main() == 0

    said = capsys.readouterr()
    assert said.out == f"{folder}\n"
    assert f"({'on PATH' if variable == 'PATH' else variable})" in said.err


def test_a_link_to_llama_bench_alone_leads_to_its_siblings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _tools_in(tmp_path / "llama.cpp")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llama-bench").symlink_to(folder / "llama-bench")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert llama_cpp_build.find_llama_cpp() == folder


def test_llama_bench_on_path_without_its_siblings_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _tools_in(tmp_path / "llama.cpp")
    (folder / "llama-server").unlink()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "empty")

    assert llama_cpp_build.find_llama_cpp() is None
    assert "it stands without llama-server" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["LCM_LLAMA_BENCH", "LCM_LLAMA_DIR"])
def test_a_folder_that_was_named_and_lacks_a_tool_is_an_error(
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "llama-bench"))

    assert llama_cpp_build.main() == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{variable} leads to ")


def test_only_the_vector_instructions_of_this_machine_are_on() -> None:
    flags = cmake_flags(frozenset({"avx", "f16c", "avx512f", "amx_tile"}))

    expected = {"AVX": "ON", "AVX2": "OFF", "FMA": "OFF", "F16C": "ON", "BMI2": "OFF"}
    assert flags[-5:] == [f"-DGGML_{name}={switch}" for name, switch in expected.items()]
    assert "-DGGML_NATIVE=OFF" in flags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx avx2\nflags\t\t: fpu avx\n", {"fpu", "avx"}),
        ("Features\t: fp asimd\n", set()),
        ("", set()),
    ],
    ids=["cores that differ", "arm", "empty"],
)
def test_cpuinfo_counts_what_every_core_has(text: str, expected: set[str]) -> None:
    assert parse_cpuinfo(text) == expected


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, "/home/me/.cache/lcm-autotune"),
        ("linux", {"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/lcm-autotune"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/lcm-autotune"),
        ("darwin", {"XDG_CACHE_HOME": "/var"}, "/home/me/Library/Caches/lcm-autotune"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lcm-autotune"),
    ],
)
def test_caches_lie_where_the_platform_keeps_them(
    platform: str, environ: dict[str, str], expected: str
) -> None:
    assert cache_root(platform, environ, Path("/home/me")) == Path(expected)


def test_the_kept_build_has_its_own_folder_per_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(*features: str) -> Path:
        monkeypatch.setattr(llama_cpp_build, "cpu_features", lambda: frozenset(features))
        return llama_cpp_build._built_folder()  # noqa: SLF001 - the name is the cache's key

    assert folder("avx") == folder("avx", "sse4_2")
    assert folder("avx") != folder("avx", "avx2")
    assert folder("avx").name.startswith("0.3.36-")
    assert os.fspath(folder("avx").parent).endswith("llama.cpp")


def test_a_variant_is_built_beside_the_plain_one_whatever_the_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Sequence[str]]()
    monkeypatch.setenv("LCM_LLAMA_DIR", str(_tools_in(tmp_path / "users")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(llama_cpp_build, "build", lambda *given: asked.append(given[-1]))

    found = llama_cpp_build.ensure_llama_cpp("vulkan")

    plain = llama_cpp_build._built_folder()  # noqa: SLF001 - the name is the cache's key
    assert found.folder != plain
    assert found.folder.parent == plain.parent
    assert ["-DGGML_VULKAN=ON" in flags for flags in asked] == [True]
