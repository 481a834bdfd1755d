"""What llama-bench prints: records, progress, help, devices, errors; which, the first byte says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.bytes_mutator import broken, mutated
from fuzz.invariants import check_error, check_json

from autotune.errors import AutotuneError
from autotune.llama_cpp import capabilities, failures, preflight
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.devices import parse_devices
from autotune.llama_cpp.dialect import render
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.grid_run import progress_of
from autotune.llama_cpp.process import Finished, Line, lines_of
from autotune.llama_cpp.records import BadRecord, parse_record
from autotune.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

_FIXTURES = Path(__file__).parents[1] / "fixtures" / "llama_bench"
_PARAMS = Params(n_threads=4, flash_attn=True, load_mode="mlock", repack=False, type_k="q8_0")


def one_input(data: bytes) -> None:
    """Read it as what its first byte names."""
    reader = _READERS.get(data[:1])
    if reader is not None:
        try:
            reader(_printed(data[1:]))
        except AutotuneError as error:
            check_error(error)


def _printed(data: bytes) -> list[Line]:
    """The lines, arriving in pieces that fall anywhere."""
    size = 1 + len(data) % 97
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return lines_of("stdout", [*pieces, b""])


def _records(lines: list[Line]) -> None:
    for line in lines:
        try:
            record = parse_record(line.text)
        except BadRecord:
            continue
        assert all(ns > 0 for ns in record.samples_ns)
        assert record.test.n_tokens > 0
        check_json(record.raw)


def _stderr(lines: list[Line]) -> None:
    said = [failures.shortened(line.text) for line in lines][-40:]
    for line in lines:
        told = progress_of(line.text)
        assert told is None or -1 <= told.test < 10**9
    for code in (1, -6, -9, -11, 0):
        reason = failures.classify(code, said)
        assert isinstance(reason, Reason)
        assert reason.message
        failures.is_silent(code, said)


def _help(lines: list[Line]) -> None:
    text = "\n".join(line.text for line in lines)
    can = Capabilities(
        options=capabilities.parse_help(text),
        version="",
        aliases=capabilities.parse_aliases(text),
        variables=capabilities.parse_variables(text),
    )
    check_json({"options": dict(can.options), "aliases": dict(can.aliases)})
    assert can.flavor in {"llama.cpp", "ik_llama.cpp"}
    for flag in can.options:
        assert can.has(flag)
        assert flag in can.same_setting(flag)
    for target in ("bench", "cli", "server"):
        said = render(_PARAMS, "bench" if target == "bench" else "server", can)
        # It is told nothing that it did not list.
        assert all(can.has(w) for w in said.arguments if w.startswith("-") and not w[1:].isdigit())


def _devices(lines: list[Line]) -> None:
    for device in parse_devices("\n".join(line.text for line in lines)):
        assert device.name
        assert device.total_mib >= 0


def _preflight(lines: list[Line]) -> None:
    text = "\n".join(line.text for line in lines)
    for code in (0, 1):
        judged = preflight.judge(Finished(code=code, stdout=text, stderr=text))
        assert judged.usable or judged.reason
        check_json(dict(judged.settings))


_READERS: dict[bytes, Callable[[list[Line]], None]] = {
    b"R": _records,
    b"E": _stderr,
    b"H": _help,
    b"D": _devices,
    b"P": _preflight,
}
_KINDS = {
    "records.jsonl": b"RP",
    "errors.jsonl": b"E",
    "progress.txt": b"E",
    "help.txt": b"H",
    "server_help.txt": b"H",
    "cli_help.txt": b"H",
    "list_devices.txt": b"D",
    "version.txt": b"HE",
}


@cache
def seeds() -> tuple[bytes, ...]:
    """What every recorded build has printed."""
    found = [
        kind.to_bytes(1, "little") + file.read_bytes()
        for folder in sorted(_FIXTURES.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        for kind in _KINDS.get(file.name, b"")
    ]
    devices = b"DAvailable devices:\n  CUDA0: NVIDIA (x) (24576 MiB, 24000 MiB free)\n"
    markdown = b"P| model | size |\n| --- | ---: |\n| llama | 1 GiB |\nmodel,size\n1,2\n"
    return (*found, devices, markdown, b"H" + b"<" * 5000, b"E" + b"llama_decode" * 2000)


def mutations(number: int, seed: int) -> list[bytes]:
    """Give so many broken texts, always the same ones for a seed."""
    return mutated(seeds(), number, seed)


__all__ = ["broken", "mutations", "one_input", "seeds"]
