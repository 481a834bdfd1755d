"""Files of settings: a workload in TOML, and a saved answer in JSON; which, the first byte says."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.hosts import recorded, zoo_model
from fuzz.bytes_mutator import broken, mutated
from fuzz.invariants import check_error, check_json, check_lines

from autotune.cli.saved import read_saved
from autotune.errors import AutotuneError
from autotune.llama_cpp.dialect import render
from autotune.params import params_to_json
from autotune.tuning.workload import load_workload

if TYPE_CHECKING:
    from collections.abc import Callable

_CONFIGS = Path(__file__).parents[2] / "configs"
_FOLDER = Path(tempfile.mkdtemp(prefix="lcm-fuzz-"))
_MODEL, _MACHINE = zoo_model("llama3-8b"), recorded("one-socket-smt")


def one_input(data: bytes) -> None:
    """Read it as what its first byte names."""
    readers: dict[bytes, Callable[[bytes], None]] = {b"T": _workload, b"J": _saved}
    reader = readers.get(data[:1])
    if reader is None:
        return
    try:
        reader(data[1:])
    except AutotuneError as error:
        check_error(error)


def _workload(data: bytes) -> None:
    file = _FOLDER / "fuzz.toml"
    file.write_bytes(data)
    workload = load_workload(str(file))
    check_json(asdict(replace(workload, parameters=dict(workload.parameters))))
    assert workload.n_prompt > 0
    assert workload.budget_s is None or workload.budget_s > 0


def _saved(data: bytes) -> None:
    file = _FOLDER / "fuzz.json"
    file.write_bytes(data)
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        params = read_saved(file, _MODEL, _MACHINE)
    check_lines(told.getvalue())
    check_json(params_to_json(params))
    for target in ("cli", "server"):
        words = render(params, "cli" if target == "cli" else "server").arguments
        # No value is one that a splitter of commands takes for a flag of its own.
        assert all(word.lstrip("-") for word in words)


@cache
def seeds() -> tuple[bytes, ...]:
    """The presets, and an answer."""
    presets = [b"T" + file.read_bytes() for file in sorted(_CONFIGS.glob("*.toml"))]
    answer = {
        "schema_version": 1,
        "model": {"name": _MODEL.name, "path": "/m.gguf", "size_bytes": _MODEL.file_bytes},
        "recommended_params": {
            "--threads": 4,
            "--n-gpu-layers": 999,
            "--tensor-split": [3, 1],
            "--device": ["CUDA0"],
            "--flash-attn": "auto",
            "--cache-type-k": "f16",
            "--mlock": True,
            "--no-mmap": False,
        },
    }
    odd = b'T[request]\nn_prompt=0xffffffff\nn_gen=1\n[search]\nbudget=inf\n"a".b.c=[[],{}]'
    return (*presets, odd, b"J" + json.dumps(answer).encode(), b"J" + b"[" * 3000)


def mutations(number: int, seed: int) -> list[bytes]:
    """Give so many broken files, always the same ones for a seed."""
    return mutated(seeds(), number, seed)


__all__ = ["broken", "mutations", "one_input", "seeds"]
