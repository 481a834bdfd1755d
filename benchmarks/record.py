"""Record a full grid with the real llama-bench, every sample: what tuners are judged on later.

A grid is the whole search space of a session: what any tuner may ask for is in it. It is passed
over several times, the loads of the model in another order each time, so that what the machine did
meanwhile falls on no point alone. A pass that is finished is written at once.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from fakes.layered import write_layered
from fakes.oracle import limited_device
from fakes.recording import RECORDINGS, Ground, Seen, read_recording, write_recording
from fakes.tiny import write_tiny
from llama_cpp_build import find_llama_cpp
from real_model import gemma_path
from tables import version_of

from autotune.hardware.activity import Activity
from autotune.llama_cpp.bench import Bench
from autotune.llama_cpp.grids import Trial, model_params
from autotune.llama_cpp.program_run import Result
from autotune.tuning.dimensions import Wishes
from autotune.tuning.disturbance import disturbance
from autotune.tuning.ground import Order, look_around
from autotune.tuning.instruments import llama_bench_of
from autotune.tuning.lab import Limits
from autotune.tuning.plan import plan_of
from autotune.tuning.session import Plan
from autotune.tuning.workload import Value, Workload

REPETITIONS = 2  # In each pass; there are several.
MOST_AGAIN = 6  # Of what other programs have disturbed.


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What can be recorded."""

    model: str
    workload: Workload
    # What is fixed or narrowed, so that a pass takes some minutes.
    parameters: dict[str, tuple[Value, ...]]
    lossy_types: tuple[str, ...] = ()
    device_kib: int | None = None  # Address space of a ggml-rpc-server that layers go to.


def _request(n_prompt: int, n_gen: int, n_depth: int = 0) -> Workload:
    return Workload(name="", description="", n_prompt=n_prompt, n_gen=n_gen, n_depth=n_depth)


SUBJECTS = {
    # Threads, ubatch, flash attention and load mode of a real model on a CPU.
    "gemma-cpu": Subject(
        model="gemma3-270m",
        workload=_request(256, 64),
        parameters={
            "n_batch": (2048,),
            "n_ubatch": (64, 256, 512),
            "flash_attn": ("auto", False),
            "repack": (True,),
        },
    ),
    # Cache types and flash attention behind a thousand tokens, where they matter.
    "tiny-deep": Subject(
        model="tiny",
        workload=_request(256, 64, 1024),
        parameters={"n_batch": (2048,), "load_mode": ("auto",), "repack": (True,)},
        lossy_types=("q8_0", "q4_0"),
    ),
    # Batch and ubatch, where a prompt is long enough for several of them.
    "tiny-batch": Subject(
        model="tiny",
        workload=_request(2048, 64),
        parameters={
            "n_batch": (512, 1024, 2048),
            "load_mode": ("auto",),
            "repack": (True,),
            "flash_attn": ("auto", False),
        },
    ),
    # Layers on a device that has room for a part of them, and fails beyond.
    "layered-rpc": Subject(
        model="layered",
        workload=_request(256, 32),
        parameters={
            "n_batch": (2048,),
            "load_mode": ("auto",),
            "no_kv_offload": (False,),
            "flash_attn": ("auto",),
        },
        device_kib=100_000,
    ),
}

_WRITERS: dict[str, Callable[[Path], None]] = {"tiny": write_tiny, "layered": write_layered}


@dataclass
class Scene:
    """A subject in front of a llama-bench, ready to be measured."""

    ground: Ground
    plan: Plan
    bench: Bench
    seen: list[Seen] = field(default_factory=list)

    def trials(self) -> list[Trial]:
        """Every test that any configuration of the space asks for, once."""
        space, objective = self.plan.space, self.plan.objective
        points = product(*(d.values for d in space.dimensions))
        found = []
        for point in points:
            names = [d.name for d in space.dimensions]
            params = space.with_point(space.fixed, dict(zip(names, point, strict=True)))
            found += [
                Trial(objective.key(params, part), objective.test(part)) for part in objective.parts
            ]
        return list(dict.fromkeys(found))

    def measure(self, nth: int) -> None:
        """Pass over the grid once."""
        groups: dict[object, list[Trial]] = {}
        for trial in self.trials():
            groups.setdefault(model_params(trial.params), []).append(trial)
        loads = list(groups.values())
        random.Random(nth).shuffle(loads)  # noqa: S311 - an order, not a secret
        for trials in loads:
            self.seen += self._undisturbed(nth, trials)

    def _undisturbed(self, nth: int, trials: list[Trial]) -> list[Seen]:
        """What other programs have disturbed is measured again; after that, it is said."""
        found: dict[Trial, Seen] = {}
        for _ in range(1 + MOST_AGAIN):
            waiting = [t for t in trials if t not in found or found[t].disturbed]
            if not waiting:
                break
            with self.bench.run(waiting, repetitions=REPETITIONS) as run:
                for event in run:
                    if isinstance(event, Result):
                        found[event.trial] = self._seen(nth, event)
        return list(found.values())

    def _seen(self, nth: int, result: Result) -> Seen:
        part = "pp" if result.trial.test.n_prompt else "tg"
        seen = Seen.of(nth, self.ground.at(result.trial), part, result.outcome)
        n_cpus = self.plan.hardware.cpu.max_threads
        run, threads = result.outcome.run, result.trial.params.n_threads or n_cpus
        why = disturbance(run.before, run.after, n_threads=threads, n_cpus=n_cpus)
        return replace(seen, disturbed="" if seen.failure else why)


@contextmanager
def _scene(name: str, subject: Subject, llama_cpp: Path) -> Iterator[Scene]:
    device = (
        nullcontext(None)
        if subject.device_kib is None
        else limited_device(llama_cpp / "ggml-rpc-server", subject.device_kib)
    )
    with tempfile.TemporaryDirectory() as folder, device as endpoint:
        model = gemma_path()
        if subject.model in _WRITERS:
            model = Path(folder, f"{subject.model}.gguf")
            _WRITERS[subject.model](model)
        order = Order(
            model=model,
            workload=replace(subject.workload, name=name),
            wishes=Wishes(parameters=subject.parameters, lossy_types=subject.lossy_types),
            limits=Limits(),
            llama_bench=str(llama_cpp / "llama-bench"),
            arguments=("--rpc", endpoint) if endpoint else (),
        )
        here = look_around(order, {})
        plan, _ = plan_of(order, here, ())
        ground = Ground(
            name=name,
            made=datetime.now(tz=UTC).isoformat(timespec="seconds"),
            llama_cpp=version_of(llama_cpp),
            model=subject.model,
            hardware=plan.hardware,
            workload=order.workload,
            tests=dict(plan.objective.tests),
            baseline=plan.baseline,
            dimensions=plan.space.dimensions,
            n_ctx=here.recommendation.params.n_ctx or 0,
            all_layers=here.model.n_offloadable,
        )
        yield Scene(ground, plan, llama_bench_of(order, here, Activity()))


def main() -> int:
    """Record, and say what it took."""
    options = _options()
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        raise SystemExit("no llama.cpp here: `nox -s llama_cpp` builds one.")
    with _scene(options.subject, SUBJECTS[options.subject], llama_cpp) as scene:
        if options.more:
            scene.seen += read_recording(options.subject, options.out).seen
        begun = max((one.nth_pass for one in scene.seen), default=0)
        for nth in range(begun + 1, begun + 1 + options.passes):
            start = time.monotonic()
            scene.measure(nth)
            file = write_recording(scene.ground, scene.seen, options.out)
            here = [one for one in scene.seen if one.nth_pass == nth]
            disturbed = sum(bool(one.disturbed) for one in here)
            took_s = time.monotonic() - start
            print(f"{file}: pass {nth}, {len(here)} tests, {disturbed} disturbed, {took_s:.0f} s")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s bench -- record", description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS, help="what to record")
    parser.add_argument("--passes", type=int, default=3, help="over the grid (%(default)s)")
    parser.add_argument("--more", action="store_true", help="add to what is recorded already")
    parser.add_argument("--out", type=Path, default=RECORDINGS, help="the folder (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
