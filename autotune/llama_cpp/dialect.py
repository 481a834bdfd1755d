"""Say one configuration in llama.cpp's own flags.

`Params` and the JSON use logical names, because the flags change: `--n-ctx` never was one,
`--mlock` and `--no-mmap` became `--load-mode`. The flags here are those of llama.cpp 0.5.0, read
from `common/arg.cpp` and accepted by its programs in `tests/e2e/test_dialect.py`.
"""

from typing import Literal

from autotune.params import Params

DIALECT = "llama.cpp 0.5.0"

_FLAGS = (
    ("n_threads", "--threads"),
    ("n_threads_batch", "--threads-batch"),
    ("n_ctx", "--ctx-size"),
    ("n_batch", "--batch-size"),
    ("n_ubatch", "--ubatch-size"),
    ("n_gpu_layers", "--n-gpu-layers"),
    ("n_cpu_moe", "--n-cpu-moe"),
    ("tensor_split", "--tensor-split"),
    ("devices", "--device"),
    ("type_k", "--cache-type-k"),
    ("type_v", "--cache-type-v"),
    ("n_parallel", "--parallel"),
    ("load_mode", "--load-mode"),
    ("numa", "--numa"),
)


def command(
    program: Literal["cli", "server"],
    model_path: str,
    params: Params,
    *,
    cache_ram_mib: int | None = None,
) -> tuple[str, ...]:
    """The argument list that starts `program`; nothing in it needs a shell."""
    arguments = [f"llama-{program}", "--model", model_path]
    for field, flag in _FLAGS:
        value = getattr(params, field)
        if isinstance(value, tuple):
            value = ",".join(x if isinstance(x, str) else f"{x:g}" for x in value)
        if value is not None:
            arguments += [flag, str(value)]
    arguments += ["--flash-attn", _flash_attn(params.flash_attn)]
    if params.n_gpu_layers is not None:  # What was planned is what is loaded.
        arguments += ["--fit", "off"]
    if program == "server" and cache_ram_mib is not None:
        arguments += ["--cache-ram", str(cache_ram_mib)]
    return tuple(arguments)


def _flash_attn(value: bool | None) -> str:  # noqa: FBT001 - a field of Params, passed on
    return "auto" if value is None else "on" if value else "off"
