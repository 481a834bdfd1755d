"""The environment of a study, as names with values."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autotune.errors import printable
from autotune.results.report.facts import request, short
from autotune.results.stored import Stored
from autotune.words import clock_time, size


def environment(stored: Stored) -> tuple[tuple[str, str], ...]:
    """Under which circumstances it was measured, as names with values; those that are known."""
    return tuple((name, short(value)) for name, value in _environment(stored) if value)


def _environment(stored: Stored) -> Iterator[tuple[str, str]]:
    kept, folder = stored.environment, stored.folder
    hardware, model = kept.get("hardware", {}), kept.get("model", {})
    program = kept.get("llama_cpp", {})
    yield "Model", _joined(model.get("name") or folder.model, model.get("quantization"))
    yield "File", _model_files(model)
    yield "Machine", hardware.get("cpu_name") or folder.machine
    yield "Cores", _cores(hardware)
    yield "Memory", size(hardware["ram_total_bytes"]) if hardware.get("ram_total_bytes") else ""
    for gpu in hardware.get("gpus", []):
        yield "GPU", _joined(gpu["name"], gpu["backend"], size(gpu["total_bytes"]), gpu["driver"])
    yield "Joules of", _joules_of(kept.get("energy", {}))
    yield "llama.cpp", program.get("version") or folder.build
    yield "Backends", _listed(program.get("backends"))
    yield "Program", program.get("program", "")
    yield "Arguments of its own", _listed(program.get("arguments"))
    yield "Operating system", kept.get("operating_system", "")
    yield "Host", kept.get("host", "")
    yield "lcm", _joined(kept.get("lcm"), kept.get("python") and f"Python {kept['python']}")
    yield "Request", request(kept["request"]) if kept.get("request") else ""
    yield "Tests", _listed(kept.get("request", {}).get("tests", {}).values())
    yield "Context", f"{kept['n_ctx']:,} tokens" if kept.get("n_ctx") else ""
    yield "Seed", str(kept["seed"]) if kept.get("seed") is not None else ""
    yield "Budget", clock_time(kept["budget_s"]) if kept.get("budget_s") else ""
    yield "Begun", folder.started
    yield "Study", folder.name


def _joules_of(energy: Mapping[str, Any]) -> str:
    """What counts them, and what is not known."""
    gap = energy.get("gap")
    return "; ".join(filter(None, [_listed(energy.get("of")), gap and f"not known: {gap}"]))


def _joined(*words: str | None) -> str:
    return ", ".join(word for word in words if word)


def _listed(values: Iterable[object] | None) -> str:
    if isinstance(values, str):
        return values
    return ", ".join(printable(str(value)) for value in values or ())


def _model_files(model: Mapping[str, Any]) -> str:
    files = model.get("files")
    if not isinstance(files, list) or not files:
        return ""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]['path']}{more}, {size(sum(file['size_bytes'] for file in files))}"


def _cores(hardware: Mapping[str, Any]) -> str:
    physical, logical = hardware.get("cpu_cores_physical"), hardware.get("cpu_cores_logical")
    if not physical:
        return ""
    quota = hardware.get("cpu_quota")
    return f"{physical} physical, {logical} logical" + (f", {quota:g} granted" if quota else "")
