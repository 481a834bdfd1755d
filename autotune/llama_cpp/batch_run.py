"""One llama-batched-bench process: several sequences at once, a record for each repetition."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from autotune.llama_cpp import batches, failures
from autotune.llama_cpp.batched_records import BatchedRecord, check_batched, parse_batched
from autotune.llama_cpp.batched_setup import BatchedSetup
from autotune.llama_cpp.batches import Batch, Entry
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.plausibility import implausible
from autotune.llama_cpp.process import Line
from autotune.llama_cpp.program_run import OF_A_WORD, Event, ProgramRun, Progress, Result, Start
from autotune.llama_cpp.records import BadRecord, FailureKind, Measurement

# Its records go through a thread that is not waited for at the end (common/log.cpp): where other
# threads keep the CPUs busy, the last of them is lost, and the exit code is 0. Seen in 7 of 40 runs
# of a tiny model beside other work.
MOST_ATTEMPTS = 4


class BatchRun(ProgramRun):
    """One process over one batch, up to its first failure.

    It tells nothing until a repetition is over: of what came before the first, the record says how
    long the prompts and the generation took, and the rest was loading.
    """

    def __init__(
        self,
        bench: BatchedSetup,
        batch: Batch,
        repetitions: int,
        rescued: list[Result],
        attempt: int = 1,
    ) -> None:
        self._lines = [entry for entry in batch.entries for _ in range(repetitions)]
        super().__init__(
            bench,
            batch.trials,
            arguments=bench.arguments(batch, repetitions),
            clock=bench.patience.clock(
                [batch.timed(entry) for entry in self._lines],
                repetitions=1,
                model_bytes=bench.model_bytes(),
            ),
            rescued=rescued,
        )
        self._bench = bench
        self._batch = batch
        self._repetitions = repetitions
        self._records: list[BatchedRecord] = []  # Of the entry that is being measured.
        self._n_read = 0
        self._attempt = attempt

    def _runs(self, trials: Sequence[Trial]) -> list[Start]:
        return runs_of(self._bench, trials, self._repetitions, self._rescued)

    def _talkative(self, trial: Trial) -> list[str]:
        (alone,) = batches.split([trial])
        return [*self._bench.arguments(alone, 1), "-v"]

    def _ended(self, code: int, *, for_memory: bool) -> Iterator[Event]:
        left = self._expected[self._n_done :]
        lost = code == 0 and left and not self._strays and not self._stopped
        if lost and self._attempt < MOST_ATTEMPTS:
            self._over = True
            attempt = self._attempt + 1
            self.again = runs_of(self._bench, left, self._repetitions, self._rescued, attempt)
        else:
            yield from super()._ended(code, for_memory=for_memory)

    def _is_of_all(self, reason: Reason) -> bool:
        """A context is made for the most sequences: fewer may have room where these had none."""
        several = len(self._batch.entries) > 1
        of_context = reason.kind is FailureKind.OOM and not self._n_read
        return several and (of_context or super()._is_of_all(reason))

    def _n_blamed(self, reason: Reason, code: int | None) -> int:
        """Both parts, which are of one record; all, where there is not even a context."""
        del code
        nothing_ran = not self._n_read and reason.kind in OF_A_WORD
        left = len(self._expected) - self._n_done
        return left if reason.of_model or nothing_ran else len(self._entry.trials)

    @property
    def _entry(self) -> Entry:
        """The one that the next trial is of."""
        ends = accumulate(len(entry.trials) for entry in self._batch.entries)
        left = (e for e, end in zip(self._batch.entries, ends, strict=True) if end > self._n_done)
        return next(left, self._batch.entries[-1])

    def _begun(self) -> Iterator[Event]:
        yield self._progress(Phase.LOAD, 0, time.monotonic())

    def _progress(self, phase: Phase, repetition: int, at: float) -> Progress:
        return Progress(trial=self._entry.trials[0], phase=phase, repetition=repetition, at=at)

    def _read(self, line: Line) -> Iterator[Event]:
        if line.stream == "stdout":
            yield from self._printed(line)
        else:
            self._stderr.append(failures.shortened(line.text))

    def _printed(self, line: Line) -> Iterator[Event]:
        if self._stray(line):
            return
        if self._n_read == len(self._lines):
            self._over = True  # It goes on, though all that was asked for is measured.
            return
        asked = self._batch.timed(self._entry)
        try:
            record = parse_batched(line.text)
            check_batched(record, asked)
        except BadRecord as problem:
            yield from self._failed(Reason(FailureKind.BAD_OUTPUT, str(problem)), None)
            return
        took_s = record.prompts_s + record.generation_s
        if self._load_s is None:
            self._load_s = max(self._clock.since_start(line.at) - took_s, 0.0)
            self._bench.patience.saw(Phase.LOAD, asked, self._load_s)
        self._bench.patience.saw(Phase.RUN, asked, took_s)
        entry, self._test_seen, self._counted = self._entry, True, line
        self._records.append(record)
        self._n_read += 1
        self._clock.advance(self._n_read, line.at, self._child.cpu_seconds())
        if len(self._records) == self._repetitions:
            yield from self._entry_is_over(entry, line)
        if self._n_read < len(self._lines) and not self._over:
            yield self._progress(Phase.RUN, len(self._records) + 1, line.at)

    def _entry_is_over(self, entry: Entry, line: Line) -> Iterator[Event]:
        records, self._records = self._records, []
        run = self._facts(line.at)
        lasted_s = (line.at - self._test_since) * entry.waves
        results = []
        for trial in entry.trials:
            measurement = Measurement(
                params=trial.params,
                test=trial.test,
                samples_ns=tuple(_sample_ns(record, trial, entry) for record in records),
                build_commit="",
                build_number=0,
                run=run,
                record=_record_of(records, trial),
            )
            impossible = implausible(measurement, lasted_s, active_share=self._bench.active_share)
            if impossible:
                yield from self._failed(Reason(FailureKind.IMPLAUSIBLE, impossible), None)
                return
            results.append(Result(trial=trial, outcome=measurement))
        self._before, self._test_since = run.after, line.at
        yield from self._done(line, results)


def _record_of(records: Sequence[BatchedRecord], trial: Trial) -> dict[str, Any]:
    """The last line as it was printed, its test in llama-bench's names, and the times of each."""
    test = trial.test
    return {
        **records[-1].raw,
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_depth": test.n_depth,
        "t_pp_each": [record.prompts_s for record in records],
        "t_tg_each": [record.generation_s for record in records],
    }


def _sample_ns(record: BatchedRecord, trial: Trial, entry: Entry) -> int:
    """What all requests of the test take, where the slots work them off in waves."""
    seconds = record.generation_s if trial.test.n_gen else record.prompts_s
    return max(round(1e9 * seconds * entry.waves), 1)


def runs_of(
    bench: BatchedSetup,
    trials: Sequence[Trial],
    repetitions: int,
    rescued: list[Result],
    attempt: int = 1,
) -> list[Start]:
    """The processes that measure some trials, one for each context that they need."""
    return [
        partial(BatchRun, bench, batch, repetitions, rescued, attempt)
        for batch in batches.split(trials)
    ]
