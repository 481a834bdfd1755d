"""The machine as the installed llama.cpp can use it."""

import os
from dataclasses import replace

from autotune.errors import AutotuneError, ConfigError, LlamaCppNotFound
from autotune.hardware import Hardware, gpu_is_reachable
from autotune.hardware.nvidia import OTHER_ORDER
from autotune.llama_cpp.locate import Program, find_program

# What `lcm run` starts, in this order.
_PROGRAMS = ("llama-server", "llama-cli", "llama-bench")
# With it Vulkan has devices that are no GPU, such as Mesa's on the CPU.
NAMED_DEVICES = "GGML_VK_VISIBLE_DEVICES"


def as_llama_cpp_sees_it(hardware: Hardware, program: Program | None = None) -> Hardware:
    """The machine with the GPUs that llama.cpp itself lists, where it has to be asked for them.

    To ask starts the driver of a GPU, which takes up to a second. So it is asked where there is a
    GPU that it could use, unless NVML has told of all of them, in an order that is CUDA's too, and
    the build has CUDA.

    Args:
        hardware: as the system tells.
        program: the one to ask; by default the one that would be started.

    Returns:
        The machine as it was given where nothing is asked, or nothing that is installed can tell.
    """
    if not (hardware.gpus or os.environ.get(NAMED_DEVICES) or gpu_is_reachable()):
        return hardware
    program = program or _installed()
    return hardware if program is None else _asked(hardware, program)


def _installed() -> Program | None:
    for name in _PROGRAMS:
        try:
            return find_program(name)
        except (LlamaCppNotFound, ConfigError):  # Whoever needs the program says what is wrong.
            continue
    return None


def _asked(hardware: Hardware, program: Program) -> Hardware:
    # Machines without a GPU do without them.
    from autotune.hardware.listed import with_listed  # noqa: PLC0415
    from autotune.llama_cpp.capabilities import ask_once, cache_folder  # noqa: PLC0415
    from autotune.llama_cpp.devices import backends_beside, list_devices  # noqa: PLC0415

    only_cuda = {gpu.backend for gpu in hardware.gpus} == {"CUDA"}
    ordered = not any(note.startswith(OTHER_ORDER) for note in hardware.notes)
    if only_cuda and ordered and "CUDA" in backends_beside(program):
        return hardware
    try:
        listed = list_devices(program, ask_once(program, cache_folder(os.environ)))
    except AutotuneError as error:
        note = f"which devices llama.cpp can use is not known: {error.message}"
        return replace(hardware, notes=(*hardware.notes, note))
    if listed is None:
        return hardware
    return with_listed(hardware, listed, asked=str(program.path))
