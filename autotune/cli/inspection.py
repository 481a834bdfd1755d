"""What a GGUF needs, counted and shown: the work of `lcm inspect`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autotune.cli import console
from autotune.cli.compose import inspect_answer
from autotune.cli.machine import as_llama_cpp_sees_it
from autotune.errors import printable
from autotune.hardware import Hardware, detect_hardware
from autotune.model import Model, analyze_model
from autotune.model.footprint import Footprint, footprint
from autotune.params import Params, Program
from autotune.recommend import Rung, context_ladder
from autotune.recommend.placement import Placement, used_gpus
from autotune.words import size


def print_needs(path: Path, params: Params, program: Program, *, as_json: bool) -> None:
    """Print what a model is and what it needs under `params`, by part and place."""
    model, hardware = analyze_model(path), as_llama_cpp_sees_it(detect_hardware())
    hardware = replace(hardware, gpus=used_gpus(hardware.gpus))
    memory, ladder = _needs(model, hardware, params, program)
    if as_json:
        console.answer(inspect_answer(model, memory, ladder))
        return
    parts = [_model_lines(model), _memory_lines(memory), _ladder_lines(ladder)]
    if len(memory.gpus) > len(hardware.gpus):
        parts.append("This machine has no GPU: the one above is counted, but cannot be judged.")
    console.text("\n\n".join(parts))


def _needs(
    model: Model, hardware: Hardware, params: Params, program: Program
) -> tuple[Footprint, tuple[Rung, ...]]:
    """The memory of the configuration that is asked about, and of its neighbours."""
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
            f"{model.n_parameters / 1e9:.2f} B parameters, {size(model.file_bytes)}{shards}"
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
        [title, *(mark + size(getattr(place, field)) for _, place in places)]
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
        cache = size(rung.memory.kv_cache_bytes)
        total = "~" + size(rung.memory.total_bytes)
        rows.append([str(rung.n_ctx), rung.cache_type, cache, total, verdict])
    return console.table(rows, ">>>><")
