"""Put trials together that one llama-batched-bench process can run.

It loads a model and makes a context once, and runs each of a list of numbers of sequences in it
(`-npl`). One of its records has the time of the prompts and that of the generation after them, so
that a trial of either is the same process; and a number that is listed twice is measured twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Test
from autotune.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One number of sequences, and the trials that are answered by its record."""

    n_slots: int
    trials: tuple[Trial, ...]  # A prompt, a generation, or both.

    @property
    def waves(self) -> float:
        """How often the slots are filled until all requests of the test are answered."""
        return max(self.trials[0].test.n_parallel / self.n_slots, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one process measures."""

    params: Params  # Without the number of slots.
    n_prompt: int
    n_gen: int
    entries: tuple[Entry, ...]

    @property
    def trials(self) -> list[Trial]:
        """In the order in which they are answered."""
        return [trial for entry in self.entries for trial in entry.trials]

    def timed(self, entry: Entry) -> Trial:
        """The whole of what a record is of."""
        test = Test(n_prompt=self.n_prompt, n_gen=self.n_gen, n_parallel=entry.n_slots)
        return Trial(self.params, test)

    @property
    def n_tokens(self) -> int:
        """Tokens of context that it needs, of all sequences together."""
        return max(entry.n_slots for entry in self.entries) * (self.n_prompt + self.n_gen)


def slots(trial: Trial) -> int:
    """How many requests are worked on at once; the others wait.

    llama-server has so many slots (`--parallel`), and no more than there are requests are busy.
    """
    asked = trial.params.n_parallel
    return trial.test.n_parallel if asked is None else min(asked, trial.test.n_parallel)


def split(trials: Sequence[Trial]) -> list[Batch]:
    """The processes that measure some trials; the order is kept within each."""
    lengths: dict[tuple[Params, int], int] = {}
    for trial in trials:
        if trial.test.n_gen:
            lengths.setdefault(_of_one_context(trial), trial.test.n_gen)
    found: dict[tuple[Params, int, int], list[list[Trial]]] = {}
    for trial in trials:
        of_one = _of_one_context(trial)
        # Without a token its rates are none; one takes no time beside a prompt.
        n_gen = trial.test.n_gen or lengths.get(of_one, 1)
        _put(trial, found.setdefault((*of_one, n_gen), []))
    return [
        Batch(
            params=params,
            n_prompt=n_prompt,
            n_gen=n_gen,
            entries=tuple(Entry(n_slots=slots(e[0]), trials=tuple(e)) for e in entries),
        )
        for (params, n_prompt, n_gen), entries in found.items()
    ]


def _of_one_context(trial: Trial) -> tuple[Params, int]:
    return replace(trial.params, n_parallel=None), prompt_of(trial.test)


def prompt_of(test: Test) -> int:
    """Tokens of the prompt that is timed, or that is in the cache before the generation."""
    return test.n_prompt or test.n_depth


def _put(trial: Trial, entries: list[list[Trial]]) -> None:
    """Beside the other part of the same, if that waits for it; else for itself."""
    last = entries[-1] if entries else []
    if len(last) == 1 and last[0].params == trial.params and last[0].test != trial.test:
        last.append(trial)
        last.sort(key=lambda one: one.test.n_gen)  # As they are timed: first the prompts.
    else:
        entries.append([trial])
