"""Readings made by hand: what was measured of a request of 1000 and 100 tokens, in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from autotune.llama_cpp.records import (
    Failure,
    FailureKind,
    Measurement,
    Outcome,
    RunFacts,
    State,
    Test,
)
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.objective import Objective, Part
from autotune.tuning.visits import Kind, Reading, Visit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.params import Params

OBJECTIVE = Objective(
    n_prompt=1000, n_gen=100, tests=(("pp", Test(n_prompt=100)), ("tg", Test(n_gen=10)))
)
BY_JOULES = replace(OBJECTIVE, minimises="joules")
SHARE = 0.1  # Of the request's part, that its test has.

Came: TypeAlias = float | FailureKind | None  # Seconds of a request's part, or why there are none.


def run_facts(
    load_s: float | None = None, before: State | None = None, after: State | None = None
) -> RunFacts:
    return RunFacts(
        argv=("llama-bench", "-r", "1"),
        removed_environment={"LLAMA_ARG_THREADS": "3"},
        started_at=1.8e9,
        ended_at=1.8e9 + 5,
        load_s=load_s,
        before=before or {},
        after=after or {},
    )


def measured(
    params: Params,
    part: Part,
    seconds: float,
    *,
    run: RunFacts | None = None,
    joules: float | None = None,
) -> Measurement:
    trial = OBJECTIVE.trial(params, part)
    return Measurement(
        params=trial.params,
        test=trial.test,
        samples_ns=(round(seconds * SHARE * 1e9),),
        build_commit="5eed5eed",
        build_number=7,
        run=run or run_facts(),
        record={"backends": "CPU", "samples_ts": [1.5, 2.5], "n_threads": 3},
        samples_j=() if joules is None else (joules * SHARE,),
    )


def failed(params: Params, part: Part, kind: FailureKind, *, message: str = "it failed") -> Failure:
    trial = OBJECTIVE.trial(params, part)
    return Failure(
        kind=kind,
        message=message,
        params=trial.params,
        test=trial.test,
        exit_code=-6,
        stderr_tail=("first", "last"),
        run=run_facts(),
    )


def reading(
    params: Params,
    *,
    pp: Came = None,
    tg: Came = None,
    parts: tuple[Part, ...] | None = None,
    kind: Kind = Kind.TAIL,
    disturbed: str = "",
    load_s: float | None = None,
    number: int = 0,
    joules: Mapping[Part, float] | None = None,
) -> Reading:
    """A reading of the parts that are given, or of `parts`, of which what is not given was lost."""
    came: dict[Part, Came] = {"pp": pp, "tg": tg}
    outcomes: dict[Part, Outcome] = {}
    for part, value in came.items():
        if isinstance(value, FailureKind):
            outcomes[part] = failed(params, part, value)
        elif value is not None:
            told = (joules or {}).get(part)
            outcomes[part] = measured(params, part, value, run=run_facts(load_s), joules=told)
    return Reading(
        visit=Visit(kind=kind, source="test", params=params, parts=parts or tuple(outcomes)),
        outcomes=outcomes,
        disturbed=disturbed,
        elapsed_s=float(number),
        number=number,
    )


def knowing(*readings: Reading, objective: Objective = OBJECTIVE) -> Knowledge:
    knowledge = Knowledge(objective)
    for each in readings:
        knowledge.add(each)
    return knowledge
