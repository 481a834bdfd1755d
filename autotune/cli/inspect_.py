"""`lcm inspect M`: what a GGUF is and what it needs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autotune.params import DEFAULT_N_BATCH, Params


class For(StrEnum):
    """The programs whose memory differs."""

    bench = "bench"
    cli = "cli"
    server = "server"


def inspect(
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The GGUF file; of a split model, any shard.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ctx_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens of context, of all slots together.")
    ] = 4096,
    cache_type_k: Annotated[str, typer.Option(metavar="TYPE", help="f16, q8_0, q4_0, ...")] = "f16",
    cache_type_v: Annotated[str, typer.Option(metavar="TYPE", help="f16, q8_0, q4_0, ...")] = "f16",
    ubatch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Physical batch size.")
    ] = 512,
    parallel: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Slots; otherwise 4 for server, else 1."),
    ] = None,
    n_gpu_layers: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Layers on the GPU; otherwise all."),
    ] = None,
    n_cpu_moe: Annotated[
        int, typer.Option(metavar="N", min=0, help="First layers whose experts stay on the CPU.")
    ] = 0,
    program: Annotated[For, typer.Option("--for", help="The program to count for.")] = For.server,
) -> None:
    """Print what a GGUF is and needs, by part and place.

    Example: lcm inspect gemma-3-270m.gguf --ctx-size 32768 --cache-type-k q8_0
    """
    from autotune.cli.inspection import print_needs  # noqa: PLC0415 - --help does not pay for it

    params = Params(
        n_ctx=ctx_size,
        n_batch=max(ubatch_size, DEFAULT_N_BATCH),
        n_ubatch=ubatch_size,
        type_k=cache_type_k,
        type_v=cache_type_v,
        n_parallel=parallel,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
    )
    print_needs(model, params, program.value, as_json=as_json)
