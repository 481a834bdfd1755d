"""Read a great many broken GGUF files, and stop at the first that is not refused as it should be.

`python header_fuzz.py FOLDER --inputs 100000 --seed 1` writes what came out as JSON. It is a
process of its own so that its memory can be measured; the test is in `test_header_fuzz.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.gguf_writer import write_gguf
from fakes.small import SMALL

from autotune.errors import AutotuneError, ConfigError, GGUFInvalid, ModelNotFound, ModelUnreadable
from autotune.model import analyze_model
from autotune.model.footprint import footprint
from autotune.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXPECTED = (ModelNotFound, ModelUnreadable, GGUFInvalid)

# What is mutated is the first of two shards; the other lies beside it.
_FIRST, _SECOND = "fuzz-00001-of-00002.gguf", "fuzz-00002-of-00002.gguf"

_INTEGERS: tuple[int, ...] = (
    *range(14),  # The types of values, and counts of a few.
    *(31, 32, 33, 64, 255, 512, 513, 4096, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)

# A float is an integer's bits: not a number, both infinities, the largest, the least, minus zero.
_FLOATS: tuple[int, ...] = (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, 0x80000000)

_PARAMS = (
    Params(),
    Params(n_ctx=4096, n_gpu_layers=1, n_cpu_moe=1, type_k="q8_0", type_v="q4_0"),
    Params(n_ctx=512, n_parallel=3, flash_attn=False, no_kv_offload=True, tensor_split=(1.0, 0.0)),
)


class Mutator:
    """Breaks copies of some files, always the same ones for the same seed."""

    def __init__(self, originals: Sequence[bytes], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - broken files, not secrets
        self._originals = originals
        self._lengths = [_length_fields(original) for original in originals]
        self._values = [_value_fields(original) for original in originals]
        self._ways: tuple[Callable[[bytearray, int], None], ...] = (
            self._flip_bits,
            self._set_length,
            self._set_length,
            self._set_value,
            self._set_value,
            self._set_integer,
            self._truncate,
            self._splice,
            self._duplicate,
            self._remove,
            self._insert,
        )

    def next(self) -> bytes:
        """Break one of the files in one to three ways."""
        which = self._random.randrange(len(self._originals))
        data = bytearray(self._originals[which])
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._random.choice(self._ways)(data, which)
        return bytes(data)

    def _place(self, data: bytearray) -> int:
        """Pick a place; the beginning of the file is where most is decided."""
        end = len(data) if self._random.random() < 0.5 else min(len(data), 256)
        return self._random.randrange(end + 1)

    def _flip_bits(self, data: bytearray, _which: int) -> None:
        for _ in range(self._random.choice((1, 1, 2, 8))):
            at = self._place(data)
            data[at : at + 1] = bytes(
                byte ^ 1 << self._random.randrange(8) for byte in data[at:][:1]
            )

    def _set_length(self, data: bytearray, which: int) -> None:
        at = self._random.choice(self._lengths[which])
        self._overwrite(data, at, struct.pack("<Q", self._integer()))

    def _set_value(self, data: bytearray, which: int) -> None:
        self._overwrite(data, self._random.choice(self._values[which]), self._number())

    def _set_integer(self, data: bytearray, _which: int) -> None:
        self._overwrite(data, self._place(data), self._number())

    def _truncate(self, data: bytearray, _which: int) -> None:
        del data[self._place(data) :]

    def _splice(self, data: bytearray, _which: int) -> None:
        other = self._random.choice(self._originals)
        data[self._place(data) :] = other[self._place(bytearray(other)) :]

    def _duplicate(self, data: bytearray, _which: int) -> None:
        start = self._place(data)
        chunk = data[start : start + self._random.choice((1, 4, 8, 24, 100, 1000))]
        at = self._place(data)
        data[at:at] = chunk

    def _remove(self, data: bytearray, _which: int) -> None:
        start = self._place(data)
        del data[start : start + self._random.choice((1, 4, 8, 24, 100))]

    def _insert(self, data: bytearray, _which: int) -> None:
        at = self._place(data)
        data[at:at] = self._random.randbytes(self._random.choice((1, 4, 8, 24)))

    def _overwrite(self, data: bytearray, at: int, new: bytes) -> None:
        data[at : at + len(new)] = new[: max(len(data) - at, 0)]

    def _number(self) -> bytes:
        """Give an integer or a float of any width."""
        number = self._integer() if self._random.random() < 0.8 else self._random.choice(_FLOATS)
        order = self._random.choice(("little", "little", "little", "big"))
        width = self._random.choice((1, 2, 4, 8))
        eight = number.to_bytes(8, "big" if order == "big" else "little")
        return eight[-width:] if order == "big" else eight[:width]

    def _integer(self) -> int:
        return self._random.choice(_INTEGERS)


def _length_fields(data: bytes) -> list[int]:
    """Find the counts at the start, and the lengths that stand before names and words."""
    found = [8, 16]
    for word in re.finditer(rb"[ -~]{2,}", data):
        at = word.start() - 8
        if at > 0 and int.from_bytes(data[at : at + 8], "little") <= len(word[0]):
            found.append(at)
    return found


def _value_fields(data: bytes) -> list[int]:
    """Find the types and values that stand behind names, and what an array says of itself."""
    return [
        word.end() + behind
        for word in re.finditer(rb"[a-z_]+\.[a-z0-9_.]+", data)
        for behind in (0, 4, 4, 4, 8, 16, 20)
    ]


def written(folder: Path) -> list[bytes]:
    """Write the small models, in both byte orders and versions, and read them back."""
    file = folder / "original.gguf"
    originals = []
    for name, small in SMALL.items():
        model = small()
        write_gguf(file, metadata=model.metadata, tensors=model.tensors)
        originals.append(file.read_bytes())
        if name == "qwen":
            for version, endian in ((2, "little"), (3, "big")):
                write_gguf(
                    file,
                    metadata=model.metadata,
                    tensors=model.tensors,
                    version=version,
                    endian="big" if endian == "big" else "little",
                )
                originals.append(file.read_bytes())
    return originals


def outcome(path: Path) -> str:
    """Read a file and ask for its memory; give "Model" or the name of the error."""
    try:
        model = analyze_model(path)
    except _EXPECTED as error:
        _check_message(error)
        return type(error).__name__
    if not (model.name.isprintable() and model.architecture.isprintable()):
        raise ValueError(f"{model.name!r} is not safe to print")
    for params in _PARAMS:
        try:
            needed = footprint(model, params, program="server", gpus=(1.0, 2.0))
        except ConfigError as error:
            _check_message(error)
        else:
            if needed.total_bytes < model.weight_bytes:
                raise ValueError(f"{needed.total_bytes} < {model.weight_bytes}")
    return "Model"


def _check_message(error: AutotuneError) -> None:
    if not (error.message.isprintable() and error.hint):
        raise ValueError(f"{error.message!r} is not safe to print")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="where the broken files lie; in memory, if it can"
    )
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    originals = written(options.folder)
    (options.folder / _SECOND).write_bytes(originals[-1])
    mutator, outcomes, slowest = Mutator(originals, options.seed), Counter[str](), 0.0
    path = options.folder / _FIRST
    with path.open("wb", buffering=0) as file:
        for n in range(options.inputs):
            data = mutator.next()
            os.pwrite(file.fileno(), data, 0)
            file.truncate(len(data))
            start = time.process_time()
            try:
                outcomes[outcome(path)] += 1
            except BaseException:
                sys.stderr.write(f"input {n} of seed {options.seed}: {data.hex()}\n")
                raise
            slowest = max(slowest, time.process_time() - start)
    report = {"outcomes": outcomes, "slowest_s": slowest, "most_bytes": _most_bytes()}
    json.dump(report, sys.stdout)


def _most_bytes() -> int:
    """Give the most memory that this process has held.

    On Linux `getrusage` begins with what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii"))):
        return int(found[1]) * 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


if __name__ == "__main__":
    main()
