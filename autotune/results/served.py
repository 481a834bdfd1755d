"""What a real llama-server said of a gain that was measured, in a sentence."""

import statistics
from collections.abc import Mapping
from typing import Any

from autotune.errors import printable
from autotune.words import THE_DEFAULTS, digits

_AGREEMENTS = {
    "confirmed": "agrees",
    "of another size": "shows a gain of another size",
    "contradicted": "contradicts",
}


def agreement_of(evidence: Mapping[str, Any]) -> str:
    """Whether it agrees, as `evidence` has it; "" where none was asked."""
    return str((evidence.get("served") or {}).get("agreement", ""))


def served(evidence: Mapping[str, Any]) -> str:
    """The same with the seconds; "" where none was asked."""
    said = evidence.get("served")
    if not said:
        return ""
    if said["failure"]:
        return f"A real llama-server could not confirm it: {printable(said['failure'])}."
    requests = f"{evidence['workload'].get('n_parallel', 1)} requests at once"
    if said.get("share", 1) < 1:
        requests += f", of {said['share']:.0%} of their tokens,"
    theirs = digits(statistics.median(said["baseline"]["seconds"]))
    if not said["candidate"] or said["ratio"] is None or not evidence.get("ratio"):
        measured = digits(said["baseline"]["measured_s"] or 0)
        return (
            f"A real llama-server answered {requests} in {theirs} s with {THE_DEFAULTS}; "
            f"llama-batched-bench says {measured} s."
        )
    mine = digits(statistics.median(said["candidate"]["seconds"]))
    return (
        f"A real llama-server {_AGREEMENTS.get(said['agreement'], 'was asked')}: it answered "
        f"{requests} in {mine} s instead of {theirs} s, {said['ratio']:.2f}x as fast, where "
        f"{evidence['ratio']:.2f}x was measured."
    )
