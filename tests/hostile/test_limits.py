"""Nothing in a file makes the tool hang or take more than 256 MiB; the error says which file."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.gguf_writer import write_gguf
from fakes.programs import BENCH_HELP, write_program
from fakes.small import SMALL
from hostile.process import LIMIT_MIB, MIB, Ended, lcm

if TYPE_CHECKING:
    from collections.abc import Callable

_STUDIES = Path(__file__).parents[1] / "fixtures" / "studies"
_STUDY_FILES = ("study.json", "environment.json", "journal.jsonl", "profile.json")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what a process held at most"
)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of results with one study in it."""
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(_STUDIES / "format-2", tmp_path / "results" / "studies" / "kept")
    return tmp_path / "results" / "studies" / "kept"


def small(ended: Ended) -> bool:
    """It came to an end of its own, which a user understands, within the limit."""
    assert ended.code in {0, 1, 2, 3, 4, 5}, ended.err
    assert ended.peak_mib < LIMIT_MIB, f"{ended.peak_mib} MiB: {ended.err[:300]}"
    return True


def sparse(path: Path, size: int, *, begin: bytes = b"", end: bytes = b"") -> None:
    """Write a large file that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        file.write(end)


# --- models --------------------------------------------------------------------------------------


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def header(n_tensors: int, n_pairs: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs)


def many_arrays(path: Path) -> None:
    """As many numbers as may be kept, each an object of its own."""
    numbers = struct.pack("<512d", *(n + 0.1 for n in range(512)))
    pairs = [text(b"k%d" % n) + struct.pack("<IIQ", 9, 12, 512) + numbers for n in range(4096)]
    path.write_bytes(header(0, len(pairs)) + b"".join(pairs))


def many_tensors(path: Path) -> None:
    rows = [
        text(b"t%d" % n) + struct.pack("<I4QIQ", 4, 1 << 12, 1 << 10, 1, 1, 0, 0)
        for n in range(65_536)
    ]
    path.write_bytes(header(len(rows), 0) + b"".join(rows))


def huge_string(path: Path) -> None:
    sparse(path, 1 << 32, begin=header(0, 1) + struct.pack("<Q", (1 << 32) - 100))


def endless_vocabulary(path: Path) -> None:
    """All empty strings: as many as a header of the largest size holds."""
    begin = header(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, (1 << 28) // 8 - 100)
    sparse(path, 1 << 29, begin=begin)


MODELS: dict[str, Callable[[Path], None]] = {
    "arrays": many_arrays,
    "tensors": many_tensors,
    "string": huge_string,
    "vocabulary": endless_vocabulary,
    "counts": lambda path: sparse(path, 1100, begin=header(2**64 - 1, 2**64 - 1)),
    "zeros": lambda path: sparse(path, 1 << 40),
}


@pytest.mark.parametrize("write", MODELS.values(), ids=MODELS)
def test_a_header_costs_no_memory(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")

    ended = lcm("run", "--model", "m.gguf", "--optimize", folder=tmp_path)

    assert small(ended)
    assert (ended.code, ended.out) == (3, b"")
    assert "m.gguf" in ended.err


def test_the_headers_of_all_shards_are_bounded_together(tmp_path: Path) -> None:
    model, n = SMALL["qwen"](), 40
    tensors = [replace(model.tensors[0], name=f"t{number}") for number in range(4000)]
    split = {**model.metadata, "split.count": n, "split.no": 0, "split.tensors.count": 1}
    write_gguf(tmp_path / f"m-00001-of-{n:05d}.gguf", metadata=split, tensors=tensors)
    for number in range(2, n + 1):
        (tmp_path / f"m-{number:05d}-of-{n:05d}.gguf").hardlink_to(
            tmp_path / f"m-00001-of-{n:05d}.gguf"
        )

    ended = lcm("inspect", f"m-00001-of-{n:05d}.gguf", folder=tmp_path)

    assert small(ended)
    assert "hold more than 65,536 tensors or 268,435,456 bytes" in ended.err


# --- a study -------------------------------------------------------------------------------------

_LINE = 300 * MIB


@pytest.mark.parametrize("name", _STUDY_FILES)
@pytest.mark.parametrize("command", ["list", "show", "report"])
def test_a_file_of_300_mib_in_a_study_is_read_by_nobody(
    name: str, command: str, results: Path, tmp_path: Path
) -> None:
    sparse(results / name, _LINE)
    words = ["--format", "markdown"] if command == "report" else []

    ended = lcm("results", command, *words, folder=tmp_path)

    assert small(ended)


def of_lines(unit: bytes, number: int = 100) -> Callable[[Path], object]:
    """Lines of nearly the greatest length, each kept as it is."""
    inner = unit * ((1 << 20) // len(unit) - 20)
    line = b'{"type": "evidence", "evidence": {"a": [' + inner + b"0]}}\n"
    return lambda path: path.write_bytes(line * number)


_JOURNALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "1 GB of zeros": (lambda path: sparse(path, 1 << 30), "it is larger than 64 MiB"),
    "a line of 300 MB": (lambda path: sparse(path, _LINE, begin=b'{"a'), "larger than 64 MiB"),
    "empty lists": (of_lines(b"[],", 60), "takes more than 160 MiB of memory"),
    "numbers": (of_lines(b"1.5,", 60), "takes more than 160 MiB of memory"),
    "objects": (of_lines(b'{"a":1},', 60), "takes more than 160 MiB of memory"),
}


@pytest.mark.parametrize(("content", "said"), _JOURNALS.values(), ids=_JOURNALS)
def test_a_journal_is_bounded(
    content: Callable[[Path], object], said: str, results: Path, tmp_path: Path
) -> None:
    content(results / "journal.jsonl")

    ended = lcm("results", "show", "kept", folder=tmp_path)

    assert small(ended)
    assert ended.code == 3
    assert f"{results / 'journal.jsonl'} cannot be read: " in ended.err
    assert said in ended.err


def test_a_line_that_is_longer_than_any_costs_itself_alone(results: Path, tmp_path: Path) -> None:
    journal = results / "journal.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(b'{"a": "' + b"x" * (40 << 20) + b'"}\n' + kept)

    ended = lcm("results", "show", "kept", folder=tmp_path)

    assert small(ended)
    assert "14 trials" in ended.out.decode()
    assert "1 line cannot be read" in ended.err


def test_the_largest_journal_that_is_read_stays_within_the_limit(
    results: Path, tmp_path: Path
) -> None:
    of_lines(b'{"a":1.25},', 3)(results / "journal.jsonl")

    for words in (["show"], ["export"]):
        ended = lcm("results", *words, folder=tmp_path)
        assert small(ended)
        assert ended.code == 0


@pytest.mark.parametrize("name", [*_STUDY_FILES, "study.db", "lock", "records.csv", "report.html"])
def test_a_pipe_in_a_study_keeps_nobody_waiting(name: str, results: Path, tmp_path: Path) -> None:
    (results / name).unlink(missing_ok=True)
    os.mkfifo(results / name)

    listed = lcm("results", "list", folder=tmp_path)
    shown = lcm("results", "show", str(results), folder=tmp_path)

    assert (listed.code, "kept cannot be read" in listed.err) == (0, True)
    assert shown.code in {2, 3}
    assert name in shown.err


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"format_version": 2, "ratio": 1e400}',
        b'{"format_version": 2, "ratio": ' + b"9" * 200_000 + b"}",
        b'{"format_version": 2, "ratio": NaN}',
        b'{"format_version": 2, "model": "\\ud800"}',
        b'{"format_version": 2, "path": "../../x", "model": "m"}',
        b"\xff\xfe{\x00}\x00",
    ],
    ids=["lists", "objects", "1e400", "digits", "NaN", "half a letter", "a path", "UTF-16"],
)
@pytest.mark.parametrize("name", _STUDY_FILES)
def test_what_json_can_be_made_of_is_no_bug(
    name: str, content: bytes, results: Path, tmp_path: Path
) -> None:
    (results / name).write_bytes(content)

    ended = lcm("results", "show", str(results), "--json", folder=tmp_path)

    assert small(ended)
    assert ended.code != 0 or json.loads(ended.out)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.toml", "w.json"])
@pytest.mark.parametrize("kind", ["large", "pipe", "device", "folder"])
def test_settings_are_a_small_regular_file(
    name: str, kind: str, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    if kind == "large":
        sparse(path, 100 * MIB)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    words = (
        ["--optimize", "--deep", f"--profile=./{name}"]
        if name == "w.toml"
        else ["--dry-run", f"--config={name}"]
    )
    write_program(tmp_path / "llama-cli", help_text=BENCH_HELP)
    os.environ["LCM_LLAMA_DIR"] = str(tmp_path)

    ended = lcm("run", "--model", tiny, *words, folder=tmp_path)

    assert small(ended)
    assert (ended.code, name in ended.err) == (2, True)
    assert kind != "large" or "it is larger than " in ended.err


@pytest.mark.parametrize("path", ["/dev/zero", "pipe.gguf", "/dev/tty"])
def test_a_model_is_a_regular_file(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")

    ended = lcm("inspect", path, folder=tmp_path)

    assert small(ended)
    assert "is not a regular file" in ended.err


# --- llama-bench ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "help_text"),
    [
        ('[ "$1" = --help ] && exec cat /dev/zero', BENCH_HELP),
        ('[ "$1" = --help ] && exec yes', BENCH_HELP),
        ('[ "$1" = --help ] && exec yes >&2', BENCH_HELP),
        ('[ "$1" = --version ] && exec yes version', BENCH_HELP),
        ('[ "$1" = -m ] && exec tr "\\\\0" "\\\\377" < /dev/zero', BENCH_HELP),
        ('[ "$1" = -m ] && exec tr "\\\\0" x < /dev/zero >&2', BENCH_HELP),
        ('[ "$1" = -m ] && exec yes "{}"', BENCH_HELP),
        ("", BENCH_HELP + "<" * 900_000),
        ("", BENCH_HELP + "  --x <a|b>\n" * 60_000),
    ],
    ids=[
        *("endless help", "help in lines", "help on stderr", "version", "letters", "stderr"),
        *("records", "a long line", "many options"),
    ],
)
def test_a_program_that_prints_without_end_is_ended(
    before: str, help_text: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = write_program(tmp_path / "llama-bench", help_text=help_text, before=before)
    monkeypatch.setenv("LCM_LLAMA_BENCH", str(bench))

    ended = lcm("doctor", "--model", tiny, folder=tmp_path)

    assert small(ended)
    assert ended.code == 1


def test_nothing_is_left_of_such_a_program(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = "424242424242.5"
    bench = write_program(
        tmp_path / "llama-bench", help_text=BENCH_HELP, before=f"sleep {mark} & exec yes"
    )
    monkeypatch.setenv("LCM_LLAMA_BENCH", str(bench))

    lcm("doctor", "--model", tiny, folder=tmp_path)

    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout  # noqa: S607
    assert mark.encode() not in running
