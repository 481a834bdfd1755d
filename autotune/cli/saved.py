"""`--config FILE`: the parameters in a saved answer of `lcm run --optimize`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from autotune import files, json_text
from autotune.cli import console
from autotune.cli.answer import FIELDS, SCHEMA_VERSION, RecommendedParams
from autotune.errors import ConfigError
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.params import LoadMode, Params, checked, load_mode
from autotune.results.typed import typed
from autotune.words import size

_MOST_BYTES = 1 << 22  # An answer of --deep has all samples of its verification: some 100 KB.
# The least that a number may be; of the others it is 1.
_LEAST = {"--n-gpu-layers": 0, "--n-cpu-moe": 0, "--main-gpu": 0, "--cache-ram": -1}


def read_saved(file: Path, model: Model, hardware: Hardware) -> Params:
    """The parameters in `file`, as they hold for this machine.

    Raises:
        ConfigError: it is no such file; the message names it, and the key.
    """
    saved = _read(file)
    recommended = saved.get("recommended_params")
    if not isinstance(recommended, dict):
        raise _bad(file, "it has no recommended_params")
    values = _checked(file, recommended)
    _warn_of_another_model(file, saved.get("model"), model)
    flash_attn = values.get("--flash-attn")
    if flash_attn in {"on", "off"}:
        values["--flash-attn"] = flash_attn == "on"
    if "--tensor-split" in values:
        values["--tensor-split"] = tuple(map(float, values["--tensor-split"]))
    if "--device" in values:
        values["--device"] = tuple(values["--device"])
    named = {field: values[key] for key, field in FIELDS.items() if key in values}
    repack = False if values.get("--no-repack") else None
    try:
        return checked(
            Params(**named, repack=repack, load_mode=_load_mode(values, model, hardware))
        )
    except ValueError as error:
        raise _bad(file, f"recommended_params: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        saved = json_text.loads(files.read(file, _MOST_BYTES))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", hint="see its path and permissions"
        ) from error
    except ValueError as error:
        raise _bad(file, f"it is not JSON: {error}") from error
    if not isinstance(saved, dict):
        raise _bad(file, "it is not an object")
    version = saved.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise _bad(file, f"schema_version is {version!r}, not {SCHEMA_VERSION}")
    return saved


def _checked(file: Path, recommended: Mapping[str, object]) -> dict[str, Any]:
    hints = get_type_hints(RecommendedParams)
    unknown = [key for key in recommended if key not in hints]
    if unknown:
        raise ConfigError(
            f"{file}: recommended_params has unknown keys: {', '.join(unknown)}",
            hint=f"known are {', '.join(hints)}; llama.cpp's own flags go behind --",
        )
    values = {}
    for key, value in recommended.items():
        try:
            values[key] = typed(value, hints[key])
        except TypeError as error:
            raise _bad(file, f"recommended_params, {key}: {error}") from None
        least = _LEAST.get(key, 1)
        if type(value) is int and value < least:
            raise _bad(file, f"recommended_params, {key}: {value} is less than {least}")
    return values


def _load_mode(values: Mapping[str, Any], model: Model, hardware: Hardware) -> LoadMode | None:
    """What --mlock and --no-mmap say together, as far as this process may lock memory."""
    mapped, locked = not values.get("--no-mmap", False), values.get("--mlock", False)
    limit = hardware.memory.memlock_bytes
    if locked and limit is not None and limit < model.weight_bytes:
        console.warning(
            f"--mlock is left out: this process may lock {size(limit)}, the weights are "
            f"{size(model.weight_bytes)}; ulimit -l unlimited"
        )
        locked = False
    return load_mode(mapped=mapped, locked=locked)


def _warn_of_another_model(file: Path, described: object, model: Model) -> None:
    if not isinstance(described, dict):
        return
    size = described.get("size_bytes", model.file_bytes)
    if size != model.file_bytes or described.get("name", model.name) != model.name:
        console.warning(f"{file} was made for another model: {described.get('path', 'untold')}")


def _bad(file: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{file}: {what}", hint="give a file that `lcm run --model M --optimize` has printed"
    )
