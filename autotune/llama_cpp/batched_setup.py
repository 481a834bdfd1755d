"""What is said to llama-batched-bench, and what it has no words for."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp import numactl
from autotune.llama_cpp.batches import Batch, prompt_of, slots
from autotune.llama_cpp.dialect import render
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.setup import Setup
from autotune.params import DEFAULT_N_BATCH
from autotune.shell import operand

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "-npp": "how long a prompt is",
        "-ntg": "how much is generated",
        "-npl": "how many sequences there are",
        "--output-format": "for records of JSON",
    }
)


@dataclass(kw_only=True)
class BatchedSetup(Setup):
    """One llama-batched-bench, one model, and how the two are asked to measure."""

    n_ctx: int  # Tokens of context of all slots together, as they are served.

    def __post_init__(self) -> None:
        lacking = [flag for flag in _WORDS if not self.capabilities.has(flag)]
        if lacking:
            raise LlamaCppUnusable(
                f"{' '.join(self.program.command)} has no {lacking[0]}, {_WORDS[lacking[0]]}",
                hint="update to a llama.cpp of November 2024 or later",
            )

    def arguments(self, batch: Batch, repetitions: int) -> list[str]:
        """The argument list, without the program, that runs a batch."""
        rendered = render(batch.params, "batched-bench", self.capabilities)
        # It hands out batches of `-b`, and aborts where a context has made them smaller.
        n_ctx = max(self.n_ctx, batch.params.n_batch or DEFAULT_N_BATCH)
        numbers = [str(entry.n_slots) for entry in batch.entries for _ in range(repetitions)]
        return [
            *("-m", operand(str(self.model)), *self.extra_arguments, *rendered.arguments),
            *("-c", str(n_ctx), "-npp", str(batch.n_prompt), "-ntg", str(batch.n_gen)),
            *("-npl", ",".join(numbers), "--output-format", "jsonl"),
        ]

    def inexpressible(self, trial: Trial) -> str | None:
        """What of a trial it has no words for; it must not be measured without it."""
        missing = [*render(trial.params, "batched-bench", self.capabilities).unsupported]
        missing += numactl.lacking(trial.params.numactl)
        test = trial.test
        if not prompt_of(test):
            missing.append(f"{test}: llama-batched-bench generates after a prompt only")
        elif test.n_prompt and (test.n_depth or test.n_gen):
            missing.append(f"{test}: llama-batched-bench times prompts and generation apart")
        needed = slots(trial) * (prompt_of(test) + max(test.n_gen, 1))
        if needed > self.n_ctx:
            # It would pass over the test in silence.
            missing.append(f"{test} needs {needed} tokens of context, and has {self.n_ctx}")
        return "; ".join(missing) or None
