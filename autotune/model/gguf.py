"""Read the header of a GGUF file: metadata and tensor table, not one byte of weights.

Knows the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), not what keys mean.
Refuses what llama.cpp's own reader refuses (`ggml/src/gguf.cpp`), and additionally tensor data that
lies past the end of the file. Arrays longer than a model can have layers are jumped over: a
vocabulary of 262,144 strings costs 25 ms and no memory, where decoding it takes 10 s.

Hostile files: every count is bounded by the bytes that remain, the header by `MAX_HEADER_BYTES`,
and no more than one window of the file is in memory at a time.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import BinaryIO, Literal, NamedTuple

from autotune.errors import GGUFInvalid, printable

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT, ggml/include/gguf.h
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS, ggml/include/ggml.h
MAX_NAME_BYTES = 64  # GGML_MAX_NAME, ggml/include/ggml.h; the terminating zero counts
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h: no longer array can be one value a layer

# The largest vocabularies of 2026 have 262,144 entries and take 7 MB. A header of this size is a
# damaged or hostile file, and jumping over it would take seconds.
MAX_HEADER_BYTES = 1 << 28

# The models of 2026 have some 60 metadata pairs and at most a few thousand tensors.
MAX_PAIRS = 1 << 12
MAX_TENSORS = 1 << 16

_WINDOW_BYTES = 1 << 20
_KEPT_STRING_BYTES = 1 << 10  # No string that says what a model is comes near; chat templates do.
_HINT = "download or convert the model again; llama.cpp cannot load this file either"


class TensorType(NamedTuple):
    """How a ggml type packs its elements."""

    name: str
    block_elements: int
    block_bytes: int


# Ids from `enum ggml_type` in ggml/include/ggml.h, block sizes from ggml/src/ggml-common.h.
TENSOR_TYPES: Mapping[int, TensorType] = {
    0: TensorType("f32", 1, 4),
    1: TensorType("f16", 1, 2),
    2: TensorType("q4_0", 32, 18),
    3: TensorType("q4_1", 32, 20),
    6: TensorType("q5_0", 32, 22),
    7: TensorType("q5_1", 32, 24),
    8: TensorType("q8_0", 32, 34),
    9: TensorType("q8_1", 32, 36),
    10: TensorType("q2_K", 256, 84),
    11: TensorType("q3_K", 256, 110),
    12: TensorType("q4_K", 256, 144),
    13: TensorType("q5_K", 256, 176),
    14: TensorType("q6_K", 256, 210),
    15: TensorType("q8_K", 256, 292),
    16: TensorType("iq2_xxs", 256, 66),
    17: TensorType("iq2_xs", 256, 74),
    18: TensorType("iq3_xxs", 256, 98),
    19: TensorType("iq1_s", 256, 50),
    20: TensorType("iq4_nl", 32, 18),
    21: TensorType("iq3_s", 256, 110),
    22: TensorType("iq2_s", 256, 82),
    23: TensorType("iq4_xs", 256, 136),
    24: TensorType("i8", 1, 1),
    25: TensorType("i16", 1, 2),
    26: TensorType("i32", 1, 4),
    27: TensorType("i64", 1, 8),
    28: TensorType("f64", 1, 8),
    29: TensorType("iq1_m", 256, 56),
    30: TensorType("bf16", 1, 2),
    34: TensorType("tq1_0", 256, 54),
    35: TensorType("tq2_0", 256, 66),
    39: TensorType("mxfp4", 32, 17),
    40: TensorType("nvfp4", 64, 36),
    41: TensorType("q1_0", 128, 18),
    42: TensorType("q2_0", 64, 18),
}


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata; `values` is None where it was jumped over."""

    count: int
    values: tuple[int | float | bool, ...] | None


Value = int | float | bool | str | Array


class Tensor(NamedTuple):
    """One row of the tensor table. `shape` is in ggml's order: the row length first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    n_elements: int
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything a GGUF file says before its weights begin."""

    version: int
    byte_order: Literal["little", "big"]
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int  # Where the weights begin, in bytes from the start of the file.
    unknown_types: tuple[int, ...]  # Tensor types that are not in TENSOR_TYPES.


def read_header(stream: BinaryIO, size: int, where: str) -> Header:
    """Read the header at the start of `stream`, a file of `size` bytes; `where` names it in errors.

    Raises:
        GGUFInvalid: the bytes are not a GGUF that llama.cpp could load.
        OSError: the stream cannot be read.
    """
    if size == 0:
        raise GGUFInvalid(f"{where} is empty", hint=_HINT)
    reader = _Reader(stream, size, where)
    version, byte_order = _read_preamble(reader)
    n_tensors = reader.count("tensors", smallest=8 + 4 + 4 + 8, most=MAX_TENSORS)
    n_pairs = reader.count("metadata pairs", smallest=8 + 4 + 1, most=MAX_PAIRS)
    metadata = _read_metadata(reader, n_pairs)
    alignment = _alignment(reader, metadata)
    rows = [_read_tensor(reader) for _ in range(n_tensors)]
    data_offset = padded(reader.position, alignment)
    return Header(
        version=version,
        byte_order=byte_order,
        metadata=metadata,
        tensors=tuple(_sized(reader, rows, data_offset, alignment)),
        data_offset=data_offset,
        unknown_types=tuple(sorted({row.type for row in rows} - TENSOR_TYPES.keys())),
    )


class _Reader:
    """Typed reads from a stream, through a window that moves along it."""

    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self._stream = stream
        self._base = 0  # The file offset of the window.
        self._window = stream.read(_WINDOW_BYTES)
        self._at = 0  # The next byte, within the window.
        self.size = size
        self.where = where
        self.use_byte_order("little")

    def use_byte_order(self, byte_order: Literal["little", "big"]) -> None:
        self._prefix = "<" if byte_order == "little" else ">"
        self._u32 = struct.Struct(self._prefix + "I")
        self._u64 = struct.Struct(self._prefix + "Q")

    @property
    def position(self) -> int:
        return self._base + self._at

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def invalid(self, what: str) -> GGUFInvalid:
        return GGUFInvalid(f"{self.where} is not a valid GGUF file: {what}", hint=_HINT)

    def truncated(self) -> GGUFInvalid:
        return GGUFInvalid(
            f"{self.where} is truncated: it ends at byte {self.size:,}, inside the header",
            hint="the download or copy did not finish; fetch the model again",
        )

    def take(self, n_bytes: int) -> bytes:
        """The next `n_bytes`, which must be few: lengths from the file are checked before."""
        self._fill(n_bytes)
        start = self._at
        self._at += n_bytes
        return self._window[start : self._at]

    def skip(self, n_bytes: int) -> None:
        if n_bytes > self.remaining:
            raise self.truncated()
        self._at += n_bytes

    def u32(self) -> int:
        value: int = self._u32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = self._u64.unpack(self.take(8))[0]
        return value

    def count(self, what: str, *, smallest: int, most: int = MAX_HEADER_BYTES) -> int:
        """A number of things, `most` at most, of which each takes at least `smallest` bytes."""
        count = self.u64()
        if count * smallest > self.remaining:
            raise self.invalid(
                f"it announces {count:,} {what}, but only {self.remaining:,} bytes remain"
            )
        if count > most:
            raise self.invalid(f"it announces {count:,} {what}, more than {most:,}")
        return count

    def string(self) -> str:
        length = self.count("bytes of text", smallest=1)
        kept = self.take(min(length, _KEPT_STRING_BYTES))
        self.skip(length - len(kept))
        return printable(kept.decode(errors="replace"))

    def numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        layout = struct.Struct(f"{self._prefix}{count}{code}")
        return layout.unpack(self.take(layout.size))

    def skip_strings(self, count: int) -> None:
        """Jump over `count` strings. The hottest loop of the quick path: keep it this bare."""
        unpack_length = self._u64.unpack_from
        while count:
            self._fill(8)
            window, at, jumped = self._window, self._at, 0
            try:
                for jumped in range(count):  # noqa: B007 - how far it came is used below
                    at += unpack_length(window, at)[0] + 8
                jumped = count
            except (struct.error, OverflowError):  # The next length lies beyond the window.
                pass
            count -= jumped
            self.skip(at - self._at)

    def _fill(self, n_bytes: int) -> None:
        """Have the next `n_bytes` in the window."""
        if self._at + n_bytes <= len(self._window):
            return
        if n_bytes > self.remaining:
            raise self.truncated()
        position = self.position
        if position + n_bytes > MAX_HEADER_BYTES:
            raise self.invalid(f"its header is larger than {MAX_HEADER_BYTES:,} bytes")
        self._stream.seek(position)
        self._base, self._at = position, 0
        self._window = self._stream.read(max(n_bytes, _WINDOW_BYTES))
        if len(self._window) < n_bytes:  # The file shrank while it was read.
            raise self.truncated()


def _read_preamble(reader: _Reader) -> tuple[int, Literal["little", "big"]]:
    magic = reader.take(min(len(MAGIC), reader.size))
    if magic != MAGIC:
        raise GGUFInvalid(
            f"{reader.where} is not a GGUF file: it begins with {magic!r}",
            hint="llama.cpp loads GGUF; convert other formats with its convert_hf_to_gguf.py",
        )
    version = reader.u32()
    byte_order: Literal["little", "big"] = "little"
    if version & 0xFFFF == 0:  # llama.cpp's own test for the other byte order.
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
        byte_order = "big"
        reader.use_byte_order(byte_order)
    if version not in (2, 3):
        raise reader.invalid(f"version {version} is not supported; llama.cpp reads 2 and 3")
    return version, byte_order


# struct's codes of the scalar GGUF types, by id; 8 is a string, 9 an array.
_NUMBER_CODES = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


def _read_metadata(reader: _Reader, n_pairs: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(n_pairs):
        key = reader.string()
        if not key or key in metadata:
            raise reader.invalid(f"the key {key!r} is {'duplicated' if key else 'empty'}")
        metadata[key] = _read_value(reader, key, reader.u32())
    return metadata


def _read_value(reader: _Reader, key: str, kind: int) -> Value:
    if kind == _STRING:
        return reader.string()
    if kind == _ARRAY:
        return _read_array(reader, key)
    if kind in _NUMBER_CODES:
        return reader.numbers(_NUMBER_CODES[kind], 1)[0]
    raise reader.invalid(f"{key!r} has the unknown type {kind}")


def _read_array(reader: _Reader, key: str) -> Array:
    kind = reader.u32()
    if kind == _STRING:
        count = reader.count(f"strings in {key!r}", smallest=8)
        reader.skip_strings(count)
        return Array(count, None)
    if kind not in _NUMBER_CODES:
        raise reader.invalid(f"{key!r} is an array of the unknown type {kind}")
    code = _NUMBER_CODES[kind]
    element_bytes = struct.calcsize(f"={code}")
    count = reader.count(f"numbers in {key!r}", smallest=element_bytes)
    if count <= MAX_LAYERS:
        return Array(count, reader.numbers(code, count))
    reader.skip(count * element_bytes)
    return Array(count, None)


def _alignment(reader: _Reader, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise reader.invalid(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


class _Row(NamedTuple):
    """A row of the tensor table as it stands in the file."""

    name: str
    shape: tuple[int, ...]
    n_elements: int
    type: int
    offset: int


def _read_tensor(reader: _Reader) -> _Row:
    name = reader.string()
    if len(name.encode()) >= MAX_NAME_BYTES:
        raise reader.invalid(f"the tensor name {name[:MAX_NAME_BYTES]!r}... is too long")
    n_dimensions = reader.u32()
    if n_dimensions > MAX_DIMENSIONS:
        raise reader.invalid(f"tensor {name!r} has {n_dimensions} dimensions")
    shape = tuple([reader.u64() for _ in range(n_dimensions)])
    n_elements = 1
    for length in shape:
        n_elements *= length
    if max((n_elements, *shape)) >= 1 << 63:
        raise reader.invalid(f"tensor {name!r} has the impossible shape {shape}")
    return _Row(name, shape, n_elements, reader.u32(), reader.u64())


def _sized(reader: _Reader, rows: list[_Row], data_offset: int, alignment: int) -> Iterator[Tensor]:
    """Give each row its bytes, and check that they lie within the file, one behind the other."""
    end_of_file = max(reader.size - data_offset, 0)
    seen: set[str] = set()
    expected = 0
    for row, following in zip_longest(rows, rows[1:]):
        if row.name in seen:
            raise reader.invalid(f"tensor {row.name!r} is listed twice")
        seen.add(row.name)
        if row.offset % alignment:
            raise reader.invalid(f"tensor {row.name!r} does not begin at a multiple of {alignment}")
        if row.offset != expected:
            raise reader.invalid(f"tensor {row.name!r} does not begin where the one before it ends")
        n_bytes, type_name = _bytes_of(reader, row, following.offset if following else end_of_file)
        if row.offset + n_bytes > end_of_file:
            raise GGUFInvalid(
                f"{reader.where} is truncated: tensor {row.name!r} ends at byte "
                f"{data_offset + row.offset + n_bytes:,}, the file at byte {reader.size:,}",
                hint="the download or copy did not finish; fetch the model again",
            )
        expected = padded(row.offset + n_bytes, alignment)
        yield Tensor(row.name, row.shape, type_name, row.n_elements, n_bytes)


def _bytes_of(reader: _Reader, row: _Row, end: int) -> tuple[int, str]:
    """The bytes and type name of a row; of an unknown type, the bytes up to the next tensor."""
    known = TENSOR_TYPES.get(row.type)
    if known is None:
        return max(end - row.offset, 0), f"type {row.type}"
    row_elements = row.shape[0] if row.shape else 1
    if row_elements % known.block_elements:
        raise reader.invalid(
            f"tensor {row.name!r} has rows of {row_elements} elements, not a multiple of the "
            f"{known.block_elements} that {known.name} packs together"
        )
    return row.n_elements // known.block_elements * known.block_bytes, known.name


def padded(size: int, alignment: int) -> int:
    """The least multiple of `alignment` that `size` fits into."""
    return -(-size // alignment) * alignment
