"""Turn a GGUF file, or all shards of one, into a `Model`."""

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from autotune.errors import GGUFInvalid, ModelNotFound, ModelUnreadable, printable
from autotune.model.architecture import (
    Caches,
    Facts,
    LayerCache,
    Shape,
    read_caches,
    read_shape,
)
from autotune.model.gguf import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    Array,
    Header,
    Tensor,
    Value,
    padded,
    read_header,
)

# `enum llama_ftype` in include/llama.h, by the names that llama-quantize takes.
FILE_TYPES: Mapping[int, str] = dict(
    enumerate(
        """
        F32 F16 Q4_0 Q4_1 . . . Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M
        Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M
        BF16 . . . TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0
        """.split()
    )
)

# Tensors of the input layer, which llama.cpp always keeps on the CPU (LLM_TENSOR_LAYER_INPUT).
INPUT_TENSORS = frozenset({"token_embd", "position_embd", "token_types", "per_layer_token_embd"})
# Tensors outside the blocks that llama.cpp places with the first layer.
FIRST_LAYER_TENSORS = frozenset({"token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm"})
# Architectures whose loader creates the output matrix before the embedding it is tied to, so that
# even the CPU holds both (src/models/<architecture>.cpp).
TIED_TWICE = frozenset({"gemma3n", "gemma4"})
# ... but in these it is the norm of the output (src/models/lfm2.cpp).
NORM_OF_OUTPUT = frozenset({"lfm2", "lfm2moe"})
# Every buffer that holds a layer which rotates by them gets its own copy of these.
ROPE_TENSORS = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short"})
# What `--n-cpu-moe` keeps on the CPU: LLM_FFN_EXPS_REGEX in common/common.h.
EXPERT_TENSORS = frozenset(
    f"ffn_{part}_{kind}"
    for part in ("up", "down", "gate", "gate_up")
    for kind in ("exps", "chexps")
)


class Layer(NamedTuple):
    """The bytes of one block's weights."""

    dense_bytes: int  # Everything but the experts.
    expert_bytes: int
    largest_dense_bytes: int  # Of its single tensors, the largest.
    largest_expert_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a GGUF file says of itself."""

    path: Path  # The file to hand to llama.cpp: of a split model, the first shard.
    files: tuple[Path, ...]
    file_bytes: int
    name: str
    architecture: str
    quantization: str
    n_parameters: int
    n_vocab: int
    shape: Shape
    layers: tuple[Layer, ...]  # The blocks that every token goes through.
    caches: tuple[LayerCache, ...]  # What each of them keeps between tokens.
    input_bytes: int  # The embedding and its like: always on the CPU.
    output_bytes: int  # The output matrix and norm: the layer after the last.
    tied_bytes: int  # An embedding that is the output matrix too, and is copied to its GPU ...
    tied_twice: bool  # ... and on the CPU as well.
    rope_bytes: int  # Copied into each place that holds one of ...
    rope_layers: tuple[int, ...]  # ... these blocks.
    caches_exact: bool
    weights_exact: bool
    notes: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """All weights that llama.cpp loads, once each."""
        in_layers = sum(layer.dense_bytes + layer.expert_bytes for layer in self.layers)
        return self.input_bytes + in_layers + self.output_bytes + self.rope_bytes

    @property
    def n_offloadable(self) -> int:
        """What `--n-gpu-layers` counts: the blocks and the output layer."""
        return self.shape.n_layers + 1

    @property
    def is_moe(self) -> bool:
        return any(layer.expert_bytes for layer in self.layers)


def analyze_model(path: str | os.PathLike[str]) -> Model:
    """Read the header of the GGUF at `path` and, where it is split, of every other shard.

    Raises:
        ModelNotFound: there is no such file, or a shard is missing.
        ModelUnreadable: it is a directory, or may not or cannot be read.
        GGUFInvalid: it is not a GGUF that llama.cpp could load.
    """
    given = Path(path)
    header = _read(given)
    files = _shards(given, header)
    return _model(files, _headers(files, given, header))


def _headers(files: tuple[Path, ...], given: Path, known: Header) -> list[Header]:
    """The header of each file; together they are bounded as one is."""
    headers: list[Header] = []
    n_tensors = n_bytes = 0
    for file in files:
        header = known if file == given else _read(file)
        n_tensors, n_bytes = n_tensors + len(header.tensors), n_bytes + header.data_offset
        if n_tensors > MAX_TENSORS or n_bytes > MAX_HEADER_BYTES:
            raise GGUFInvalid(
                f"the headers of {_shown(given)} and its other shards hold more than "
                f"{MAX_TENSORS:,} tensors or {MAX_HEADER_BYTES:,} bytes",
                hint="download or convert the model again",
            )
        # Only the first says what the model is.
        headers.append(header if not headers else replace(header, metadata={}))
    return headers


def _read(path: Path) -> Header:
    try:
        # Asked before it is opened: to open a FIFO waits for somebody to write into it.
        mode = _status(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ModelUnreadable(
                f"{_shown(path)} is not a regular file",
                hint="give the path of a GGUF file on a disk",
            )
        with open(path, "rb", buffering=0, opener=_without_waiting) as stream:
            return read_header(stream, os.fstat(stream.fileno()).st_size, _shown(path))
    except OSError as error:
        raise _named(error, path) from error


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO that has taken the file's place since it was asked for keeps nobody waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except ValueError:  # A zero byte or half a surrogate pair: no file can have such a name.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:  # It went away since it was read.
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> ModelNotFound | ModelUnreadable:
    shown = _shown(path)
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return ModelNotFound(
            f"there is no model at {shown}",
            hint="give the path of a GGUF file: --model path/to/model.gguf",
        )
    if error.errno == errno.EISDIR:
        return ModelUnreadable(
            f"{shown} is a directory", hint="give the path of one GGUF file inside it"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return ModelUnreadable(
            f"{shown} may not be read by this user", hint=f"check its owner and mode: ls -l {shown}"
        )
    return ModelUnreadable(
        f"{shown} cannot be read: {error.strerror}", hint="check the disk or mount that holds it"
    )


def _shown(path: Path) -> str:
    """The path as text that is safe to print: no control characters, no undecodable bytes."""
    return printable(str(path))


def _shards(given: Path, header: Header) -> tuple[Path, ...]:
    """All files of the model that `given` belongs to, in order."""
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return (given,)
    if count > _MOST_SHARDS:
        raise GGUFInvalid(
            f"{_shown(given)} announces {count:,} shards",
            hint="download or convert the model again",
        )
    suffix = f"-of-{count:05d}"  # LLAMA_SPLIT format: %s-%05d-of-%05d.gguf
    prefix, number = given.stem.removesuffix(suffix)[:-5], given.stem.removesuffix(suffix)[-5:]
    numbered = number.isascii() and number.isdecimal() and 1 <= int(number) <= count
    if not (given.name.endswith(f"{suffix}.gguf") and prefix.endswith("-") and numbered):
        raise GGUFInvalid(
            f"{_shown(given)} is one of {count} shards, but its name does not end in "
            f"-NNNNN{suffix}.gguf, so the others cannot be found",
            hint="give every shard its original name",
        )
    files = tuple(given.with_name(f"{prefix}{n:05d}{suffix}.gguf") for n in range(1, count + 1))
    missing = [file for file in files if not file.exists()]
    if missing:
        raise ModelNotFound(
            f"{len(missing)} of the model's {count} shards are missing: "
            f"{', '.join(_shown(file) for file in missing[:3])}{', ...' if missing[3:] else ''}",
            hint="download all shards into one folder",
        )
    return files


_MOST_SHARDS = 99_999  # What the five digits of the name can count.


def _model(files: tuple[Path, ...], headers: list[Header]) -> Model:
    where = _shown(files[0])
    metadata = headers[0].metadata
    facts = Facts(metadata, where)
    shape = read_shape(facts)
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not tensors:
        raise GGUFInvalid(
            f"{where} has no tensors: it holds a vocabulary or an adapter, not a model",
            hint="give the GGUF that holds the weights",
        )
    caches = read_caches(facts, shape)
    weights = _place_weights(tensors, shape, facts.architecture)
    unknown = sorted({t for header in headers for t in header.unknown_types})
    return Model(
        path=files[0],
        files=files,
        file_bytes=sum(map(_size, files)),
        name=facts.text("general.name") or files[0].stem,
        architecture=facts.architecture,
        quantization=_quantization(metadata, tensors),
        n_parameters=sum(tensor.n_elements for tensor in tensors),
        n_vocab=_n_vocab(metadata, tensors),
        shape=shape,
        layers=_layers(weights, shape),
        caches=caches.layers[: shape.n_trunk],
        input_bytes=weights.input_bytes,
        output_bytes=weights.output_bytes,
        tied_bytes=weights.tied_bytes,
        tied_twice=facts.architecture in TIED_TWICE,
        rope_bytes=weights.rope_bytes,
        rope_layers=_rope_layers(facts.architecture, caches, shape),
        caches_exact=caches.exact,
        weights_exact=not unknown,
        notes=_notes(caches, unknown),
    )


def _notes(caches: Caches, unknown_types: list[int]) -> tuple[str, ...]:
    notes = [caches.note] if caches.note else []
    if unknown_types:
        listed = ", ".join(map(str, unknown_types))
        notes.append(
            f"tensor types {listed} are newer than this tool; their size is taken from offsets"
        )
    return tuple(notes)


class _Weights(NamedTuple):
    dense: dict[int, list[int]]  # The bytes of each tensor, by block.
    experts: dict[int, list[int]]
    input_bytes: int
    output_bytes: int
    tied_bytes: int
    rope_bytes: int


def _place_weights(tensors: Iterable[Tensor], shape: Shape, architecture: str) -> _Weights:
    """Sort the tensors by the place that llama.cpp gives them."""
    dense: dict[int, list[int]] = {}
    experts: dict[int, list[int]] = {}
    elsewhere = {"input": 0, "output": 0, "rope": 0}
    embedding, has_output = 0, False
    for tensor in tensors:
        part, _, rest = tensor.name.partition(".")
        n_bytes = padded(tensor.n_bytes, TENSOR_ALIGNMENT)
        if part == "blk":
            number, _, rest = rest.partition(".")
            table = experts if rest.partition(".")[0] in EXPERT_TENSORS else dense
            table.setdefault(_block(number, shape), []).append(n_bytes)
        elif part in FIRST_LAYER_TENSORS and architecture not in NORM_OF_OUTPUT:
            dense.setdefault(0, []).append(n_bytes)
        else:
            elsewhere[_PLACES.get(part, "output")] += n_bytes
        if part == "token_embd":
            embedding = n_bytes
        has_output = has_output or tensor.name == "output.weight"
    tied = 0 if has_output else embedding
    return _Weights(
        dense, experts, elsewhere["input"], elsewhere["output"], tied, elsewhere["rope"]
    )


_PLACES = dict.fromkeys(INPUT_TENSORS, "input") | dict.fromkeys(ROPE_TENSORS, "rope")


def _rope_layers(architecture: str, caches: Caches, shape: Shape) -> tuple[int, ...]:
    """The blocks that read the rope tensors: in gemma4 only those with full attention."""
    blocks = range(shape.n_trunk)
    if architecture == "gemma4":
        return tuple(il for il in blocks if not caches.layers[il].window)
    return tuple(blocks)


def _block(number: str, shape: Shape) -> int:
    """The block in a tensor's name; what is no number belongs to none that is run."""
    return int(number) if number.isdecimal() and len(number) < 5 else shape.n_layers  # noqa: PLR2004


TENSOR_ALIGNMENT = 32  # Of the CPU's buffers: ggml/src/ggml-cpu; each tensor is padded to it.


def _layers(weights: _Weights, shape: Shape) -> tuple[Layer, ...]:
    def layer(il: int) -> Layer:
        dense, experts = weights.dense.get(il, [0]), weights.experts.get(il, [0])
        return Layer(sum(dense), sum(experts), max(dense), max(experts))

    return tuple(layer(il) for il in range(shape.n_trunk))


def _quantization(metadata: Mapping[str, Value], tensors: Iterable[Tensor]) -> str:
    """The name of the recipe, or of the type that most of the bytes have."""
    file_type = metadata.get("general.file_type")
    known = FILE_TYPES.get(file_type) if isinstance(file_type, int) else None
    if known and known != ".":
        return known
    bytes_by_type: dict[str, int] = {}
    for tensor in tensors:
        bytes_by_type[tensor.type_name] = bytes_by_type.get(tensor.type_name, 0) + tensor.n_bytes
    return max(bytes_by_type, key=lambda name: bytes_by_type[name]).upper()


def _n_vocab(metadata: Mapping[str, Value], tensors: Iterable[Tensor]) -> int:
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) > 1:
            return tensor.shape[1]
    tokens = metadata.get("tokenizer.ggml.tokens")
    return tokens.count if isinstance(tokens, Array) else 0
