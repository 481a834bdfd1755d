"""A llama of random weights that llama.cpp really runs: 15 MB, written in a fraction of a second.

It says nothing sensible. It is as fast or as slow on a machine as a model of its size is there,
which is all that measuring needs. `python -m fakes.tiny FILE` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.gguf_writer import GgufType, Typed, Value, write_gguf
from fakes.zoo import Spec, Trunk, dense, spec

if TYPE_CHECKING:
    from collections.abc import Mapping

_VOCAB = 8192
# `enum llama_token_type` in llama.cpp's include/llama.h.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def tiny_llama() -> Spec:
    t = Trunk("llama", vocab=_VOCAB, ctx=4096, layers=6, embd=512, ff=1536, heads=(8, 4, 64))
    bare = spec(t, [dense(t)] * t.layers)
    return Spec({**bare.metadata, **tokenizer()}, bare.tensors)


def write_tiny(path: Path) -> None:
    """Write the model; the same bytes every time."""
    model = tiny_llama()
    write_gguf(path, metadata=model.metadata, tensors=model.tensors, sparse=False)


def tokenizer() -> Mapping[str, Value]:
    """Make up the least that llama-server and llama-cli tokenize with: bytes, and words to fill."""
    special = ["<unk>", "<s>", "</s>"]
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [f"\N{LOWER ONE EIGHTH BLOCK}w{n}" for n in range(_VOCAB - len(special + in_bytes))]
    types = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(words)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*special, *in_bytes, *words],
        "tokenizer.ggml.scores": [0.0] * _VOCAB,
        "tokenizer.ggml.token_type": Typed(GgufType.INT32, types),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


if __name__ == "__main__":
    write_tiny(Path(sys.argv[1]))
