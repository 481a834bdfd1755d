from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import pytest
from fakes.gguf_writer import (
    DEFAULT_ALIGNMENT,
    TYPES,
    GgufType,
    Scalar,
    TensorSpec,
    Typed,
    Value,
    write_gguf,
    write_shards,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MEBI = 1024 * 1024


def written(
    path: Path,
    metadata: dict[str, Value],
    tensors: Sequence[TensorSpec] = (),
    *,
    alignment: int = DEFAULT_ALIGNMENT,
) -> bytes:
    file = path / "model.gguf"
    write_gguf(file, metadata=metadata, tensors=tensors, alignment=alignment)
    return file.read_bytes()


def test_a_file_is_laid_out_as_the_format_says(tmp_path: Path) -> None:
    tensor = TensorSpec("w", (64, 2), "q8_0")

    data = written(tmp_path, {"n": 7}, [tensor])

    header = b"".join(
        [
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1),
            struct.pack("<Q", 1) + b"n" + struct.pack("<II", 4, 7),
            struct.pack("<Q", 1) + b"w" + struct.pack("<IQQIQ", 2, 64, 2, 8, 0),
        ]
    )
    assert data[: len(header)] == header
    start = math.ceil(len(header) / 32) * 32
    # Four blocks of 34 bytes, and what is missing to the next multiple of 32.
    assert len(data) == start + 160


def test_a_big_endian_file_has_every_number_the_other_way_round(tmp_path: Path) -> None:
    file = tmp_path / "big.gguf"

    write_gguf(file, metadata={"n": 7}, tensors=[], endian="big")

    expected = b"GGUF" + struct.pack(">IQQQ", 3, 0, 1, 1) + b"n" + struct.pack(">II", 4, 7)
    assert file.read_bytes()[: len(expected)] == expected


@pytest.mark.parametrize(
    ("value", "kind", "payload"),
    [
        (True, GgufType.BOOL, b"\x01"),
        (5, GgufType.UINT32, struct.pack("<I", 5)),
        (-5, GgufType.INT32, struct.pack("<i", -5)),
        (0.5, GgufType.FLOAT32, struct.pack("<f", 0.5)),
        ("é", GgufType.STRING, struct.pack("<Q", 2) + "é".encode()),
        (Typed(GgufType.UINT8, 200), GgufType.UINT8, b"\xc8"),
        (Typed(GgufType.INT8, -1), GgufType.INT8, b"\xff"),
        (Typed(GgufType.UINT16, 1), GgufType.UINT16, struct.pack("<H", 1)),
        (Typed(GgufType.INT16, -1), GgufType.INT16, struct.pack("<h", -1)),
        (Typed(GgufType.UINT64, 2**40), GgufType.UINT64, struct.pack("<Q", 2**40)),
        (Typed(GgufType.INT64, -(2**40)), GgufType.INT64, struct.pack("<q", -(2**40))),
        (Typed(GgufType.FLOAT64, 0.1), GgufType.FLOAT64, struct.pack("<d", 0.1)),
    ],
)
def test_a_value_has_its_type_and_its_bytes(
    tmp_path: Path, value: Value, kind: GgufType, payload: bytes
) -> None:
    data = written(tmp_path, {"key": value})

    assert struct.pack("<I", kind) + payload in data


@pytest.mark.parametrize(
    ("value", "kind", "items"),
    [
        ([1, 2], GgufType.UINT32, struct.pack("<II", 1, 2)),
        ([True, False], GgufType.BOOL, b"\x01\x00"),
        (["a", "bc"], GgufType.STRING, struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 2) + b"bc"),
        (Typed(GgufType.INT8, [-1, 1]), GgufType.INT8, b"\xff\x01"),
        (Typed(GgufType.STRING, []), GgufType.STRING, b""),
    ],
)
def test_an_array_says_of_what_and_how_many(
    tmp_path: Path, value: Typed | list[Scalar], kind: GgufType, items: bytes
) -> None:
    count = len(value.value) if isinstance(value, Typed) and isinstance(value.value, list) else 2

    data = written(tmp_path, {"key": value})

    assert struct.pack("<IIQ", GgufType.ARRAY, kind, count) + items in data


def test_an_empty_array_without_a_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty array"):
        written(tmp_path, {"key": []})


def test_a_row_that_does_not_divide_into_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not divide into q4_K"):
        written(tmp_path, {}, [TensorSpec("w", (640, 2), "q4_K")])


def test_every_tensor_starts_at_a_multiple_of_the_alignment(tmp_path: Path) -> None:
    tensors = [TensorSpec(name, (3,), "f32") for name in ("first", "second")]

    data = written(tmp_path, {}, tensors, alignment=128)

    assert b"general.alignment" + struct.pack("<II", GgufType.UINT32, 128) in data
    assert b"second" + struct.pack("<IQIQ", 1, 3, TYPES["f32"].id, 128) in data
    assert len(data) % 128 == 0


def test_a_sparse_file_has_its_size_and_takes_no_disk(tmp_path: Path) -> None:
    file = tmp_path / "large.gguf"

    write_gguf(file, metadata={}, tensors=[TensorSpec("w", (4096, 4096, 128), "q4_K")])

    assert file.stat().st_size > 1000 * MEBI
    assert file.stat().st_blocks * 512 < MEBI


def test_shards_share_out_the_tensors_and_the_first_has_the_metadata(tmp_path: Path) -> None:
    tensors = [TensorSpec(f"blk.{n}.w", (32,), "f32") for n in range(5)]

    paths = write_shards(
        tmp_path / "model.gguf", metadata={"general.name": "m"}, tensors=tensors, count=3
    )

    assert [path.name for path in paths] == [
        "model-00001-of-00003.gguf",
        "model-00002-of-00003.gguf",
        "model-00003-of-00003.gguf",
    ]
    contents = [path.read_bytes() for path in paths]
    assert [b"general.name" in data for data in contents] == [True, False, False]
    assert [data.count(b"blk.") for data in contents] == [2, 2, 1]
    for number, data in enumerate(contents):
        assert b"split.no" + struct.pack("<IH", GgufType.UINT16, number) in data
        assert b"split.count" + struct.pack("<IH", GgufType.UINT16, 3) in data
        assert b"split.tensors.count" + struct.pack("<Ii", GgufType.INT32, 5) in data


def weights(path: Path, kind: str, seed: int = 0) -> bytes:
    # 32 blocks at the least: whatever their size, they end where the file does.
    tensor = TensorSpec("w", (256, 32), kind)
    file = path / "model.gguf"
    write_gguf(file, metadata={}, tensors=[tensor], sparse=False, seed=seed)
    return file.read_bytes()[-tensor.n_bytes :]


@pytest.mark.parametrize(("kind", "code"), [("f32", "f"), ("f16", "e")])
def test_random_weights_are_small_and_finite(tmp_path: Path, kind: str, code: str) -> None:
    numbers = struct.unpack(f"<8192{code}", weights(tmp_path, kind))

    assert all(0 < abs(number) < 0.2 for number in numbers)
    assert len(set(numbers)) > 100


@pytest.mark.parametrize(
    ("kind", "scales"),
    [("q4_0", [0]), ("q8_0", [0]), ("q4_K", [0, 2]), ("q6_K", [208])],
)
def test_random_blocks_have_a_small_scale(tmp_path: Path, kind: str, scales: list[int]) -> None:
    data = weights(tmp_path, kind)

    for start in range(0, len(data), TYPES[kind].block_bytes):
        for scale in scales:
            assert struct.unpack_from("<e", data, start + scale) == (2**-10,)


def test_random_weights_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    assert weights(tmp_path, "q8_0", seed=1) == weights(tmp_path, "q8_0", seed=1)
    assert weights(tmp_path, "q8_0", seed=1) != weights(tmp_path, "q8_0", seed=2)


def test_random_weights_of_a_type_without_a_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no random weights of type iq2_xs"):
        weights(tmp_path, "iq2_xs")
