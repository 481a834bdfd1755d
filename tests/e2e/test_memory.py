"""Weights and caches to the MiB, compute buffers within bounds: against the real llama.cpp."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, NamedTuple

import pytest
from fakes.zoo import ZOO
from memory_table import (
    ESTIMATED,
    HEADER,
    HIGHEST,
    LOWEST,
    MEBI,
    OTHERS,
    Case,
    Oracle,
    cases,
    misfits,
    oracle,
    summary,
)

from autotune.model import analyze_model
from autotune.model.footprint import footprint
from autotune.params import ALL_LAYERS, Params, Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def llama_cpp(llama_cpp_dir: Path) -> Iterator[Oracle]:
    """Give the real llama.cpp with two devices, which are the same two for all tests."""
    with oracle(llama_cpp_dir) as asked:
        yield asked


@pytest.mark.parametrize("name", [*ESTIMATED, *OTHERS])
def test_memory_is_what_llama_cpp_says(llama_cpp: Oracle, tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.gguf"
    ZOO[name]().write(file)

    cells = llama_cpp.cells(name, file, cases(name))

    print(f"{HEADER}\n{summary(name, cells)}")  # noqa: T201 - pytest shows it with -rA
    assert misfits(cells) == []


@pytest.mark.parametrize(
    "params",
    [
        Params(n_ctx=32768, tensor_split=(0.0, 1.0), n_gpu_layers=ALL_LAYERS),
        Params(n_ctx=32768, tensor_split=(1.0, 0.0), n_gpu_layers=ALL_LAYERS),
        Params(n_ctx=32768, tensor_split=(0.0, 1.0), n_gpu_layers=10),
    ],
    ids=["the second has all", "the first has all", "the second has some"],
)
def test_a_device_without_layers_is_one_to_llama_cpp(
    llama_cpp: Oracle, tmp_path: Path, params: Params
) -> None:
    """Where two hold all between them, several ubatches are in flight, also if one holds none."""
    file = tmp_path / "model.gguf"
    ZOO["llama3-8b"]().write(file)

    cells = llama_cpp.cells("llama3-8b", file, [Case(params=params, n_devices=2)])

    assert misfits(cells) == []


def test_memory_of_a_real_model_is_what_llama_cpp_says(llama_cpp: Oracle, gemma: Path) -> None:
    cells = llama_cpp.cells(gemma.name, gemma, cases("gemma3-270m"))

    print(f"{HEADER}\n{summary(gemma.name, cells)}")  # noqa: T201
    assert misfits(cells) == []


# --- what a program allocates when it really runs ------------------------------------------------

_CACHE = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB")
_COMPUTE = re.compile(r"sched_reserve: +CPU compute buffer size = +([\d.]+) MiB")


class Allocated(NamedTuple):
    """What a program says that it allocated, in MiB with two decimals."""

    caches: tuple[float, ...]
    compute: float


def allocated(command: Sequence[str | Path]) -> Allocated:
    """Start a program, read what it allocates, and end it where it does not end by itself."""
    caches: list[float] = []
    with _running(command) as process:
        assert process.stdout
        for line in process.stdout:
            if found := _CACHE.search(line):
                caches.append(float(found[1]))
            if found := _COMPUTE.search(line):
                return Allocated(tuple(caches), float(found[1]))
    raise AssertionError(f"{command} did not say what it allocated")


@contextmanager
def _running(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    too_late = Timer(120, process.kill)
    too_late.start()
    with process:
        try:
            yield process
        finally:
            too_late.cancel()
            process.kill()


@pytest.mark.parametrize(
    ("program", "options", "params"),
    [
        ("server", [], Params(n_ctx=8192)),
        ("server", ["-np", "1"], Params(n_ctx=8192, n_parallel=1)),
        ("server", ["-np", "3"], Params(n_ctx=8192, n_parallel=3)),
        ("server", ["-np", "3", "-kvu"], Params(n_ctx=8192, n_parallel=3, kv_unified=True)),
        ("cli", [], Params(n_ctx=8192)),
        ("cli", ["-ub", "2048"], Params(n_ctx=8192, n_ubatch=2048)),
    ],
    ids=["server", "one slot", "three slots", "three slots, one cache", "cli", "large ubatch"],
)
def test_a_program_allocates_what_it_is_counted_to(
    llama_cpp_dir: Path, gemma: Path, program: Program, options: list[str], params: Params
) -> None:
    ending = ["-st", "-n", "1", "-p", "a"] if program == "cli" else ["--port", "0"]
    # Without -fit off the program first measures, and reports buffers that are none.
    common = ["-c", "8192", "-fa", "on", "-fit", "off", "--no-warmup", "--no-repack", "-v"]
    command: list[str | Path] = [
        llama_cpp_dir / f"llama-{program}",
        "-m",
        gemma,
        *common,
        *options,
        *ending,
    ]

    _assert_counted(allocated(command), gemma, params, program)


@pytest.mark.parametrize("n_ubatch", [128, 512])
def test_bench_allocates_what_it_is_counted_to(
    llama_cpp_dir: Path, gemma: Path, n_ubatch: int
) -> None:
    size = ["-p", "512", "-n", "0", "-r", "1", "-ub", str(n_ubatch)]
    command: list[str | Path] = [
        llama_cpp_dir / "llama-bench",
        "-m",
        gemma,
        *size,
        "-fa",
        "1",
        "-v",
    ]

    _assert_counted(allocated(command), gemma, Params(n_ctx=512, n_ubatch=n_ubatch), "bench")


def _assert_counted(real: Allocated, gemma: Path, params: Params, program: Program) -> None:
    counted = footprint(analyze_model(gemma), params, program=program).host
    # Each of the numbers that are added up is rounded to two decimals.
    assert counted.kv_cache_bytes / MEBI == pytest.approx(sum(real.caches), abs=0.01)
    assert LOWEST <= counted.compute_bytes / MEBI / real.compute <= HIGHEST
