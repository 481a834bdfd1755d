"""The parameters that proved best for one model, on one machine, under one build of llama.cpp.

Each profile is a file of its own, whose name says what it belongs to. Where any of the three has
changed there is none: what was measured elsewhere is not passed off as measured here.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from autotune import files, json_text
from autotune.errors import ConfigError, SurroundingsError
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.params import Params, checked, params_to_json
from autotune.results.typed import typed

FORMAT_VERSION = 1
MOST_BYTES = 1 << 18  # A profile is a few hundred.

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is handed to the user."""

    params: Params
    date: str  # ISO 8601, when it was found, or verified last.
    build: str  # The version of llama.cpp that it was measured with, as that prints it.
    model: str = ""  # Its name, for people.
    model_digest: str = ""  # What tells models of one name apart.
    machine: str = ""  # `machine_digest`: profiles of one machine are seeds for each other.
    verdict: str = ""  # better, not shown, worse; "" where it was not verified.
    # How many times as fast, or as efficient, as llama.cpp's defaults, with its interval.
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    workload: str = ""
    objective: str = "request"  # Of the workload: what was minimised.
    study: str = ""  # The folder that holds the rest.
    format_version: int = FORMAT_VERSION

    @property
    def is_slower(self) -> bool:
        """Or less efficient than llama.cpp's defaults, as `lcm verify` has shown.

        No search ships what is.
        """
        return self.high is not None and self.high < 1


class Kept(NamedTuple):
    """A profile, and where it is kept."""

    profile: Profile
    path: Path


def environ_with(results_dir: Path | None) -> Mapping[str, str]:
    """This process's environment, with the folder of results that was named, if one was."""
    if results_dir is None:
        return os.environ
    return {**os.environ, "LCM_RESULTS_DIR": str(results_dir.absolute())}


def results_folder(environ: Mapping[str, str] | None = None) -> Path:
    """`LCM_RESULTS_DIR`, or this user's folder for data."""
    environ = os.environ if environ is None else environ
    if environ.get("LCM_RESULTS_DIR"):
        return Path(environ["LCM_RESULTS_DIR"]).expanduser()
    data = Path(environ.get("XDG_DATA_HOME") or "")
    if not data.is_absolute():  # The XDG specification: a relative path is invalid and ignored.
        data = Path(environ.get("HOME") or Path("~").expanduser()) / ".local" / "share"
    return data / "lcm-autotune"


def profile_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where the profiles of all models, machines and builds are kept."""
    return results_folder(environ) / "profiles"


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
    digest = _digest([_model_facts(model), _machine_facts(hardware), build])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)[:60].strip(".-") or "model"
    return profile_folder(environ) / f"{name}-{digest}.json"


def machine_digest(hardware: Hardware) -> str:
    """The same as long as the machine is, as far as speed goes."""
    return _digest(_machine_facts(hardware))


def model_digest(model: Model) -> str:
    """The same as long as the model is, as far as speed goes; not by its path."""
    return _digest(_model_facts(model))


def _digest(facts: list[object]) -> str:
    text = json_text.dumps(facts).encode()
    return hashlib.sha256(text).hexdigest()[:24]


def profiles_of_machine(
    hardware: Hardware, environ: Mapping[str, str] | None = None
) -> list[Profile]:
    """Those of any model that were measured on this machine, newest first; not the damaged."""
    return [kept.profile for kept in _kept_here(hardware, environ)]


def profiles_of_model(
    model: Model, hardware: Hardware, environ: Mapping[str, str] | None = None
) -> list[Kept]:
    """Those of a model under any build that were measured on this machine, newest first."""
    digest = model_digest(model)
    return [k for k in _kept_here(hardware, environ) if k.profile.model_digest == digest]


def newest_profile(
    model: Model, hardware: Hardware, build: str, environ: Mapping[str, str] | None = None
) -> Kept:
    """The profile of a build, else the newest that was measured here with any other.

    Raises:
        FileNotFoundError: there is none.
        SurroundingsError: that of the build cannot be read.
        ConfigError: likewise, it is no profile.
    """
    path = profile_path(model, hardware, build, environ)
    try:
        return Kept(load(path), path)
    except FileNotFoundError:
        others = profiles_of_model(model, hardware, environ)
        if not others:
            raise
        return others[0]


def _kept_here(hardware: Hardware, environ: Mapping[str, str] | None) -> list[Kept]:
    digest, found = machine_digest(hardware), []
    for path in sorted(profile_folder(environ).glob("*.json")):
        with contextlib.suppress(ConfigError, SurroundingsError, FileNotFoundError):
            found.append(Kept(load(path), path))
    here = [kept for kept in found if kept.profile.machine == digest]
    return sorted(here, key=lambda kept: kept.profile.date, reverse=True)


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
        content = files.read(path, MOST_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SurroundingsError(
            f"the profile {path} cannot be read: {error.strerror}", hint="is it a profile of lcm?"
        ) from error
    try:
        kept = json_text.loads(content)
    except ValueError as error:
        raise _bad(path, f"it is not JSON: {error}") from error
    if not isinstance(kept, dict):
        raise _bad(path, "it is not an object")
    if kept.get("format_version") != FORMAT_VERSION:
        raise _bad(path, f"format_version is {kept.get('format_version')!r}, not {FORMAT_VERSION}")
    return Profile(params=_params(path, kept.get("params")), **_facts(path, kept))


def _facts(path: Path, kept: Mapping[str, object]) -> dict[str, Any]:
    """All but the parameters; what is missing is as it is by default, where there is a default."""
    hints = get_type_hints(Profile)
    del hints["params"]
    facts = {}
    for key, hint in hints.items():
        if key in kept or key in ("date", "build"):
            try:
                facts[key] = typed(kept.get(key), hint)
            except TypeError as error:
                raise _bad(path, f"{key} is {error}") from None
    return facts


def save(path: Path, profile: Profile) -> None:
    """Keep a profile whole or not at all: a reader sees the old one until the new one is on disk.

    Raises:
        SurroundingsError: the folder or the file cannot be written.
    """
    kept = {**asdict(profile), "params": params_to_json(profile.params)}
    text = json_text.dumps(kept, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise SurroundingsError(
            f"the profile {path} cannot be written: {error.strerror}",
            hint="make room there, or name another folder in LCM_RESULTS_DIR",
        ) from error


Content: TypeAlias = str | bytes | Iterable[str]  # In one piece, or in lines.


def in_parts(content: Content) -> Iterable[bytes]:
    """The bytes of a content, one part after the other."""
    if isinstance(content, bytes):
        return (content,)
    return (part.encode() for part in ((content,) if isinstance(content, str) else content))


def write_whole(path: Path, content: Content) -> None:
    """Replace a file at once: a reader finds the old content or the new, also after a crash.

    It has the permissions of the old one, or those of any new file of this user.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)  # Of a process that had our number, and has died.
    try:
        with beside.open("xb") as file:
            file.writelines(in_parts(content))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
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
    try:
        return checked(Params(**values))
    except ValueError as error:
        raise _bad(path, f"params.{error}") from None


def _bad(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the profile {path} cannot be used: {what}",
        hint="remove it; it was written by another version of lcm, or changed by hand",
    )
