"""Two studies side by side, where their numbers may be compared at all."""

from collections.abc import Collection
from dataclasses import dataclass

from autotune.errors import ConfigError
from autotune.results.changes import KEYS, Change, changes
from autotune.results.stored import Stored

# What changes no number: when a file was copied, and which lcm asked for the measurements.
HARMLESS = frozenset({"file", "lcm"})
_LESS_IS_BETTER = frozenset({"request_s", "request_j"})
FIGURES = (
    "pp_tokens_per_s",
    "tg_tokens_per_s",
    "request_s",
    "pp_tokens_per_joule",
    "tg_tokens_per_joule",
    "request_j",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of each study."""

    side: str  # "baseline" or "candidate".
    name: str  # One of FIGURES.
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast or efficient the second is, whichever way the figure counts."""
        if not self.first or not self.second:
            return None
        less = self.name in _LESS_IS_BETTER
        return self.first / self.second if less else self.second / self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two studies say."""

    different: tuple[Change, ...]  # In what they are told to differ, and what changes no number.
    figures: tuple[Figure, ...]


def compare(first: Stored, second: Stored, across: Collection[str] = ()) -> Comparison:
    """Set two studies side by side.

    Args:
        first: one.
        second: the other, which ratios say the speed of.
        across: the keys in which they may differ, because that is what is compared.

    Raises:
        ConfigError: they cannot be compared; each key in which they differ is a line.
    """
    unknown = [key for key in across if key not in KEYS]
    if unknown:
        raise ConfigError(
            f"--across {', '.join(unknown)}: no such key", hint=f"there are {', '.join(KEYS)}"
        )
    for study in (first, second):
        _check_complete(study)
    different = changes(first.environment, second.environment)
    wrong = [change for change in different if change.what not in {*across, *HARMLESS}]
    if wrong:
        raise ConfigError(
            f"{first.folder.name} and {second.folder.name} cannot be compared",
            details=[f"{change.what}: {change.then}; {change.now}" for change in wrong],
            hint="where that is what you compare, say so: "
            + " ".join(f"--across {change.what}" for change in wrong),
        )
    figures = tuple(
        Figure(side=side, name=name, first=_figure(first, side, name), second=known)
        for side in ("baseline", "candidate")
        for name in FIGURES
        if (known := _figure(second, side, name)) or _figure(first, side, name)
    )
    return Comparison(different=different, figures=figures)


def _check_complete(study: Stored) -> None:
    missing = "" if study.evidence else "came to no end"
    if not study.environment:
        missing = "does not say what it was measured on"
    if missing:
        raise ConfigError(
            f"{study.folder.name} cannot be compared: it {missing}",
            hint="lcm results list shows the state of each; --resume goes on with one",
        )


def _figure(study: Stored, side: str, name: str) -> float | None:
    measured = (study.evidence or {}).get(side)
    return measured.get(name) if measured else None
