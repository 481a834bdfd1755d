from __future__ import annotations

import struct
import tracemalloc
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from fakes.gguf_writer import TYPES, Endian, GgufType, TensorSpec, Typed, Value, write_gguf

from autotune.errors import GGUFInvalid
from autotune.model.gguf import TENSOR_TYPES, Array, Header, Tensor, read_header

if TYPE_CHECKING:
    from pathlib import Path

MEBI = 2**20
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1
U8, U32, F32, STRING, ARRAY = 0, 4, 6, 8, 9

# What `write_gguf` does not write, because no converter does, is put together from these.


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def preamble(*, n_tensors: int = 0, n_pairs: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)


def pair(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def number(key: str, value: int) -> bytes:
    return pair(key, U32, struct.pack("<I", value))


def array(key: str, kind: int, count: int, payload: bytes = b"") -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + payload)


def row(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return text(name) + numbers


def table(*rows: bytes, weights: int = 0) -> bytes:
    """Put a file together from rows of the tensor table and zeros for weights."""
    header = preamble(n_tensors=len(rows)) + b"".join(rows)
    return header + bytes(-len(header) % 32 + weights)


def read(data: bytes, size: int | None = None) -> Header:
    return read_header(BytesIO(data), len(data) if size is None else size, "model.gguf")


def refusal(data: bytes, size: int | None = None) -> str:
    """Give what is said of a file that is not read."""
    with pytest.raises(GGUFInvalid) as caught:
        read(data, size)
    return caught.value.message


def written(
    folder: Path,
    metadata: dict[str, Value] | None = None,
    tensors: tuple[TensorSpec, ...] = (),
    **options: Any,  # noqa: ANN401 - passed on as they come
) -> bytes:
    file = folder / "model.gguf"
    write_gguf(file, metadata=metadata or {}, tensors=tensors, **options)
    return file.read_bytes()


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_both_versions_are_read_in_both_byte_orders(
    tmp_path: Path, version: int, endian: Endian
) -> None:
    metadata: dict[str, Value] = {"a": 7, "b": "text", "c": [1, 2, 3]}
    tensors = (TensorSpec("w", (64, 2), "q8_0"), TensorSpec("v", (5,), "f16"))

    header = read(written(tmp_path, metadata, tensors, version=version, endian=endian))

    assert header == Header(
        version=version,
        byte_order=endian,
        metadata={"a": 7, "b": "text", "c": Array(3, (1, 2, 3))},
        tensors=(Tensor("w", (64, 2), "q8_0", 128, 136), Tensor("v", (5,), "f16", 5, 10)),
        data_offset=192,
        unknown_types=(),
    )


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (GgufType.UINT8, 255),
        (GgufType.INT8, -128),
        (GgufType.UINT16, 65535),
        (GgufType.INT16, -32768),
        (GgufType.UINT32, 2**32 - 1),
        (GgufType.INT32, -(2**31)),
        (GgufType.FLOAT32, 0.5),
        (GgufType.BOOL, True),
        (GgufType.STRING, "Grüße"),
        (GgufType.UINT64, UINT64_MAX),
        (GgufType.INT64, -(2**63)),
        (GgufType.FLOAT64, 0.1),
    ],
    ids=lambda part: part.name if isinstance(part, GgufType) else "",
)
def test_every_type_of_value_is_read(
    tmp_path: Path, kind: GgufType, value: float | str, endian: Endian
) -> None:
    header = read(written(tmp_path, {"key": Typed(kind, value)}, endian=endian))

    assert header.metadata == {"key": value}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (GgufType.BOOL, (True, False)),
        (GgufType.UINT8, (0, 255)),
        (GgufType.INT32, (-1, 0, 1)),
        (GgufType.UINT64, (UINT64_MAX,)),
        (GgufType.FLOAT32, (0.5, -0.25)),
        (GgufType.FLOAT64, (0.1,)),
        (GgufType.INT16, ()),
    ],
    ids=lambda part: part.name if isinstance(part, GgufType) else "",
)
def test_a_short_array_of_numbers_is_kept(
    tmp_path: Path, kind: GgufType, values: tuple[int, ...]
) -> None:
    header = read(written(tmp_path, {"key": Typed(kind, values)}))

    assert header.metadata == {"key": Array(len(values), values)}


@pytest.mark.parametrize(
    ("count", "kept"), [(512, True), (513, False)], ids=["one a layer", "longer"]
)
def test_an_array_is_jumped_over_where_no_model_has_that_many_layers(
    tmp_path: Path, count: int, *, kept: bool
) -> None:
    numbers = tuple(range(count))

    header = read(written(tmp_path, {"key": numbers, "after": 1}))

    assert header.metadata == {"key": Array(count, numbers if kept else None), "after": 1}


@pytest.mark.parametrize("strings", [(), ("",), ("a", "", "bcd")], ids=len)
def test_strings_in_an_array_are_counted_and_not_kept(
    tmp_path: Path, strings: tuple[str, ...]
) -> None:
    header = read(written(tmp_path, {"key": Typed(GgufType.STRING, strings), "after": 1}))

    assert header.metadata == {"key": Array(len(strings), None), "after": 1}


def test_of_a_long_string_the_beginning_is_kept(tmp_path: Path) -> None:
    header = read(written(tmp_path, {"template": "0123456789" * 500, "after": 1}))

    assert header.metadata == {"template": ("0123456789" * 103)[:1024], "after": 1}


def test_bytes_that_are_no_text_are_replaced() -> None:
    data = preamble(n_pairs=1) + pair("name", STRING, text(b"a\xffb"))

    assert read(data).metadata == {"name": "a\N{REPLACEMENT CHARACTER}b"}


@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_weights_begin_at_a_multiple_of_the_alignment(tmp_path: Path, alignment: int) -> None:
    tensors = tuple(TensorSpec(name, (3,), "f32") for name in ("first", "second"))

    data = written(tmp_path, {"general.alignment": alignment}, tensors, alignment=alignment)

    header_bytes = data.index(b"second") + len("second") + struct.calcsize("<IQIQ")
    assert read(data).data_offset == -(-header_bytes // alignment) * alignment


def test_the_sizes_of_all_types_are_those_that_llama_cpp_has() -> None:
    assert {t.name: (i, t.block_elements, t.block_bytes) for i, t in TENSOR_TYPES.items()} == {
        # Only in flight: no file holds them, so `write_gguf` does not write them.
        "q8_1": (9, 32, 36),
        "q8_K": (15, 256, 292),
        **{name: tuple(layout) for name, layout in TYPES.items()},
    }


def test_a_tensor_of_unknown_type_is_as_long_as_the_way_to_the_next() -> None:
    rows = (row("new", (8,), kind=99), row("w", (2,), offset=64), row("last", (1,), 77, offset=96))

    header = read(table(*rows, weights=128))

    assert header.tensors == (
        Tensor("new", (8,), "type 99", 8, 64),
        Tensor("w", (2,), "f32", 2, 8),
        Tensor("last", (1,), "type 77", 1, 32),
    )
    assert header.unknown_types == (77, 99)


def test_a_tensor_without_dimensions_is_one_number() -> None:
    (tensor,) = read(table(row("scalar", ()), weights=4)).tensors

    assert tensor == Tensor("scalar", (), "f32", 1, 4)


def test_a_tensor_with_an_empty_dimension_takes_no_bytes() -> None:
    (tensor,) = read(table(row("none", (4, 0)))).tensors

    assert (tensor.n_elements, tensor.n_bytes) == (0, 0)


def test_the_name_of_a_tensor_may_be_one_byte_less_than_the_limit() -> None:
    (tensor,) = read(table(row("n" * 63, (1,)), weights=4)).tensors

    assert tensor.name == "n" * 63


def test_a_file_may_hold_nothing_but_its_preamble() -> None:
    header = read(preamble())

    assert (header.metadata, header.tensors) == ({}, ())


# --- memory and windows --------------------------------------------------------------------------


def vocabulary(n_tokens: int, length: int = 24) -> bytes:
    tokens = b"".join(text(f"{n:0{length}}") for n in range(n_tokens))
    return (
        preamble(n_pairs=2)
        + array("tokenizer.ggml.tokens", STRING, n_tokens, tokens)
        + number("after", 7)
    )


def test_a_vocabulary_of_300_000_strings_costs_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    file.write_bytes(vocabulary(300_000))

    with file.open("rb", buffering=0) as stream:
        tracemalloc.start()
        try:
            header = read_header(stream, file.stat().st_size, "model.gguf")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert header.metadata == {"tokenizer.ggml.tokens": Array(300_000, None), "after": 7}
    # The window that is left and the one that is read; the file has 9 MiB.
    assert peak < 3 * MEBI


@pytest.mark.parametrize("length", range(17), ids="{} bytes".format)
def test_strings_are_jumped_over_wherever_a_window_ends(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("autotune.model.gguf._WINDOW_BYTES", 16)

    header = read(vocabulary(50, length))

    assert header.metadata == {"tokenizer.ggml.tokens": Array(50, None), "after": 7}


def test_a_string_may_be_longer_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.model.gguf._WINDOW_BYTES", 16)
    data = preamble(n_pairs=2) + pair("a", STRING, text("x" * 5000)) + number("after", 7)

    assert read(data).metadata == {"a": "x" * 1024, "after": 7}


@pytest.mark.parametrize("window", [*range(16, 65), 1000], ids="{} bytes".format)
def test_a_header_reads_alike_through_any_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    metadata: dict[str, Value] = {
        "text": "some words that are longer than a window " * 3,
        "tokens": [f"token {n}" * (n % 5) for n in range(40)],
        "scores": [0.5] * 600,
        "flags": [True, False] * 30,
        "count": Typed(GgufType.UINT64, 2**40),
    }
    tensors = tuple(TensorSpec(f"blk.{n}.weight", (32, n + 1), "q4_0") for n in range(5))
    data = written(tmp_path, metadata, tensors)
    expected = read(data)

    monkeypatch.setattr("autotune.model.gguf._WINDOW_BYTES", window)

    assert read(data) == expected


# --- what is refused -----------------------------------------------------------------------------


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"") == "model.gguf is empty"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"PK\x03\x04" + bytes(60), r"b'PK\x03\x04'"),
        (struct.pack("<Q", 60) + b'{"__metadata__"', r"b'<\x00\x00\x00'"),
        (b"ggjt" + bytes(60), "b'ggjt'"),
        (b"FUGG" + bytes(60), "b'FUGG'"),
        (b"GG", "b'GG'"),
        (b"\n", r"b'\n'"),
    ],
    ids=["zip", "safetensors", "before GGUF", "reversed", "two bytes", "one byte"],
)
def test_another_format_is_refused_with_what_it_begins_with(data: bytes, shown: str) -> None:
    assert refusal(data) == f"model.gguf is not a GGUF file: it begins with {shown}"


@pytest.mark.parametrize("version", [0, 1, 4, 255, 0x10001])
def test_another_version_is_refused(version: int) -> None:
    assert refusal(preamble(version=version)) == (
        f"model.gguf is not a valid GGUF file: version {version} is not supported; "
        "llama.cpp reads 2 and 3"
    )


def test_another_version_in_big_endian_is_refused_by_its_number() -> None:
    data = b"GGUF" + struct.pack(">IQQ", 4, 0, 0)

    assert "version 4 is not supported" in refusal(data)


def small_file(folder: Path) -> bytes:
    """Write one of everything that a header can hold."""
    return written(
        folder,
        {"text": "words", "number": 7, "numbers": [1, 2], "strings": ["a", "bc"]},
        (TensorSpec("w", (64, 2), "q8_0"), TensorSpec("v", (8,), "f32")),
    )


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    data = small_file(tmp_path)

    messages = {refusal(data[:length]).split(":")[0] for length in range(4, len(data))}

    assert messages == {"model.gguf is not a valid GGUF file", "model.gguf is truncated"}


def test_a_file_cut_in_its_header_is_called_truncated(tmp_path: Path) -> None:
    data = small_file(tmp_path)
    end = read(data).data_offset

    assert refusal(data[: end - 40]) == (
        f"model.gguf is truncated: it ends at byte {end - 40}, inside the header"
    )


def test_a_file_cut_in_its_weights_names_the_tensor(tmp_path: Path) -> None:
    data = small_file(tmp_path)
    start = read(data).data_offset

    assert refusal(data[: start + 140]) == (
        f"model.gguf is truncated: tensor 'v' ends at byte {start + 192}, "
        f"the file at byte {start + 140}"
    )


def test_the_padding_after_the_last_tensor_may_be_missing() -> None:
    data = table(row("w", (3,)), weights=12)

    assert read(data).tensors == (Tensor("w", (3,), "f32", 3, 12),)


def test_a_file_that_shrinks_while_it_is_read_is_called_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.model.gguf._WINDOW_BYTES", 32)
    data = small_file(tmp_path)

    assert "is truncated" in refusal(data[:100], size=len(data))


HOSTILE = (2**63, UINT64_MAX, 2**32, 10_000)


@pytest.mark.parametrize("count", HOSTILE)
def test_more_tensors_than_fit_are_refused(count: int) -> None:
    assert refusal(preamble(n_tensors=count) + bytes(100)) == (
        f"model.gguf is not a valid GGUF file: it announces {count:,} tensors, "
        "but only 108 bytes remain"
    )


@pytest.mark.parametrize("count", HOSTILE)
def test_more_metadata_than_fits_is_refused(count: int) -> None:
    assert refusal(preamble(n_pairs=count) + bytes(100)) == (
        f"model.gguf is not a valid GGUF file: it announces {count:,} metadata pairs, "
        "but only 100 bytes remain"
    )


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (preamble(n_tensors=65_537), "65,537 tensors, more than 65,536"),
        (preamble(n_pairs=4097), "4,097 metadata pairs, more than 4,096"),
    ],
    ids=["tensors", "pairs"],
)
def test_more_than_any_model_has_is_refused_in_a_file_of_any_size(head: bytes, what: str) -> None:
    assert refusal(head, size=2**40) == f"model.gguf is not a valid GGUF file: it announces {what}"


@pytest.mark.parametrize("length", [2**63, UINT64_MAX, 1000])
@pytest.mark.parametrize("place", ["key", "value", "tensor"])
def test_a_string_that_is_longer_than_the_file_is_refused(place: str, length: int) -> None:
    head = {
        "key": preamble(n_pairs=1),
        "value": preamble(n_pairs=1) + pair("key", STRING, b""),
        "tensor": preamble(n_tensors=1),
    }[place]

    assert refusal(head + struct.pack("<Q", length) + bytes(50)) == (
        f"model.gguf is not a valid GGUF file: it announces {length:,} bytes of text, "
        "but only 50 bytes remain"
    )


@pytest.mark.parametrize("kind", [U8, F32, STRING], ids=["bytes", "floats", "strings"])
@pytest.mark.parametrize("count", [2**63, UINT64_MAX, 1000])
def test_an_array_that_is_longer_than_the_file_is_refused(kind: int, count: int) -> None:
    things = "strings" if kind == STRING else "numbers"
    data = preamble(n_pairs=1) + array("key", kind, count, bytes(50))

    assert refusal(data) == (
        f"model.gguf is not a valid GGUF file: it announces {count:,} {things} in 'key', "
        "but only 50 bytes remain"
    )


@pytest.mark.parametrize("length", [2**63, UINT64_MAX, 1000])
@pytest.mark.parametrize("before", [0, 1, 9], ids="after {}".format)
def test_a_string_in_an_array_that_is_longer_than_the_file_is_refused(
    before: int, length: int
) -> None:
    strings = text("token") * before + struct.pack("<Q", length) + bytes(300)
    data = preamble(n_pairs=1) + array("key", STRING, 10, strings)

    assert refusal(data) == (
        f"model.gguf is truncated: it ends at byte {len(data)}, inside the header"
    )


def test_a_header_of_no_end_is_refused() -> None:
    data = preamble(n_pairs=2) + array("key", U8, 2**28)

    assert refusal(data, size=2**40) == (
        "model.gguf is not a valid GGUF file: its header is larger than 268,435,456 bytes"
    )


def test_an_array_of_arrays_is_refused() -> None:
    assert refusal(preamble(n_pairs=1) + array("key", ARRAY, 1, bytes(50))) == (
        "model.gguf is not a valid GGUF file: 'key' is an array of the unknown type 9"
    )


@pytest.mark.parametrize("kind", [13, 2**32 - 1])
def test_an_unknown_type_of_value_is_refused(kind: int) -> None:
    assert refusal(preamble(n_pairs=1) + pair("key", kind, bytes(50))) == (
        f"model.gguf is not a valid GGUF file: 'key' has the unknown type {kind}"
    )


def test_a_key_given_twice_is_refused() -> None:
    data = preamble(n_pairs=2) + number("key", 1) + number("key", 2)

    assert refusal(data) == "model.gguf is not a valid GGUF file: the key 'key' is duplicated"


def test_a_key_without_a_name_is_refused() -> None:
    data = preamble(n_pairs=1) + number("", 1)

    assert refusal(data) == "model.gguf is not a valid GGUF file: the key '' is empty"


@pytest.mark.parametrize(
    "data",
    [
        preamble(n_pairs=1) + pair("k\x1b[31m\ney", 13, bytes(50)),
        preamble(n_pairs=1) + array("k\x1b[31m\ney", 13, 1, bytes(50)),
        preamble(n_pairs=1) + array("k\x1b[31m\ney", STRING, 2**63, bytes(50)),
        preamble(n_pairs=2) + number("k\x1b[31m\ney", 1) * 2,
        table(row("w\x1b[31m\n", (1,), offset=1)),
    ],
    ids=["type", "array's type", "count", "twice", "tensor"],
)
def test_what_the_file_says_is_printed_without_its_control_characters(data: bytes) -> None:
    assert refusal(data).isprintable()


def test_a_tensor_listed_twice_is_refused() -> None:
    data = table(row("w", (8,)), row("w", (8,), offset=32), weights=64)

    assert refusal(data) == "model.gguf is not a valid GGUF file: tensor 'w' is listed twice"


def test_a_tensor_whose_name_is_too_long_is_refused() -> None:
    assert refusal(table(row("n" * 64, (1,)), weights=4)) == (
        f"model.gguf is not a valid GGUF file: the tensor name '{'n' * 64}'... is too long"
    )


def test_a_tensor_of_five_dimensions_is_refused() -> None:
    assert refusal(table(row("w", (1, 1, 1, 1, 1)), weights=4)) == (
        "model.gguf is not a valid GGUF file: tensor 'w' has 5 dimensions"
    )


@pytest.mark.parametrize(
    "shape",
    [(2**63,), (2**32, 2**31), (2**63, 0), (UINT64_MAX, 1), (2**16, 2**16, 2**16, 2**15)],
    ids=str,
)
def test_a_shape_that_no_machine_can_count_is_refused(shape: tuple[int, ...]) -> None:
    assert refusal(table(row("w", shape), weights=64)) == (
        f"model.gguf is not a valid GGUF file: tensor 'w' has the impossible shape {shape}"
    )


def test_a_shape_that_a_machine_can_count_but_no_disk_hold_is_truncated() -> None:
    assert "is truncated: tensor 'w' ends" in refusal(table(row("w", (INT64_MAX,)), weights=64))


def test_a_tensor_off_the_alignment_is_refused() -> None:
    assert refusal(table(row("w", (1,), offset=16), weights=64)) == (
        "model.gguf is not a valid GGUF file: tensor 'w' does not begin at a multiple of 32"
    )


@pytest.mark.parametrize(
    "offsets", [(32, 64), (0, 0), (0, 64), (0, 2**63)], ids=["late", "same", "gap", "far"]
)
def test_tensors_that_do_not_follow_each_other_are_refused(offsets: tuple[int, int]) -> None:
    rows = [row(f"w{n}", (8,), offset=offset) for n, offset in enumerate(offsets)]

    assert refusal(table(*rows, weights=128)).endswith(
        "does not begin where the one before it ends"
    )


def test_tensors_that_go_back_after_an_unknown_type_are_refused() -> None:
    rows = (row("a", (8,)), row("new", (8,), 99, offset=32), row("b", (8,), offset=0))

    assert "tensor 'b' does not begin where" in refusal(table(*rows, weights=128))


def test_a_row_that_does_not_divide_into_blocks_is_refused() -> None:
    assert refusal(table(row("w", (48, 2), kind=2), weights=64)) == (
        "model.gguf is not a valid GGUF file: tensor 'w' has rows of 48 elements, "
        "not a multiple of the 32 that q4_0 packs together"
    )


@pytest.mark.parametrize("alignment", [0, 3, 33])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    assert refusal(preamble(n_pairs=1) + number("general.alignment", alignment)) == (
        f"model.gguf is not a valid GGUF file: general.alignment is {alignment}, not a power of two"
    )


@pytest.mark.parametrize(
    "value",
    [32.0, "32", Typed(GgufType.UINT32, [32]), Typed(GgufType.INT32, -32), True],
    ids=["float", "string", "array", "negative", "bool"],
)
def test_an_alignment_of_another_type_is_refused(tmp_path: Path, value: Value) -> None:
    assert "general.alignment is" in refusal(written(tmp_path, {"general.alignment": value}))


def test_an_alignment_beyond_the_end_of_the_file_leaves_no_weights() -> None:
    data = preamble(n_tensors=1, n_pairs=1) + number("general.alignment", 2**31) + row("w", (1,))

    assert "is truncated: tensor 'w' ends at byte 2,147,483,652" in refusal(data + bytes(64))


def test_every_refusal_says_what_to_do() -> None:
    broken = [b"", b"ggml", preamble(version=9), preamble(n_pairs=9), table(row("w", (9,)))]
    hints = []
    for data in broken:
        with pytest.raises(GGUFInvalid) as caught:
            read(data)
        hints.append(caught.value.hint)

    assert all(hints)
