"""Write GGUF files for tests: headers of any shape, on a few kilobytes of disk.

A sparse file has its full size and no data, so a 40 GB model costs what its header costs, and
llama.cpp loads it as long as nobody reads the weights. With `sparse=False` the weights are random
numbers that a model can be run on.

The layout is that of `ggml/include/gguf.h`; type ids are those of `enum ggml_type` in
`ggml/include/ggml.h`, block sizes those of the structs in `ggml/src/ggml-common.h`.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_ALIGNMENT = 32

Endian: TypeAlias = Literal["little", "big"]
Scalar: TypeAlias = bool | int | float | str


class GgufType(IntEnum):
    """The types a metadata value can have (`enum gguf_type`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_STRUCT_CODES = {
    GgufType.UINT8: "B",
    GgufType.INT8: "b",
    GgufType.UINT16: "H",
    GgufType.INT16: "h",
    GgufType.UINT32: "I",
    GgufType.INT32: "i",
    GgufType.FLOAT32: "f",
    GgufType.BOOL: "?",
    GgufType.UINT64: "Q",
    GgufType.INT64: "q",
    GgufType.FLOAT64: "d",
}


@dataclass(frozen=True)
class Typed:
    """A value whose type is not the one `write_gguf` would pick, or an array that may be empty."""

    type: GgufType
    value: Scalar | Sequence[Scalar]


Value: TypeAlias = Scalar | Sequence[Scalar] | Typed


class TypeLayout(NamedTuple):
    """How ggml stores a tensor type: `block_bytes` bytes for every `block` elements of a row."""

    id: int
    block: int
    block_bytes: int


TYPES: Mapping[str, TypeLayout] = {
    "f32": TypeLayout(0, 1, 4),
    "f16": TypeLayout(1, 1, 2),
    "q4_0": TypeLayout(2, 32, 18),
    "q4_1": TypeLayout(3, 32, 20),
    "q5_0": TypeLayout(6, 32, 22),
    "q5_1": TypeLayout(7, 32, 24),
    "q8_0": TypeLayout(8, 32, 34),
    "q2_K": TypeLayout(10, 256, 84),
    "q3_K": TypeLayout(11, 256, 110),
    "q4_K": TypeLayout(12, 256, 144),
    "q5_K": TypeLayout(13, 256, 176),
    "q6_K": TypeLayout(14, 256, 210),
    "iq2_xxs": TypeLayout(16, 256, 66),
    "iq2_xs": TypeLayout(17, 256, 74),
    "iq3_xxs": TypeLayout(18, 256, 98),
    "iq1_s": TypeLayout(19, 256, 50),
    "iq4_nl": TypeLayout(20, 32, 18),
    "iq3_s": TypeLayout(21, 256, 110),
    "iq2_s": TypeLayout(22, 256, 82),
    "iq4_xs": TypeLayout(23, 256, 136),
    "i8": TypeLayout(24, 1, 1),
    "i16": TypeLayout(25, 1, 2),
    "i32": TypeLayout(26, 1, 4),
    "i64": TypeLayout(27, 1, 8),
    "f64": TypeLayout(28, 1, 8),
    "iq1_m": TypeLayout(29, 256, 56),
    "bf16": TypeLayout(30, 1, 2),
    "tq1_0": TypeLayout(34, 256, 54),
    "tq2_0": TypeLayout(35, 256, 66),
    "mxfp4": TypeLayout(39, 32, 17),
    "nvfp4": TypeLayout(40, 64, 36),
    "q1_0": TypeLayout(41, 128, 18),
    "q2_0": TypeLayout(42, 64, 18),
}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor by name, shape (ggml's order: the row length first) and type name."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def n_bytes(self) -> int:
        layout = TYPES[self.type]
        if self.shape[0] % layout.block:
            raise ValueError(f"{self.name}: rows of {self.shape[0]} do not divide into {self.type}")
        return prod(self.shape) // layout.block * layout.block_bytes


def write_gguf(
    path: Path,
    *,
    metadata: Mapping[str, Value],
    tensors: Sequence[TensorSpec],
    version: int = 3,
    endian: Endian = "little",
    alignment: int = DEFAULT_ALIGNMENT,
    sparse: bool = True,
    seed: int = 0,
) -> None:
    """Write one GGUF file; `seed` picks the random weights of a file that is not sparse."""
    if not sparse and endian == "big":
        raise ValueError("random weights are written in little endian only")
    if alignment != DEFAULT_ALIGNMENT:
        metadata = {**metadata, "general.alignment": alignment}
    offsets, data_size = _offsets(tensors, alignment)
    encoder = _Encoder(endian)
    header = encoder.header(version, metadata, tensors, offsets)
    data_start = _padded(len(header), alignment)
    with path.open("wb") as file:
        file.write(header)
        if not sparse:
            _write_weights(file, tensors, [data_start + offset for offset in offsets], seed)
        file.truncate(data_start + data_size)


def write_shards(
    first: Path,
    *,
    metadata: Mapping[str, Value],
    tensors: Sequence[TensorSpec],
    count: int,
) -> list[Path]:
    """Write a model in `count` sparse files beside `first`, as gguf-split does.

    `first` is the name without a shard number. The metadata stands in the first file alone; the
    others have what joins them.
    """
    paths = [
        first.with_name(f"{first.stem}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]
    per_shard = -(-len(tensors) // count)
    for number, path in enumerate(paths):
        joint: dict[str, Value] = {
            "split.no": Typed(GgufType.UINT16, number),
            "split.count": Typed(GgufType.UINT16, count),
            "split.tensors.count": Typed(GgufType.INT32, len(tensors)),
        }
        write_gguf(
            path,
            metadata={**metadata, **joint} if number == 0 else joint,
            tensors=tensors[number * per_shard : (number + 1) * per_shard],
        )
    return paths


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _offsets(tensors: Sequence[TensorSpec], alignment: int) -> tuple[list[int], int]:
    offsets = []
    position = 0
    for tensor in tensors:
        offsets.append(position)
        position += _padded(tensor.n_bytes, alignment)
    return offsets, position


class _Encoder:
    """Numbers, strings and typed values as bytes of one byte order."""

    def __init__(self, endian: Endian) -> None:
        self._order = "<" if endian == "little" else ">"

    def header(
        self,
        version: int,
        metadata: Mapping[str, Value],
        tensors: Sequence[TensorSpec],
        offsets: Sequence[int],
    ) -> bytes:
        # The magic reads "GGUF" in either byte order; the version is what tells them apart.
        parts = [b"GGUF", self._pack("IQQ", version, len(tensors), len(metadata))]
        for key, value in metadata.items():
            parts += [self._string(key), self._value(value)]
        for tensor, offset in zip(tensors, offsets, strict=True):
            shape = self._pack(f"I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            place = self._pack("IQ", TYPES[tensor.type].id, offset)
            parts += [self._string(tensor.name), shape, place]
        return b"".join(parts)

    def _value(self, value: Value) -> bytes:
        typed = value if isinstance(value, Typed) else Typed(_natural_type(value), value)
        if isinstance(typed.value, Sequence) and not isinstance(typed.value, str):
            head = self._pack("IIQ", GgufType.ARRAY, typed.type, len(typed.value))
            return head + b"".join(self._scalar(typed.type, item) for item in typed.value)
        return self._pack("I", typed.type) + self._scalar(typed.type, typed.value)

    def _scalar(self, kind: GgufType, value: Scalar) -> bytes:
        return self._string(str(value)) if kind is GgufType.STRING else self._number(kind, value)

    def _number(self, kind: GgufType, value: Scalar) -> bytes:
        return self._pack(_STRUCT_CODES[kind], value)

    def _string(self, text: str) -> bytes:
        encoded = text.encode()
        return self._pack("Q", len(encoded)) + encoded

    def _pack(self, code: str, *values: Scalar) -> bytes:
        return struct.pack(self._order + code, *values)


def _natural_type(value: Scalar | Sequence[Scalar]) -> GgufType:
    """Pick what llama.cpp's converter writes: u32 for counts, f32 for real numbers."""
    if isinstance(value, str):
        return GgufType.STRING
    if isinstance(value, Sequence):
        if not value:
            raise ValueError("an empty array needs Typed to say of what")
        return _natural_type(value[0])
    if isinstance(value, bool):
        return GgufType.BOOL
    if isinstance(value, float):
        return GgufType.FLOAT32
    return GgufType.UINT32 if value >= 0 else GgufType.INT32


# Random bytes are small finite numbers once the exponent is fixed: the sign and the mantissa stay
# random. The high byte of an f16 then lies at 2^-5, that of an f32 at 2^-5 to 2^-3.
_SMALL_F16 = bytes(byte & 0x83 | 0x28 for byte in range(256))
_SMALL_F32 = bytes(byte & 0x80 | 0x3D for byte in range(256))
# In a block of quantised numbers only the f16 scales have an exponent: 2^-10 for each of them.
_SMALL_SCALE = (0x00, 0x14)
_SCALES_AT: Mapping[str, tuple[int, ...]] = {
    "q4_0": (0,),
    "q4_1": (0, 2),
    "q5_0": (0,),
    "q5_1": (0, 2),
    "q8_0": (0,),
    "q4_K": (0, 2),
    "q5_K": (0, 2),
    "q6_K": (208,),
}


def _write_weights(
    file: BinaryIO, tensors: Sequence[TensorSpec], positions: Sequence[int], seed: int
) -> None:
    source = random.Random(seed)  # noqa: S311 -- weights, not secrets
    for tensor, position in zip(tensors, positions, strict=True):
        file.seek(position)
        file.write(_random_weights(tensor, source))


def _random_weights(tensor: TensorSpec, source: random.Random) -> bytes:
    data = bytearray(source.randbytes(tensor.n_bytes))
    if tensor.type == "f16":
        data[1::2] = data[1::2].translate(_SMALL_F16)
    elif tensor.type in {"f32", "bf16"}:
        size = TYPES[tensor.type].block_bytes
        data[size - 1 :: size] = data[size - 1 :: size].translate(_SMALL_F32)
    elif tensor.type in _SCALES_AT:
        _fix_scales(data, tensor)
    else:
        raise ValueError(f"{tensor.name}: no random weights of type {tensor.type}")
    return bytes(data)


def _fix_scales(data: bytearray, tensor: TensorSpec) -> None:
    stride = TYPES[tensor.type].block_bytes
    n_blocks = len(data) // stride
    for scale in _SCALES_AT[tensor.type]:
        for byte, value in enumerate(_SMALL_SCALE):
            data[scale + byte :: stride] = bytes([value]) * n_blocks
