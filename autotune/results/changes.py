"""What of the circumstances of a measurement is not as it was, by two `environment.json`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Circumstances = Mapping[str, Any]  # As `environment.json` has them, or a part of that.

# Enough of a digest to be told from another.
_DIGEST = 8
_OF_A_BUILD = ("version", "backends", "build")


class Change(NamedTuple):
    """One thing that was another."""

    what: str  # One of KEYS.
    then: str
    now: str


def changes(then: Circumstances, now: Circumstances) -> tuple[Change, ...]:
    """Each thing that is another now; what is not known of both is none."""
    found = (_change(key, fact(then), fact(now)) for key, fact in _FACTS.items())
    return tuple(filter(None, found))


def _change(key: str, then: tuple[str, ...], now: tuple[str, ...]) -> Change | None:
    """By the first of several texts that differs: the one that says most."""
    for before, after in zip(then, now, strict=True):
        if before and after and before != after:
            return Change(key, before, after)
    return None


def _at(kept: object, *keys: str) -> object:
    """What lies deep in JSON that anybody may have changed; None where nothing does."""
    for key in keys:
        kept = kept.get(key) if isinstance(kept, Mapping) else None
    return kept


def _text(kept: object, *keys: str) -> str:
    found = _at(kept, *keys)
    return "" if found is None else str(found)


def _each(kept: object, *keys: str) -> list[object]:
    found = _at(kept, *keys)
    return found if isinstance(found, list) else []


def _joined(*texts: str, separator: str = ", ") -> str:
    return separator.join(filter(None, texts))


def _machine(kept: Circumstances) -> tuple[str, ...]:
    cores, size = _text(kept, "hardware", "cpu_cores_usable"), _at(kept, "hardware", "ram_total_gb")
    cpu = _joined(_text(kept, "hardware", "cpu_name"), f"{cores} cores" if cores else "")
    threads, quota = (_text(kept, "hardware", key) for key in ("cpu_threads_usable", "cpu_quota"))
    granted = _joined(f"{threads} threads" if threads else "", f"quota {quota}" if quota else "")
    gpus = _joined(*(_text(gpu, "name") for gpu in _each(kept, "hardware", "gpus")))
    # A kernel reserves some megabytes more or less; a memory module is gigabytes.
    memory = f"{round(size)} GiB" if isinstance(size, int | float) else ""
    return cpu, gpus or ("no GPU" if cpu else ""), memory, granted


def _drivers(kept: Circumstances) -> tuple[str, ...]:
    known = dict.fromkeys(_text(gpu, "driver") for gpu in _each(kept, "hardware", "gpus"))
    return (_joined(*known),)


def _build(kept: Circumstances) -> tuple[str, ...]:
    """Its version; of that there may be several builds, and the same may be built again."""
    version, backends, files = (_text(kept, "llama_cpp", key) for key in _OF_A_BUILD)
    return version, backends, f"files {files[:_DIGEST]}" if files else ""


def _arguments(kept: Circumstances) -> tuple[str, ...]:
    known = isinstance(_at(kept, "llama_cpp", "arguments"), list)
    words = " ".join(map(str, _each(kept, "llama_cpp", "arguments")))
    return (words or ("none" if known else ""),)


def _system(kept: Circumstances) -> str:
    """What the kernel is a part of, without its name."""
    said, kernel = _text(kept, "operating_system"), _text(kept, "kernel")
    parts = said.split(kernel) if kernel else [said]
    return " ".join(part.strip("-") for part in parts).strip()


def _model(kept: Circumstances) -> tuple[str, ...]:
    size = _text(kept, "model", "size_bytes")
    name = _joined(_text(kept, "model", "name"), _text(kept, "model", "quantization"))
    return name, f"{size} bytes" if size else ""


def _file(kept: Circumstances) -> tuple[str, ...]:
    """When the last of its files was changed; where they lie moves nothing."""
    times = [_text(file, "modified") for file in _each(kept, "model", "files")]
    return (max(times, default=""),)


def _request(kept: Circumstances) -> tuple[str, ...]:
    """Tokens and what is minimised, and what was fixed for all."""
    names = ("n_prompt", "n_gen", "n_depth", "objective")
    said = [f"{name} {value}" for name in names if (value := _text(kept, "request", name))]
    several = _text(kept, "request", "n_parallel")
    said += [f"n_parallel {several}"] if several not in {"", "1"} else []
    return _joined(*said), _fixed(_at(kept, "request", "parameters"))


def _fixed(parameters: object) -> str:
    if not isinstance(parameters, Mapping):
        return ""
    values = (f"{name}={','.join(map(str, _each(parameters, name)))}" for name in parameters)
    return " ".join(values) or "nothing fixed"


def _tests(kept: Circumstances) -> tuple[str, ...]:
    """What stands for the request; a rate of pp512 is none of pp2048."""
    tests = _at(kept, "request", "tests")
    return (_joined(*map(str, tests.values())) if isinstance(tests, Mapping) else "",)


# These are chosen anew by each session, by how fast the machine seems.
TESTS = "tests"
_FACTS: Mapping[str, Callable[[Circumstances], tuple[str, ...]]] = {
    "machine": _machine,
    "driver": _drivers,
    "kernel": lambda kept: (_text(kept, "kernel"), _system(kept)),
    "build": _build,
    "arguments": _arguments,
    "model": _model,
    "file": _file,
    "request": _request,
    TESTS: _tests,
    "context": lambda kept: (_text(kept, "n_ctx"),),
    "lcm": lambda kept: (_text(kept, "lcm"),),
}
KEYS = tuple(_FACTS)
