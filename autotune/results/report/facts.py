"""What a report says in tables and lines, in the words of people; the same for every format."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.hardware.power_limit import limited
from autotune.llama_cpp.records import Failure, Measurement
from autotune.params import Params, params_from_json
from autotune.results.stored import Stored
from autotune.results.studies import Purpose
from autotune.words import (
    clock_time,
    counted,
    described,
    digits,
    duration,
    failure_kind,
    ratios,
    size,
)

PARTS = {"pp": "Prompt processing", "tg": "Text generation"}
# What a part of the memory is called, by its key in the answer's memory section.
MEMORY = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "recurrent_bytes": "recurrent state",
    "compute_bytes": "compute buffer",
}
_REQUESTS = {
    "request": "Whole request",
    "efficiency": "Whole request",
    "pp": "Whole prompt",
    "tg": "Whole answer",
}
NOT_MEASURED = "not measured"
# What to do about a study that was interrupted, by what it was for.
_AGAIN: Mapping[Purpose, str] = {
    "tune": "lcm run ... --deep --resume goes on with it",
    "verify": "verify again with: lcm verify MODEL",
}
_LONGEST = 300  # Of what others have written; a name in a GGUF may be megabytes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows in columns; `alignment` has < or > for each: to the left or to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    alignment: str

    @property
    def sides(self) -> tuple[str, ...]:
        """The alignment of each column as CSS says it."""
        return tuple("end" if side == ">" else "start" for side in self.alignment)


def baseline_of(stored: Stored) -> Params | None:
    """llama.cpp's defaults as they were measured; None before they were."""
    if stored.evidence:
        return params_from_json(stored.evidence["baseline"]["params"])
    return next((v.trial.params for v in stored.visited if v.trial.kind == "baseline"), None)


def candidate_of(stored: Stored) -> Params | None:
    """What the verdict is of, or else what leads; None: it is the defaults."""
    if stored.evidence:
        candidate = stored.evidence.get("candidate")
        return params_from_json(candidate["params"]) if candidate else None
    return stored.incumbents[-1].params if stored.incumbents else None


def candidate_name(stored: Stored) -> str:
    """What the candidate may be called, by what is proven of it."""
    if stored.evidence and stored.evidence["verdict"] == "better":
        return "Winner"
    return "Best candidate"


def changes(stored: Stored) -> str:
    """What the candidate has other than the defaults; "" if there is none."""
    baseline, candidate = baseline_of(stored), candidate_of(stored)
    return described(candidate, baseline) if baseline and candidate else ""


def sides(stored: Stored) -> Table | None:
    """Defaults and candidate side by side; None before there is evidence."""
    if stored.evidence is None:
        return None
    baseline, candidate = stored.evidence["baseline"], stored.evidence.get("candidate")
    rows = list(_rows(stored.evidence, baseline, candidate))
    if not candidate:
        columns: tuple[str, ...] = ("", "Defaults")
        return Table(columns=columns, rows=tuple(row[:2] for row in rows), alignment="<>")
    columns = ("", "Defaults", candidate_name(stored), _ratio_column(stored.evidence))
    return Table(columns=columns, rows=tuple(rows), alignment="<>>>")


def _ratio_column(evidence: Mapping[str, Any]) -> str:
    confidence = evidence.get("confidence")
    return f"Ratio ({100 * confidence:.3g} % CI)" if confidence else "Ratio"


def _rows(
    evidence: Mapping[str, Any], baseline: Mapping[str, Any], candidate: Mapping[str, Any] | None
) -> Iterator[tuple[str, str, str, str]]:
    other = candidate or {}
    for part, name in PARTS.items():
        ours, theirs = baseline.get(f"{part}_tokens_per_s"), other.get(f"{part}_tokens_per_s")
        if ours or theirs:
            ratio = f"{theirs / ours:.2f}x" if ours and theirs else ""
            same = ours == theirs
            yield name, rate(ours), rate(theirs), "not changed" if same else ratio
    seconds = [
        f"{digits(s['request_s'])} s" if s.get("request_s") else "" for s in (baseline, other)
    ]
    shown = ""
    if evidence.get("ratio") is not None:
        middle, low, high = ratios(evidence["ratio"], evidence["low"], evidence["high"])
        shown = f"{middle}x ({low} to {high})"
    objective = evidence["workload"]["objective"]
    spares = objective == "efficiency"
    name = _REQUESTS[objective]
    yield name, seconds[0], seconds[1], _plain(baseline, other, "request_s") if spares else shown
    yield from _energy(baseline, other, shown if spares else "")


def _energy(
    baseline: Mapping[str, Any], other: Mapping[str, Any], shown: str
) -> Iterator[tuple[str, str, str, str]]:
    """What was told of joules: of each part, and of the whole request."""
    for part, name in PARTS.items():
        key = f"{part}_tokens_per_joule"
        if baseline.get(key) or other.get(key):
            ours, theirs = (per_joule(side.get(key)) for side in (baseline, other))
            yield f"{name}, by energy", ours, theirs, _plain(other, baseline, key)
    if baseline.get("request_j") or other.get("request_j"):
        ours, theirs = (
            f"{digits(s['request_j'])} J" if s.get("request_j") else "" for s in (baseline, other)
        )
        yield "Energy of it all", ours, theirs, shown or _plain(baseline, other, "request_j")


def _plain(over: Mapping[str, Any], under: Mapping[str, Any], key: str) -> str:
    """A ratio of two medians."""
    a, b = over.get(key), under.get(key)
    return f"{a / b:.2f}x" if a and b else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoulesOf:
    """What counted the joules of a study, and what did not."""

    known: str
    missing: str  # With what to do about it; "" if nothing is.


def joules_of(stored: Stored) -> JoulesOf:
    """By its circumstances; studies of before joules were kept have nothing."""
    energy = stored.environment.get("energy", {})
    gap = energy.get("gap", "")
    missing = f"{gap}; {energy.get('remedy', '')}" if gap else ""
    known = ", ".join(energy.get("of", []))
    if not known and not missing:
        missing = "nothing was kept of it"
    elif not any(m.samples_j for m in _measurements(stored)) and not missing:
        missing = "its counters move too slowly for tests this short"
    return JoulesOf(known=known, missing=missing)


def _measurements(stored: Stored) -> Iterator[Measurement]:
    outcomes = (record.outcome for record in stored.records)
    return (one for one in outcomes if isinstance(one, Measurement))


def joules(stored: Stored) -> Iterator[str]:
    """What a request takes on each side, in a sentence."""
    evidence = stored.evidence or {}
    sides = (evidence.get("baseline"), evidence.get("candidate"))
    told = [side["request_j"] for side in sides if side and side.get("request_j")]
    if told:
        said = " and ".join(f"{digits(joules)} J" for joules in told)
        names = "the defaults and the candidate" if len(told) > 1 else "the defaults"
        yield f"A request takes {said} under {names}."


def machines(stored: Stored) -> Table | None:
    """Where the winner of a shared study holds; None where it was measured by one machine."""
    fleet = (stored.evidence or {}).get("fleet")
    if not fleet:
        return None
    rows = tuple(
        (
            short(worker["host"]),
            short(worker["machine"]),
            worker["verdict"] or worker["state"],
            _ratio_there(worker),
        )
        for worker in fleet["workers"]
    )
    columns = ("Host", "Machine", "Verdict", "Ratio, with its interval")
    return Table(columns=columns, rows=rows, alignment="<<<>")


def _ratio_there(worker: Mapping[str, Any]) -> str:
    if not (worker["ratio"] and worker["low"] and worker["high"]):
        return ""
    ratio, low, high = ratios(worker["ratio"], worker["low"], worker["high"])
    return f"{ratio}x ({low} to {high})"


def sides_caption(stored: Stored) -> str:
    """What the figures of `sides` are."""
    asked = request(stored.evidence["workload"]) if stored.evidence else ""
    if not stored.evidence or stored.evidence.get("ratio") is None:
        return f"Medians of what was measured. {asked}."
    return (
        f"Medians of what was measured. {asked}. Its ratio is that of tests that ran in turn, and "
        "may differ from that of the medians."
    )


def request(workload: Mapping[str, Any]) -> str:
    """What was asked for, with its tokens."""
    several = workload.get("n_parallel", 1)
    who, each = (f"{several} requests at once", " each") if several > 1 else ("A request", "")
    said = f"{who}: {workload['n_prompt']:,} tokens in, {workload['n_gen']:,} out{each}"
    if workload.get("n_depth"):
        said += f", after {workload['n_depth']:,} in the cache"
    if workload["objective"] == "efficiency":
        return f"{said}; their joules count"
    only = {"pp": "prompts", "tg": "answers"}.get(workload["objective"])
    return f"{said}; only {only} count" if only else said


def rate(tokens_per_s: float | None) -> str:
    """Three digits of tokens per second."""
    return f"{digits(tokens_per_s)} t/s" if tokens_per_s else NOT_MEASURED


def per_joule(tokens: float | None) -> str:
    """Three digits of tokens per joule."""
    return f"{digits(tokens)} t/J" if tokens else NOT_MEASURED


def warnings(stored: Stored) -> tuple[str, ...]:
    """What makes the numbers mean less than they seem to."""
    return tuple(_warnings(stored))


def _warnings(stored: Stored) -> Iterator[str]:
    evidence = stored.evidence or {}
    if stored.folder.state == "running":
        yield "This study is not finished: the report shows how it stood when this was written."
    if stored.folder.state == "interrupted" or evidence.get("complete") is False:
        yield f"This study was interrupted; {_AGAIN[stored.folder.purpose]}."
    if rounds := evidence.get("disturbed_rounds"):
        yield (
            f"{counted(rounds, 'round')} of the verification {_was(rounds)} disturbed by something "
            "else on the machine; marked below, and not counted."
        )
    disturbed = sum(bool(one.trial.disturbed) for one in stored.visited)
    if disturbed:
        trials = counted(len(stored.visited), "trial")
        yield f"{disturbed} of {trials} {_was(disturbed)} disturbed; hollow in the charts."
    yield from _limits(stored)
    if stored.damaged:
        yield f"{counted(stored.damaged, 'line')} of the journal could not be read."
    if arguments := stored.environment.get("llama_cpp", {}).get("arguments"):
        said = shlex.join(map(str, arguments))
        yield f"Measured with {said}, which stands for llama-bench; give llama-server the same."
    if removed := stored.environment.get("variables"):
        names = ", ".join(map(str, removed))
        yield f"Taken away while measuring, because llama.cpp obeys them: {names}."
    yield from stored.environment.get("hardware", {}).get("notes", [])


def _limits(stored: Stored) -> Iterator[str]:
    """What was at its limit of power, and whether the defaults were as well."""
    held = {
        one.trial.number: {
            what
            for record in one.records
            for what in limited(record.outcome.run.before, record.outcome.run.after)
        }
        for one in stored.visited
    }
    usual = {
        what
        for one in stored.visited
        if one.trial.kind == "baseline"
        for what in held[one.trial.number]
    }
    for what in sorted(set().union(*held.values())):
        n = sum(what in some for some in held.values())
        trials = counted(len(stored.visited), "trial")
        how = (
            "the defaults too, so this is how it works here" if what in usual else "measured again"
        )
        yield f"{what} was held back by its limit of power in {n} of {trials}; {how}."


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def course(stored: Stored) -> str:
    """How much was measured, and how long that took."""
    evidence = stored.evidence or {}
    # After the last trial a server may have been asked.
    ends_s = [evidence.get("elapsed_s") or 0.0, *(one.trial.elapsed_s for one in stored.visited)]
    said = [f"{counted(len(stored.visited), 'trial')} in {clock_time(max(ends_s))}"]
    if len(stored.sessions) > 1:
        said.append(f"in {len(stored.sessions)} sessions")
    if waited_s := evidence.get("waited_s"):
        said.append(f"{duration(waited_s)} of it waiting for a busy machine")
    return ", ".join(said)


def failures(stored: Stored) -> Table | None:
    """Each kind of failure, how often, and the first of it."""
    by_kind: dict[str, list[tuple[Failure, int | None]]] = {}
    for record in stored.records:
        if isinstance(record.outcome, Failure):
            same = by_kind.setdefault(record.outcome.kind, [])
            same.append((record.outcome, record.trial))
    if not by_kind:
        return None
    asked: dict[int | None, Params] = {v.trial.number: v.trial.params for v in stored.visited}
    baseline = baseline_of(stored) or Params()
    rows = [
        (
            failure_kind(kind),
            str(len(same)),
            short(first.message),
            f"{first.test}, {described(asked.get(trial, first.params), baseline)}",
        )
        for kind, same in by_kind.items()
        for first, trial in same[:1]
    ]
    columns = ("Kind", "Times", "What was said first", "First at")
    return Table(columns=columns, rows=tuple(rows), alignment="<><<")


def short(text: str) -> str:
    """The beginning of what may be long."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def places(memory: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The places of a memory section, by the name of each."""
    gpus = memory.get("gpus", [])
    return [("host", memory["host"]), *((f"GPU {n}", gpu) for n, gpu in enumerate(gpus))]


def memory_sides(stored: Stored) -> dict[str, Mapping[str, Any]]:
    """The memory section of each side that has one, by its name."""
    evidence = stored.evidence or {}
    named = {
        "Defaults": evidence.get("baseline"),
        candidate_name(stored): evidence.get("candidate"),
    }
    return {name: side["memory"] for name, side in named.items() if side and side.get("memory")}


def memory(stored: Stored) -> Table | None:
    """Bytes by place and part, for each side; None where that was not kept."""
    by_side = {name: dict(places(memory)) for name, memory in memory_sides(stored).items()}
    if not by_side:
        return None
    names = dict.fromkeys(place for at in by_side.values() for place in at)
    rows = []
    for place in names:
        for key, part in MEMORY.items():
            sizes = [at.get(place, {}).get(key, 0) for at in by_side.values()]
            if any(sizes):
                rows.append((f"{place}: {part}", *map(size, sizes)))
    columns = ("", *by_side)
    return Table(columns=columns, rows=tuple(rows), alignment="<" + ">" * len(by_side))
