"""Compose what the rooms found into the sections of the JSON."""

from typing import cast

from autotune.cli.answer import (
    SCHEMA_VERSION,
    HardwareSection,
    InspectAnswer,
    MemorySection,
    ModelSection,
    PlaceSection,
    RecommendedParams,
    RunAnswer,
    RungSection,
)
from autotune.hardware import Hardware, Storage
from autotune.llama_cpp.launch import launch
from autotune.model import Model
from autotune.model.footprint import Footprint, Place
from autotune.recommend import Recommendation, Rung
from autotune.recommend.placement import used_gpus

GIB = 1 << 30


def run_answer(
    hardware: Hardware, storage: Storage, model: Model, recommendation: Recommendation
) -> RunAnswer:
    """The answer of `lcm run --optimize`."""
    params = {choice.key: choice.value for choice in recommendation.choices}
    cli = launch("cli", model.path, recommendation.params)
    server = launch("server", model.path, recommendation.params)
    return {
        "schema_version": SCHEMA_VERSION,
        "hardware": hardware_section(hardware, storage),
        "model": model_section(model),
        "recommended_params": cast("RecommendedParams", params),
        "rationale": list(recommendation.rationale),
        "warnings": [
            {"what": advice.what, "remedy": advice.remedy} for advice in recommendation.warnings
        ],
        "verdict": recommendation.verdict,
        "next_step": recommendation.next_step,
        "memory": memory_section(recommendation.memory),
        "context_ladder": [rung_section(rung) for rung in recommendation.ladder],
        "command": {
            "dialect": server.dialect,
            "llama-cli": list(cli.argv),
            "llama-server": list(server.argv),
            "unsupported": [*cli.unsupported, *server.unsupported],
        },
    }


def inspect_answer(model: Model, memory: Footprint, ladder: tuple[Rung, ...]) -> InspectAnswer:
    """The answer of `lcm inspect --json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model_section(model),
        "memory": memory_section(memory),
        "context_ladder": [rung_section(rung) for rung in ladder],
    }


def hardware_section(hardware: Hardware, storage: Storage) -> HardwareSection:
    """The machine, as this process sees it."""
    cpu, memory, gpus = hardware.cpu, hardware.memory, hardware.gpus
    used = used_gpus(gpus)
    return {
        "cpu_cores_physical": cpu.physical_cores,
        "cpu_cores_logical": cpu.logical_cores,
        "cpu_cores_performance": cpu.performance_cores,
        "cpu_cores_usable": cpu.usable_cores,
        "cpu_threads_usable": cpu.max_threads,
        "cpu_quota": cpu.quota,
        "cpu_name": cpu.name,
        "cpu_architecture": cpu.architecture,
        "cpu_isa": list(cpu.isa),
        "cpu_sockets": cpu.sockets,
        "cpu_numa_nodes": cpu.numa_nodes,
        "ram_total_gb": _gib(memory.total_bytes),
        "ram_available_gb": _gib(memory.available_bytes),
        "ram_total_bytes": memory.total_bytes,
        "ram_available_bytes": memory.available_bytes,
        "ram_limit_bytes": memory.limit_bytes,
        "memlock_bytes": memory.memlock_bytes,
        "gpu_type": used[0].backend if used else None,
        "gpu_vram_gb": _gib(sum(gpu.total_bytes for gpu in used)),
        "gpus": [
            {
                "backend": gpu.backend,
                "name": gpu.name,
                "total_bytes": gpu.total_bytes,
                "free_bytes": gpu.free_bytes,
                "integrated": gpu.integrated,
                "driver": gpu.driver,
                "compute_capability": gpu.compute_capability,
                "device": gpu.listed_as or None,
                "sources": list(gpu.sources),
                "usable": bool(gpu.listed_as) if hardware.asked else None,
            }
            for gpu in (*gpus, *hardware.idle_gpus)
        ],
        "storage": {
            "filesystem": storage.filesystem,
            "device": storage.device,
            "rotational": storage.rotational,
            "network": storage.network,
        },
        "operating_system": hardware.operating_system,
        "wsl": hardware.wsl,
        "notes": list(hardware.notes),
    }


def model_section(model: Model) -> ModelSection:
    """What the GGUF says of itself."""
    return {
        "path": str(model.path),
        "size_gb": _gib(model.file_bytes),
        "size_bytes": model.file_bytes,
        "files": len(model.files),
        "name": model.name,
        "architecture": model.architecture,
        "quantization": model.quantization,
        "n_parameters": model.n_parameters,
        "n_vocab": model.n_vocab,
        "n_layers": model.shape.n_layers,
        "n_ctx_train": model.shape.n_ctx_train,
        "n_embd": model.shape.n_embd,
        "n_expert": model.shape.n_expert,
        "n_expert_used": model.shape.n_expert_used,
        "weights_bytes": model.weight_bytes,
        "notes": list(model.notes),
    }


def memory_section(memory: Footprint) -> MemorySection:
    """The bytes by part and place, each with whether it is exact."""

    def section(place: Place) -> PlaceSection:
        return {
            "weights_bytes": place.weights_bytes,
            "kv_cache_bytes": place.kv_cache_bytes,
            "recurrent_bytes": place.recurrent_bytes,
            "compute_bytes": place.compute_bytes,
            "exact": {
                "weights_bytes": memory.weights_exact,
                "kv_cache_bytes": memory.caches_exact,
                "recurrent_bytes": memory.caches_exact,
                "compute_bytes": False,
            },
        }

    return {"host": section(memory.host), "gpus": [section(gpu) for gpu in memory.gpus]}


def rung_section(rung: Rung) -> RungSection:
    """One context and cache type."""
    memory = rung.memory
    return {
        "n_ctx": rung.n_ctx,
        "cache_type": rung.cache_type,
        "kv_cache_bytes": memory.kv_cache_bytes,
        "host_bytes": memory.host.total_bytes,
        "gpu_bytes": [gpu.total_bytes for gpu in memory.gpus],
        "total_bytes": memory.total_bytes,
        "all_on_gpu": rung.all_on_gpu,
        "beyond_training": rung.beyond_training,
        "verdict": rung.verdict,
    }


def _gib(n_bytes: int) -> float:
    """Short enough to read; the exact bytes stand beside it."""
    return round(n_bytes / GIB, 1 if n_bytes >= GIB else 3)
