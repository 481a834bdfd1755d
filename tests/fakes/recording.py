"""Full grids that the real llama-bench has measured, with every sample: `benchmarks/recordings/`.

The first line of a file says what was measured, where and with what; each other one is a test of
one point of the grid in one pass over it, or why that could not be measured. A pass visits every
point once, in an order of its own, so that what the machine did meanwhile is not one point's.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.hardware import Cpu, Gpu, Hardware, Memory
from autotune.llama_cpp.records import FailureKind, Measurement, Outcome, Test
from autotune.params import DEFAULT_CACHE_TYPE, Params, params_from_json, params_to_json
from autotune.tuning.space import Dimension, value_in
from autotune.tuning.workload import Value, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from autotune.llama_cpp.grids import Trial

RECORDINGS = Path(__file__).parents[2] / "benchmarks" / "recordings"

# A point of the grid, as far as it moves the test: values by the names of dimensions.
At = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What was measured: everything that a session needs to know before its first test."""

    name: str
    made: str  # ISO 8601, UTC.
    llama_cpp: str  # As its programs print their build.
    model: str  # How the tests call it; its header can be written again by that name.
    hardware: Hardware
    workload: Workload
    tests: Mapping[str, Test]  # By the part of a request.
    baseline: Params
    dimensions: tuple[Dimension, ...]
    n_ctx: int
    all_layers: int

    def at(self, trial: Trial) -> At:
        """Where in the grid a trial is: a token is in a batch of its own, so no batch counts."""
        idle = {"n_threads_batch"} | (set() if trial.test.n_prompt else {"n_ubatch", "n_batch"})
        names = ["n_threads", *(d.name for d in self.dimensions if d.name != "n_threads")]
        return tuple((n, self._value(trial.params, n)) for n in names if n not in idle)

    def _value(self, params: Params, name: str) -> Value:
        if name == "n_threads" and params.n_threads is None:
            return self.baseline.n_threads or 0
        if name == "type_v":
            return params.type_v or DEFAULT_CACHE_TYPE
        value = value_in(params, name)
        return min(value, self.all_layers) if name == "n_gpu_layers" else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A test in one pass: its samples, or its failure."""

    nth_pass: int
    at: At
    part: str
    samples_ns: tuple[int, ...] = ()
    load_s: float | None = None
    failure: FailureKind | None = None
    message: str = ""
    exit_code: int | None = None
    disturbed: str = ""  # What else the machine did, each time that it was measured.

    @staticmethod
    def of(nth_pass: int, at: At, part: str, outcome: Outcome) -> Seen:
        if isinstance(outcome, Measurement):
            return Seen(
                nth_pass=nth_pass,
                at=at,
                part=part,
                samples_ns=outcome.samples_ns,
                load_s=outcome.run.load_s,
            )
        return Seen(
            nth_pass=nth_pass,
            at=at,
            part=part,
            failure=outcome.kind,
            message=outcome.message,
            exit_code=outcome.exit_code,
        )


@dataclass(frozen=True)
class Recording:
    """A grid, and what was seen at each of its points."""

    ground: Ground
    seen: tuple[Seen, ...]

    @cached_property
    def by_point(self) -> Mapping[tuple[str, At], tuple[Seen, ...]]:
        """What was seen at a point in all passes."""
        found: dict[tuple[str, At], tuple[Seen, ...]] = {}
        for one in self.seen:
            found[one.part, one.at] = (*found.get((one.part, one.at), ()), one)
        return found

    @cached_property
    def load_s(self) -> float:
        """Seconds of a load of the model, the middle of those that were seen."""
        return statistics.median(one.load_s for one in self.seen if one.load_s is not None)


def names() -> list[str]:
    """The recordings that there are."""
    return sorted(file.stem for file in RECORDINGS.glob("*.jsonl"))


def read_recording(name: str, folder: Path = RECORDINGS) -> Recording:
    """Read a recording by its name."""
    first, *rest = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return Recording(_ground_of(json.loads(first)), tuple(_seen_of(json.loads(r)) for r in rest))


def write_recording(ground: Ground, seen: Iterable[Seen], folder: Path = RECORDINGS) -> Path:
    """Write a recording under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{ground.name}.jsonl"
    lines = [_ground_to(ground), *map(_seen_to, seen)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def _ground_to(ground: Ground) -> dict[str, Any]:
    return {
        **{name: getattr(ground, name) for name in ("name", "made", "llama_cpp", "model", "n_ctx")},
        "all_layers": ground.all_layers,
        "hardware": asdict(ground.hardware),
        "workload": asdict(ground.workload),
        "tests": {part: asdict(test) for part, test in ground.tests.items()},
        "baseline": params_to_json(ground.baseline),
        "dimensions": {d.name: d.values for d in ground.dimensions},
    }


def _ground_of(kept: dict[str, Any]) -> Ground:
    machine = kept["hardware"]
    cpu = {**machine["cpu"], **{n: tuple(machine["cpu"][n]) for n in ("isa", "usable_cpus")}}
    kept["hardware"] = Hardware(
        operating_system=machine["operating_system"],
        wsl=machine["wsl"],
        cpu=Cpu(**cpu),
        memory=Memory(**machine["memory"]),
        gpus=tuple(Gpu(**gpu) for gpu in machine["gpus"]),
        notes=tuple(machine["notes"]),
    )
    parameters = {name: tuple(v) for name, v in kept["workload"]["parameters"].items()}
    kept["workload"] = Workload(**{**kept["workload"], "parameters": parameters})
    kept["tests"] = {part: Test(**test) for part, test in kept["tests"].items()}
    kept["baseline"] = params_from_json(kept["baseline"])
    dimensions = kept["dimensions"].items()
    kept["dimensions"] = tuple(Dimension(name=n, values=tuple(v)) for n, v in dimensions)
    return Ground(**kept)


def _seen_to(seen: Seen) -> dict[str, Any]:
    return {n: v for n, v in _seen_items(seen) if v not in (None, "", ())}


def _seen_items(seen: Seen) -> Iterator[tuple[str, Any]]:
    yield "nth_pass", seen.nth_pass
    yield "at", dict(seen.at)
    for name in ("part", "samples_ns", "load_s", "failure", "message", "exit_code", "disturbed"):
        yield name, getattr(seen, name)


def _seen_of(kept: dict[str, Any]) -> Seen:
    kept["at"] = tuple(kept["at"].items())
    kept["samples_ns"] = tuple(kept.get("samples_ns", ()))
    if "failure" in kept:
        kept["failure"] = FailureKind(kept["failure"])
    return Seen(**kept)
