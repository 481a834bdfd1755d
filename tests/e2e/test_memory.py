"""Weights and caches to the MiB, compute buffers within bounds: against the real llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes.zoo import ZOO
from memory_table import ESTIMATED, HEADER, OTHERS, Oracle, cases, misfits, oracle, summary

if TYPE_CHECKING:
    from collections.abc import Iterator
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
