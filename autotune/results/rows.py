"""What was measured, as rows of a table: one a trial, one a record, or one a repetition."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from autotune.llama_cpp.records import Failure, Measurement, Outcome
from autotune.params import Params
from autotune.results.columns import LLAMA_BENCH, SAMPLES, Level, Row, Value, of_llama_bench
from autotune.results.conditions import conditions, worst
from autotune.results.journal import Record, Trial
from autotune.results.stored import Stored, Visited
from autotune.results.studies import Folder

MEASURED, DROPPED = "measured", "dropped"  # Outcomes; the others are the kinds of failure.


def rows(stored: Stored, level: Level) -> list[Row]:
    """Every row of a study at a level, in the order in which it was measured."""
    return list(each_row(stored, level))


def each_row(stored: Stored, level: Level) -> Iterator[Row]:
    """The same one after the other: together they take several times the memory of a study."""
    if level == "trial":
        yield from _trial_rows(stored)
        return
    trials: dict[int | None, Trial] = {one.trial.number: one.trial for one in stored.visited}
    for order, record in enumerate(stored.records):
        row = record_row(stored.folder, order, record, trials.get(record.trial))
        if level == "record":
            yield row
        else:
            yield from _sample_rows(record.outcome, row)


def record_row(folder: Folder, order: int, record: Record, trial: Trial | None) -> Row:
    """A test that has ended.

    Args:
        folder: of the study.
        order: how many ended before it.
        record: the test.
        trial: that it is a part of, once it is over.
    """
    outcome = record.outcome
    return {
        **_of_llama_bench(outcome),
        "study": _text(folder.name),
        "model": _text(folder.model),
        "trial": record.trial,
        **(_of_trial(trial) if trial else {}),
        "part": record.part and _text(record.part),
        "order": order,
        **conditions(outcome.run),
        **_of_outcome(outcome),
        "numa": outcome.params.numactl or outcome.params.numa,
        "argv": [_text(word) for word in outcome.run.argv] or None,
    }


def _of_trial(trial: Trial) -> Row:
    return {
        "kind": _text(trial.kind),
        "source": _text(trial.source),
        "disturbed": _text(trial.disturbed) or None,
    }


def _of_llama_bench(outcome: Outcome) -> Row:
    """As it printed it; of a failure, what it was asked for."""
    if isinstance(outcome, Measurement):
        return {
            of_llama_bench(_text(name)): _spelled(value)
            for name, value in outcome.record.items()
            if name not in SAMPLES
        }
    test = outcome.test
    tokens = {"n_prompt": test.n_prompt, "n_gen": test.n_gen, "n_depth": test.n_depth}
    asked = _of_params(outcome.params)
    return {**{name: asked[name] for name in asked if name in LLAMA_BENCH}, **tokens}


def _spelled(value: object) -> Value:
    """A value out of JSON; llama-bench's CSV has 0 and 1 for a switch."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_text(str(one)) for one in value]
    if value is None or isinstance(value, int):
        return value
    return _text(str(value))


def _text(text: str) -> str:
    """A path may hold bytes that are no UTF-8, and a model's name a NUL, which ends a cell."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _of_params(params: Params) -> dict[str, Value]:
    """As llama-bench spells them."""
    return {
        field.name: _spelled_param(field.name, value)
        for field in fields(Params)
        if field.name != "numactl" and (value := getattr(params, field.name)) is not None
    }


def _spelled_param(name: str, value: Any) -> Value:  # noqa: ANN401 - any field of Params
    if name == "flash_attn" and value == "auto":
        return -1
    if name == "tensor_split":
        return "/".join(f"{share:.2f}" for share in value)
    if name == "devices":
        return _text("/".join(value))
    if name == "tensor_buft_overrides":
        return _text(";".join(f"{pattern}={place}" for pattern, place in value))
    return _spelled(value)


def _of_outcome(outcome: Outcome) -> Row:
    if isinstance(outcome, Measurement):
        return {
            "outcome": MEASURED,
            "repetitions": len(outcome.samples_ns),
            "median_ts": outcome.median_ts,
            "joules": outcome.joules,
            "tokens_per_joule": outcome.tokens_per_joule,
            "watts": outcome.watts,
        }
    return _of_failure(outcome)


def _of_failure(failure: Failure) -> Row:
    return {
        "outcome": failure.kind.value,
        "message": _text(failure.message),
        "exit_code": failure.exit_code,
    }


def _sample_rows(outcome: Outcome, of_record: Row) -> Iterator[Row]:
    if isinstance(outcome, Failure):
        return
    ours = {"repetitions", "median_ts", "joules", "tokens_per_joule", "outcome"}
    shared = {name: value for name, value in of_record.items() if name not in ours}
    joules = outcome.samples_j or (None,) * len(outcome.samples_ns)
    samples = zip(outcome.samples_ns, outcome.samples_ts, joules, strict=True)
    for repetition, (ns, ts, j) in enumerate(samples, start=1):
        yield {**shared, "repetition": repetition, "sample_ns": ns, "sample_ts": ts, "sample_j": j}


def _trial_rows(stored: Stored) -> Iterator[Row]:
    leaders = {incumbent.params for incumbent in stored.incumbents}
    for order, visited in enumerate(stored.visited):
        trial = visited.trial
        yield {
            **_of_params(trial.params),
            "study": _text(stored.folder.name),
            "model": _text(stored.folder.model),
            "trial": trial.number,
            **_of_trial(trial),
            "parts": [_text(part) for part in trial.parts],
            **_of_parts(visited),
            "request_s": trial.seconds,
            "request_j": trial.joules,
            "elapsed_s": trial.elapsed_s,
            "led": trial.params in leaders,
            "order": order,
            **_together(visited),
        }


def _conditions(outcome: Outcome) -> Row:
    watts = outcome.watts if isinstance(outcome, Measurement) else None
    return {**conditions(outcome.run), "watts": watts}


def _of_parts(visited: Visited) -> Row:
    found: dict[str, Value] = {}
    for record in visited.records:
        outcome, part = record.outcome, record.part
        found[f"{part}_test"] = str(outcome.test)
        found[f"{part}_argv"] = [_text(word) for word in outcome.run.argv] or None
        if isinstance(outcome, Measurement):
            found[f"{part}_ts"] = outcome.median_ts
            found[f"{part}_tokens_per_joule"] = outcome.tokens_per_joule
    return found


def _together(visited: Visited) -> Row:
    """When and how a trial's tests ran, and the first failure, if there is one."""
    outcomes = [record.outcome for record in visited.records]
    if not outcomes:
        return {"outcome": DROPPED}
    failure = next((one for one in outcomes if isinstance(one, Failure)), None)
    return {
        **worst(_conditions(outcome) for outcome in outcomes),
        **(_of_failure(failure) if failure else {"outcome": MEASURED}),
    }
