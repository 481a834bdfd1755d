"""Profiles to be put to use, and names that a careless format would trip over."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from recorded_builds import FOLDER

from autotune.llama_cpp.capabilities import (
    Capabilities,
    parse_aliases,
    parse_help,
    parse_variables,
)
from autotune.llama_cpp.locate import Program
from autotune.params import Params
from autotune.results.apply import Setup
from autotune.results.profile import Profile

MODEL = Path("/models/gemma-3-270m-q4_k_m.gguf")
TODAY, OF_2025 = "0.3.36-2026-10", "0.3.9-2025-05"

CPU = Params(
    n_ctx=1024,
    n_batch=512,
    n_ubatch=128,
    n_threads=3,
    n_threads_batch=2,
    n_gpu_layers=0,
    type_k="q8_0",
    type_v="q8_0",
    flash_attn=True,
    n_parallel=2,
    load_mode="mmap+mlock",
)
GPU = Params(
    n_ctx=8192,
    n_ubatch=1024,
    n_threads=8,
    n_gpu_layers=999,
    n_cpu_moe=12,
    tensor_split=(3.0, 1.0),
    devices=("CUDA0", "CUDA1"),
    tensor_buft_overrides=((r"blk\.(1|2)\.ffn_.*_exps", "CPU"),),
    no_kv_offload=True,
    no_op_offload=True,
    repack=False,
)
# Everything that some shell, parser or template has a meaning for.
SPECIAL = "a b'c\"d\\e%f$g`h,i$(j)${PORT}${env.HOME}&|<k>*?[l]{m}~!=é\N{SNOWMAN}"
LINE_BREAK, NO_UTF_8 = "a\n[Service]\n# b", "a\udcffb"
HOSTILE = f"{SPECIAL};#{LINE_BREAK}{NO_UTF_8}\t\x1b[31m\\"


def profile(params: Params = CPU, **changed: Any) -> Profile:  # noqa: ANN401 - any field
    """A profile that was shown to be better."""
    made = Profile(
        params=params,
        date="2026-10-03T12:00:00Z",
        build="0.5.0-dev (build 11434, commit 0c1e570)",
        model="Gemma 3 270m",
        verdict="better",
        ratio=1.312,
        low=1.284,
        high=1.341,
        workload="chat",
        study="/home/u/studies/gemma-chat",
    )
    return replace(made, **changed)


def setup(params: Params = CPU, model: Path = MODEL, **changed: Any) -> Setup:  # noqa: ANN401
    """The profile in a place where no llama-server was found."""
    program = Program(name="llama-server", command=("llama-server",), found_by="")
    made = Setup(profile=profile(params), model=model, program=program)
    return replace(made, **changed)


def called(name: str) -> Path:
    """A model whose path holds `name`."""
    return Path(f"/models of {name}/{name}.gguf")


def installed(build: str = TODAY, path: str = "/opt/llama.cpp/llama-server") -> dict[str, Any]:
    """A llama-server of a recorded build, for `setup`."""
    program = Program(name="llama-server", command=(path,), found_by="the test")
    return {"program": program, "capabilities": server_of(build)}


@cache
def server_of(build: str) -> Capabilities:
    """What a recorded llama-server says that it can."""
    text = (FOLDER / build / "server_help.txt").read_text(encoding="utf-8")
    return Capabilities(
        options=parse_help(text),
        aliases=parse_aliases(text),
        variables=parse_variables(text),
        version=build,
    )
