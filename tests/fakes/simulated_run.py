"""One run of the simulated llama-bench: what a `Bench` would tell of it, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from fakes.surfaces import CORES

from autotune.llama_cpp import grids
from autotune.llama_cpp.dialect import FLAGS, render
from autotune.llama_cpp.grids import CONTEXT_FIELDS, Grid, Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Event, Progress, Result
from autotune.llama_cpp.records import ECHOED, Failure, FailureKind, Measurement, RunFacts, Test
from autotune.params import DEFAULT_CACHE_TYPE, DEFAULT_N_BATCH, DEFAULT_N_UBATCH

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.virtual import VirtualMachine

EPOCH = 1.8e9  # When virtual time begins.
CONTEXT_S = 0.05  # To make a context.


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a trial cannot be measured."""

    kind: FailureKind
    message: str
    exit_code: int
    of_model: bool = False  # The model was not loaded, so no other trial of the process was run.


class SimulatedRun(Iterator[Event]):
    """As `autotune.llama_cpp.bench.Run`, in virtual time."""

    def __init__(self, machine: VirtualMachine, trials: Sequence[Trial], repetitions: int) -> None:
        self._machine = machine
        self._repetitions = repetitions
        self._stopped = False
        self._events = self._told(trials)
        self.rescued: list[Result] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Stop at once."""
        self._events.close()

    def stop(self) -> None:
        """Stop; nothing that is finished is left untold here."""
        self._stopped = True

    def _told(self, trials: Sequence[Trial]) -> Generator[Event]:
        if self._stopped:
            return
        for event in self._all(trials):
            try:
                yield event
            except GeneratorExit:
                if isinstance(event, Result) and isinstance(event.outcome, Measurement):
                    self.rescued.append(event)  # The interrupt may have come before it arrived.
                raise
            if self._stopped:
                return

    def _all(self, trials: Sequence[Trial]) -> Iterator[Event]:
        waiting = deque(grids.split(trials))
        while waiting:
            process = _Process(self._machine, waiting.popleft(), self._repetitions)
            yield from process.events()
            waiting.extendleft(reversed(process.again))


class _Process:
    """One llama-bench process over one grid, up to its first failure."""

    def __init__(self, machine: VirtualMachine, grid: Grid, repetitions: int) -> None:
        self.again: list[Grid] = []
        self._machine = machine
        self._model_params = grid.model_params
        self._trials = grid.trials()
        self._repetitions = repetitions
        self._argv = _argv(machine.model.path, grid, repetitions)
        self._load_s: float | None = None
        self._before = machine.observe()
        self._since = machine.clock.now()
        self._filled: set[tuple[int, str | None, str | None]] = set()
        self._factor = 1.0  # Of this process on all that it measures.

    def events(self) -> Iterator[Event]:
        for n, trial in enumerate(self._trials):
            problem = yield from self._started(trial, first=n == 0)
            if problem:
                left = self._trials[n:]
                n_failed = len(left) if problem.of_model else 1
                self.again = grids.split(left[n_failed:])
                run = self._facts()
                for failed in left[:n_failed]:
                    yield Result(trial=failed, outcome=_failure(failed, problem, run))
                return
            yield from self._measured(trial)

    def _started(self, trial: Trial, *, first: bool) -> Generator[Event, None, Problem | None]:
        """Load the model and make a context, or say why not."""
        self._since = self._machine.clock.now()
        yield self._progress(trial, Phase.LOAD)
        problem = self._machine.problem_of(*trial)
        if first:
            load_s, self._factor = self._machine.load(self._model_params)
            self._machine.work(load_s, 1)
        if not problem:
            self._machine.work(CONTEXT_S, 1)
        if first and not problem:
            self._load_s = self._machine.clock.now() - self._since
        return problem

    def _measured(self, trial: Trial) -> Iterator[Event]:
        params, test = trial
        threads = self._machine.threads(params)
        for part in _parts(test):
            self._before = self._machine.observe()  # As the real one: the load is past.
            yield self._progress(trial, Phase.WARMUP)
            warm_up = part if part.n_prompt else Test(n_gen=1)
            self._machine.work(self._machine.seconds(params, warm_up), threads)
        weather = self._machine.weather
        dice_of_visit = weather.of_visit(params, test, self._machine.visits[trial])
        self._machine.visits[trial] += 1
        samples, joules = [], []
        for repetition in range(1, self._repetitions + 1):
            yield from self._at_depth(trial)
            factor = self._factor * weather.of_repetition(dice_of_visit)
            took, before = 0.0, self._machine.joules
            for n, part in enumerate(_parts(test)):
                yield self._progress(trial, Phase.RUN, repetition)
                seconds = self._machine.seconds(params, part if n == 0 else test)
                seconds -= 0 if n == 0 else self._machine.seconds(params, _parts(test)[0])
                drifted = weather.drifted(self._machine.clock.now())
                took += self._machine.work(seconds * factor * drifted, threads)
            samples.append(max(round(took * 1e9), 1))
            joules.append(self._machine.joules - before)
        run = self._facts()
        self._before = run.after
        measurement = self._measurement(trial, tuple(samples), run)
        if self._machine.watts:
            measurement = replace(measurement, samples_j=tuple(joules))
        yield Result(trial=trial, outcome=measurement)

    def _at_depth(self, trial: Trial) -> Iterator[Event]:
        """Fill the cache, once for each depth and kind of cache."""
        params, test = trial
        if not test.n_depth:
            return
        yield self._progress(trial, Phase.DEPTH)
        key = (test.n_depth, params.type_k, params.type_v)
        if key not in self._filled:
            fill_s = self._machine.seconds(params, Test(n_prompt=test.n_depth))
            self._machine.work(fill_s, self._machine.threads(params))
            self._filled.add(key)

    def _progress(self, trial: Trial, phase: Phase, repetition: int = 0) -> Progress:
        return Progress(
            trial=trial,
            phase=phase,
            repetition=repetition,
            at=self._machine.clock.now(),
            joules=self._machine.meter(),
        )

    def _facts(self) -> RunFacts:
        return RunFacts(
            argv=self._argv,
            removed_environment={},
            started_at=EPOCH + self._since,
            ended_at=EPOCH + self._machine.clock.now(),
            load_s=self._load_s,
            before=self._before,
            after=self._machine.observe(),
        )

    def _measurement(self, trial: Trial, samples_ns: tuple[int, ...], run: RunFacts) -> Measurement:
        record = _record(self._machine, trial, samples_ns)
        return Measurement(
            params=trial.params,
            test=trial.test,
            samples_ns=samples_ns,
            build_commit=record["build_commit"],
            build_number=record["build_number"],
            run=run,
            record=record,
        )


def _failure(trial: Trial, problem: Problem, run: RunFacts) -> Failure:
    return Failure(
        kind=problem.kind,
        message=problem.message,
        params=trial.params,
        test=trial.test,
        exit_code=problem.exit_code,
        stderr_tail=(problem.message,),
        run=run,
    )


def _parts(test: Test) -> list[Test]:
    """What is warmed up and run one after the other."""
    prompt = [replace(test, n_gen=0)] if test.n_prompt else []
    return prompt + ([replace(test, n_prompt=0)] if test.n_gen else [])


def _argv(model: Path, grid: Grid, repetitions: int) -> tuple[str, ...]:
    """The argument list that the real one would be given, or one much like it."""
    words = ["llama-bench", "-m", str(model), *render(grid.model_params, "bench").arguments]
    for name, values in zip(CONTEXT_FIELDS, grid.axes, strict=True):
        if values != (None,):
            words += [FLAGS[name][0], ",".join(map(str, values))]
    words += ["-pg", " ".join(f"{p},{n}" for p, n in grid.tests)]
    words += ["-d", ",".join(map(str, grid.depths))]
    return (*words, "-r", str(repetitions), "-o", "jsonl", "--progress")


# What a record says where nothing was asked for.
_ECHOED_DEFAULTS: Mapping[str, Any] = {
    "n_threads": CORES,
    "n_batch": DEFAULT_N_BATCH,
    "n_ubatch": DEFAULT_N_UBATCH,
    "n_gpu_layers": -1,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "type_k": DEFAULT_CACHE_TYPE,
    "type_v": DEFAULT_CACHE_TYPE,
    "flash_attn": -1,
    "no_kv_offload": False,
    "no_op_offload": 0,
    "repack": True,
    "load_mode": "auto",
}


def _record(machine: VirtualMachine, trial: Trial, samples_ns: tuple[int, ...]) -> dict[str, Any]:
    asked = {
        name: value
        for name in ECHOED
        if (value := getattr(trial.params, name)) not in {None, "auto"}
    }
    for name in {"flash_attn", "no_op_offload"} & asked.keys():
        asked[name] = int(asked[name])
    rates = [1e9 * trial.test.n_tokens / ns for ns in samples_ns]
    gpus = machine.hardware.gpus
    return {
        "build_commit": "5eed5eed",
        "build_number": 0,
        "cpu_info": machine.hardware.cpu.name,
        "gpu_info": ", ".join(gpu.name for gpu in gpus),
        "backends": ",".join(["CPU", *dict.fromkeys(gpu.backend for gpu in gpus)][-1:]),
        "model_filename": str(machine.model.path),
        "model_type": f"{machine.model.architecture} {machine.model.quantization}",
        "model_size": machine.model.weight_bytes,
        "model_n_params": machine.model.n_parameters,
        **_ECHOED_DEFAULTS,
        **asked,
        **{field.name: getattr(trial.test, field.name) for field in fields(trial.test)},
        "avg_ns": sum(samples_ns) // len(samples_ns),
        "avg_ts": sum(rates) / len(rates),
        "samples_ns": list(samples_ns),
        "samples_ts": rates,
    }
