"""What to tune for: the request that is to be fast, and how long may be searched.

A workload is a TOML file: one of the presets in `configs/`, where each number has its source, or
the user's own. `configs/README.md` describes the keys.
"""

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from autotune import files
from autotune.errors import ConfigError
from autotune.model.footprint import CACHE_TYPES, MOST_SLOTS
from autotune.params import LoadMode, SplitMode

Objective = Literal["request", "pp", "tg", "efficiency"]
Value: TypeAlias = int | bool | str

_MOST_BYTES = 1 << 18  # The presets have some hundred; what is larger is no such file.
DEFAULT_BUDGET_S = 600.0  # As in configs/chat.toml, the default preset.
UNTIL_STOPPED = "until stopped"

_MOST = 2**31 - 1  # llama-bench reads whole numbers into C's int.
_SWITCH: tuple[Value, ...] = (True, False)
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class _List:
    """Several parts in one value, `/` between them as in llama-bench; or what llama.cpp chooses."""

    part: re.Pattern[str]
    example: str


@dataclass(frozen=True, slots=True)
class _Word:
    """One of these, or a word that is like an example."""

    words: tuple[str, ...]
    others: re.Pattern[str]
    example: str


# What a parameter may be: a whole number from this on, one of these, such a list, such a word.
_DIMENSIONS: dict[str, int | tuple[Value, ...] | _List | _Word] = {
    "n_threads": 1,
    "n_threads_batch": 1,
    "n_batch": 1,
    "n_ubatch": 1,
    "flash_attn": (*_SWITCH, "auto"),
    "n_gpu_layers": 0,
    "n_cpu_moe": 0,
    "devices": _List(re.compile(r"[A-Za-z0-9_.:\[\]][A-Za-z0-9_.:\[\]-]{0,63}"), "CUDA0/CUDA1"),
    "split_mode": get_args(SplitMode),
    "main_gpu": 0,
    "tensor_split": _List(re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?"), "3/1"),
    "load_mode": get_args(LoadMode),
    "no_op_offload": _SWITCH,
    "no_kv_offload": _SWITCH,
    "repack": _SWITCH,
    "numa": _Word(
        ("distribute", "isolate", "numactl", "interleave", "off"),
        re.compile(r"node[0-9]{1,3}"),
        "node0",
    ),
    "cache_type": CACHE_TYPES,  # Of K and V together.
    "n_parallel": 1,
    "kv_unified": _SWITCH,
}
DIMENSIONS = tuple(_DIMENSIONS)

_TABLES = {
    "request": ("n_prompt", "n_gen", "n_depth", "n_parallel"),
    "search": ("budget", "objective"),
    "parameters": DIMENSIONS,
}
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("on", "true", "1"), True),
    **dict.fromkeys(("off", "false", "0"), False),
}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")


class _Wrong(Exception):
    """What is the matter with a key; the caller knows where it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A request that is to be fast, and the limits of the search for what makes it so."""

    name: str  # Of the preset, or of the file without its ending.
    description: str
    n_prompt: int  # Tokens of the prompt that must be processed.
    n_gen: int  # Tokens that are generated.
    n_depth: int = 0  # Tokens that are in the cache before.
    n_parallel: int = 1  # Requests that are there at once.
    objective: Objective = "request"
    budget_s: float | None = DEFAULT_BUDGET_S  # None: until stopped.
    # Dimensions that are fixed, by one value, or narrowed, by several.
    parameters: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


def preset_names() -> list[str]:
    """List what `load_workload` knows by name."""
    return sorted(path.stem for path in _presets().glob("*.toml"))


def load_workload(name_or_file: str) -> Workload:
    """Read a preset by its name, or a file by its path: that ends in .toml or has a separator.

    Raises:
        ConfigError: there is none, or it is no workload; the message names the file and the key.
    """
    separators = {"/", os.sep}
    if name_or_file.endswith(".toml") or separators & set(name_or_file):
        return _load(Path(name_or_file))
    names = preset_names()
    if name_or_file not in names:
        raise ConfigError(
            f"no workload is named {name_or_file!r}",
            hint=f"choose one of {', '.join(names)}, or give the path of a .toml file",
        )
    return _load(_presets() / f"{name_or_file}.toml")


def parse_duration(text: str) -> float:
    """Give the seconds of "90s", "10m", "8h", "1h30m", or of a plain number.

    Raises:
        ValueError: it is none of these, or not more than 0.
    """
    match = _DURATION.fullmatch(f"{text}s" if re.fullmatch(_NUMBER, text) else text)
    hours, minutes, seconds = (float(n or 0) for n in match.groups()) if match else (0, 0, 0)
    duration = 3600 * hours + 60 * minutes + seconds
    if not 0 < duration < math.inf:
        raise ValueError(f"{text!r}, not a duration above 0 such as 90s, 10m, 8h or 1h30m")
    return duration


def parse_parameter(text: str) -> tuple[str, tuple[Value, ...]]:
    """Give the dimension and the values of "n_ubatch=512,1024", as `--param` takes it.

    Raises:
        ConfigError: it is not of this form, or the dimension or a value is unknown.
    """
    name, _, values = (part.strip() for part in text.partition("="))
    try:
        _known(name, DIMENSIONS, "parameter")
        return name, _values(name, [_value(name, word.strip()) for word in values.split(",")])
    except _Wrong as error:
        raise ConfigError(
            f"--param {text}: {error}", hint="write it as --param n_ubatch=512,1024"
        ) from None


def _presets() -> Path:
    """Where the wheel puts them, else where they stand in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


def _load(path: Path) -> Workload:
    try:
        return _workload(path.stem, tomllib.loads(files.read(path, _MOST_BYTES).decode()))
    except OSError as error:
        raise ConfigError(
            f"the workload {path} cannot be read: {error.strerror}",
            hint=f"give the path of a .toml file, or one of {', '.join(preset_names())}",
        ) from error
    except UnicodeDecodeError as error:
        raise _bad(path, "it is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"it is not TOML: {error}") from error
    except _Wrong as wrong:
        raise _bad(path, str(wrong)) from None


def _workload(name: str, top: dict[str, Any]) -> Workload:
    for key in top:
        _known(key, ("description", *_TABLES), "key")
    description = top.get("description", "")
    if not isinstance(description, str):
        raise _Wrong(f"description is {description!r}, not a text")
    request, search, parameters = (_table(top, table) for table in _TABLES)
    n_depth = _whole("n_depth", request.get("n_depth", 0), 0)
    n_parallel = _whole("n_parallel", request.get("n_parallel", 1), 1)
    if n_parallel > MOST_SLOTS:
        raise _Wrong(f"n_parallel is {n_parallel}, not from 1 to {MOST_SLOTS}")
    if n_depth and n_parallel > 1:
        raise _Wrong(
            "n_depth and n_parallel exclude each other: llama-batched-bench fills no cache "
            "beforehand, so count those tokens in n_prompt"
        )
    return Workload(
        name=name,
        description=description,
        n_prompt=_whole("n_prompt", request.get("n_prompt"), 1),
        n_gen=_whole("n_gen", request.get("n_gen"), 1),
        n_depth=n_depth,
        n_parallel=n_parallel,
        objective=_objective(search.get("objective", "request")),
        budget_s=_budget(search.get("budget", DEFAULT_BUDGET_S)),
        parameters={
            key: _values(key, value if isinstance(value, list) else [value])
            for key, value in parameters.items()
        },
    )


def _table(top: dict[str, Any], name: str) -> dict[str, Any]:
    table = top.get(name, {})
    if not isinstance(table, dict):
        raise _Wrong(f"{name} is {table!r}, not a table")
    for key in table:
        _known(key, _TABLES[name], f"key of [{name}]")
    return table


def _known(key: str, keys: Iterable[str], what: str) -> None:
    if key not in keys:
        raise _Wrong(f"{key!r} is no {what}, which are {', '.join(keys)}")


def _whole(name: str, value: object, least: int) -> int:
    if value is None:
        raise _Wrong(f"{name} is missing")
    if type(value) is not int:  # True is an int as well.
        raise _Wrong(f"{name} is {value!r}, not a whole number")
    if not least <= value <= _MOST:
        raise _Wrong(f"{name} is {value}, not from {least} to {_MOST}")
    return value


def _objective(value: object) -> Objective:
    for one in get_args(Objective):
        if value == one:
            return one  # type: ignore[no-any-return]
    raise _Wrong(f"objective is {value!r}, not {' or '.join(get_args(Objective))}")


def _budget(value: object) -> float | None:
    if value == UNTIL_STOPPED:
        return None
    if type(value) not in (int, float, str):
        raise _Wrong(f"budget is {value!r}, not a duration")
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise _Wrong(f"budget is {error}, or {UNTIL_STOPPED!r}") from None


def _values(name: str, values: list[object]) -> tuple[Value, ...]:
    """Check each value of a dimension; one that is named twice is meant once."""
    if not values:
        raise _Wrong(f"{name} has no value")
    return tuple(dict.fromkeys(_checked(name, value) for value in values))


def _checked(name: str, value: object) -> Value:
    allowed = _DIMENSIONS[name]
    if isinstance(allowed, int):
        return _whole(name, value, allowed)
    if isinstance(allowed, _List):
        return _parts(name, value, allowed)
    if isinstance(allowed, _Word):
        return _word(name, value, allowed)
    for one in allowed:
        if value == one and type(value) is type(one):  # 1 equals True, and is not meant.
            return one
    choices = " or ".join(str(one).lower() for one in allowed)
    raise _Wrong(f"{name} is {value!r}, not {choices}")


def _parts(name: str, value: object, allowed: _List) -> str:
    if value == _AUTO:
        return _AUTO
    parts = value.split("/") if isinstance(value, str) else []
    if not parts or not all(map(allowed.part.fullmatch, parts)):
        raise _Wrong(f"{name} is {value!r}, not {_AUTO} or such as {allowed.example}")
    return "/".join(parts)


def _word(name: str, value: object, allowed: _Word) -> str:
    if isinstance(value, str) and (value in allowed.words or allowed.others.fullmatch(value)):
        return value
    choices = " or ".join(allowed.words)
    raise _Wrong(f"{name} is {value!r}, not {choices}, or such as {allowed.example}")


def _value(name: str, word: str) -> Value:
    """Give what a word of the command line means for a dimension; `_checked` judges it."""
    allowed = _DIMENSIONS[name]
    if isinstance(allowed, int):
        # Ten digits hold every C int; int() itself refuses thousands of them.
        return int(word) if re.fullmatch(r"-?[0-9]{1,10}", word) else word
    if isinstance(allowed, (_List, _Word)):
        return word
    return _WORDS.get(word, word) if True in allowed else word


def _bad(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the workload {path} cannot be used: {what}",
        hint=f"compare it with {_presets() / 'chat.toml'}",
    )
