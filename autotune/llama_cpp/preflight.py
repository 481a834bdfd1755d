"""Try llama-bench before it is relied on: a build can answer `--help` and die in its first prompt.

The prompt and the generation go through different kernels, so there is one of each. They are tiny,
but the weights are read from the disk twice, so that a large model takes its time.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autotune.llama_cpp import failures, process
from autotune.llama_cpp.capabilities import (
    HELP_TIMEOUT_S,
    STREAMS_RECORDS_SINCE,
    Capabilities,
)
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.records import BadRecord, FailureKind, Record, parse_record
from autotune.shell import operand

N_PROMPT, N_GEN = 16, 2
TIMEOUT_S = 1800.0  # 300 GB from a disk of 170 MB/s, as in `patience`.

# llama-bench's own words, before anything else: tools/llama-bench/llama-bench.cpp.
_SLOW_BUILD = re.compile(r"warning: (debug build|asserts enabled|sanitizer enabled)")
_IN_WORDS = {
    "debug build": "a debug build, without the compiler's optimization",
    "asserts enabled": "built with its assertions enabled",
    "sanitizer enabled": "built with a sanitizer",
}
# AMX that is announced and not enabled ends in either of the two.
_WRONG_INSTRUCTION = (-signal.SIGILL, -signal.SIGSEGV)
_NO_REPACK = ("--repack", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """Whether a llama-bench really runs here."""

    usable: bool
    reason: str = ""  # Why not; or what has to be done for it.
    remedy: str = ""
    repack_off: bool = False  # It runs only with `--repack 0`.
    backends: str = ""  # As it names them in its records: "CPU", "CUDA,BLAS".
    # What it takes by itself (`records.ECHOED`), and about how fast that is with two layers on a
    # GPU, in tokens per second.
    settings: Mapping[str, int | str] = field(default_factory=dict)
    pp_rate: float = 0.0
    tg_rate: float = 0.0


def preflight(
    program: Program,
    capabilities: Capabilities,
    model: Path,
    *,
    extra_arguments: Sequence[str] = (),
    timeout: float = TIMEOUT_S,
) -> Preflight:
    """Run a tiny prompt and a tiny generation of `model`.

    Args:
        program: a llama-bench.
        capabilities: what it can.
        model: any model that it should be able to load.
        extra_arguments: what it is always given, such as `--rpc HOST:PORT`.
        timeout: seconds for all of it.

    Raises:
        LlamaCppUnusable: it cannot be executed at all.
    """
    if not capabilities.streams_records:
        return Preflight(
            usable=False,
            reason="it has no `-o jsonl`, so that a crash would lose what was measured",
            remedy=STREAMS_RECORDS_SINCE,
        )
    command = [*program.command, *_arguments(capabilities, model), *extra_arguments]
    first = process.run(command, timeout=timeout)
    verdict = judge(first)
    if verdict.usable or first.code not in _WRONG_INSTRUCTION or not capabilities.has("--repack"):
        return verdict
    second = judge(process.run([*command, *_NO_REPACK], timeout=timeout))
    if not second.usable:
        return verdict
    return replace(
        second,
        repack_off=True,
        reason=f"with repacked weights it ends by {signal.Signals(-first.code).name}, and runs "
        "with --repack 0",
        remedy="use a build for this processor, or --no-repack with llama-cli and llama-server",
    )


def slow_build(program: Program) -> str:
    """What makes a llama-bench slow by its own words, which it says before its help; "" if fast."""
    answer = process.run([*program.command, "--help"], timeout=HELP_TIMEOUT_S)
    return _slow(answer.stderr)


def _arguments(capabilities: Capabilities, model: Path) -> list[str]:
    # Two layers make every device that there is compute, and are in no one's way.
    arguments = ["-m", operand(str(model)), "-p", str(N_PROMPT), "-n", str(N_GEN), "-r", "1"]
    arguments += ["-ngl", "2", "-o", "jsonl"]
    return arguments + (["--no-warmup"] if capabilities.has("--no-warmup") else [])


def judge(done: process.Finished) -> Preflight:
    """Whether a llama-bench runs here, by how it has ended and what it has printed."""
    slow = _slow(done.stderr)
    if slow:
        return Preflight(
            usable=False,
            reason=f"it is {slow}: what it measures is true of no other build",
            remedy="build it with -DCMAKE_BUILD_TYPE=Release",
        )
    if done.timed_out:
        return Preflight(
            usable=False,
            reason=f"a prompt of {N_PROMPT} tokens and {N_GEN} more did not end in time",
            remedy="run it by hand with -v; try a smaller model",
        )
    if done.code != 0:
        why = failures.classify(done.code, [*map(failures.shortened, done.stderr.splitlines())])
        return Preflight(usable=False, reason=why.message, remedy=_REMEDIES.get(why.kind, _BY_HAND))
    return _recorded(done.stdout)


def _recorded(stdout: str) -> Preflight:
    """Both records are there, and are of what was asked for."""
    try:
        records = [parse_record(line) for line in stdout.splitlines() if line.startswith("{")]
    except BadRecord as problem:
        return _bad_output(f"its output is no record: {problem}")
    tests = [(record.test.n_prompt, record.test.n_gen) for record in records]
    if tests != [(N_PROMPT, 0), (0, N_GEN)]:
        return _bad_output(f"it ended with {len(tests)} of 2 records, and without an error")
    prompt, generation = records
    return Preflight(
        usable=True,
        backends=str(prompt.raw.get("backends", "")),
        settings=prompt.settings,
        pp_rate=_rate(prompt),
        tg_rate=_rate(generation),
    )


def _rate(record: Record) -> float:
    return 1e9 * record.test.n_tokens / min(record.samples_ns)


def _bad_output(reason: str) -> Preflight:
    return Preflight(usable=False, reason=reason, remedy="is this llama.cpp's llama-bench?")


def _slow(stderr: str) -> str:
    return " and ".join(_IN_WORDS[said] for said in dict.fromkeys(_SLOW_BUILD.findall(stderr)))


_BY_HAND = "run it by hand with -v to see more"
_REMEDIES = {
    FailureKind.OOM: "close other programs, or try a smaller model",
    FailureKind.MODEL_UNREADABLE: "try another model, or run it by hand with -v",
}
