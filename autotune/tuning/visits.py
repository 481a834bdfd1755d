"""One step of the search: what is measured and why, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from autotune.llama_cpp.records import Failure, Measurement, Outcome
from autotune.params import Params
from autotune.tuning.objective import Part


class Kind(StrEnum):
    """What a configuration is measured for."""

    BASELINE = "baseline"  # llama.cpp's own defaults.
    SEED = "seed"  # The quick recommendation, and winners known from elsewhere.
    RACE = "race"  # Values of one parameter against each other.
    LADDER = "ladder"  # A ubatch with the placement that fits beside it, and layers climbed.
    TOGGLE = "toggle"  # One switch.
    FRONTIER = "frontier"  # What a fitted line promises.
    TAIL = "tail"  # A neighbour of the best, or Optuna's proposal.
    SECOND = "second"  # A second opinion.
    ANCHOR = "anchor"  # The incumbent again, to see whether the machine has changed.
    WHOLE = "whole"  # Both parts of what may be shipped, in exactly its words.
    VERIFY = "verify"  # Fresh and interleaved: the only data that decides.


DECIDING = frozenset({Kind.WHOLE, Kind.VERIFY})  # What comes after the search.


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One configuration to be measured, in one step."""

    kind: Kind
    source: str  # What it came from: "n_threads", "quick recommendation", "round 3".
    params: Params
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A visit that is over."""

    visit: Visit
    outcomes: Mapping[Part, Outcome]  # A part that was dropped, because it had lost, is missing.
    disturbed: str  # What else the machine did meanwhile; "" if nothing.
    elapsed_s: float  # Of the study, at its end.
    number: int  # Of the Optuna trial.

    def bare(self) -> "Reading":
        """Without what only the record needs: llama-bench's words take kilobytes a test."""
        return replace(self, outcomes={part: _bare(o) for part, o in self.outcomes.items()})

    @property
    def failure(self) -> Failure | None:
        """The first part that failed."""
        return next((o for o in self.outcomes.values() if isinstance(o, Failure)), None)

    def measured(self, part: Part) -> Measurement | None:
        """What was measured of a part, if it was."""
        outcome = self.outcomes.get(part)
        return outcome if isinstance(outcome, Measurement) else None


def _bare(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failure):
        return outcome  # Whoever reads of it wants all that is known.
    run = replace(outcome.run, argv=(), removed_environment={}, before={}, after={})
    return replace(outcome, run=run, record={})
