"""The record of everything that was measured: an Optuna study. Nothing else here knows Optuna.

A visit is a trial. It is enqueued and asked before it is measured, so that what runs at a crash is
seen to have run; what it was for and what came of it stand in its user attributes. Its value is the
seconds of one request. What failed, or was dropped because it had lost, is told as pruned: a trial
that is told as failed is invisible to TPE, which then walks into the same region again and again.
"""

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from autotune.errors import SurroundingsError
from autotune.llama_cpp.records import outcome_from_json, outcome_to_json
from autotune.params import params_from_json, params_to_json
from autotune.tuning.space import Space
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import Value

Ticket = Trial  # What `begin` gives for `tell` and `give_up`.

NAME = "lcm"
FORMAT_VERSION = 1

# TPE draws at random until it has seen this many; five to ten were best on recorded surfaces.
_STARTUP_TRIALS = 10


class Study:
    """One study, in memory or in a SQLite file."""

    def __init__(self, study: optuna.Study, space: Space, *, seed: int) -> None:
        self._study = study
        self._space = space
        self._seed = seed
        self._distributions = {
            d.name: _distribution(d.values, d.is_range) for d in space.dimensions
        }
        self._waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))

    @staticmethod
    def create(path: Path | None, space: Space, facts: Mapping[str, Any], *, seed: int) -> "Study":
        """Begin a study; `facts` say what it belongs to. Without a path it is in memory."""
        with _quiet():
            study = optuna.create_study(
                storage=None if path is None else _url(path), study_name=NAME, direction="minimize"
            )
            study.set_user_attr("format_version", FORMAT_VERSION)
            study.set_user_attr("facts", json.loads(json.dumps(facts)))
            study.set_user_attr("seed", seed)
        return Study(study, space, seed=seed)

    @staticmethod
    def facts_of(path: Path) -> dict[str, Any]:
        """What the study in a file belongs to, with its seed.

        Raises:
            SurroundingsError: the file is no study.
        """
        study = _load(path)
        facts: dict[str, Any] = dict(study.user_attrs["facts"])
        return {**facts, "seed": study.user_attrs["seed"]}

    @staticmethod
    def kept(path: Path) -> list[tuple[Reading, float | None]]:
        """What a study in a file has measured, each with the seconds of a request, if known.

        Raises:
            SurroundingsError: the file is no study.
        """
        return [(_reading(trial), trial.value) for trial in _finished(_load(path))]

    @staticmethod
    def resume(path: Path, space: Space) -> "Study":
        """Go on with a study; what was running when it ended is enqueued anew."""
        study = _load(path)
        with _quiet():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study._storage.set_trial_user_attr(trial._trial_id, "failure", "interrupted")  # noqa: SLF001 - Optuna has no public way to a trial that another process has asked for
                study.tell(trial.number, state=TrialState.FAIL)
                study.enqueue_trial(trial.params, user_attrs=_why(trial))
        return Study(study, space, seed=study.user_attrs["seed"])

    def readings(self) -> list[Reading]:
        """Everything that was finished, in the order in which it was."""
        return [_reading(trial) for trial in _finished(self._study)]

    def begin(self, visit: Visit) -> Ticket:
        """Note that a visit is being measured."""
        why = {
            "kind": visit.kind.value,
            "source": visit.source,
            "parts": list(visit.parts),
            "params": params_to_json(visit.params),
        }
        with _quiet():
            if not self._taken_up(why):
                self._study.enqueue_trial(self._space.point(visit.params), user_attrs=why)
            return self._study.ask(self._distributions)

    def _taken_up(self, why: Mapping[str, Any]) -> bool:
        """What was interrupted is next in the queue; what is not wanted any more is let go."""
        while self._waiting:
            next_one = self._waiting.pop(0)
            if _why(next_one) == why:
                return True
            self._study.tell(self._study.ask(self._distributions), state=TrialState.FAIL)
        return False

    def tell(self, trial: Ticket, reading: Reading, seconds: float | None) -> None:
        """Keep what came of a visit; `seconds` of a request, where both parts are known."""
        failure = reading.failure
        with _quiet():
            trial.set_user_attr(
                "outcomes", {p: outcome_to_json(o) for p, o in reading.outcomes.items()}
            )
            trial.set_user_attr("elapsed_s", reading.elapsed_s)
            if reading.disturbed:
                trial.set_user_attr("disturbed", reading.disturbed)
            if failure:
                trial.set_user_attr("failure", failure.kind.value)
            if failure or seconds is None:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, seconds)

    def give_up(self, trial: Ticket, why: str) -> None:
        """A visit was begun and not finished."""
        with _quiet():
            trial.set_user_attr("failure", why)
            self._study.tell(trial, state=TrialState.FAIL)

    def proposal(self, numbers: Collection[int], *, nth: int) -> dict[str, Value]:
        """What TPE would try next, given what came of some trials; it is not begun by this.

        A sampler of its own each time, and the trials in the order in which they were finished, so
        that a study that is worked through again proposes what it did.

        Args:
            numbers: of the trials that it may know: a resumed study holds later ones as well.
            nth: of the proposals from the same trials.
        """
        sampler = optuna.samplers.TPESampler(
            seed=self._seed * 100_003 + 100 * len(numbers) + nth,
            multivariate=True,
            n_startup_trials=_STARTUP_TRIALS,
        )
        with _quiet():
            draft = optuna.create_study(direction="minimize", sampler=sampler)
            draft.add_trials(trial for trial in _finished(self._study) if trial.number in numbers)
            trial = draft.ask(self._distributions)
        return dict(trial.params)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """In the order in which they were."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    told = [trial for trial in done if "outcomes" in trial.user_attrs]
    return sorted(told, key=lambda trial: (trial.user_attrs["elapsed_s"], trial.number))


def _distribution(values: tuple[Value, ...], is_range: bool) -> BaseDistribution:  # noqa: FBT001
    if is_range and isinstance(values[0], int) and isinstance(values[-1], int):
        return IntDistribution(values[0], values[-1])
    return CategoricalDistribution(values)


def _why(trial: FrozenTrial) -> dict[str, Any]:
    return {key: trial.user_attrs.get(key) for key in ("kind", "source", "parts", "params")}


def _reading(trial: FrozenTrial) -> Reading:
    kept = trial.user_attrs
    visit = Visit(
        kind=Kind(kept["kind"]),
        source=kept["source"],
        params=params_from_json(kept["params"]),
        parts=tuple(kept["parts"]),
    )
    return Reading(
        visit=visit,
        outcomes={part: outcome_from_json(o) for part, o in kept["outcomes"].items()},
        disturbed=kept.get("disturbed", ""),
        elapsed_s=kept["elapsed_s"],
        number=trial.number,
    )


def _url(path: Path) -> str:
    return f"sqlite:///{quote(os.fspath(path))}"  # SQLAlchemy reads ? and % as a URL has them.


def _load(path: Path) -> optuna.Study:
    try:
        with _quiet():
            study = optuna.load_study(study_name=NAME, storage=_url(path))
            version = study.user_attrs["format_version"]
    except Exception as error:  # SQLAlchemy's, sqlite's and Optuna's: whatever a bad file brings.
        raise _unreadable(path, str(error).splitlines()[0][:200]) from error
    if version != FORMAT_VERSION:
        raise _unreadable(path, f"its format is {version}, not {FORMAT_VERSION}")
    return study


def _unreadable(path: Path, why: str) -> SurroundingsError:
    return SurroundingsError(
        f"{path} cannot be read as a study: {why}",
        hint="--fresh begins a new one; this one stays as it is",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own log and warnings: what happens is told by our own events."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
