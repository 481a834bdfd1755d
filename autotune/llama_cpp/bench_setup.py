"""What is said to llama-bench: which model, which grid, and what it has no words for."""

from dataclasses import dataclass

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp import numactl
from autotune.llama_cpp.capabilities import STREAMS_RECORDS_SINCE
from autotune.llama_cpp.dialect import listed, render
from autotune.llama_cpp.grids import CONTEXT_FIELDS, Grid, Trial
from autotune.llama_cpp.setup import Setup
from autotune.shell import operand


@dataclass(kw_only=True)
class BenchSetup(Setup):
    """One llama-bench, one model, and how the two are asked to measure."""

    def __post_init__(self) -> None:
        if not self.capabilities.streams_records:
            raise LlamaCppUnusable(
                f"{' '.join(self.program.command)} has no `-o jsonl`: a crash would lose results",
                hint=STREAMS_RECORDS_SINCE,
            )
        if "," in str(self.model):
            raise LlamaCppUnusable(
                f"llama-bench reads the comma in {self.model} as the end of a path",
                hint="rename the file or link it under another name",
            )

    def arguments(self, grid: Grid, repetitions: int) -> list[str]:
        """The argument list, without the program, that runs a grid."""
        rendered = render(grid.model_params, "bench", self.capabilities)
        arguments = ["-m", operand(str(self.model)), *self.extra_arguments, *rendered.arguments]
        for name, values in zip(CONTEXT_FIELDS, grid.axes, strict=True):
            if values != (None,):
                arguments += listed(name, values, self.capabilities)
        prompts = [str(p) for p, n in grid.tests if p and not n]
        generations = [str(n) for p, n in grid.tests if n and not p]
        arguments += ["-p", ",".join(prompts) or "0", "-n", ",".join(generations) or "0"]
        for n_prompt, n_gen in grid.tests:
            if n_prompt and n_gen:
                arguments += ["-pg", f"{n_prompt},{n_gen}"]
        if grid.depths != (0,):
            arguments += ["-d", ",".join(map(str, grid.depths))]
        arguments += ["-r", str(repetitions), "-o", "jsonl"]
        return arguments + (["--progress"] if self.capabilities.has("--progress") else [])

    def inexpressible(self, trial: Trial) -> str | None:
        """What of a trial this llama-bench has no words for; it must not be measured without it."""
        missing = [*render(trial.params, "bench", self.capabilities).unsupported]
        missing += numactl.lacking(trial.params.numactl)
        test = trial.test
        for flag, needed in (("-d", test.n_depth > 0), ("-pg", test.n_prompt and test.n_gen)):
            if needed and not self.capabilities.has(flag):
                missing.append(f"{test}: llama-bench has no {flag}")
        return "; ".join(missing) or None
