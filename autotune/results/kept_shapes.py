"""What a study's JSON must look like to be used: files are changed by hand, and by other versions.

The evidence is what the verdict rests on, so it is whole or none. Of the circumstances, what is not
as it should be is as good as not known, and the rest is used.
"""

from collections.abc import Mapping
from typing import Any, Literal

from autotune.params import params_from_json
from autotune.results.typed import typed

_MOST = 1e15  # More tokens, seconds and times as fast than anything here is.

_Number = float | None
_SAMPLES: Mapping[str, Any] = {
    "round": str,
    "test": str,
    "samples_ns": list[int],
    "samples_j": list[float],
    "disturbed": str,
}
_SIDE: Mapping[str, Any] = {
    "pp_tokens_per_s": _Number,
    "tg_tokens_per_s": _Number,
    "request_s": _Number,
    "pp_tokens_per_joule": _Number,
    "tg_tokens_per_joule": _Number,
    "request_j": _Number,
}
_EVIDENCE: Mapping[str, Any] = {
    "verdict": Literal["better", "not shown", "worse"],
    "winner": bool,
    "ratio": _Number,
    "low": _Number,
    "high": _Number,
    "confidence": _Number,
    "chance": _Number,
    "pairs": int,
    "rule": str,
    "complete": bool,
    "trials": int,
    "elapsed_s": float,
    "waited_s": float,
    "disturbed_rounds": int,
    "study": str,
}
_WORKER: Mapping[str, Any] = {
    **dict.fromkeys(("host", "machine", "state", "verdict"), str),
    **dict.fromkeys(("ratio", "low", "high"), _Number),
}
_SERVED: Mapping[str, Any] = {
    "agreement": str,
    "ratio": _Number,
    "of_measured": _Number,
    "share": float,
    "failure": str,
    "rule": str,
}
_SERVED_SIDE: Mapping[str, Any] = {"seconds": list[float], "measured_s": _Number}
_WORKLOAD: Mapping[str, Any] = {
    "name": str,
    "n_prompt": int,
    "n_gen": int,
    "n_depth": int,
    "n_parallel": int,
    "objective": Literal["request", "pp", "tg", "efficiency"],
}
_PLACE: Mapping[str, Any] = dict.fromkeys(
    ("weights_bytes", "kv_cache_bytes", "recurrent_bytes", "compute_bytes"), int
)


def checked_evidence(kept: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The section of that name, if it is one that every report can be made of; else None."""
    if kept is None:
        return None
    try:
        _check_evidence(kept)
    except (TypeError, ValueError, KeyError):
        return None
    return kept


def _check_evidence(kept: Mapping[str, Any]) -> None:
    _check(kept, _EVIDENCE)
    _check(kept["workload"], _WORKLOAD, needed=("n_prompt", "n_gen", "objective"))
    _check_side(kept["baseline"])
    if kept.get("candidate"):
        _check_side(kept["candidate"])
    if kept.get("served"):
        _check_served(kept["served"])
    if not kept["verdict"] or not isinstance(kept.get("failures", {}), dict):
        raise ValueError("evidence")
    if kept.get("fleet"):
        for worker in typed(kept["fleet"]["workers"], list[dict[str, Any]]):
            _check(worker, _WORKER, needed=tuple(_WORKER))
    if kept.get("ratio") is not None:
        interval = [kept[name] for name in ("ratio", "low", "high", "confidence")]
        if not all(interval) or type(kept["pairs"]) is not int:
            raise ValueError("a ratio without its interval")


def _check_served(served: object) -> None:
    _check(served, _SERVED, needed=("agreement", "failure", "ratio"))
    assert isinstance(served, dict)  # noqa: S101 - `_check` has seen to it
    for side in filter(None, (served["baseline"], served["candidate"])):
        _check(side, _SERVED_SIDE, needed=("seconds", "measured_s"))
    if not served["failure"] and not served["baseline"]["seconds"]:
        raise ValueError("a server that did neither answer nor fail")


def _check_side(side: object) -> None:
    _check(side, _SIDE)
    assert isinstance(side, dict)  # noqa: S101 - `_check` has seen to it
    params_from_json(side["params"])
    for sample in typed(side.get("samples", []), list[dict[str, Any]]):
        _check(sample, _SAMPLES)
    memory = side.get("memory")
    if memory:
        for place in (memory["host"], *typed(memory.get("gpus", []), list[dict[str, Any]])):
            _check(place, _PLACE)


def _check(kept: object, hints: Mapping[str, Any], *, needed: tuple[str, ...] = ()) -> None:
    """What is there has its type, and a number is one that can be: none is below 0."""
    if not isinstance(kept, dict):
        raise TypeError("no object")
    for name, hint in hints.items():
        if name not in kept and name not in needed:
            continue
        value = typed(kept[name], hint)
        for one in value if isinstance(value, list) else (value,):
            if type(one) in (int, float) and not 0 <= one < _MOST:
                raise ValueError(name)


# As `cli/circumstances.py` writes them; what is not named here is not used by its shape.
_ENVIRONMENT: Mapping[str, Any] = {
    **dict.fromkeys(("lcm", "python", "operating_system", "kernel", "host"), str),
    "hardware": {
        "cpu_name": str,
        "cpu_cores_physical": int,
        "cpu_cores_logical": int,
        "cpu_quota": _Number,
        "ram_total_bytes": int,
        "ram_total_gb": float,
        "gpus": [{"name": str, "backend": str, "driver": str, "total_bytes": int}],
        "notes": list[str],
    },
    "model": {
        **dict.fromkeys(("path", "name", "quantization"), str),
        "size_bytes": int,
        "files": [{"path": str, "size_bytes": int, "modified": str}],
    },
    "llama_cpp": {
        **dict.fromkeys(("program", "version", "build", "backends"), str),
        "arguments": list[str],
    },
    "energy": {"of": list[str], "gap": str, "remedy": str},
    "variables": dict,
    "request": {
        "name": str,
        "n_prompt": int,
        "n_gen": int,
        "n_depth": int,
        "n_parallel": int,
        "objective": Literal["request", "pp", "tg", "efficiency"],
        "tests": dict,
        "parameters": dict,
    },
    "n_ctx": int,
    "seed": int,
    "budget_s": _Number,
}
# Without one of these, nothing can be said of the others.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "gpus": ("name", "backend", "driver", "total_bytes"),
    "files": ("path", "size_bytes"),
    "request": ("n_prompt", "n_gen", "objective"),
}


def known_environment(kept: object) -> Mapping[str, Any]:
    """The circumstances as far as they are what they should be; empty where they are none."""
    known = _fitting(kept, _ENVIRONMENT, "")
    return known if isinstance(known, dict) else {}


def _fitting(kept: object, shape: Any, name: str) -> object:  # noqa: ANN401 - a hint, or several
    """What of a value has the shape; None: nothing."""
    if isinstance(shape, list):
        each = kept if isinstance(kept, list) else []
        return [one for one in (_fitting(one, shape[0], name) for one in each) if one is not None]
    if isinstance(shape, Mapping):
        return _fitting_object(kept, shape, _NEEDED.get(name, ()))
    if shape is dict:
        return kept if isinstance(kept, dict) else None
    try:
        value: object = typed(kept, shape)
    except TypeError:
        return None
    return value


def _fitting_object(
    kept: object, shapes: Mapping[str, Any], needed: tuple[str, ...]
) -> dict[str, object] | None:
    if not isinstance(kept, dict):
        return None
    found = {
        name: _fitting(value, shapes[name], name) if name in shapes else value
        for name, value in kept.items()
    }
    known = {
        name: value
        for name, value in found.items()
        if value is not None or kept[name] is None  # What is null was so.
    }
    return known if all(known.get(name) is not None for name in needed) else None
