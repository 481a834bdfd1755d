"""The parameters that proved best for one model, on one machine, under one build of llama.cpp.

Each profile is a file of its own, whose name says what it belongs to. Where any of the three has
changed there is none: what was measured elsewhere is not passed off as measured here.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from autotune.errors import ConfigError, SurroundingsError
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.params import Params
from autotune.results.typed import typed

FORMAT_VERSION = 1

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is handed to the user."""

    params: Params
    date: str  # ISO 8601, when it was found.
    build: str  # The version of llama.cpp that it was measured with, as that prints it.
    format_version: int = FORMAT_VERSION


def profile_folder(environ: Mapping[str, str] | None = None) -> Path:
    """`LCM_RESULTS_DIR`, or this user's folder for data."""
    environ = os.environ if environ is None else environ
    if environ.get("LCM_RESULTS_DIR"):
        return Path(environ["LCM_RESULTS_DIR"]).expanduser() / "profiles"
    data = Path(environ.get("XDG_DATA_HOME") or "")
    if not data.is_absolute():  # The XDG specification: a relative path is invalid and ignored.
        data = Path(environ.get("HOME") or Path("~").expanduser()) / ".local" / "share"
    return data / "lcm-autotune" / "profiles"


def profile_path(
    model: Model, hardware: Hardware, build: str, environ: Mapping[str, str] | None = None
) -> Path:
    """Where the profile of a model, a machine and a build is kept, be it there or not.

    Args:
        model: what it is for; not by its path, so that a file may be moved.
        hardware: the machine, with the limits of this process but without what is free just now.
        build: `capabilities.build_identity` of a program.
        environ: where the folder is read from; this process's environment by default.
    """
    facts = json.dumps([_model_facts(model), _machine_facts(hardware), build])
    digest = hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)[:60].strip(".-") or "model"
    return profile_folder(environ) / f"{name}-{digest}.json"


def _model_facts(model: Model) -> list[object]:
    """What decides its speed and memory; the contents of its weights do not."""
    shape = model.shape
    names = [model.name, model.architecture, model.quantization]
    return [*names, model.n_parameters, model.weight_bytes, shape.n_layers, shape.n_ctx_train]


def _machine_facts(hardware: Hardware) -> list[object]:
    cpu, memory = hardware.cpu, hardware.memory
    gpus = [[gpu.backend, gpu.name, gpu.total_bytes] for gpu in hardware.gpus]
    # A new kernel reserves some megabytes more or less; a new memory module is gigabytes.
    ram = -(-memory.total_bytes // _GIB)
    limits = [list(cpu.usable_cpus), cpu.quota, memory.limit_bytes, memory.memlock_bytes]
    return [cpu.name, cpu.architecture, cpu.physical_cores, cpu.logical_cores, ram, limits, gpus]


def load(path: Path) -> Profile:
    """Read a profile.

    Raises:
        FileNotFoundError: there is none.
        SurroundingsError: it cannot be read.
        ConfigError: it is no profile, or one of a later version; the message names the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SurroundingsError(
            f"the profile {path} cannot be read: {error.strerror}", hint="see its permissions"
        ) from error
    except ValueError as error:
        raise _bad(path, "it is not UTF-8") from error
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(path, "it is not JSON") from error
    if not isinstance(kept, dict):
        raise _bad(path, "it is not an object")
    if kept.get("format_version") != FORMAT_VERSION:
        raise _bad(path, f"format_version is {kept.get('format_version')!r}, not {FORMAT_VERSION}")
    for key in ("date", "build"):
        if not isinstance(kept.get(key), str):
            raise _bad(path, f"{key} is no text")
    return Profile(params=_params(path, kept.get("params")), date=kept["date"], build=kept["build"])


def save(path: Path, profile: Profile) -> None:
    """Keep a profile whole or not at all: a reader sees the old one until the new one is on disk.

    Raises:
        SurroundingsError: the folder or the file cannot be written.
    """
    kept = {name: value for name, value in asdict(profile.params).items() if value is not None}
    text = json.dumps({**asdict(profile), "params": kept}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, text)
    except OSError as error:
        raise SurroundingsError(
            f"the profile {path} cannot be written: {error.strerror}",
            hint="make room there, or name another folder in LCM_RESULTS_DIR",
        ) from error


def _write_whole(path: Path, text: str) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    # The rename itself; not every system lets a folder be opened.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _params(path: Path, kept: object) -> Params:
    if not isinstance(kept, dict):
        raise _bad(path, "params is no object")
    hints = get_type_hints(Params)
    values: dict[str, Any] = {}
    for key, value in kept.items():
        if key not in hints:
            raise _bad(path, f"params has an unknown key {key!r}")
        try:
            values[key] = typed(value, hints[key])
        except TypeError as error:
            raise _bad(path, f"params.{key} is {error}") from None
    return Params(**values)


def _bad(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the profile {path} cannot be used: {what}",
        hint="remove it; it was written by another version of lcm, or changed by hand",
    )
