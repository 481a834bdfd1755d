"""Under which circumstances a study is measured, as JSON for its folder."""

import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune import __version__
from autotune.cli.compose import hardware_section, model_section
from autotune.hardware import Hardware
from autotune.llama_cpp import environment
from autotune.llama_cpp.capabilities import build_identity
from autotune.model import Model
from autotune.params import params_to_json
from autotune.results.typed import typed
from autotune.tuning.ground import Ground, Order
from autotune.tuning.session import Plan
from autotune.tuning.workload import Objective, Value, Workload

# What tells a request, in `environment.json` and in `Workload`.
_REQUEST: Mapping[str, Any] = {
    "name": str,
    "n_prompt": int,
    "n_gen": int,
    "n_depth": int,
    "n_parallel": int,
    "objective": Objective,
}
_VALUES = tuple[Value, ...]


def circumstances(order: Order, here: Ground, plan: Plan) -> dict[str, Any]:
    """What numbers depend on: machine, model, build, request and space."""
    return {
        "lcm": __version__,
        "python": platform.python_version(),
        "operating_system": _operating_system(),
        "kernel": platform.release(),
        "host": platform.node(),
        "hardware": hardware_section(here.hardware, here.storage),
        "model": {
            **model_section(here.model),
            "path": str(here.model.path.absolute()),  # It is read from other folders too.
            "files": _files(here.model),
        },
        "llama_cpp": {
            "program": str(here.program.path),
            "version": here.capabilities.version,
            "build": build_identity(here.program),
            "backends": here.flight.backends,
            "arguments": list(order.arguments),
        },
        "energy": {
            "of": list(here.metered.of),
            "gap": here.metered.gap,
            "remedy": here.metered.remedy if here.metered.gap else "",
        },
        "variables": environment.removed(os.environ),
        "request": _request(order, plan),
        "n_ctx": here.recommendation.params.n_ctx,
        "seed": plan.seed,
        "budget_s": plan.limits.budget_s,
        "space": {
            "parameters": {d.name: list(d.values) for d in plan.space.dimensions},
            "fixed": params_to_json(plan.space.fixed),
        },
    }


def _operating_system() -> str:
    """As `platform.platform()` has it, which starts the program `uname` to know what is known."""
    if sys.platform != "linux":
        return platform.platform()
    system = os.uname()
    library = "".join(platform.libc_ver())
    words = [system.sysname, system.release, system.machine, f"with-{library}" if library else ""]
    return "-".join(filter(None, words))


def machine_in_words(hardware: Hardware) -> str:
    """The processor and the cards, in a few words."""
    cpu = hardware.cpu
    words = [f"{cpu.name or cpu.architecture}, {cpu.physical_cores} cores"]
    return "; ".join([*words, *(gpu.name for gpu in hardware.gpus)])


def _files(model: Model) -> list[dict[str, Any]]:
    """The files of the weights, by which a change of them is seen."""
    return [
        {"path": str(path), "size_bytes": status.st_size, "modified": _utc(status.st_mtime)}
        for path in map(Path.absolute, model.files)
        if (status := path.stat())
    ]


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _request(order: Order, plan: Plan) -> dict[str, Any]:
    workload = order.workload
    return {
        **{name: getattr(workload, name) for name in _REQUEST},
        "tests": {part: str(test) for part, test in plan.objective.tests},
        "parameters": {name: list(values) for name, values in order.wishes.parameters.items()},
    }


def request_of(kept: Mapping[str, Any]) -> Workload | None:
    """The request that a study was for, with what was fixed; None where that was not kept."""
    request = kept.get("request")
    if not isinstance(request, dict):
        return None
    try:
        request = {"n_parallel": 1, **request}  # Which was not said before there were several.
        asked = {name: typed(request.get(name), hint) for name, hint in _REQUEST.items()}
        fixed = request.get("parameters", {})
        parameters = {name: typed(values, _VALUES) for name, values in dict(fixed).items()}
    except (TypeError, ValueError):  # Changed by hand.
        return None
    return Workload(description="", parameters=parameters, **asked)
