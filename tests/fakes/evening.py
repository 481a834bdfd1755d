"""An evening of measuring in virtual time, on an eight-core machine with a small card.

Nothing in it depends on the clock, and no number comes from chance.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fakes.kept_places import MODEL

from autotune.llama_cpp.records import (
    Failure,
    FailureKind,
    Measurement,
    RunFacts,
    State,
    Test,
)
from autotune.params import Params
from autotune.results.journal import Entry, Incumbent, Record, Session, Trial

BEGAN_AT = 1_796_068_800.0  # 2026-11-30 20:00:00 UTC
BUILD = "version: 11434 (5eed5ee)"
COMMIT, NUMBER = "5eed5ee", 11434
TESTS = {"pp": Test(n_prompt=512), "tg": Test(n_gen=64)}
REQUEST = {"pp": 512, "tg": 256}  # Tokens of the request.
BASELINE = Params(
    n_batch=2048,
    n_ubatch=512,
    n_threads=8,
    n_threads_batch=8,
    n_gpu_layers=28,
    flash_attn="auto",
    load_mode="auto",
)
SEED = replace(BASELINE, n_threads=7, n_threads_batch=8, n_gpu_layers=29)
THREADS = replace(SEED, n_threads=6)
LAYERS = replace(THREADS, n_gpu_layers=30)
WINNER = replace(LAYERS, flash_attn=True)
LOAD_S = 2.5
ROUNDS = 5


@dataclass
class Evening:
    """What is measured, one after the other, in virtual time."""

    model: str = "Llama 3.1 8B Instruct"
    program: str = "/opt/llama.cpp/llama-bench"
    gpu: bool = True
    commit: str = COMMIT
    speed: float = 1.0
    elapsed_s: float = 0.0
    number: int = 0
    watts: float | None = None  # That the defaults take; a thread more takes 4 W more.
    objective: str = "request"
    entries: list[Entry] = field(default_factory=list)

    def measure(
        self,
        kind: str,
        source: str,
        params: Params,
        parts: str = "pp tg",
        *,
        comes: str | None = None,
        oom: bool = False,
        disturbed: str = "",
    ) -> None:
        """Visit a configuration; of its parts, `comes` are those that have a record."""
        wanted = tuple(parts.split())
        for part in wanted if comes is None else comes.split():
            outcome = self._failed(params, part) if oom else self._measured(params, part, disturbed)
            self.entries.append(Record(trial=self.number, part=part, outcome=outcome))
        trial = Trial(
            number=self.number,
            kind=kind,
            source=source,
            params=params,
            parts=wanted,
            seconds=None if oom or comes is not None else self.request_s(params),
            disturbed=disturbed,
            elapsed_s=self.elapsed_s,
            joules=None if oom or comes is not None else self.request_j(params),
        )
        self.entries.append(trial)
        self.number += 1

    def complete_grid(self, params: Params, part: str) -> None:
        """A test that no trial asked for."""
        outcome = self._measured(params, part, "")
        self.entries.append(Record(trial=None, part=part, outcome=outcome))

    def lead(self, params: Params) -> None:
        incumbent = Incumbent(
            elapsed_s=self.elapsed_s,
            params=params,
            seconds=self.request_s(params),
            baseline_s=self.request_s(BASELINE),
            joules=self.request_j(params),
            baseline_j=self.request_j(BASELINE),
        )
        self.entries.append(incumbent)

    def begin(self, *, resumed: bool) -> None:
        at = BEGAN_AT + self.elapsed_s
        self.entries.append(Session(at=at, lcm="0.5.0", budget_s=900.0, resumed=resumed))

    def rate(self, params: Params, part: str) -> float:
        """Tokens per second, without noise."""
        layers = (params.n_gpu_layers or 0) - 28
        if part == "pp":
            faster = 1.15 if params.flash_attn is True else 1.0
            return 420.0 * self.speed * (1 + 0.05 * layers) * faster
        threads = {4: 1.02, 6: 1.08, 7: 1.05, 12: 0.88}.get(params.n_threads or 8, 1.0)
        return 18.0 * self.speed * (1 + 0.09 * layers) * threads

    def request_s(self, params: Params) -> float:
        return sum(tokens / self.rate(params, part) for part, tokens in REQUEST.items())

    def power(self, params: Params, part: str) -> float | None:
        """Watts of the machine, as its counters have them."""
        threads = (params.n_threads if part == "tg" else params.n_threads_batch) or 8
        return None if self.watts is None else self.watts + 4 * (threads - 8)

    def per_joule(self, params: Params, part: str) -> float | None:
        """Tokens per joule, without noise."""
        power = self.power(params, part)
        return None if power is None else self.rate(params, part) / power

    def request_j(self, params: Params) -> float | None:
        each = [(tokens, self.per_joule(params, part)) for part, tokens in REQUEST.items()]
        return sum(n / rate for n, rate in each if rate) if self.watts else None

    def _measured(self, params: Params, part: str, disturbed: str) -> Measurement:
        asked, test = _asked(params, part), TESTS[part]
        slower = 1.2 if disturbed else 1.0
        ns = 1e9 * test.n_tokens / self.rate(params, part) * slower
        samples = tuple(round(ns * (1 + share)) for share in self._noise())
        power = self.power(params, part)
        run = self._run(asked, test, sum(samples) / 1e9, foreign=1.6 if disturbed else 0.02)
        return Measurement(
            params=asked,
            test=test,
            samples_ns=samples,
            build_commit=self.commit,
            build_number=NUMBER,
            run=run,
            record=self._record(asked, test, samples),
            samples_j=() if power is None else tuple(power * ns / 1e9 for ns in samples),
        )

    def _failed(self, params: Params, part: str) -> Failure:
        asked, test = _asked(params, part), TESTS[part]
        message = "allocating 487.51 MiB on device 0: cudaMalloc failed: out of memory"
        return Failure(
            kind=FailureKind.OOM,
            message=message,
            params=asked,
            test=test,
            exit_code=1,
            stderr_tail=(f"ggml_backend_cuda_buffer_type_alloc_buffer: {message}",),
            run=replace(self._run(asked, test, 0.4, foreign=0.0), load_s=None),
        )

    def _noise(self) -> Iterator[float]:
        """Within 1 % of nothing, and never twice the same."""
        return ((((self.number * 7 + len(self.entries) * 3 + n) % 11) - 5) / 500 for n in range(3))

    def _run(self, params: Params, test: Test, test_s: float, *, foreign: float) -> RunFacts:
        before = self._state(self.elapsed_s, 0.0)
        started_at = BEGAN_AT + self.elapsed_s
        self.elapsed_s += LOAD_S + test_s
        return RunFacts(
            argv=self._argv(params, test),
            removed_environment={"LLAMA_ARG_THREADS": "3"},
            started_at=started_at,
            ended_at=BEGAN_AT + self.elapsed_s,
            load_s=LOAD_S,
            before=before,
            after=self._state(self.elapsed_s, foreign * (LOAD_S + test_s)),
        )

    def _state(self, at_s: float, foreign_s: float) -> State:
        """Counters, and what the sensors say: it gets warm, and throttles once."""
        state = {
            "at_s": 5000.0 + at_s,
            "busy_s": 900.0 + 6.5 * at_s + foreign_s,
            "own_s": 300.0 + 6.5 * at_s,
            "pressure_cpu_s": 12.0 + at_s / 50,
            "pressure_memory_s": 1.0,
            "pressure_io_s": 3.0,
            "swapped_pages": 4096.0,
            "throttles": 7.0 + (at_s > 60),
            "clock_mhz": 4150.0 - 2 * min(at_s, 60.0),
            "temperature_c": 52.0 + min(at_s, 60.0) / 2,
        }
        card = {
            "gpu0_temperature_c": 48.0 + min(at_s, 90.0) / 4,
            "gpu0_clock_mhz": 1905.0,
            "gpu0_throttle_reasons": 4.0,
            "gpu0_power_capped_s": 90.0 + at_s / 4,
            "gpu0_foreign_processes": 1.0,
        }
        return state | card if self.gpu else state

    def _argv(self, params: Params, test: Test) -> tuple[str, ...]:
        sizes = ("-p", test.n_prompt, "-n", test.n_gen, "-d", test.n_depth)
        flags = ("-b", params.n_batch, "-ub", params.n_ubatch, "-t", params.n_threads)
        words = (self.program, "-m", MODEL["path"], "-o", "jsonl", "--progress", "-r", 3)
        return tuple(map(str, (*words, *sizes, *flags, "-ngl", params.n_gpu_layers)))

    def _record(self, params: Params, test: Test, samples: tuple[int, ...]) -> dict[str, Any]:
        """All 42 fields of b11434, in its order."""
        rates = [1e9 * test.n_tokens / ns for ns in samples]
        return {
            "build_commit": self.commit,
            "build_number": NUMBER,
            "cpu_info": "AMD Ryzen 7 5800H",
            "gpu_info": "NVIDIA GeForce RTX 3060 Laptop GPU" if self.gpu else "",
            "backends": "CUDA" if self.gpu else "CPU",
            "model_filename": MODEL["path"],
            "model_type": "llama 8B Q4_K - Medium",
            "model_size": 4912898304,
            "model_n_params": 8030261312,
            "n_batch": params.n_batch,
            "n_ubatch": params.n_ubatch,
            "n_threads": params.n_threads,
            "cpu_mask": "0x0",
            "cpu_strict": False,
            "poll": 50,
            "type_k": "f16",
            "type_v": "f16",
            "n_gpu_layers": params.n_gpu_layers,
            "n_cpu_moe": 0,
            "split_mode": "layer",
            "main_gpu": 0,
            "no_kv_offload": False,
            "flash_attn": -1 if params.flash_attn == "auto" else int(params.flash_attn is True),
            "devices": "auto",
            "tensor_split": "0.00",
            "tensor_buft_overrides": "none",
            "load_mode": "auto",
            "lazy_mode": "auto",
            "embeddings": False,
            "no_op_offload": 0,
            "no_host": False,
            "repack": True,
            "fit_target": 0,
            "fit_min_ctx": 0,
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "n_depth": test.n_depth,
            "test_time": time.strftime(
                "%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGAN_AT + self.elapsed_s)
            ),
            "avg_ns": round(statistics.fmean(samples)),
            "stddev_ns": round(statistics.stdev(samples)),
            "avg_ts": round(statistics.fmean(rates), 6),
            "stddev_ts": round(statistics.stdev(rates), 6),
            "samples_ns": list(samples),
            "samples_ts": [round(rate, 3) for rate in rates],
        }


def _asked(params: Params, part: str) -> Params:
    threads = params.n_threads_batch if part == "pp" else params.n_threads
    return replace(params, n_threads=threads, n_threads_batch=None)
