"""What llama-bench measured, and what it failed at: the values that a run yields.

A record has no schema version and its fields come and go (32 in 2025-02, 41 in 2026-05, 42 today),
so they are read by name, only what is used is required, and the whole record is kept verbatim.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from autotune import json_text
from autotune.params import Params, params_from_json, params_to_json


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Test:
    """What is timed: pp512 is `n_prompt=512`, `tg128 @ d4096` adds a filled cache.

    `pp512 x8` is eight such prompts at once, which llama-batched-bench times and llama-bench not.
    """

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    n_parallel: int = 1

    def __post_init__(self) -> None:
        if min(self.n_prompt, self.n_gen, self.n_depth) < 0 or self.n_tokens <= 0:
            raise ValueError("a test takes a number of tokens")  # Of none, nothing is printed.

    @property
    def n_tokens(self) -> int:
        """Tokens that one repetition counts."""
        return (self.n_prompt + self.n_gen) * self.n_parallel

    def __str__(self) -> str:
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        said = "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")
        return said + (f" x{self.n_parallel}" if self.n_parallel > 1 else "")


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
    record: Mapping[str, Any]  # As it was printed.
    # Joules of each repetition, by the machine's own counters; empty where nobody can tell.
    samples_j: tuple[float, ...] = ()

    @property
    def samples_ts(self) -> tuple[float, ...]:
        """Tokens per second of each repetition."""
        return tuple(1e9 * self.test.n_tokens / ns for ns in self.samples_ns)

    @property
    def median_ts(self) -> float:
        """The middle of the repetitions, in tokens per second."""
        return statistics.median(self.samples_ts)

    @property
    def joules(self) -> float | None:
        """Of all repetitions together; None where nobody can tell."""
        return sum(self.samples_j) if self.samples_j else None

    @property
    def watts(self) -> float | None:
        """The mean of the repetitions; None where nobody can tell."""
        joules = self.joules
        return None if joules is None else joules / (sum(self.samples_ns) / 1e9)

    @property
    def tokens_per_joule(self) -> float | None:
        """What the joules have done."""
        joules = self.joules
        return len(self.samples_j) * self.test.n_tokens / joules if joules else None


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
    raw = fields_of(line)
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
        settings=settings_in(raw, ECHOED),
        raw=raw,
    )


def _is_duration(value: object) -> bool:
    return type(value) is int and 0 < value < _MOST_READING


def _is_energy(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < _MOST_READING  # type: ignore[operator]


def _integer(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key, default)
    if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
        raise BadRecord(f"{key} is {value!r}, not a non-negative integer")
    return value


def fields_of(line: str) -> dict[str, Any]:
    """The fields of a record that is one line of JSON.

    Raises:
        BadRecord: it is none.
    """
    try:
        raw = json_text.loads(line)
    except ValueError as error:
        raise BadRecord(f"not JSON: {line[:200]!r}") from error
    if not _is_record(raw):
        raise BadRecord(f"not a record: {line[:200]!r}")
    return raw  # type: ignore[no-any-return] # it is one, then


def settings_in(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, int | str]:
    """What a record repeats of its configuration, as far as this build prints it."""
    return {name: spelled for name in names if (spelled := as_echoed(raw.get(name))) is not None}


def as_echoed(value: object) -> int | str | None:
    """A setting in one spelling for all builds: a switch is 0 or 1."""
    if isinstance(value, int):  # A bool too: flash_attn was one before b9437.
        return int(value)
    return value if isinstance(value, str) else None


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """A measurement or failure whole, as it came."""
    kept = {**_shallow(outcome), "params": params_to_json(outcome.params)}
    return {**kept, "test": test_to_json(outcome.test), "run": _shallow(outcome.run)}


def test_to_json(test: Test) -> dict[str, int]:
    """The tokens of a test; of one at a time, as before there were several."""
    kept = asdict(test)
    return kept if test.n_parallel > 1 else {k: n for k, n in kept.items() if k != "n_parallel"}


def outcome_from_json(kept: Mapping[str, Any]) -> Outcome:
    """The inverse of `outcome_to_json`; files are changed by hand.

    Raises:
        KeyError, TypeError, ValueError: it is no outcome, or one that cannot be.
    """
    _check(kept["test"], _TEST)
    common = {**kept, "params": params_from_json(kept["params"]), "test": Test(**kept["test"])}
    common["run"] = _run_from_json(kept["run"])
    if "samples_ns" in kept:
        _check(kept, _MEASUREMENT)
        samples = {name: tuple(kept.get(name, ())) for name in ("samples_ns", "samples_j")}
        if len(samples["samples_j"]) not in (0, len(samples["samples_ns"])):
            raise ValueError("joules of other repetitions than there are")
        return Measurement(**{**common, **samples})
    _check(kept, _FAILURE)
    tail = tuple(kept["stderr_tail"])
    return Failure(**{**common, "kind": FailureKind(kept["kind"]), "stderr_tail": tail})


def _run_from_json(kept: Mapping[str, Any]) -> RunFacts:
    _check(kept, _RUN)
    return RunFacts(**{**kept, "argv": tuple(kept["argv"])})


def _check(kept: Mapping[str, Any], checks: Mapping[str, Callable[[object], bool]]) -> None:
    for name, may_be in checks.items():
        if name in kept and not may_be(kept[name]):
            raise ValueError(f"{name} is {str(kept[name])[:80]}")


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and {*map(type, value)} <= {str}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_TOKENS


def _is_time(value: object) -> bool:
    """Seconds, of which a calendar has a date."""
    return type(value) in (int, float) and 0 <= value <= _LAST_S  # type: ignore[operator]


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and {*map(type, value.values())} <= {int, float}
        and all(map(_MOST_READING.__gt__, map(abs, value.values())))
    )


def _is_record(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= _MOST_FIELDS


_MOST_TOKENS = 2**31 - 1
_LAST_S = 253_402_300_799  # The end of the year 9999, as seconds since the epoch.
_MOST_READING = 1e18
_MOST_FIELDS = 500  # Of a record; llama-bench prints 42.
_TEST = dict.fromkeys(("n_prompt", "n_gen", "n_depth", "n_parallel"), _is_count)
_RUN: Mapping[str, Callable[[object], bool]] = {
    "argv": _is_texts,
    "removed_environment": lambda value: isinstance(value, dict) and _is_texts([*value.values()]),
    "started_at": _is_time,
    "ended_at": _is_time,
    "load_s": lambda value: value is None or _is_time(value),
    "before": _is_state,
    "after": _is_state,
}
_MEASUREMENT: Mapping[str, Callable[[object], bool]] = {
    "samples_ns": lambda value: (
        isinstance(value, list | tuple) and bool(value) and all(map(_is_duration, value))
    ),
    "samples_j": lambda value: isinstance(value, list | tuple) and all(map(_is_energy, value)),
    "build_commit": _is_text,
    "build_number": lambda value: type(value) is int,
    "record": _is_record,
}
_FAILURE: Mapping[str, Callable[[object], bool]] = {
    "message": _is_text,
    "exit_code": lambda value: value is None or type(value) is int,
    "stderr_tail": _is_texts,
}


def _shallow(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
