"""The GGUF reader: any bytes are a model or a named error, alone and as the first of two shards."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.gguf_writer import write_gguf
from fakes.small import SMALL
from fuzz.invariants import check_error, check_json, check_text
from property.header_fuzz import Mutator, written

from autotune.cli.compose import model_section
from autotune.errors import AutotuneError, ConfigError
from autotune.model import analyze_model
from autotune.model.footprint import footprint
from autotune.params import Params

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_FOLDER = Path(tempfile.mkdtemp(prefix="lcm-fuzz-"))
_FIRST, _SECOND = (_FOLDER / f"fuzz-0000{n}-of-00002.gguf" for n in (1, 2))
_PARAMS = (Params(), Params(n_ctx=512, n_parallel=3, type_k="q8_0", tensor_split=(1.0, 0.0)))


def one_input(data: bytes) -> None:
    """Read it, say what it is, and count its memory."""
    if not _SECOND.exists():
        _SECOND.write_bytes(seeds()[0])
    _FIRST.write_bytes(data)
    try:
        model = analyze_model(_FIRST)
    except AutotuneError as error:
        check_error(error)
        return
    check_text(model.name, model.architecture, *model.notes)
    check_json(model_section(model))
    for params in _PARAMS:
        try:
            needed = footprint(model, params, program="server", gpus=(1.0, 2.0))
        except ConfigError as error:
            check_error(error)
        else:
            assert needed.total_bytes >= model.weight_bytes


@cache
def seeds() -> tuple[bytes, ...]:
    """Small models of several kinds, one of them with words that are nobody's friends."""
    small = SMALL["qwen"]()
    hostile = dict(small.metadata) | {
        "general.name": "\x1b[2J<script>=1+1\n",
        "general.description": "$(id)`id`\r\n\u202e",
    }
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder))
        write_gguf(Path(folder, "m.gguf"), metadata=hostile, tensors=small.tensors)
        return (*found, Path(folder, "m.gguf").read_bytes())


def mutations(number: int, seed: int) -> list[bytes]:
    """Give so many broken files, always the same ones for a seed."""
    mutator = Mutator(seeds(), seed)
    return [mutator.next() for _ in range(number)]


def broken(chance: random.Random, _originals: Sequence[bytes]) -> bytes:
    """Break a seed: where lengths and values stand is known of those alone."""
    return Mutator(seeds(), chance.randrange(1 << 30)).next()
