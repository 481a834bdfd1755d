"""How far the shared studies of a database are, and who does what there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autotune.params import Params, params_from_json
from autotune.tuning.study.server import Server
from autotune.tuning.study.shared import is_over
from autotune.tuning.study.workers import Worker, workers_of
from autotune.tuning.visits import DECIDING, Kind

_DECIDING = {kind.value for kind in DECIDING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """A worker, what it has done, and what it is at."""

    worker: Worker
    trials: int
    measuring: str = ""  # What for; "" if nothing.
    params: Params | None = None  # What it measures.


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One shared study."""

    name: str
    model: str
    workload: str
    trials: int  # That are over.
    failed: int  # That were begun, and not finished by whoever began them.
    baseline: float | None  # Cost of a request: its seconds, or its joules.
    best: float | None
    best_params: Params | None
    workers: Sequence[Working]


def standings(server: Server) -> list[Standing]:
    """Every shared study of a database, in the order of their names.

    Raises:
        SurroundingsError: it cannot be read.
    """
    found = []
    for study in server.do(server.storage.get_all_studies):
        facts = study.user_attrs.get("facts")
        if isinstance(facts, dict) and "format_version" in facts:
            study_id = study._study_id  # noqa: SLF001 - Optuna's storages know no other name
            read = partial(server.storage.get_all_trials, study_id, deepcopy=False)
            trials = server.do(read)
            found.append(_standing(study.study_name, facts, study.user_attrs, trials))
    return sorted(found, key=lambda one: one.name)


def _standing(
    name: str,
    facts: Mapping[str, Any],
    attributes: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
) -> Standing:
    over = [trial for trial in trials if is_over(trial)]
    searched = [
        trial
        for trial in over
        if trial.value is not None and trial.user_attrs["kind"] not in _DECIDING
    ]
    best = min(searched, key=lambda trial: trial.value or 0.0, default=None)
    baseline = [t.value for t in searched if t.user_attrs["kind"] == Kind.BASELINE.value]
    return Standing(
        name=name,
        model=str(facts.get("environment", {}).get("model", "")),
        workload=str(facts.get("workload", "")),
        trials=len(over),
        failed=sum(t.state == TrialState.FAIL and "slot" in t.user_attrs for t in trials),
        baseline=baseline[0] if baseline else None,
        best=best.value if best else None,
        best_params=params_from_json(best.user_attrs["params"]) if best else None,
        workers=_working(workers_of(attributes), over, trials),
    )


def _working(
    workers: Sequence[Worker], over: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]
) -> list[Working]:
    done = Counter(trial.user_attrs.get("worker") for trial in over)
    at = {t.user_attrs.get("worker"): t for t in trials if t.state == TrialState.RUNNING}
    found = []
    for worker in workers:
        now = at.get(worker.id)
        found.append(
            Working(
                worker=worker,
                trials=done[worker.id],
                measuring=now.user_attrs["kind"] if now else "",
                params=params_from_json(now.user_attrs["params"]) if now else None,
            )
        )
    return found
