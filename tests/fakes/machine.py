"""Recorded machines: one text file that unfolds into a folder of kernel files.

    # A comment.
    sys/devices/system/cpu/online = 0-15                       a file of one line
    sys/devices/system/cpu/cpu{0-7}/topology/core_id = {}      a file for each number
    sys/devices/system/cpu/cpu{0-7}/topology/core_cpus_list = {},{+8}
    sys/dev/block/8:0 -> ../../block/sda                       a symbolic link
    proc/self/cgroup:                                          a file of several lines
        0::/user.slice
    proc/cpuinfo for {0-15}:                                   the lines, once for each number
        processor	: {}

Numbers are `{0-7}`, `{0-14/2}` (every second one) and lists of those; in the content `{}` is the
number and `{+8}`, `{-8}` are 8 more and 8 less. `\\0` is a NUL byte, and `\\040` stays as it is.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autotune.hardware import Root

RECORDINGS = Path(__file__).parent.parent / "fixtures" / "machines"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.txt"))

_INDENT = "    "
_NUMBERS = re.compile(r"\{([\d,/-]+)\}")
_NUL = re.compile(r"\\0(?!\d)")
_NUMBER = re.compile(r"\{([+-]\d+)?\}")


@dataclass(frozen=True)
class RecordedSysctl:
    """What sysctl answers on a recorded Mac."""

    values: dict[str, int | str]

    def read_int(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if isinstance(value, int) else None

    def read_text(self, name: str) -> str | None:
        value = self.values.get(name)
        return value if isinstance(value, str) else None


def unfold(name: str, folder: Path) -> Root:
    """Write the files of a recorded machine into a folder and return it as a root."""
    lines = (RECORDINGS / f"{name}.txt").read_text().splitlines()
    for heading, body in _entries(lines):
        _write_entry(folder, heading, body)
    return Root(folder)


def write(folder: Path, path: str, content: str) -> None:
    """Add one file to an unfolded machine, or replace it."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_NUL.sub("\0", content) + "\n")


def _entries(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each heading with the indented lines below it."""
    heading, body = "", list[str]()
    for line in lines:
        if line.startswith(_INDENT) or not line.strip():
            body.append(line.removeprefix(_INDENT))
        elif not line.startswith("#"):
            if heading:
                yield heading, body
            heading, body = line, []
    if heading:
        yield heading, body


def _write_entry(folder: Path, heading: str, body: list[str]) -> None:
    link, arrow, target = heading.partition(" -> ")
    path, equals, content = heading.partition(" = ")
    if arrow:
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)
    elif equals:
        for number in _numbers(path):
            write(folder, _NUMBERS.sub(str(number), path), _fill(content, number))
    else:
        path, _, numbers = heading.removesuffix(":").partition(" for ")
        text = "\n".join(body).rstrip("\n")
        write(folder, path, "\n\n".join(_fill(text, number) for number in _numbers(numbers)))


def _numbers(text: str) -> list[int]:
    """List the numbers that the braces in `text` stand for; [0] where there are none."""
    match = _NUMBERS.search(text)
    return [number for part in match[1].split(",") for number in _range(part)] if match else [0]


def _range(part: str) -> range:
    bounds, _, step = part.partition("/")
    first, _, last = bounds.partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def _fill(text: str, number: int) -> str:
    return _NUMBER.sub(lambda match: str(number + int(match[1] or 0)), text)
