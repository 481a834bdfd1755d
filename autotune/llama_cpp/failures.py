"""Name the reason of a failure, from the exit code and what the program printed.

The exit code alone says little: 1 is a wrong flag, a missing model, a full memory, a failed decode.
What it printed is therefore looked at first, in the words of llama.cpp since 2024.
"""

import re
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autotune.llama_cpp.records import FailureKind


class Reason(NamedTuple):
    """A kind of failure, and one sentence of what happened."""

    kind: FailureKind
    message: str


# The first that matches decides; the order is from the special to the general.
_SAID: tuple[tuple[FailureKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile("|".join(patterns), re.IGNORECASE))
    for kind, patterns in (
        (
            FailureKind.BAD_ARGUMENTS,
            [
                r"invalid parameter for argument",
                r"(invalid|unknown) argument",
                r"failed to parse cpu-mask",
                r"failed to set process priority",
                r"GGML_ASSERT\(.*(n_threads|n_batch)",
            ],
        ),
        (
            FailureKind.UNSUPPORTED,
            [
                r"quantized V cache",
                r"requires flash.?attn",
                r"requires Flash Attention",
                r"does not support different K",
                r"(invalid|unknown) device",
                r"unknown (model )?arch",
                r"unsupported (op|type|model)",
                r"not supported",
            ],
        ),
        (
            FailureKind.OOM,
            [
                r"out of (device |host )?memory",
                r"(failed|unable) to allocate",
                r"cannot allocate memory",
                r"bad_alloc",
                r"ErrorOutOf(Device|Host)Memory",
                r"insufficient memory",
                r"cudaMalloc failed",
                r"failed to (create|reserve).*buffer",
            ],
        ),
        (
            FailureKind.MODEL_UNREADABLE,
            [
                r"failed to load model",
                r"failed to open (GGUF )?file",
                r"invalid magic",
                r"No such file",
                r"data is not within the file bounds",
                r"corrupted or incomplete",
                r"failed to read (header|key)",
            ],
        ),
        (FailureKind.DECODE_ERROR, [r"failed to decode", r"llama_decode.*(fail|error)"]),
    )
)

# Said without a reason: the run that repeats it with `-v` finds it.
_SILENT = re.compile(r"failed to create context with model|failed to load model", re.IGNORECASE)

_ILLEGAL_INSTRUCTION = (
    "it executed an instruction that this processor does not have: the build is for another one, "
    "or uses AMX on a virtual machine that announces it without enabling it; use a portable build, "
    "or --repack 0 where llama-bench has it"
)


def is_silent(exit_code: int, stderr: Iterable[str]) -> bool:
    """The program has failed by itself and did not say why."""
    reasons = [line for line in stderr if _said(line)]
    return exit_code > 0 and all(_SILENT.search(line) for line in reasons)


def classify(
    exit_code: int, stderr: Sequence[str] | deque[str], *, killed_for_memory: bool = False
) -> Reason:
    """Name why a program that has ended by itself has failed."""
    if killed_for_memory and exit_code == -signal.SIGKILL:
        return Reason(
            FailureKind.OOM, "the kernel killed it, because the machine's memory was full"
        )
    for kind, pattern in _SAID:
        line = next((line for line in stderr if pattern.search(line)), None)
        if line is not None:
            return Reason(kind, line.strip())
    if exit_code < 0:
        return _by_signal(-exit_code)
    last = next((line.strip() for line in reversed(stderr) if line.strip()), "")
    if any("failed to create context" in line for line in stderr):
        return Reason(FailureKind.OOM, last)
    return Reason(FailureKind.CRASH, last or f"ended with exit code {exit_code} and said nothing")


def _said(line: str) -> bool:
    return any(pattern.search(line) for _, pattern in _SAID)


def _by_signal(number: int) -> Reason:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGILL":
        return Reason(FailureKind.CRASH, f"SIGILL: {_ILLEGAL_INSTRUCTION}")
    return Reason(FailureKind.CRASH, f"ended by {name}{_WHO.get(name, '')}")


_WHO = {"SIGKILL": " from outside", "SIGABRT": ": an assertion of its own failed"}
