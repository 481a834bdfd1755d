"""What was measured, in the words of the answer: parameters with reasons, and the evidence."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.cli.answer import (
    FIELDS,
    OF_LOADING,
    EvidenceSection,
    SamplesSection,
    ServedSection,
    ServedSideSection,
    SideSection,
)
from autotune.cli.compose import memory_section
from autotune.hardware import Hardware
from autotune.model import Model
from autotune.model.footprint import Footprint
from autotune.params import Params, params_to_json
from autotune.recommend import Recommendation, judge
from autotune.recommend.placement import footprint_on
from autotune.recommend.rules import Choice, Json, shares
from autotune.tuning import confirm
from autotune.tuning.objective import Objective
from autotune.tuning.recheck import as_served
from autotune.tuning.session import Tuned
from autotune.tuning.workload import Workload

RULE = (
    "log ratios of interleaved rounds; an interval around their Hodges-Lehmann estimate, which is "
    "the ratio, and their median; spread by the median absolute deviation, pooled with what the "
    "search or the rounds themselves scatter by, at least 2.5 %, as 4 pairs; Student's t"
)

# What no llama-bench measures, and the rules therefore say.
_UNMEASURED = frozenset({"--n-ctx", "--cache-ram"})
# What measuring has answered, with the field of `Params` that it is.
_ANSWERED = {k: name for k, name in {**FIELDS, **OF_LOADING}.items() if k not in _UNMEASURED}
# Of these, what is said in other words than the field's.
_IN_OTHER_WORDS = frozenset({*OF_LOADING, "--flash-attn", "--device", "--tensor-split"})
# Of warnings, those about what the rules said of the same.
_RULES_OWN = ("reserving one of two", "lock")


def memory_as_served(
    quick: Recommendation, params: Params, hardware: Hardware, model: Model
) -> Footprint:
    """What a measured configuration takes once it is served."""
    return footprint_on(hardware.gpus, model, as_served(params, quick.params), quick.program)


def refined(
    quick: Recommendation, tuned: Tuned, objective: Objective, hardware: Hardware, model: Model
) -> Recommendation:
    """The quick recommendation with what was measured in the place of the rules."""
    params = as_served(tuned.shipped, quick.params)
    measured = _measured_choices(tuned, objective, params)
    kept = [choice for choice in quick.choices if choice.key not in _ANSWERED]
    memory = memory_as_served(quick, tuned.shipped, hardware, model)
    return replace(
        quick,
        params=params,
        choices=(*measured, *kept),
        warnings=tuple(w for w in quick.warnings if not any(own in w.what for own in _RULES_OWN)),
        memory=memory,
        verdict=judge(hardware, memory),
    )


def _measured_choices(tuned: Tuned, objective: Objective, params: Params) -> list[Choice]:
    values: dict[str, Json] = {
        key: value
        for key, name in _ANSWERED.items()
        if key not in _IN_OTHER_WORDS and (value := getattr(params, name)) is not None
    }
    for key in ("--cache-type-k", "--cache-type-v"):
        values.setdefault(key, "f16")
    values.setdefault("--n-gpu-layers", 0)
    auto = params.flash_attn in (None, "auto")
    values["--flash-attn"] = "auto" if auto else "on" if params.flash_attn else "off"
    values["--mlock"] = params.load_mode in ("mlock", "mmap+mlock")
    values["--no-mmap"] = params.load_mode in ("none", "mlock", "dio")
    if params.devices:
        values["--device"] = list(params.devices)
    if params.tensor_split:
        values["--tensor-split"] = shares(params.tensor_split)
    if params.repack is False:
        values["--no-repack"] = True
    return [
        Choice(
            key=key, value=value, reason=_reason(key, tuned), evidence=_evidence(tuned, objective)
        )
        for key, value in values.items()
        if value is not False or key in ("--mlock", "--no-mmap")
    ]


def _reason(key: str, tuned: Tuned) -> str:
    if tuned.shipped == tuned.baseline:
        return f"{key}: llama.cpp's own default, measured; nothing was shown to be faster."
    field = _ANSWERED[key]
    if getattr(tuned.shipped, field) == getattr(tuned.baseline, field):
        return f"{key}: llama.cpp's own default, as it was in the winner when that was measured."
    return f"{key}: measured as a part of the winner."


def _evidence(tuned: Tuned, objective: Objective) -> tuple[str, ...]:
    known = tuned.part_seconds.get(tuned.shipped, {})
    return tuple(f"{objective.test(p)}: {objective.rate(p, s):.3g} t/s" for p, s in known.items())


def evidence_section(
    tuned: Tuned,
    objective: Objective,
    workload: Workload,
    study: str,
    *,
    needs: Callable[[Params], Footprint],
) -> EvidenceSection:
    """What was measured, and what it shows.

    Args:
        tuned: what came of the session.
        objective: what was minimised.
        workload: the request that it stands for.
        study: the folder that holds the rest.
        needs: what a configuration takes in memory.
    """
    verification, comparison = tuned.verification, tuned.verification.comparison
    candidate = verification.candidate
    if candidate is None and tuned.incumbent != tuned.baseline:
        candidate = tuned.incumbent  # The verification came to no comparison.
    return {
        "verdict": verification.verdict,
        "workload": {
            "name": workload.name,
            "n_prompt": workload.n_prompt,
            "n_gen": workload.n_gen,
            "n_depth": workload.n_depth,
            "n_parallel": workload.n_parallel,
            "objective": workload.objective,
        },
        "baseline": _side(tuned, objective, tuned.baseline, needs),
        "candidate": _side(tuned, objective, candidate, needs) if candidate else None,
        "winner": tuned.shipped != tuned.baseline,
        "ratio": rounded(comparison.ratio if comparison else None),
        "low": rounded(comparison.low if comparison else None),
        "high": rounded(comparison.high if comparison else None),
        "confidence": comparison.confidence if comparison else None,
        "pairs": comparison.pairs if comparison else 0,
        "chance": rounded(comparison.chance if comparison else None),
        "rule": RULE,
        "complete": not tuned.hurried,
        "trials": tuned.n_trials,
        "failures": {kind.value: n for kind, n in tuned.failures.items()},
        "elapsed_s": round(tuned.elapsed_s, 1),
        "waited_s": round(tuned.waited_s, 1),
        "disturbed_rounds": verification.disturbed_rounds,
        "study": study,
        "served": _served(tuned),
    }


def _served(tuned: Tuned) -> ServedSection | None:
    seen, comparison = tuned.confirmation, tuned.verification.comparison
    if seen is None:
        return None
    candidate = tuned.verification.candidate
    of_measured = seen.ratio / comparison.ratio if seen.ratio and comparison else None
    return {
        "agreement": seen.agreement,
        "ratio": rounded(seen.ratio),
        "of_measured": rounded(of_measured),
        "share": round(seen.share, 4),
        "baseline": _served_side(tuned, tuned.baseline, seen.baseline_s),
        "candidate": _served_side(tuned, candidate, seen.candidate_s)
        if candidate and seen.candidate_s
        else None,
        "failure": seen.failure,
        "rule": confirm.RULE,
    }


def _served_side(tuned: Tuned, params: Params, seconds: Sequence[float]) -> ServedSideSection:
    measured_s, share = tuned.seconds(params), tuned.confirmation.share if tuned.confirmation else 1
    return {
        "seconds": [round(s, 6) for s in seconds],
        "measured_s": rounded(measured_s and measured_s * share),
    }


def _side(
    tuned: Tuned, objective: Objective, params: Params, needs: Callable[[Params], Footprint]
) -> SideSection:
    rates = {p: objective.rate(p, s) for p, s in tuned.part_seconds.get(params, {}).items()}
    per_joule = {p: objective.rate(p, j) for p, j in tuned.part_joules.get(params, {}).items()}
    return {
        "params": params_to_json(params),
        "pp_tokens_per_s": rounded(rates.get("pp")),
        "tg_tokens_per_s": rounded(rates.get("tg")),
        "request_s": rounded(tuned.seconds(params)),
        "pp_tokens_per_joule": rounded(per_joule.get("pp")),
        "tg_tokens_per_joule": rounded(per_joule.get("tg")),
        "request_j": rounded(tuned.joules(params)),
        "memory": memory_section(needs(params)),
        "samples": _samples(tuned, objective, params),
    }


def _samples(tuned: Tuned, objective: Objective, params: Params) -> list[SamplesSection]:
    return [
        {
            "round": reading.visit.source,
            "test": str(measured.test),
            "samples_ns": list(measured.samples_ns),
            "samples_j": list(measured.samples_j),
            "disturbed": reading.disturbed,
        }
        for reading in tuned.verification.readings
        if reading.visit.params == params
        for part in objective.parts
        if (measured := reading.measured(part))
    ]


def rounded(value: float | None) -> float | None:
    """Six digits: more than any measurement has."""
    return None if value is None else float(f"{value:.6g}")
