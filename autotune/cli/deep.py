"""`lcm run --optimize --deep`: measure, keep, and print what was found with its evidence."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from autotune.cli import console
from autotune.cli.compose import run_answer
from autotune.cli.live import watch
from autotune.cli.measured import evidence_section, refined, served
from autotune.cli.progress import Progress
from autotune.cli.summary import summary
from autotune.errors import (
    EXIT_DONE,
    AutotuneError,
    ConfigError,
    Interrupted,
    SurroundingsError,
    Terminated,
)
from autotune.hardware.activity import Activity
from autotune.llama_cpp.capabilities import build_identity
from autotune.params import Params
from autotune.results.profile import (
    Profile,
    load,
    machine_digest,
    profile_path,
    profiles_of_machine,
    save,
)
from autotune.results.studies import Folder, new_folder, unfinished, written_by_one
from autotune.tuning import events, prepare
from autotune.tuning.clock import RealClock
from autotune.tuning.prepare import Ground, Order
from autotune.tuning.search import Seed
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import Study
from autotune.tuning.visits import Kind

# How long a user who has pressed Ctrl-C waits for what can still be verified.
PATIENCE_S = 10.0
# Winners of other models that are tried beside the quick recommendation.
_MOST_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How to begin, and where to keep what is measured."""

    resume: bool = False
    fresh: bool = False
    results_dir: Path | None = None

    @property
    def environ(self) -> Mapping[str, str]:
        """This process's environment, with the folder that was named."""
        if self.results_dir is None:
            return os.environ
        return {**os.environ, "LCM_RESULTS_DIR": str(self.results_dir.absolute())}


def deep(order: Order, start: Start) -> int:
    """Measure, and print the refined recommendation.

    Returns:
        The exit code: 0, also where llama.cpp's defaults are the best answer.
    """
    console.note("looking at the machine and trying llama-bench")
    ground = prepare.look_around(order, start.environ)
    for note in ground.hardware.notes:
        console.warning(note)
    study = _resumed(order, ground, start) if start.resume else _begun(order, ground, start)
    folder = study.folder
    with written_by_one(folder):
        console.note(f"everything that is measured is kept in {folder.path}")
        tuned, signal_number = _tune(order, ground, study)
        problem = _keep(order, ground, folder, tuned, start.environ)
    _print(order, ground, folder, study.plan, tuned)
    if problem:  # The answer is out by now.
        raise problem
    if tuned.hurried:
        raise _interrupted(signal_number)
    return EXIT_DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Study:
    """Where a study is kept, what it searches, and how it is opened once it is ours to write."""

    folder: Folder
    plan: Plan
    open: Callable[[], Study]


def _begun(order: Order, ground: Ground, start: Start) -> _Study:
    kept = unfinished(ground.model.name, order.workload.name, start.environ)
    if kept is not None and not start.fresh:
        console.note(f"beginning anew; --resume would go on with {kept.path}")
    plan, facts = prepare.plan_of(order, ground, _seeds(ground, start.environ))
    if order.wishes.parameters:
        console.note("what --param fixes is fixed for llama.cpp's defaults too")
    folder = new_folder(ground.model.name, order.workload.name, start.environ)

    def create() -> Study:
        return Study.create(folder.database, plan.space, facts, seed=order.seed)

    return _Study(folder=folder, plan=plan, open=create)


def _resumed(order: Order, ground: Ground, start: Start) -> _Study:
    folder = unfinished(ground.model.name, order.workload.name, start.environ)
    if folder is None:
        raise ConfigError(
            f"there is no unfinished study of {ground.model.name} for {order.workload.name}",
            hint="leave --resume out to begin one; --results-dir says where to look",
        )
    plan = prepare.plan_as_before(order, ground, folder.database)

    def resume() -> Study:
        return Study.resume(folder.database, plan.space)

    return _Study(folder=folder, plan=plan, open=resume)


def _keep(
    order: Order, ground: Ground, folder: Folder, tuned: Tuned, environ: Mapping[str, str]
) -> SurroundingsError | None:
    """Write down what came of it; the answer must not be lost to a full disk, so that is given."""
    profile = _profile(order, ground, folder, tuned)
    try:
        save(folder.profile, profile)
        # What needs arguments of its own is not what `lcm run` would start.
        if not order.arguments and (not tuned.hurried or profile.verdict == "better"):
            build = build_identity(ground.program)
            _store(profile_path(ground.model, ground.machine, build, environ), profile)
        folder.in_state("interrupted" if tuned.hurried else "finished")
    except SurroundingsError as error:
        return error
    return None


def _store(path: Path, profile: Profile) -> None:
    """Keep what `lcm run` starts with; a gain that was shown gives way only to another.

    For the same workload it gives way to any verdict: it was tried again, as a seed.
    """
    with contextlib.suppress(FileNotFoundError, ConfigError):
        kept = load(path)
        proven = kept.verdict == "better" and profile.verdict != "better"
        if proven and (kept.workload != profile.workload or not profile.verdict):
            console.note(
                f"the profile of {kept.date} stays: its gain was shown, for {kept.workload}"
            )
            return
    save(path, profile)


def _seeds(ground: Ground, environ: Mapping[str, str]) -> list[Seed]:
    """What was best here before: for this model under another build, and for other models."""
    profiles = [p for p in profiles_of_machine(ground.machine, environ) if p.verdict == "better"]
    ours_first = sorted(profiles, key=lambda p: p.model != ground.model.name)
    return [
        Seed(source=f"winner of {profile.model}", params=profile.params)
        for profile in ours_first[:_MOST_SEEDS]
    ]


def _tune(order: Order, ground: Ground, study: _Study) -> tuple[Tuned, int]:
    """Run the session, with the display, and with Ctrl-C as a wish to come to an end."""
    folder, plan = study.folder, study.plan
    activity = Activity()
    progress = Progress(plan.objective, budget_s=plan.limits.budget_s)
    with watch(progress, stderr_is_terminal=sys.stderr is not None and sys.stderr.isatty()) as show:

        def tell(event: events.Event) -> None:
            best = _best_so_far(event)
            if best:
                save(folder.profile, _profile_of(order, ground, folder, best))
            show(event)

        session = Session(
            plan,
            bench=prepare.bench_of(order, ground, activity),
            study=study.open(),
            memory=prepare.memory_of(order, ground, plan.objective),
            clock=RealClock(),
            observe=prepare.observer_of(order, activity),
            tell=tell,
        )
        with _interruptible(session, progress) as received:
            try:
                return session.run(), received[-1] if received else signal.SIGINT
            except (KeyboardInterrupt, AutotuneError) as error:
                with contextlib.suppress(SurroundingsError):
                    folder.in_state("interrupted")
                if received or isinstance(error, KeyboardInterrupt):
                    raise _interrupted(received[-1] if received else signal.SIGINT) from None
                raise


def _best_so_far(event: events.Event) -> Params | None:
    """What is to be used if nothing more comes: first the defaults, then each new incumbent."""
    if isinstance(event, events.NewIncumbent):
        return event.params
    if isinstance(event, events.Measured) and event.reading.visit.kind is Kind.BASELINE:
        return None if event.reading.failure else event.reading.visit.params
    return None


@contextmanager
def _interruptible(session: Session, progress: Progress) -> Iterator[list[int]]:
    """The first signal asks for an end, the second makes it; gives those that have come."""
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        session.hurry(PATIENCE_S)
        progress.hurry(PATIENCE_S)
        with contextlib.suppress(RuntimeError):  # It may have come in the middle of a line.
            console.note(
                f"ending within about {PATIENCE_S:.0f} s, with what can still be verified; "
                "again: now"
            )

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            # What remains after an interrupt is to write it down, which another must not prevent.
            signal.signal(number, signal.SIG_IGN if received else handler)


def _interrupted(number: int) -> Interrupted:
    kind = Terminated if number == signal.SIGTERM else Interrupted
    return kind(
        "interrupted; everything that was measured is kept",
        hint=f"go on with: {console.quoted(_resuming(sys.argv[1:]))}",
    )


def _resuming(arguments: list[str]) -> list[str]:
    """The command that goes on with what was interrupted."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = [word for word in arguments[:end] if word not in ("--fresh", "--resume")]
    return ["lcm", *own, "--resume", *arguments[end:]]


def _profile(order: Order, ground: Ground, folder: Folder, tuned: Tuned) -> Profile:
    """What is shipped, with how sure that is."""
    comparison = tuned.verification.comparison
    profile = _profile_of(order, ground, folder, tuned.shipped)
    if not order.verify:
        return profile
    profile = replace(profile, verdict=tuned.verification.verdict)
    if comparison is None or tuned.shipped == tuned.baseline:
        return profile
    return replace(profile, ratio=comparison.ratio, low=comparison.low, high=comparison.high)


def _profile_of(order: Order, ground: Ground, folder: Folder, params: Params) -> Profile:
    return Profile(
        params=served(params, ground.recommendation.params),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        build=ground.capabilities.version,
        model=ground.model.name,
        machine=machine_digest(ground.machine),
        workload=order.workload.name,
        study=str(folder.path),
    )


def _print(order: Order, ground: Ground, folder: Folder, plan: Plan, tuned: Tuned) -> None:
    """The table for people on stderr, the answer for programs on stdout."""
    recommendation = refined(
        ground.recommendation, tuned, plan.objective, ground.hardware, ground.model
    )
    answer = run_answer(ground.hardware, ground.storage, ground.model, recommendation)
    answer["evidence"] = evidence_section(tuned, plan.objective, order.workload, str(folder.path))
    console.lines(summary(tuned, plan.objective))
    console.note(f"start it with: {console.quoted(answer['command']['llama-server'])}")
    console.note(f"all that was measured: {folder.path}")
    console.answer(answer)
