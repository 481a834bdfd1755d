"""The columns of what is exported: their order and what kind of value each holds.

First come those of llama-bench's own `-o csv`, by its names and in its order, so that what reads
its tables reads ours. docs/csv.md describes each of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import chain
from typing import Literal, TypeAlias

from autotune.params import Params

Level: TypeAlias = Literal["trial", "record", "sample"]
Kind: TypeAlias = Literal["int", "float", "text", "bool", "list"]
Value: TypeAlias = int | float | str | bool | list[str] | None
Row: TypeAlias = Mapping[str, Value]  # A column that is missing has no value.


def _columns(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


# Those of llama.cpp b11434 (2026-10); tests/contract/test_llama_bench_csv.py asks the real one.
LLAMA_BENCH: Mapping[str, Kind] = {
    **_columns("text", "build_commit"),
    **_columns("int", "build_number"),
    **_columns("text", "cpu_info gpu_info backends model_filename model_type"),
    **_columns("int", "model_size model_n_params n_batch n_ubatch n_threads"),
    **_columns("text", "cpu_mask"),
    **_columns("int", "cpu_strict poll"),
    **_columns("text", "type_k type_v"),
    **_columns("int", "n_gpu_layers n_cpu_moe"),
    **_columns("text", "split_mode"),
    **_columns("int", "main_gpu no_kv_offload flash_attn"),
    **_columns("text", "devices tensor_split tensor_buft_overrides load_mode lazy_mode"),
    **_columns("int", "embeddings no_op_offload no_host repack fit_target fit_min_ctx"),
    **_columns("int", "n_prompt n_gen n_depth"),
    **_columns("text", "test_time"),
    **_columns("int", "avg_ns stddev_ns"),
    **_columns("float", "avg_ts stddev_ts"),
}
# What its records have beside the columns of its CSV: the sample level has them, one a row.
SAMPLES = ("samples_ns", "samples_ts")

_IDENTITY: Mapping[str, Kind] = {
    **_columns("text", "study model"),
    **_columns("int", "trial"),
    **_columns("text", "kind source"),
}
_TIMES: Mapping[str, Kind] = {
    **_columns("int", "order"),
    **_columns("text", "started_at ended_at"),
    **_columns("float", "load_s"),
}
_MACHINE: Mapping[str, Kind] = {
    **_columns("float", "watts foreign_cpus pressure_cpu pressure_memory pressure_io"),
    **_columns("int", "swapped_pages"),
    **_columns("float", "temperature_c clock_mhz"),
    **_columns("int", "throttles power_limits"),
}
# Each follows the number of its GPU, as in gpu0_temperature_c.
_GPU: Mapping[str, Kind] = {
    **_columns("float", "temperature_c clock_mhz power_capped"),
    **_columns("int", "throttle_reasons foreign_processes"),
}
_OUTCOME: Mapping[str, Kind] = {
    **_columns("text", "power_limited disturbed outcome message"),
    **_columns("int", "exit_code"),
}
_SAMPLE: Mapping[str, Kind] = {
    **_columns("int", "repetition sample_ns"),
    **_columns("float", "sample_ts sample_j"),
}
_RATES: Mapping[str, Kind] = {
    **_columns("list", "parts"),
    **_columns("text", "pp_test"),
    **_columns("float", "pp_ts pp_tokens_per_joule"),
    **_columns("text", "tg_test"),
    **_columns("float", "tg_ts tg_tokens_per_joule request_s request_j elapsed_s"),
    **_columns("bool", "led"),
}
# Parameters of which a llama-bench has no column, or only that of another name.
_FURTHER: Mapping[str, Kind] = {
    **_columns("int", "n_ctx n_threads_batch n_parallel kv_unified"),
    **_columns("text", "numa"),
    **_columns("int", "cache_ram"),
}
_PARAMS = frozenset(field.name for field in fields(Params))

_BEFORE: Mapping[Level, Mapping[str, Kind]] = {
    "record": LLAMA_BENCH,
    "sample": LLAMA_BENCH,
    "trial": {
        **{name: kind for name, kind in LLAMA_BENCH.items() if name in _PARAMS},
        **_FURTHER,
    },
}
_OWN: Mapping[Level, Mapping[str, Kind]] = {
    "record": {
        **_IDENTITY,
        **_columns("text", "part"),
        **_TIMES,
        **_columns("int", "repetitions"),
        **_columns("float", "median_ts joules tokens_per_joule"),
    },
    "sample": {**_IDENTITY, **_columns("text", "part"), **_TIMES, **_SAMPLE},
    "trial": {**_IDENTITY, **_RATES, **_TIMES},
}
_AFTER: Mapping[Level, Mapping[str, Kind]] = {
    "record": {**_OUTCOME, **_columns("text", "numa"), **_columns("list", "argv")},
    "sample": {**_columns("text", "power_limited disturbed numa"), **_columns("list", "argv")},
    "trial": {**_OUTCOME, **_columns("list", "pp_argv tg_argv")},
}


# By which no field of llama-bench may go at the levels that have its fields.
_TAKEN = frozenset({*_OWN["record"], *_OWN["sample"], *_MACHINE, *_AFTER["record"]})


def columns(level: Level, rows: Iterable[Row]) -> dict[str, Kind | None]:
    """The columns of a table in their order; None: of a kind that only its values tell.

    Args:
        level: what a row is.
        rows: all that there are. What they have beside the known columns is a GPU's, which goes
            beside the machine's, or of another build of llama-bench, which goes after its own.
    """
    fixed = {**_BEFORE[level], **_OWN[level], **_MACHINE, **_AFTER[level]}
    others = [name for name in dict.fromkeys(chain.from_iterable(rows)) if name not in fixed]
    gpus = {name: kind for name in others if (kind := _gpu_kind(name))}
    unknown = dict.fromkeys(name for name in others if name not in gpus)
    return {**_BEFORE[level], **unknown, **_OWN[level], **_MACHINE, **gpus, **_AFTER[level]}


def of_llama_bench(field: str) -> str:
    """The column of a field of llama-bench: its own name, unless a column of ours has that."""
    return f"llama_bench_{field}" if field in _TAKEN or _gpu_kind(field) else field


def _gpu_kind(name: str) -> Kind | None:
    gpu, _, what = name.partition("_")
    is_gpu = gpu.startswith("gpu") and gpu[3:].isdecimal()
    return _GPU.get(what) if is_gpu else None
