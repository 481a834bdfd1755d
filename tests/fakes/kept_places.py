"""The machine, the model and the memory of the study in `kept`, as the answer has them."""

from autotune.cli.answer import HardwareSection, MemorySection, ModelSection, PlaceSection

_GIB = 1 << 30

HARDWARE: HardwareSection = {
    "cpu_cores_physical": 8,
    "cpu_cores_logical": 16,
    "cpu_cores_performance": 8,
    "cpu_cores_usable": 8,
    "cpu_threads_usable": 16,
    "cpu_quota": None,
    "cpu_name": "AMD Ryzen 7 5800H",
    "cpu_architecture": "x86_64",
    "cpu_isa": ["avx", "avx2", "fma", "f16c", "bmi2"],
    "cpu_sockets": 1,
    "cpu_numa_nodes": 1,
    "ram_total_gb": 31.0,
    "ram_available_gb": 24.0,
    "ram_total_bytes": 31 * _GIB,
    "ram_available_bytes": 24 * _GIB,
    "ram_limit_bytes": None,
    "memlock_bytes": 8 << 20,
    "gpu_type": "CUDA",
    "gpu_vram_gb": 6.0,
    "gpus": [
        {
            "backend": "CUDA",
            "name": "NVIDIA GeForce RTX 3060 Laptop GPU",
            "total_bytes": 6 * _GIB,
            "free_bytes": 5 * _GIB,
            "integrated": False,
            "driver": "560.35.03",
            "compute_capability": "8.6",
            "device": "CUDA0",
            "sources": ["NVML", "llama.cpp"],
            "usable": True,
        }
    ],
    "storage": {"filesystem": "ext4", "device": "nvme0n1", "rotational": False, "network": False},
    "operating_system": "Linux",
    "wsl": False,
    "notes": [],
}

MODEL: ModelSection = {
    "path": "/models/Llama-3.1-8B-Instruct-Q4_K_M.gguf",
    "size_gb": 4.58,
    "size_bytes": 4_920_739_232,
    "files": 1,
    "name": "Llama 3.1 8B Instruct",
    "architecture": "llama",
    "quantization": "Q4_K - Medium",
    "n_parameters": 8_030_261_312,
    "n_vocab": 128_256,
    "n_layers": 32,
    "n_ctx_train": 131_072,
    "n_embd": 4096,
    "n_expert": 0,
    "n_expert_used": 0,
    "weights_bytes": 4_912_898_304,
    "notes": [],
}


def _place(weights: int, cache: int, compute: int) -> PlaceSection:
    return {
        "weights_bytes": weights,
        "kv_cache_bytes": cache,
        "recurrent_bytes": 0,
        "compute_bytes": compute,
        "exact": {
            "weights_bytes": True,
            "kv_cache_bytes": True,
            "recurrent_bytes": True,
            "compute_bytes": False,
        },
    }


MEMORY: MemorySection = {
    "host": _place(700 << 20, 48 << 20, 16 << 20),
    "gpus": [_place(4000 << 20, 464 << 20, 260 << 20)],
}
