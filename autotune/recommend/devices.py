"""What is to be said of a machine's GPUs: which stay idle, and what would put them to use."""

from collections.abc import Iterator, Sequence

from autotune.hardware import Gpu, Hardware
from autotune.hardware.listed import is_software
from autotune.recommend.rules import Advice

# What a build for a GPU's backend is configured with (docs/build.md of llama.cpp).
_CMAKE = {
    "CUDA": "-DGGML_CUDA=ON",
    "Metal": "-DGGML_METAL=ON",
    "ROCm": "-DGGML_HIP=ON",
    "SYCL": "-DGGML_SYCL=ON",
    "Vulkan": "-DGGML_VULKAN=ON",
}


def device_advice(hardware: Hardware) -> Iterator[Advice]:
    """Cards that llama.cpp does not list, and devices that are none."""
    for gpu in hardware.idle_gpus:
        # One inside the processor is left out on purpose in many a build, and rarely missed.
        if hardware.asked and not gpu.integrated:
            yield Advice(
                what=f"{gpu.name} is not used: {hardware.asked} lists no device for it",
                remedy=build_for([gpu]),
            )
    for gpu in hardware.gpus:
        if is_software(gpu):
            yield Advice(
                what=(
                    f"{gpu.device} ({gpu.name}) is no GPU: it computes on the CPU, in the host's "
                    "memory, and more slowly than llama.cpp does there by itself"
                ),
                remedy="unset GGML_VK_VISIBLE_DEVICES, which asks for it",
            )


def build_for(gpus: Sequence[Gpu]) -> str:
    """Which build of llama.cpp would use these."""
    backends = dict.fromkeys([*(gpu.backend for gpu in gpus), "Vulkan"])
    if "Metal" in backends:
        backends = {"Metal": None}
    ways = (f"{name} (cmake {_CMAKE[name]})" for name in backends if name in _CMAKE)
    return f"get a build of llama.cpp with {' or '.join(ways)}, and see its driver"
