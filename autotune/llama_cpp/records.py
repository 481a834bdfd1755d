"""What llama-bench measured, and what it failed at: the values that a run yields.

A record has no schema version and its fields come and go (32 in 2025-02, 41 in 2026-05, 42 today),
so they are read by name, only what is used is required, and the whole record is kept verbatim.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from autotune.params import Params, params_from_json, params_to_json


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Test:
    """What llama-bench times: pp512 is `n_prompt=512`, `tg128 @ d4096` adds a filled cache."""

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0

    def __post_init__(self) -> None:
        if min(self.n_prompt, self.n_gen, self.n_depth) < 0 or self.n_tokens == 0:
            raise ValueError("a test takes a number of tokens")  # Of none, nothing is printed.

    @property
    def n_tokens(self) -> int:
        """Tokens that one repetition counts."""
        return self.n_prompt + self.n_gen

    def __str__(self) -> str:
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


class FailureKind(StrEnum):
    """Why a trial has no measurement."""

    OOM = "oom"
    TIMEOUT = "timeout"
    HANG = "hang"
    CRASH = "crash"
    UNSUPPORTED = "unsupported"
    BAD_ARGUMENTS = "bad_arguments"
    MODEL_UNREADABLE = "model_unreadable"
    DECODE_ERROR = "decode_error"
    BAD_OUTPUT = "bad_output"
    IMPLAUSIBLE = "implausible"
    INTERRUPTED = "interrupted"


State = Mapping[str, float]  # Of the machine; what stands in it is the caller's.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of the process that a record or failure comes from."""

    argv: tuple[str, ...]
    removed_environment: Mapping[str, str]
    started_at: float  # Seconds since the epoch.
    ended_at: float
    load_s: float | None  # From the start to the first warm-up; None where it was not seen.
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One finished test: raw samples first, everything else is computed from them."""

    params: Params
    test: Test
    samples_ns: tuple[int, ...]
    build_commit: str
    build_number: int
    run: RunFacts
    record: Mapping[str, Any]  # As llama-bench printed it.

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(1e9 * self.test.n_tokens / ns for ns in self.samples_ns)

    @property
    def median_ts(self) -> float:
        """The middle of the repetitions, in tokens per second."""
        return statistics.median(self.samples_ts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One trial that has no measurement: a value, so that it cannot take others with it."""

    kind: FailureKind
    message: str
    params: Params
    test: Test
    exit_code: int | None  # Negative: the signal; None: it was still running.
    stderr_tail: tuple[str, ...]
    run: RunFacts


Outcome = Measurement | Failure


class BadRecord(ValueError):
    """A line that is no record of llama-bench."""


# What a record repeats of its configuration, by the names of `Params`: what was asked for, never
# what came of it. That the flag was understood is all it shows, and no small thing: `-fa on` means
# "off" to builds before b9437.
ECHOED = (
    "n_threads",
    "n_batch",
    "n_ubatch",
    "n_gpu_layers",
    "n_cpu_moe",
    "split_mode",
    "main_gpu",
    "type_k",
    "type_v",
    "flash_attn",
    "no_kv_offload",
    "no_op_offload",
    "repack",
    "load_mode",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fields of a record that are used, whatever build wrote it."""

    test: Test
    samples_ns: tuple[int, ...]
    build_commit: str
    build_number: int
    settings: Mapping[str, int | str]  # Those of ECHOED that this build knows.
    raw: Mapping[str, Any]


def parse_record(line: str) -> Record:
    """Read one line of `-o jsonl`.

    Raises:
        BadRecord: it is not a record, or one that cannot be true.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {line[:200]!r}") from error
    if not isinstance(raw, dict):
        raise BadRecord(f"not a record: {line[:200]!r}")
    n_prompt, n_gen = _integer(raw, "n_prompt"), _integer(raw, "n_gen")
    if n_prompt + n_gen == 0:
        raise BadRecord("a test of no tokens")
    test = Test(n_prompt=n_prompt, n_gen=n_gen, n_depth=_integer(raw, "n_depth", 0))
    samples = raw.get("samples_ns")
    if not isinstance(samples, list) or not samples or not all(map(_is_duration, samples)):
        raise BadRecord(f"samples_ns is {str(samples)[:100]}, not durations")
    return Record(
        test=test,
        samples_ns=tuple(samples),
        build_commit=str(raw.get("build_commit", "")),
        build_number=_integer(raw, "build_number", 0),
        settings={
            name: spelled for name in ECHOED if (spelled := as_echoed(raw.get(name))) is not None
        },
        raw=raw,
    )


def _is_duration(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _integer(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRecord(f"{key} is {value!r}, not a non-negative integer")
    return value


def as_echoed(value: object) -> int | str | None:
    """A setting in one spelling for all builds: a switch is 0 or 1."""
    if isinstance(value, int):  # A bool too: flash_attn was one before b9437.
        return int(value)
    return value if isinstance(value, str) else None


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """A measurement or failure whole, as it came."""
    kept = {**_shallow(outcome), "params": params_to_json(outcome.params)}
    return {**kept, "test": asdict(outcome.test), "run": _shallow(outcome.run)}


def outcome_from_json(kept: Mapping[str, Any]) -> Outcome:
    """The inverse of `outcome_to_json`."""
    run = RunFacts(**{**kept["run"], "argv": tuple(kept["run"]["argv"])})
    common = {**kept, "params": params_from_json(kept["params"]), "test": Test(**kept["test"])}
    common["run"] = run
    if "samples_ns" in kept:
        return Measurement(**{**common, "samples_ns": tuple(kept["samples_ns"])})
    tail = tuple(kept["stderr_tail"])
    return Failure(**{**common, "kind": FailureKind(kept["kind"]), "stderr_tail": tail})


def _shallow(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
