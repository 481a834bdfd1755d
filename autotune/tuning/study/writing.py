"""How a trial is written: through Optuna's storage itself, which looks at no other trial for it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autotune.tuning.space import Space
from autotune.tuning.study import trials
from autotune.tuning.study.proposals import Known
from autotune.tuning.visits import Reading
from autotune.tuning.workload import Value


class Writer:
    """Writes the trials of one study."""

    def __init__(self, storage: BaseStorage, study_id: int, space: Space) -> None:
        self.distributions = {d.name: _distribution(d.values, d.is_range) for d in space.dimensions}
        self._storage = storage
        self._study_id = study_id
        self._space = space

    def new(
        self,
        state: TrialState,
        attributes: Mapping[str, Any],
        point: Mapping[str, Value],
        *,
        system: Mapping[str, Any] | None = None,
    ) -> int:
        """A trial more, all of it at once; gives its id in the storage."""
        now = datetime.now()  # noqa: DTZ005 - Optuna's times are local and say no zone
        waits = state == TrialState.WAITING
        template = FrozenTrial(
            number=-1,  # The storage counts.
            trial_id=-1,
            state=state,
            value=None,
            datetime_start=None if waits else now,
            datetime_complete=now if state.is_finished() else None,
            params=dict(point),
            distributions={name: self.distributions[name] for name in point},
            user_attrs=dict(attributes),
            system_attrs=dict(system or {}),
            intermediate_values={},
        )
        return self._storage.create_new_trial(self._study_id, template)

    def set(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Note something of a trial that is not over."""
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)

    def end(self, trial_id: int, reading: Reading, seconds: float | None) -> None:
        """Keep what came of a visit; `seconds` of a request, where both parts are known."""
        self.set(trial_id, trials.came_of(reading))
        state, value = trials.end(reading, seconds)
        self._storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def fail(self, trial_id: int, why: str) -> None:
        """A visit was begun and not finished."""
        self.set(trial_id, {"failure": why})
        self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def known(self, reading: Reading, seconds: float | None) -> Known:
        """What TPE asks of a visit that is over."""
        _, value = trials.end(reading, seconds)
        point = self._space.point(reading.visit.params)
        return Known(reading.elapsed_s, reading.number, value, point)


def _distribution(values: tuple[Value, ...], is_range: bool) -> BaseDistribution:  # noqa: FBT001
    if is_range and isinstance(values[0], int) and isinstance(values[-1], int):
        return IntDistribution(values[0], values[-1])
    return CategoricalDistribution(values)
