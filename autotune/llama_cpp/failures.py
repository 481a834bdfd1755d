"""Name the reason of a failure, from the exit code and what the program printed.

The exit code alone says little: 1 is a wrong flag, a missing model, a full memory, a failed decode.
What it printed is therefore looked at first, in the words of llama.cpp since 2024. The last line
that gives a reason is it: what was printed before it was survived.
"""

import re
import signal
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autotune.llama_cpp.records import Failure, FailureKind

# What gives a reason stands at the beginning of a line; a pattern takes its time for a long one.
_LONGEST_LINE = 2000


def shortened(line: str) -> str:
    """What is looked at of a line."""
    return line[:_LONGEST_LINE]


class Reason(NamedTuple):
    """A kind of failure, and one sentence of what happened."""

    kind: FailureKind
    message: str
    of_model: bool = False  # The model was not loaded: no other context would have helped.


_Patterns = tuple[tuple[FailureKind, re.Pattern[str]], ...]


def _patterns(*kinds: tuple[FailureKind, list[str]]) -> _Patterns:
    return tuple((kind, re.compile("|".join(texts), re.IGNORECASE)) for kind, texts in kinds)


_REASONS = _patterns(
    (
        FailureKind.BAD_ARGUMENTS,
        [
            r"failed to parse cpu-mask",
            r"failed to set process priority",
            r"GGML_ASSERT\(.*n_(threads|batch|ubatch) > 0",
        ],
    ),
    (
        FailureKind.UNSUPPORTED,
        [
            r"quantized V cache",
            r"requires flash.?attn",
            r"does not support different K",
            r"K and V types.*(same|match)",
            r"(invalid|unknown) (device|buffer type)",
            r"unknown (model )?arch",
            r"unsupported (op|type|model)",
            r"SPLIT_MODE_\w+ (is )?not (supported|implemented)",
            r"does not support split buffers",
        ],
    ),
    (
        FailureKind.OOM,
        [
            r"out of (device |host |video )?memory",
            r"(failed|unable) to allocate",
            r"cannot allocate memory",
            r"bad_alloc",
            r"OutOf(Device|Host)?Memory",
            r"insufficient memory",
            r"malloc failed",
            r"failed to (create|reserve).*buffer",
            r"failed to (map|mmap).*memory",
        ],
    ),
    (
        FailureKind.MODEL_UNREADABLE,
        [
            r"invalid magic",
            r"failed to open (GGUF )?file",
            r"failed to read (magic|header|key|tensor)",
            r"not within the file bounds",
            r"corrupted or incomplete",
            r"missing tensor",
            r"wrong number of tensors",
            r"invalid split file",
        ],
    ),
)

# Said of every reason, and often alone: `-v` has the reason above it.
_CONSEQUENCES = _patterns(
    (
        FailureKind.BAD_ARGUMENTS,
        [r"invalid parameter for argument", r"(invalid|unknown) argument"],
    ),
    (FailureKind.MODEL_UNREADABLE, [r"failed to load model"]),
    (FailureKind.OOM, [r"failed to create context"]),  # By far the most frequent reason of it.
    (FailureKind.DECODE_ERROR, [r"failed to decode", r"llama_decode.*(fail|error)"]),
)

KILLED_FOR_MEMORY = "the kernel killed it, because the machine's memory was full"
# What could not be allocated, as ggml names the buffer: CUDA1, RPC0[HOST:PORT], CPU_REPACK. CUDA
# says itself which of its devices it was (ggml_cuda_device_malloc).
_BUFFER = re.compile(r"(?:failed|unable) to allocate (\w+(?:\[[^\]]+\])?) buffer")
_CUDA_DEVICE = re.compile(r"on device (\d{1,3}): cudaMalloc failed")

_MODEL = re.compile(r"failed to load model|error loading model", re.IGNORECASE)
# What ggml prints before it aborts: file, line and why. A GPU's error says why only with `-v`.
_ABORT = re.compile(r"^\S+:\d+: (?!\w+ error$)(.+)$")

_ILLEGAL_INSTRUCTION = (
    "it executed an instruction that this processor does not have: the build is for another one, "
    "or uses AMX on a virtual machine that announces it without enabling it; use a portable build, "
    "or --repack 0 where llama-bench has it"
)
_WHO = {"SIGKILL": "by SIGKILL from outside", "SIGABRT": "by itself, with SIGABRT"}
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Whoever ends it so from outside will not be explained by the program.
_TELLING = (*_ASKED_TO_END, signal.SIGKILL, signal.SIGILL)


def is_silent(exit_code: int, stderr: Iterable[str]) -> bool:
    """The program has failed by itself and did not say why; it might, with `-v`."""
    if -exit_code in _TELLING:
        return False
    lines = list(stderr)
    if _last(_REASONS, lines) or any(_ABORT.search(line) for line in lines):
        return False
    consequence = _last(_CONSEQUENCES, lines)
    return consequence is None or consequence.kind is not FailureKind.BAD_ARGUMENTS


def classify(exit_code: int, stderr: Sequence[str], *, killed_for_memory: bool = False) -> Reason:
    """Name why a program that has ended without being asked to has failed."""
    if killed_for_memory and exit_code == -signal.SIGKILL:
        return Reason(FailureKind.OOM, KILLED_FOR_MEMORY)
    if -exit_code in _ASKED_TO_END:
        name = signal.Signals(-exit_code).name
        return Reason(FailureKind.INTERRUPTED, f"someone has ended it with {name}")
    of_model = any(_MODEL.search(line) for line in stderr)
    said = _last(_REASONS, stderr)
    if said is None and exit_code > 0:
        said = _last(_CONSEQUENCES, stderr)
    if said is not None:
        return said._replace(of_model=of_model)
    if exit_code < 0:
        return Reason(FailureKind.CRASH, _by_signal(-exit_code, stderr))
    last = next((line.strip() for line in reversed(stderr) if line.strip()), "and said nothing")
    return Reason(FailureKind.CRASH, f"ended with exit code {exit_code}: {last}", of_model)


def full_place(failure: Failure) -> str | None:
    """Whose memory was full, as ggml names it; None where nothing says so.

    A device by its name, a server as RPC0[HOST:PORT], the host as CPU.
    """
    if failure.message == KILLED_FOR_MEMORY:
        return "CPU"
    for line in (failure.message, *reversed(failure.stderr_tail)):
        buffer, on_cuda = _BUFFER.search(line), _CUDA_DEVICE.search(line)
        if buffer:
            return "CPU" if buffer[1].startswith("CPU") else buffer[1]
        if on_cuda:
            return f"CUDA{on_cuda[1]}"
    return None


def _last(patterns: _Patterns, lines: Sequence[str]) -> Reason | None:
    """The last line that one of the patterns knows."""
    for line in reversed(lines):
        for kind, pattern in patterns:
            if pattern.search(line):
                return Reason(kind, line.strip())
    return None


def _by_signal(number: int, stderr: Sequence[str]) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGILL":
        return f"ended by SIGILL: {_ILLEGAL_INSTRUCTION}"
    said = next((match[1] for line in reversed(stderr) if (match := _ABORT.search(line))), "")
    return f"ended {_WHO.get(name, f'by {name}')}" + (f": {said}" if said else "")
