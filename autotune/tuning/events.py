"""What is told to whoever watches: small values, one for each thing that happens."""

from dataclasses import dataclass

from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.records import Outcome
from autotune.params import Params
from autotune.stats import Comparison
from autotune.tuning.objective import Part
from autotune.tuning.visits import Reading, Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """llama-bench has gone on to another phase."""

    visit: Visit
    part: Part
    phase: Phase
    repetition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A test has ended, as llama-bench or its failure reported it."""

    outcome: Outcome
    number: int | None  # Of the Optuna trial; None: it only completes a grid.
    part: Part | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A visit is over, and what the best is now."""

    reading: Reading
    seconds: float | None  # Of a request under this configuration; None: a part is not known.
    replayed: bool  # It comes from the study that is resumed.
    joules: float | None = None  # Of such a request; None: not told of a part.
    elsewhere: bool = False  # Another worker of a shared study has measured it.


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIncumbent:
    """A configuration looks better than the one before; nothing is proven yet."""

    params: Params
    seconds: float
    baseline_s: float
    elapsed_s: float  # Of the study.
    joules: float | None = None  # Of a request; None: not told.
    baseline_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The machine is busy or hot."""

    why: str
    for_s: float
    at_most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """A round of the verification is over."""

    rounds: int
    comparison: Comparison | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Another part of the search has begun."""

    name: str
    elapsed_s: float
    budget_s: float | None


Event = Measuring | Recorded | Measured | NewIncumbent | Waiting | Verifying | Stage
