"""`lcm inspect M`: what a GGUF is and what it needs."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import console
from autotune.errors import printable
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.model.footprint import Footprint
from autotune.params import DEFAULT_N_BATCH, Params, Program
from autotune.recommend import Rung


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
        typer.Option(metavar="N", min=1, help="Slots; otherwise 4 for server, 1 elsewhere."),
    ] = None,
    n_gpu_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Layers on the GPU; otherwise all, where there is one."
        ),
    ] = None,
    n_cpu_moe: Annotated[
        int, typer.Option(metavar="N", min=0, help="First layers whose experts stay on the CPU.")
    ] = 0,
    program: Annotated[For, typer.Option("--for", help="The program to count for.")] = For.server,
) -> None:
    """Print what a GGUF is and needs, by part and place.

    Example: lcm inspect gemma-3-270m.gguf --ctx-size 32768 --cache-type-k q8_0
    """
    from autotune.cli.compose import inspect_answer  # noqa: PLC0415 - --help does not pay for it
    from autotune.hardware import detect_hardware  # noqa: PLC0415
    from autotune.model import analyze_model  # noqa: PLC0415
    from autotune.recommend.placement import used_gpus  # noqa: PLC0415

    analyzed, hardware = analyze_model(model), detect_hardware()
    hardware = replace(hardware, gpus=used_gpus(hardware.gpus))
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
    memory, ladder = _needs(analyzed, hardware, params, program.value)
    if as_json:
        console.answer(inspect_answer(analyzed, memory, ladder))
        return
    parts = [_model_lines(analyzed), _memory_lines(memory), _ladder_lines(ladder)]
    if len(memory.gpus) > len(hardware.gpus):
        parts.append("This machine has no GPU: the one above is counted, but cannot be judged.")
    console.text("\n\n".join(parts))


def _needs(
    model: Model, hardware: Hardware, params: Params, program: Program
) -> tuple[Footprint, tuple[Rung, ...]]:
    """The memory of the configuration that is asked about, and of its neighbours."""
    from autotune.model.footprint import footprint  # noqa: PLC0415
    from autotune.recommend import context_ladder  # noqa: PLC0415
    from autotune.recommend.placement import Placement  # noqa: PLC0415

    asked = params.n_gpu_layers
    # Without a GPU here, layers that are asked for go to one that could be.
    gpus = [float(gpu.free_bytes) for gpu in hardware.gpus] or ([1.0] if asked else [])
    offloaded = model.n_offloadable if asked is None else asked
    complete = bool(gpus) and not params.n_cpu_moe and offloaded >= model.n_offloadable

    def configured(n_ctx: int, cache_type: str) -> Placement:
        rung = replace(params, n_ctx=n_ctx, type_k=cache_type, type_v=cache_type)
        memory = footprint(model, rung, program=program, gpus=gpus)
        return Placement(params=rung, memory=memory, complete=complete)

    memory = footprint(model, params, program=program, gpus=gpus)
    return memory, context_ladder(hardware, model, configured)


def _model_lines(model: Model) -> str:
    experts = ""
    if model.shape.n_expert:
        experts = f", {model.shape.n_expert_used} of {model.shape.n_expert} experts a token"
    shards = f" in {len(model.files)} shards" if len(model.files) > 1 else ""
    lines = [
        printable(model.name),
        (
            f"{printable(model.architecture)} {model.quantization}, "
            f"{model.n_parameters / 1e9:.2f} B parameters, {console.size(model.file_bytes)}{shards}"
        ),
        (
            f"{model.shape.n_layers} layers{experts}; trained on {model.shape.n_ctx_train} tokens; "
            f"vocabulary {model.n_vocab}"
        ),
    ]
    return "\n".join(lines + [f"note: {printable(note)}" for note in model.notes])


def _memory_lines(memory: Footprint) -> str:
    """Parts by place; an estimate is marked with ~."""
    places = [("host", memory.host), *((f"GPU {i}", gpu) for i, gpu in enumerate(memory.gpus))]
    weights, caches = (
        "" if exact else "~" for exact in (memory.weights_exact, memory.caches_exact)
    )
    rows = [["memory", *(name for name, _ in places)]]
    rows += [
        [title, *(mark + console.size(getattr(place, field)) for _, place in places)]
        for title, field, mark in (
            ("weights", "weights_bytes", weights),
            ("KV cache", "kv_cache_bytes", caches),
            ("recurrent state", "recurrent_bytes", caches),
            ("compute buffer", "compute_bytes", "~"),
            ("together", "total_bytes", "~"),
        )
    ]
    return (
        console.table(rows, "<" + ">" * len(places))
        + "\n~ an estimate; the others are exact (docs/numbers.md)"
    )


def _ladder_lines(ladder: Sequence[Rung]) -> str:
    rows = [["context", "cache", "KV cache", "together", "on this machine"]]
    for rung in ladder:
        verdict = rung.verdict + (", beyond training" if rung.beyond_training else "")
        cache = sum(place.kv_cache_bytes for place in (rung.memory.host, *rung.memory.gpus))
        total = "~" + console.size(rung.memory.total_bytes)
        rows.append([str(rung.n_ctx), rung.cache_type, console.size(cache), total, verdict])
    return console.table(rows, ">>>><")
