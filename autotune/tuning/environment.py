"""Under which circumstances numbers may be compared: machine, build, model, workload and space."""

from collections.abc import Mapping
from typing import Any

from autotune.hardware import Hardware
from autotune.hardware.energy import Metered
from autotune.llama_cpp.records import test_to_json
from autotune.model import Model
from autotune.params import params_to_json
from autotune.tuning.objective import Objective
from autotune.tuning.space import Space
from autotune.tuning.workload import Workload

_GIB = 1 << 30


def facts_of(
    *,
    hardware: Hardware,
    model: Model,
    build: str,
    arguments: tuple[str, ...],
    workload: Workload,
    n_ctx: int | None,
    metered: Metered,
) -> dict[str, Any]:
    """What must be the same for a study to go on; JSON, in words that a user knows.

    Args:
        hardware: with the devices that the binary uses.
        model: the one that is measured.
        build: `capabilities.build_identity` of the llama-bench.
        arguments: what llama-bench is always given.
        workload: the request.
        n_ctx: the context that was asked for, if one was.
        metered: what counts joules; where those are minimised, they must be of the same.
    """
    cpu, memory = hardware.cpu, hardware.memory
    return {
        "CPU": f"{cpu.name or cpu.architecture}, {cpu.physical_cores} cores",
        "CPUs of this process": cpu.max_threads,
        # A kernel update reserves some megabytes more or less; a memory module is gigabytes.
        "RAM in GiB": -(-memory.usable_total_bytes // _GIB),
        "devices": [f"{gpu.backend}{gpu.index} {gpu.name}" for gpu in hardware.gpus],
        "model": f"{model.name} {model.quantization}",
        "model file in bytes": model.file_bytes,
        "model file changed": max((path.stat().st_mtime_ns for path in model.files), default=0),
        "llama.cpp build": build,
        "llama-bench arguments": list(arguments),
        "request": [workload.n_prompt, workload.n_gen, workload.n_depth, workload.objective],
        **({"requests at once": workload.n_parallel} if workload.n_parallel > 1 else {}),
        "context": n_ctx,
        **({"joules of": [*metered.of]} if workload.objective == "efficiency" else {}),
    }


def facts_of_fleet(facts: Mapping[str, Any], *, build: str) -> dict[str, Any]:
    """What must be the same on every machine of a shared study.

    A copy of the model and of llama.cpp has other times than the original, and is as good.

    Args:
        facts: of one machine.
        build: `capabilities.build_contents` of its llama-bench.
    """
    kept = {key: value for key, value in facts.items() if key != "model file changed"}
    return {**kept, "llama.cpp build": build}


def space_of(space: Space, objective: Objective) -> dict[str, Any]:
    """The space and the tests, as JSON."""
    return {
        "parameters": {d.name: list(d.values) for d in space.dimensions},
        "fixed": params_to_json(space.fixed),
        "tests": [[part, test_to_json(test)] for part, test in objective.tests],
    }


def differences(
    kept: Mapping[str, Any], here: Mapping[str, Any], words: tuple[str, str] = ("then", "now")
) -> list[str]:
    """What of `here` is not as it was kept, one line each."""
    names = dict.fromkeys((*kept, *here))
    return [
        f"{name}: {_shown(kept.get(name))} {words[0]}, {_shown(here.get(name))} {words[1]}"
        for name in names
        if kept.get(name) != here.get(name)
    ]


def _shown(value: object) -> str:
    text = "nothing" if value in (None, [], "") else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line of a terminal
