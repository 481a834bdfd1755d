"""One llama.cpp configuration: the value that every room passes on.

Fields carry llama-bench's JSON names; None means "llama.cpp's own default, not sent". What those
defaults are stands here as constants, each with its place in llama.cpp 0.5.0-dev.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    "load_mode": "auto",
    "no_op_offload": False,
    "no_kv_offload": False,
    "repack": True,
    "numa": "off",
    "cache_type": DEFAULT_CACHE_TYPE,
}

Program = Literal["bench", "cli", "server"]
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]


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
    split_mode: Literal["none", "layer", "row", "tensor"] | None = None
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
    cache_ram: int | None = None  # MiB, llama-server only.


def params_to_json(params: Params) -> dict[str, Any]:
    """The fields that are set."""
    return {name: value for name, value in asdict(params).items() if value is not None}


def params_from_json(kept: Mapping[str, Any]) -> Params:
    """The inverse of `params_to_json`; JSON has lists where `Params` has tuples."""
    return Params(**{name: _tupled(value) for name, value in kept.items()})


def _tupled(value: Any) -> Any:  # noqa: ANN401 - any field
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
