"""What a build of llama.cpp can offload to, as it says itself: by `--list-devices`."""

import re
from dataclasses import dataclass

from autotune.llama_cpp.capabilities import Capabilities, libraries, lines_of, run_briefly
from autotune.llama_cpp.locate import Program

_DEVICE = re.compile(r"^\s+(\S+?): (.*) \((\d{1,12}) MiB, (\d{1,12}) MiB free\)")
# What the Vulkan backend says of each device while it starts, in builds that say it at all:
# ggml_vulkan: 0 = AMD Radeon 780M (RADV PHOENIX) (radv) | uma: 1 | fp16: 1 | warp size: 64
_VULKAN = re.compile(r"^ggml_vulkan: (\d{1,4}) = .*\| uma: ([01]) \|")
_HEADING = "Available devices:"
# libggml-cuda.so.0, ggml-vulkan.dll, and libggml-cpu-haswell.so, which is one of several CPUs'.
_LIBRARY = re.compile(r"^(?:lib)?ggml-([a-z]+)")
_BACKENDS = {"metal": "Metal", "vulkan": "Vulkan", "opencl": "OpenCL", "hip": "ROCm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that the program can offload to, as it names it itself."""

    name: str  # CUDA0, RPC0, Vulkan1
    description: str
    total_mib: int
    free_mib: int
    shares_memory: bool | None = None  # The host's; None where it does not say.


def list_devices(
    program: Program, capabilities: Capabilities, *arguments: str
) -> tuple[Device, ...] | None:
    """The devices that the program can use now, with their free memory; None where it cannot tell.

    A build for a GPU starts that GPU's driver for this, which takes up to a second.

    Args:
        program: the program.
        capabilities: what it can.
        arguments: what it needs to know of them beforehand, such as `--rpc HOST:PORT`.

    Raises:
        LlamaCppUnusable: it cannot be executed, or does not end.
    """
    if not capabilities.has("--list-devices"):
        return None
    answer = run_briefly(program, *arguments, "--list-devices")
    # What dies of a driver has listed nothing.
    if answer.code or _HEADING not in answer.stdout:
        return None
    return parse_devices(answer.stdout, answer.stderr)


def parse_devices(text: str, log: str = "") -> tuple[Device, ...]:
    """The devices in the output of `--list-devices`; `log` is what it says beside that."""
    shared = {f"Vulkan{m[1]}": m[2] == "1" for m in map(_VULKAN.match, lines_of(log)) if m}
    return tuple(
        Device(
            name=match[1],
            description=match[2],
            total_mib=int(match[3]),
            free_mib=int(match[4]),
            shares_memory=shared.get(match[1]),
        )
        for match in map(_DEVICE.match, lines_of(text))
        if match
    )


def backends_beside(program: Program) -> tuple[str, ...]:
    """Those whose libraries lie beside the program; none where they are linked into it."""
    files = libraries(program.path.resolve())
    found = {match[1] for file in files if (match := _LIBRARY.match(file.name))} - {"base"}
    return tuple(_BACKENDS.get(name, name.upper()) for name in sorted(found))
