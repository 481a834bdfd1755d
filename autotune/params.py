"""One llama.cpp configuration: the value that every room passes on.

Fields carry llama-bench's JSON names; None means "llama.cpp's own default, not sent". What those
defaults are stands here as constants, each with its place in llama.cpp 0.5.0-dev.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

DEFAULT_N_BATCH = 2048  # common_params::n_batch, common/common.h
DEFAULT_N_UBATCH = 512  # common_params::n_ubatch, common/common.h
DEFAULT_CACHE_TYPE = "f16"  # common_params::cache_type_k and _v, common/common.h
ALL_LAYERS = 999  # More than LLAMA_MAX_LAYERS + 1; every version of llama.cpp takes it as "all".

# What llama.cpp does where a parameter is not said. Of threads it decides by the machine.
DEFAULTS: Mapping[str, int | bool | str] = {
    "n_batch": DEFAULT_N_BATCH,
    "n_ubatch": DEFAULT_N_UBATCH,
    "flash_attn": "auto",
    "n_gpu_layers": ALL_LAYERS,
    "n_cpu_moe": 0,
    "devices": "auto",  # Every card and every RPC server.
    "split_mode": "layer",
    "main_gpu": 0,
    "tensor_split": "auto",  # In proportion to free memory.
    "load_mode": "auto",
    "no_op_offload": False,
    "no_kv_offload": False,
    "repack": True,
    "numa": "off",
    "cache_type": DEFAULT_CACHE_TYPE,
    # Of llama-server with `--parallel` unset, tools/server/server.cpp.
    "n_parallel": 4,
    "kv_unified": True,
}

Program = Literal["bench", "cli", "server"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]
SplitMode = Literal["none", "layer", "row", "tensor"]


def load_mode(*, mapped: bool, locked: bool) -> LoadMode | None:
    """The load mode that two switches name together; None: mapped, llama.cpp's default."""
    if locked:
        return "mmap+mlock" if mapped else "mlock"
    return None if mapped else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters of one llama.cpp process."""

    n_ctx: int | None = None  # Tokens of all slots together; None: the training context.
    n_batch: int | None = None
    n_ubatch: int | None = None
    n_threads: int | None = None  # For text generation.
    n_threads_batch: int | None = None  # For prompt processing.
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    tensor_split: tuple[float, ...] | None = None
    split_mode: SplitMode | None = None
    main_gpu: int | None = None
    devices: tuple[str, ...] | None = None
    tensor_buft_overrides: tuple[tuple[str, str], ...] | None = None  # (pattern, buffer type).
    type_k: str | None = None
    type_v: str | None = None
    flash_attn: bool | Literal["auto"] | None = None
    no_kv_offload: bool | None = None
    no_op_offload: bool | None = None
    repack: bool | None = None
    n_parallel: int | None = None  # Slots; None: 4 in llama-server, 1 elsewhere.
    kv_unified: bool | None = None  # One cache for all slots; None: only llama-server's default 4.
    load_mode: LoadMode | None = None
    numa: Literal["distribute", "isolate", "numactl"] | None = None
    numactl: str | None = None  # What it is bound by: "node0", "interleave"; `numa` is "numactl".
    cache_ram: int | None = None  # MiB, llama-server only.


def params_to_json(params: Params) -> dict[str, Any]:
    """The fields that are set."""
    return {name: value for name, value in asdict(params).items() if value is not None}


def params_from_json(kept: Mapping[str, Any]) -> Params:
    """The inverse of `params_to_json`; JSON has lists where `Params` has tuples.

    Raises:
        TypeError: there is no such field.
        ValueError: a value is none that its field can have.
    """
    values = tuple(map(_tupled, kept.values()))
    # A switch is no number, though Python takes True and 1 for the same.
    return _known(tuple(kept), values, tuple(map(type, values)))


@lru_cache(maxsize=4096)
def _known(names: tuple[str, ...], values: tuple[Any, ...], _types: tuple[type, ...]) -> Params:
    """A long study repeats its configurations, and each is looked at and held once."""
    return checked(Params(**dict(zip(names, values, strict=True))))


def checked(params: Params) -> Params:
    """The same, once each value is one that its field can have: files are changed by hand.

    No text can be taken for a flag by whoever splits a command at flags.

    Raises:
        ValueError: one is not.
    """
    for name, may_be in _CHECKS.items():
        value = getattr(params, name)
        if value is not None and not may_be(value):
            raise ValueError(f"{name} is {str(value)[:_SHOWN]!r}")
    return params


def _tupled(value: Any) -> Any:  # noqa: ANN401 - any field
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


_SHOWN = 80
_MOST = 2**31 - 1  # llama.cpp reads whole numbers into C's int; -1 leaves a number to it.
_CACHE_TYPE = re.compile(r"[a-z0-9_]{1,16}")
_DEVICE = re.compile(r"[A-Za-z0-9_.:\[\]][A-Za-z0-9_.:\[\]-]{0,63}")
_BINDING = re.compile(r"interleave|node[0-9]{1,3}")
_PATTERN = re.compile(r"[^\s;,-][^\s;,]{0,1023}")  # Of names of tensors, and of a type of buffer.


def _is_whole(value: object) -> bool:
    return type(value) is int and -1 <= value <= _MOST


def _is_switch(value: object) -> bool:
    return type(value) is bool


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]


def _is_one_of(*words: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in words


def _is_like(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_each(one: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(map(one, value))


_WHOLE = (
    *("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "n_gpu_layers"),
    *("n_cpu_moe", "main_gpu", "n_parallel", "cache_ram"),
)
_SWITCHES = ("no_kv_offload", "no_op_offload", "repack", "kv_unified")
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_WHOLE, _is_whole),
    **dict.fromkeys(_SWITCHES, _is_switch),
    **dict.fromkeys(("type_k", "type_v"), _is_like(_CACHE_TYPE)),
    "tensor_split": _is_each(_is_share),
    "devices": _is_each(_is_like(_DEVICE)),
    "tensor_buft_overrides": _is_each(_is_each(_is_like(_PATTERN))),
    "split_mode": _is_one_of(*get_args(SplitMode)),
    "flash_attn": lambda value: _is_switch(value) or value == "auto",
    "load_mode": _is_one_of(*get_args(LoadMode)),
    "numa": _is_one_of("distribute", "isolate", "numactl"),
    "numactl": _is_like(_BINDING),
}
