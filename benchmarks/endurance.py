"""One process that measures for very long: what it holds, and how its files grow."""

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fakes.readings import OBJECTIVE
from fakes.scripted import SPACE
from lifelike import LifelikeBench, configurations, lifelike_lab
from processes import held_by
from sessions import FILES

from autotune.cli.keeping import Keeper
from autotune.params import Params
from autotune.results.profile import Profile, environ_with
from autotune.results.studies import new_folder
from autotune.tuning.lab import Lab
from autotune.tuning.study import Study
from autotune.tuning.visits import Kind, Visit

_STAGES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What was there after so many trials."""

    trials: int
    rss_mb: float
    bytes_per_trial: tuple[float, ...]  # Of FILES, since the stage before.


def endure(base: Path, trials: int) -> list[Stage]:
    """Measure so many configurations as a session does, and look at it from time to time."""
    folder = new_folder("gemma-3-270m", "endurance", environ_with(base))
    study = Study.create(folder.database, SPACE, {}, seed=1)
    keeper = Keeper(folder, budget_s=None, profile_of=_profile)
    bench = LifelikeBench(load_s=0.4)
    with keeper:
        lab = lifelike_lab(bench, study, keeper.take)
        return list(_stages(lab, study, folder.path, trials))


def _stages(lab: Lab, study: Study, folder: Path, trials: int) -> Iterator[Stage]:
    asked = configurations()
    before = [0] * len(FILES)
    each = trials // _STAGES
    for n in range(1, each * _STAGES + 1):
        visit = Visit(kind=Kind.TAIL, source="proposal", params=next(asked), parts=OBJECTIVE.parts)
        lab.visit([visit])
        if n % each == 0:
            study.proposal({r.number for r in lab.knowledge.readings}, nth=0)
            gc.collect()
            sizes = [(folder / name).stat().st_size for name in FILES]
            grown = tuple((now - was) / each for now, was in zip(sizes, before, strict=True))
            before = sizes
            held = held_by(os.getpid())
            yield Stage(trials=n, rss_mb=held.rss_mb if held else 0.0, bytes_per_trial=grown)


def _profile(params: Params) -> Profile:
    return Profile(params=params, date="", build="", model="gemma-3-270m")
