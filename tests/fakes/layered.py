"""A llama of many small layers, of which a device can hold a part; random weights, 150 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakes.gguf_writer import write_gguf
from fakes.tiny import tokenizer
from fakes.zoo import Spec, Trunk, dense, spec

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 24


def layered() -> Spec:
    t = Trunk("llama", vocab=8192, ctx=4096, layers=LAYERS, embd=768, ff=3072, heads=(12, 4, 64))
    bare = spec(t, [dense(t)] * t.layers)
    return Spec({**bare.metadata, **tokenizer()}, bare.tensors)


def write_layered(path: Path) -> None:
    """Write the model; the same bytes every time."""
    model = layered()
    write_gguf(path, metadata=model.metadata, tensors=model.tensors, sparse=False)
