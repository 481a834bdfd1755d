"""Machines and models as values, for tests of what is concluded from them.

A recorded machine and a model of the zoo are read once by the real readers; a test changes what it
is about with `dataclasses.replace`. Nothing here is a mock.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fakes.machine import unfold
from fakes.zoo import ZOO, Spec, Trunk, dense, spec

from autotune.hardware import Gpu, Hardware, detect_hardware
from autotune.model import Model, analyze_model

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 1 << 30
MIB = 1 << 20


@cache
def recorded(name: str) -> Hardware:
    """Give a recorded machine, without what the GPU libraries of this one would add."""
    with TemporaryDirectory() as folder:
        return detect_hardware(unfold(name, Path(folder)))


@cache
def zoo_model(name: str) -> Model:
    return read(ZOO[name]())


def read(model: Spec) -> Model:
    """Write a model without its weights, and read it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        model.write(path)
        return analyze_model(path)


@cache
def dense_model(*, ctx: int = 4096, layers: int = 4, embd: int = 256, head: int = 64) -> Model:
    """Give a dense model of a few megabytes."""
    heads = embd // head
    t = Trunk(
        "llama", vocab=4096, ctx=ctx, layers=layers, embd=embd, ff=768, heads=(heads, heads, head)
    )
    return read(spec(t, [dense(t)] * layers))


def card(
    free_gib: float,
    total_gib: float | None = None,
    *,
    index: int = 0,
    integrated: bool = False,
    backend: str = "CUDA",
) -> Gpu:
    """Give a GPU; one whose size is not said has all of it free."""
    return Gpu(
        backend=backend,
        index=index,
        name=f"card {index}",
        total_bytes=int((free_gib if total_gib is None else total_gib) * GIB),
        free_bytes=int(free_gib * GIB),
        integrated=integrated,
        driver="",
        compute_capability="",
    )


def cards(*free_gib: float) -> tuple[Gpu, ...]:
    return tuple(card(free, index=index) for index, free in enumerate(free_gib))


def host(
    gpus: Sequence[Gpu] = (), *, available_gib: float = 56, total_gib: float = 62.6
) -> Hardware:
    """Give a desktop of 12 cores with `gpus` and as much memory as asked for."""
    desktop = recorded("hybrid-smt")
    memory = replace(
        desktop.memory,
        total_bytes=int(total_gib * GIB),
        available_bytes=int(available_gib * GIB),
        memlock_bytes=None,
    )
    return replace(desktop, gpus=tuple(gpus), memory=memory)
