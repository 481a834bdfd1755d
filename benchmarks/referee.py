"""The referee: configurations measured in turns, each test in a llama-bench of its own.

It shares no code with the search that it judges. A part (a prompt, or a generation) that several
configurations have in common is measured once in a round and counts for each of them.
"""

import json
import math
import random
import shlex
import statistics
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from autotune.stats import Comparison, compare

N_PROMPT, N_GEN = 512, 256  # Tokens of the request: those of the workload `chat`.

Part = tuple[str, ...]  # What llama-bench is told for one test.
Round = dict[str, float]  # Tokens per second of each part, by its words.

_PROMPT: Part = ("-p", str(N_PROMPT), "-n", "0")
_GENERATION: Part = ("-p", "0", "-n", str(N_GEN))
_FLASH = {-1: "auto", 0: "off", 1: "on"}
_FLAGS = {
    "n_batch": "-b",
    "n_ubatch": "-ub",
    "flash_attn": "-fa",
    "load_mode": "-lm",
    "repack": "--repack",
    "type_k": "-ctk",
    "type_v": "-ctv",
    "n_gpu_layers": "-ngl",
    "tensor_overrides": "-ot",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What llama-bench is told; None: its own default."""

    threads: int | None = None
    threads_batch: int | None = None  # llama-bench has one -t: it is that of the prompts.
    n_batch: int | None = None
    n_ubatch: int | None = None
    flash_attn: str | None = None  # "on", "off" or "auto".
    load_mode: str | None = None
    repack: int | None = None
    type_k: str | None = None
    type_v: str | None = None
    n_gpu_layers: int | None = None
    tensor_overrides: str | None = None

    def said(self) -> dict[str, Any]:
        """What is not the default."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def without(self, known: "Known") -> "Setting":
        """Leave out what llama-bench does anyway; what is left tells settings apart."""
        same = {name for name, value in self.said().items() if known.defaults.get(name) == value}
        # A build that has no device for them takes any number of layers, and does nothing with it.
        void = {"n_gpu_layers"} if known.only_cpu else set()
        return replace(self, **dict.fromkeys(same | void))

    @property
    def prompt(self) -> Part:
        """The words for the request's prompt."""
        return (*_PROMPT, *self._words(self.threads_batch))

    @property
    def generation(self) -> Part:
        """The words for the request's generation."""
        return (*_GENERATION, *self._words(self.threads))

    def _words(self, threads: int | None) -> Iterator[str]:
        if threads is not None:
            yield from ("-t", str(threads))
        for name, flag in _FLAGS.items():
            value = getattr(self, name)
            if value is not None:
                yield from (flag, str(value))

    def __str__(self) -> str:
        """In llama-bench's words."""
        words = [*self._words(None)]
        if self.threads is not None or self.threads_batch is not None:
            words += ["threads", f"{_or_default(self.threads)} tg", "/"]
            words += [f"{_or_default(self.threads_batch)} pp"]
        return " ".join(words) or "the defaults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a llama-bench says of itself."""

    defaults: Mapping[str, Any]  # By the names of `Setting`.
    only_cpu: bool


def known(bench: Path, model: Path) -> Known:
    """Ask a llama-bench for its defaults, by letting it run nearly nothing."""
    record = _run(bench, model, ("-p", "1", "-n", "0", "--no-warmup"))
    defaults = {f.name: record[f.name] for f in fields(Setting) if f.name in record}
    threads = record["n_threads"]
    return Known(
        defaults=defaults
        | {"threads": threads, "threads_batch": threads, "repack": int(record["repack"])}
        | {"flash_attn": _FLASH.get(record["flash_attn"], record["flash_attn"])},
        only_cpu=record["backends"] == "CPU",
    )


def take_rounds(
    bench: Path, model: Path, settings: Collection[Setting], *, rounds: int, seed: int, kept: Path
) -> list[Round]:
    """Measure every part in each of the rounds; what is kept of an earlier call goes on.

    The order is shuffled, and every other round goes through that of the round before backwards.
    """
    parts = sorted({p for setting in settings for p in (setting.prompt, setting.generation)})
    done = [one for one in _read(kept) if one.keys() == {shlex.join(part) for part in parts}]
    for n in range(len(done), rounds):
        order = random.Random(f"{seed} {n // 2}").sample(parts, len(parts))  # noqa: S311
        turn = order if n % 2 == 0 else order[::-1]
        done.append({shlex.join(part): _run(bench, model, part)["avg_ts"] for part in turn})
        kept.write_text(json.dumps(done), encoding="utf-8")
    return done[:rounds]


def _run(bench: Path, model: Path, part: Part) -> dict[str, Any]:
    """Run one test once, after llama-bench's own warm-up."""
    command = [bench, "-m", model, *part, "-r", "1", "-o", "jsonl"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def _read(kept: Path) -> list[Round]:
    if not kept.is_file():
        return []
    rounds: list[Round] = json.loads(kept.read_text(encoding="utf-8"))
    return rounds


@dataclass(frozen=True, slots=True)
class Judged:
    """What the rounds say of one setting."""

    setting: Setting
    rounds: Sequence[Round]

    @property
    def prompt_rate(self) -> float:
        """Tokens per second of the prompt, the middle of the rounds."""
        return statistics.median(self._rates(self.setting.prompt))

    @property
    def generation_rate(self) -> float:
        """Tokens per second of the generation, the middle of the rounds."""
        return statistics.median(self._rates(self.setting.generation))

    @property
    def seconds(self) -> float:
        """Of the request, the middle of the rounds."""
        return statistics.median(self.each_s())

    def each_s(self) -> list[float]:
        """Seconds of the request in each round."""
        rates = zip(
            self._rates(self.setting.prompt), self._rates(self.setting.generation), strict=True
        )
        return [N_PROMPT / prompt + N_GEN / generation for prompt, generation in rates]

    def faster_than(self, other: "Judged") -> Comparison:
        """How many times as fast as another, round by round."""
        pairs = zip(other.each_s(), self.each_s(), strict=True)
        return compare([math.log(theirs / mine) for theirs, mine in pairs])

    def _rates(self, part: Part) -> list[float]:
        return [one[shlex.join(part)] for one in self.rounds]


def _or_default(number: int | None) -> str:
    return "default" if number is None else str(number)
