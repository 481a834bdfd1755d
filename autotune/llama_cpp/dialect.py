"""Say one configuration in llama.cpp's own flags, as the installed program speaks them.

`Params` and the JSON use logical names, because flags change: `--n-ctx` never was one, `--mlock`
and `--no-mmap` became `--load-mode`, `-fa` took 0 and 1 before it took on, off and auto. Every
value is said explicitly, because defaults change too. What a program cannot express is reported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from autotune.llama_cpp.capabilities import Capabilities
from autotune.params import Params

Target = Literal["bench", "batched-bench", "cli", "server", "fit-params"]

# The flags of llama.cpp 0.5.0 (2026-09), for when no program is at hand to be asked.
DIALECT = "llama.cpp 0.5.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An argument list, without the program; and the fields that it could not say, with why."""

    arguments: tuple[str, ...]
    unsupported: tuple[str, ...] = ()


# Field → (short flag of llama-bench, long flag of the other programs).
FLAGS: Mapping[str, tuple[str, str]] = {
    "n_threads": ("-t", "--threads"),
    "n_threads_batch": ("", "--threads-batch"),
    "n_ctx": ("", "--ctx-size"),
    "n_batch": ("-b", "--batch-size"),
    "n_ubatch": ("-ub", "--ubatch-size"),
    "n_gpu_layers": ("-ngl", "--n-gpu-layers"),
    "n_cpu_moe": ("-ncmoe", "--n-cpu-moe"),
    "tensor_split": ("-ts", "--tensor-split"),
    "split_mode": ("-sm", "--split-mode"),
    "main_gpu": ("-mg", "--main-gpu"),
    "devices": ("-dev", "--device"),
    "tensor_buft_overrides": ("-ot", "--override-tensor"),
    "type_k": ("-ctk", "--cache-type-k"),
    "type_v": ("-ctv", "--cache-type-v"),
    "flash_attn": ("-fa", "--flash-attn"),
    "no_kv_offload": ("-nkvo", "--no-kv-offload"),
    "no_op_offload": ("-nopo", "--no-op-offload"),
    "repack": ("--repack", "--no-repack"),
    "load_mode": ("-lm", "--load-mode"),
    "numa": ("--numa", "--numa"),
    "n_parallel": ("", "--parallel"),
    "kv_unified": ("", "--kv-unified"),
    "cache_ram": ("", "--cache-ram"),
}

# What does not concern a program: llama-bench's tests decide it, it is for serving only, or it
# stands before the command (`numactl`).
NOT_IN: Mapping[str, frozenset[str]] = {
    "bench": frozenset(
        {"n_threads_batch", "n_ctx", "n_parallel", "kv_unified", "cache_ram", "numactl"}
    ),
    # How many sequences and how long a context are for its test to say.
    "batched-bench": frozenset({"n_ctx", "n_parallel", "cache_ram", "numactl"}),
    "cli": frozenset({"n_parallel", "kv_unified", "cache_ram", "numactl"}),
    "server": frozenset({"numactl"}),
    "fit-params": frozenset({"kv_unified", "cache_ram", "numactl"}),
}


def render(params: Params, target: Target, capabilities: Capabilities | None = None) -> Rendered:
    """The arguments that say `params` to `target`; without capabilities, in today's dialect."""
    renderer = _Renderer(target, capabilities)
    for field in fields(params):
        value = getattr(params, field.name)
        if value is not None:
            renderer.say(field.name, value)
    return Rendered(arguments=tuple(renderer.arguments), unsupported=tuple(renderer.unsupported))


def listed(name: str, values: Sequence[Any], capabilities: Capabilities) -> tuple[str, str]:
    """A flag of llama-bench with a list of values, of which it runs each."""
    renderer = _Renderer("bench", capabilities)
    return renderer.flag(name), ",".join(renderer.text(name, value) for value in values)


class _Renderer:
    """Collects arguments, and what cannot be said."""

    def __init__(self, target: Target, capabilities: Capabilities | None) -> None:
        self.arguments: list[str] = []
        self.unsupported: list[str] = []
        self._target = target
        self._capabilities = capabilities

    def say(self, name: str, value: Any) -> None:  # noqa: ANN401 - any field of Params
        special: Mapping[str, Callable[[Any], None]] = {
            "flash_attn": self._flash_attn,
            "load_mode": self._load_mode,
            "repack": self._repack,
        }
        if name in special:
            special[name](value)
        elif name not in NOT_IN.get(self._target, frozenset()):
            self._plain(name, value)

    def _plain(self, name: str, value: Any) -> None:  # noqa: ANN401
        flag = self.flag(name)
        listed = self._choices(name) if name in _CHOSEN else ()
        if not self._has(flag):
            self._cannot(name, value, f"has no {flag}")
        elif listed and value not in listed:
            self._cannot(name, value, f"has no {flag} {value}")
        elif isinstance(value, bool) and self._target != "bench":
            if value:
                self.arguments.append(flag)
        else:
            self.arguments += [flag, self.text(name, value)]

    def text(self, name: str, value: Any) -> str:  # noqa: ANN401
        """The value as this program separates and spells it."""
        bench = self._target == "bench"
        if isinstance(value, bool):
            return str(int(value))
        if name == "tensor_split":
            return ("/" if bench else ",").join(f"{share:g}" for share in value)
        if name == "devices":
            return ("/" if bench else ",").join(value)
        if name == "tensor_buft_overrides":
            return (";" if bench else ",").join(f"{pattern}={place}" for pattern, place in value)
        return str(value)

    def _flash_attn(self, value: bool | Literal["auto"]) -> None:  # noqa: FBT001 - a field's value
        flag = self.flag("flash_attn")
        by_word = self._capabilities is None or "on" in self._choices("flash_attn")
        if not self._has(flag):
            if value:  # Without the flag there is no flash attention to switch off.
                self._cannot("flash_attn", value, f"has no {flag}")
        elif value == "auto" and not by_word:  # Left out, the program keeps its default.
            self._cannot("flash_attn", value, "decides it itself")
        elif self._target == "bench":
            # 0 and 1 are understood by every build; "on" silently means off before b9437.
            self.arguments += [flag, "auto" if value == "auto" else str(int(value))]
        elif by_word:
            self.arguments += [flag, "auto" if value == "auto" else "on" if value else "off"]
        elif value:
            self.arguments.append(flag)  # A switch, until it took a value.

    def _load_mode(self, value: str) -> None:
        flag = self.flag("load_mode")
        choices = self._choices("load_mode")
        if self._has(flag) and (not choices or value in choices):
            self.arguments += [flag, value]
            return
        spelled = _OLD_LOAD_MODES["bench" if self._target == "bench" else "other"].get(value)
        if value == "auto":
            return
        if spelled is None or not all(map(self._has, spelled[:1])):
            self._cannot("load_mode", value, f"has no {flag} {value}")
        else:
            self.arguments += spelled

    def _repack(self, value: bool) -> None:  # noqa: FBT001 - a field's value
        flag = self.flag("repack")
        if self._target == "bench":
            self._plain("repack", value)
        elif not value:
            if self._has(flag):
                self.arguments.append(flag)
            else:
                self._cannot("repack", value, f"has no {flag}")

    def flag(self, name: str) -> str:
        short, long = FLAGS[name]
        if self._target != "bench":
            return long
        # ik_llama.cpp has some of them by their long names only.
        return short if self._has(short) or not self._has(long) else long

    def _has(self, flag: str) -> bool:
        return self._capabilities is None or self._capabilities.has(flag)

    def _choices(self, name: str) -> Sequence[str]:
        return () if self._capabilities is None else self._capabilities.choices(self.flag(name))

    def _cannot(self, name: str, value: object, why: str) -> None:
        self.unsupported.append(f"{name}={value}: llama-{self._target} {why}")


# Of words, those that a program may have fewer of than Params.
_CHOSEN = frozenset({"split_mode", "numa"})

_OLD_LOAD_MODES: Mapping[str, Mapping[str, Sequence[str]]] = {
    # llama-bench had -mmp until b10875; it could not lock.
    "bench": {"mmap": ("-mmp", "1"), "none": ("-mmp", "0")},
    # The others had two switches, and mapped by default; `mlock` alone locked the mapping.
    "other": {
        "mmap": (),
        "none": ("--no-mmap",),
        "mmap+mlock": ("--mlock",),
        "mlock": ("--no-mmap", "--mlock"),
    },
}


def parse(arguments: Sequence[str], target: Target) -> Params:
    """Read arguments back into `Params`: the inverse of `render` in today's dialect.

    Raises:
        ValueError: an argument is not one that `render` writes.
    """
    by_flag = {flags[0 if target == "bench" else 1]: name for name, flags in FLAGS.items()}
    values: dict[str, Any] = {}
    words = iter(arguments)
    for flag in words:
        name = by_flag.get(flag)
        if name is None:
            raise ValueError(f"{flag} is no flag that render writes for llama-{target}")
        values[name] = _parsed(name, flag, words, target)
    return Params(**values)


_SWITCHES = frozenset({"no_kv_offload", "no_op_offload", "repack", "kv_unified"})
_TEXTS = frozenset({"type_k", "type_v", "split_mode", "load_mode", "numa"})


def _parsed(name: str, flag: str, words: Iterator[str], target: Target) -> Any:  # noqa: ANN401
    bench = target == "bench"
    if name in _SWITCHES:
        return next(words) == "1" if bench else flag != "--no-repack"
    text = next(words)
    separator = "/" if bench else ","
    readers: Mapping[str, Callable[[str], Any]] = {
        "flash_attn": lambda t: "auto" if t == "auto" else t in {"1", "on"},
        "tensor_split": lambda t: tuple(float(share) for share in t.split(separator)),
        "devices": lambda t: tuple(t.split(separator)),
        "tensor_buft_overrides": lambda t: tuple(
            (pair.rpartition("=")[0], pair.rpartition("=")[2])
            for pair in t.split(";" if bench else ",")
        ),
    }
    return readers.get(name, str if name in _TEXTS else int)(text)
