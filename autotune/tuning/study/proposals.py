"""What TPE would try next, of what is known; it sees no more than it needs."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from autotune.tuning.study.database import quiet
from autotune.tuning.workload import Value

# TPE draws at random until it has seen this many; five to ten were best on recorded surfaces.
_STARTUP_TRIALS = 10
# TPE sees no more than this: the best, and the last of the others. It takes the best 25 for good
# however many there are, so that what more of the others say is how crowded the space is.
MOST_SHOWN, _BEST_SHOWN = 1000, 100


class Known(NamedTuple):
    """What TPE asks of a trial that is over; in the order in which they were."""

    elapsed_s: float
    number: int
    seconds: float | None  # None: it failed, or was dropped.
    point: Mapping[str, Value]


def propose(
    known: Sequence[Known], distributions: Mapping[str, BaseDistribution], *, seed: int
) -> dict[str, Value]:
    """A point of the space; the same for the same trials and seed."""
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=_STARTUP_TRIALS
    )
    frozen = [_frozen(n, one, distributions) for n, one in enumerate(_shown(known))]
    with quiet():
        draft = optuna.create_study(direction="minimize", sampler=sampler, storage=_Shown(frozen))
        trial = draft.ask(dict(distributions))
    return dict(trial.params)


class _Shown(InMemoryStorage):
    """Shows a sampler trials that are kept elsewhere, without a copy of each."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._shown = trials

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: FBT001, FBT002 - Optuna's
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        del study_id, deepcopy
        return [trial for trial in self._shown if states is None or trial.state in states]


def _shown(known: Sequence[Known]) -> Sequence[Known]:
    """All of them; of very many the best, and the last of the others, in the same order."""
    if len(known) <= MOST_SHOWN:
        return known
    complete = [one for one in known if one.seconds is not None]
    complete.sort(key=lambda one: one.seconds or 0.0)
    best = {one.number for one in complete[:_BEST_SHOWN]}
    others = [one for one in known if one.number not in best]
    last = {one.number for one in others[len(best) - MOST_SHOWN :]}
    return [one for one in known if one.number in best or one.number in last]


def _frozen(
    number: int, known: Known, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=TrialState.PRUNED if known.seconds is None else TrialState.COMPLETE,
        value=known.seconds,
        datetime_start=None,
        datetime_complete=None,
        params=dict(known.point),
        distributions=dict(distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
