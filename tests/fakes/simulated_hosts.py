"""What the simulated machines are made of: their hardware, and their models without weights."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from fakes.surfaces import CORES, LOGICAL
from fakes.zoo import ZOO, Spec, Trunk, dense, mxfp4_moe, spec

from autotune.hardware import Cpu, Gpu, Hardware, Memory
from autotune.model import Model, analyze_model

GIB = 1 << 30


@cache
def dense_8b() -> Model:
    return written("dense-8b", ZOO["llama3-8b"]())


@cache
def moe_30b() -> Model:
    return written("moe-30b-a3b", ZOO["qwen3moe-30b-a3b"]())


@cache
def dense_30b() -> Model:
    t = Trunk("llama", vocab=32000, ctx=32768, layers=40, embd=8192, ff=24576, heads=(64, 8, 128))
    bare = spec(t, [dense(t)] * t.layers, mix=mxfp4_moe)  # Without experts, that is Q8_0.
    return written("dense-30b", Spec({**bare.metadata, "general.file_type": 7}, bare.tensors))


@cache
def _folder() -> Path:
    """Where the models lie, without their weights, until Python ends."""
    folder = Path(mkdtemp(prefix="lcm-simulated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def written(name: str, model: Spec) -> Model:
    """What the reader makes of a model that is written without its weights."""
    path = _folder() / f"{name}.gguf"
    model.write(path)
    return analyze_model(path)


def card(gib: int) -> Gpu:
    return Gpu(
        backend="CUDA",
        index=0,
        name=f"simulated card of {gib} GB",
        total_bytes=gib * GIB,
        free_bytes=gib * GIB - GIB // 4,
        integrated=False,
        driver="",
        compute_capability="8.9",
    )


def hardware(gpus: tuple[Gpu, ...], *, smt: bool = True) -> Hardware:
    logical = LOGICAL if smt else CORES
    cpu = Cpu(
        name="Simulated 16-Core Processor",
        architecture="x86_64",
        isa=("AVX2",),
        sockets=1,
        numa_nodes=1,
        physical_cores=CORES,
        logical_cores=logical,
        performance_cores=CORES,
        smt=smt,
        usable_cpus=tuple(range(logical)),
        usable_cores=CORES,
        usable_performance_cores=CORES,
        quota=None,
    )
    memory = Memory(
        total_bytes=64 * GIB,
        available_bytes=58 * GIB,
        limit_bytes=None,
        swap_total_bytes=0,
        swap_free_bytes=0,
        memlock_bytes=None,
    )
    return Hardware(
        operating_system="Linux", wsl=False, cpu=cpu, memory=memory, gpus=gpus, notes=()
    )
