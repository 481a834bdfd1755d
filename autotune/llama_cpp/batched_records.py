"""What llama-batched-bench measured: the lines of `--output-format jsonl`.

    {"n_kv_max": 4096, "n_batch": 2048, "n_ubatch": 512, "flash_attn": -1, ..., "n_threads": 2,
     "n_threads_batch": 2, "pp": 256, "tg": 16, "pl": 8, ..., "t_pp": 3.2, ..., "t_tg": 0.8, ...}

A line is of `pl` sequences at once: `pp` tokens of prompt each, then `tg` tokens of generation. Its
times are seconds, for all of them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import BadRecord, as_echoed, fields_of, settings_in

# What a record repeats of its configuration, by the names of `Params`.
ECHOED = ("n_threads", "n_threads_batch", "n_batch", "n_ubatch", "n_gpu_layers", "flash_attn")
_MOST_TOKENS = 2**31 - 1
_MOST_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedRecord:
    """One line: so many sequences at once, and what they took together."""

    n_prompt: int
    n_gen: int
    n_slots: int
    prompts_s: float
    generation_s: float
    settings: Mapping[str, int | str]  # Those of ECHOED that this build prints.
    raw: Mapping[str, Any]


def parse_batched(line: str) -> BatchedRecord:
    """Read one line.

    Raises:
        BadRecord: it is not a record, or one that cannot be true.
    """
    raw = fields_of(line)
    return BatchedRecord(
        n_prompt=_tokens(raw, "pp"),
        n_gen=_tokens(raw, "tg"),
        n_slots=_tokens(raw, "pl"),
        prompts_s=_seconds(raw, "t_pp"),
        generation_s=_seconds(raw, "t_tg"),
        settings=settings_in(raw, ECHOED),
        raw=raw,
    )


def check_batched(record: BatchedRecord, asked: Trial) -> None:
    """Refuse a record that is of another test, or of other settings (BadRecord)."""
    told = record.n_prompt, record.n_gen, record.n_slots
    test = asked.test
    if told != (test.n_prompt, test.n_gen, test.n_parallel):
        said = f"pp{record.n_prompt}+tg{record.n_gen} x{record.n_slots}"
        raise BadRecord(f"a record of {said} where {test} was asked for")
    for name in ECHOED:
        wanted, got = as_echoed(getattr(asked.params, name)), record.settings.get(name)
        if (name, wanted) == ("flash_attn", "auto"):
            wanted = -1
        if wanted is not None and got is not None and wanted != got:
            raise BadRecord(f"a record of {name} {got} where {wanted} was asked for")


def _tokens(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if type(value) is not int or not 0 < value <= _MOST_TOKENS:
        raise BadRecord(f"{key} is {value!r}, not a number of tokens")
    return value


def _seconds(raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if type(value) not in (int, float) or not 0 < value < _MOST_S:  # type: ignore[operator]
        raise BadRecord(f"{key} is {value!r}, not a duration")
    return float(value)  # type: ignore[arg-type]
