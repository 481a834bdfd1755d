"""What the laws of `autotune.model` are tried on: broken files, models and configurations."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from fakes.small import SMALL
from fakes.zoo import ZOO
from hypothesis import strategies as st

from autotune.model import Model, analyze_model
from autotune.params import ALL_LAYERS, Params, Program

# From the smallest to the largest.
CACHE_TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "f32")

PROGRAMS: tuple[Program, ...] = ("bench", "cli", "server")

# Each has a kind of layer or of placement that the others have not.
MODELS = (
    "llama3-8b",
    "llama3.2-1b",
    "gemma3-270m",
    "gemma3n-e4b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "glm4.5-air",
    "mamba-2.8b",
    "jamba-mini",
    "qwen3.5-35b-a3b",
    "nemotron-h-9b",
)


@cache
def small_files() -> tuple[bytes, ...]:
    """Give the small models as files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        contents = []
        for small in SMALL.values():
            small().write(file)
            contents.append(file.read_bytes())
        return tuple(contents)


@cache
def zoo_model(name: str) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        ZOO[name]().write(Path(folder) / "model.gguf")
        return analyze_model(Path(folder) / "model.gguf")


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """Take a small model's file and break it in one to four ways."""
    data = bytearray(draw(st.sampled_from(small_files())))
    for _ in range(draw(st.integers(1, 4))):
        _break(draw, data)
    return bytes(data)


def _break(draw: st.DrawFn, data: bytearray) -> None:
    # The header takes the first 1 to 3 KB; of the weights behind it only the length is read.
    at = draw(st.integers(0, min(len(data), 3000)))
    match draw(st.integers(0, 5)):
        case 0:  # Flip bits.
            flipped = draw(st.integers(1, 255))
            data[at : at + 1] = bytes(byte ^ flipped for byte in data[at : at + 1])
        case 1:  # Write a number over what is there.
            width = draw(st.sampled_from((1, 2, 4, 8)))
            number = draw(st.integers(0, 2 ** (8 * width) - 1))
            data[at : at + width] = number.to_bytes(width, "little")
        case 2:
            del data[at:]
        case 3:
            del data[at : at + draw(st.integers(1, 64))]
        case 4:  # Say it twice.
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        case _:  # Go on as another file does.
            other = draw(st.sampled_from(small_files()))
            data[at:] = other[draw(st.integers(0, 3000)) :]


models = st.sampled_from(MODELS).map(zoo_model)
programs = st.sampled_from(PROGRAMS)
context_sizes = st.integers(1, 2**17)
ubatch_sizes = st.integers(1, 4096)
gpu_layers = st.integers(0, 50) | st.just(ALL_LAYERS)
# In proportion to these the layers are split; an empty one is a machine without a GPU.
gpus = st.lists(st.floats(0.01, 100.0), max_size=3).map(tuple)


def configurations() -> st.SearchStrategy[Params]:
    """Give configurations that llama.cpp takes for any model: K and V of one type, for MLA."""
    return st.sampled_from(CACHE_TYPES).flatmap(
        lambda cache_type: st.builds(
            Params,
            n_ctx=context_sizes,
            n_ubatch=ubatch_sizes,
            type_k=st.just(cache_type),
            type_v=st.just(cache_type),
            n_gpu_layers=gpu_layers,
            n_cpu_moe=st.none() | st.integers(0, 50),
            no_kv_offload=st.none() | st.booleans(),
            n_parallel=st.none() | st.integers(1, 9),
            kv_unified=st.none() | st.booleans(),
        )
    )
