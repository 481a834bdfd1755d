"""One session of measuring, with its display, its end by Ctrl-C and all that is kept of it."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import EvidenceSection, FleetSection
from autotune.cli.circumstances import machine_in_words
from autotune.cli.interruption import interrupted, interruptible
from autotune.cli.keeping import Keeper
from autotune.cli.live import watch
from autotune.cli.measured import evidence_section, memory_as_served
from autotune.cli.progress import Progress
from autotune.errors import AutotuneError, Interrupted, SurroundingsError
from autotune.hardware.activity import Activity
from autotune.llama_cpp.capabilities import build_identity
from autotune.model.footprint import Footprint
from autotune.params import Params
from autotune.results.profile import Profile, machine_digest, model_digest, profile_path, save
from autotune.results.studies import Folder, Purpose, new_folder, written_by_one
from autotune.tuning import events
from autotune.tuning.clock import RealClock
from autotune.tuning.ground import Ground, Order, sameness_of
from autotune.tuning.instruments import bench_of, observer_of, servers_of
from autotune.tuning.plan import memory_of
from autotune.tuning.recheck import as_served
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import Journalled, SharedStudy, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Undertaking:
    """A study at work: what was asked, what is here, where it is kept, and what it measures."""

    order: Order
    ground: Ground
    environ: Mapping[str, str]
    folder: Folder
    plan: Plan
    # Once it is ours to write; from what the journal knows of it.
    open: Callable[[Journalled], Study | SharedStudy]
    hint: str  # What to do after an interrupt.
    session: Callable[..., Session] = Session
    fleet: Callable[[], FleetSection | None] = lambda: None  # Where it holds, in a shared study.

    @property
    def profile_path(self) -> Path:
        """Where `lcm run` looks for a profile of this model, machine and build."""
        ground = self.ground
        build = build_identity(ground.program)
        return profile_path(ground.model, ground.machine, build, self.environ)

    def profile_of(self, params: Params) -> Profile:
        """A profile with measured parameters, not verified."""
        ground = self.ground
        return Profile(
            params=as_served(params, ground.recommendation.params),
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            build=ground.capabilities.version,
            model=ground.model.name,
            model_digest=model_digest(ground.model),
            machine=machine_digest(ground.machine),
            workload=self.order.workload.name,
            objective=self.order.workload.objective,
            study=str(self.folder.path),
        )

    def profile(self, tuned: Tuned) -> Profile:
        """What is shipped, with how sure that is."""
        comparison = tuned.verification.comparison
        profile = self.profile_of(tuned.shipped)
        if not self.plan.verify:
            return profile
        profile = replace(profile, verdict=tuned.verification.verdict)
        if comparison is None or tuned.shipped == tuned.baseline:
            return profile
        return replace(profile, ratio=comparison.ratio, low=comparison.low, high=comparison.high)


def begun_folder(
    order: Order, ground: Ground, environ: Mapping[str, str], *, purpose: Purpose = "tune"
) -> Folder:
    """A folder of its own for a study of what is here.

    Raises:
        SurroundingsError: it cannot be written.
    """
    return new_folder(
        ground.model.name,
        order.workload.name,
        environ,
        machine=machine_in_words(ground.machine),
        build=ground.capabilities.version,
        purpose=purpose,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of it, and what is to be raised once the answer is out."""

    tuned: Tuned
    evidence: EvidenceSection
    problem: AutotuneError | None

    def settle(self) -> None:
        """Raise what went wrong, or that it was interrupted.

        Raises:
            SurroundingsError: not all of it could be kept.
            Interrupted: the user or the system has ended it early.
        """
        if self.problem:
            raise self.problem


def measure(work: Undertaking, store: Callable[[Tuned], None]) -> Done:
    """Run the session of a study, and keep everything.

    Args:
        work: the study.
        store: keeps what is handed to the user, beside the study; may raise a SurroundingsError.

    Raises:
        CouldNotMeasure: nothing was measured that an answer could rest on.
        Interrupted: before anything could be said.
    """
    budget_s = work.plan.limits.budget_s
    keeper = Keeper(
        work.folder,
        budget_s=budget_s,
        profile_of=work.profile_of,
        minimises=work.plan.objective.minimises,
    )
    with written_by_one(work.folder), _saying_how_to_go_on(work), keeper:
        console.note(f"everything that is measured is kept in {work.folder.path}")
        work.folder.in_state("running")
        tuned, signal_number = _run(work, keeper)
        evidence = _evidence(work, tuned)
        problem: AutotuneError | None = _keep(work, tuned, evidence, keeper, store)
    if tuned.hurried and not problem:
        problem = interrupted(signal_number, work.hint)
    return Done(tuned=tuned, evidence=evidence, problem=problem)


@contextlib.contextmanager
def _saying_how_to_go_on(work: Undertaking) -> Iterator[None]:
    """Whatever ends a session early, what it has measured can be gone on with."""
    try:
        yield
    except Interrupted:  # It says so already.
        raise
    except AutotuneError as error:
        if work.folder.database.exists() or work.folder.fleet:
            error.hint = f"{error.hint}; then {work.hint}"
        raise


def _run(work: Undertaking, keeper: Keeper) -> tuple[Tuned, int]:
    """Run the session, with the display, and with Ctrl-C as a wish to come to an end."""
    order, ground, plan = work.order, work.ground, work.plan
    activity = Activity()
    progress = Progress(plan.objective, limits=plan.limits, verifies=plan.verify)
    with watch(progress, stderr_is_terminal=sys.stderr is not None and sys.stderr.isatty()) as show:

        def tell(event: events.Event) -> None:
            keeper.take(event)
            show(event)

        session = work.session(
            plan,
            bench=bench_of(order, ground, activity),
            study=work.open(keeper.known()),
            memory=memory_of(order, ground, plan.objective),
            clock=RealClock(),
            observe=observer_of(order, activity),
            tell=tell,
            check=sameness_of(ground),
            serves=servers_of(order, ground),
        )
        with interruptible(session.hurry, progress.hurry) as received:
            try:
                return session.run(), received[-1] if received else signal.SIGINT
            except (KeyboardInterrupt, AutotuneError) as error:
                with contextlib.suppress(SurroundingsError):
                    work.folder.in_state("interrupted")
                if received or isinstance(error, KeyboardInterrupt):
                    number = received[-1] if received else signal.SIGINT
                    raise interrupted(number, work.hint) from None
                raise


def _evidence(work: Undertaking, tuned: Tuned) -> EvidenceSection:
    ground = work.ground

    def needs(params: Params) -> Footprint:
        return memory_as_served(ground.recommendation, params, ground.hardware, ground.model)

    folder, objective = str(work.folder.path), work.plan.objective
    evidence = evidence_section(tuned, objective, work.order.workload, folder, needs=needs)
    fleet = work.fleet()
    if fleet is not None:
        evidence["fleet"] = fleet
    return evidence


def _keep(
    work: Undertaking,
    tuned: Tuned,
    evidence: EvidenceSection,
    keeper: Keeper,
    store: Callable[[Tuned], None],
) -> SurroundingsError | None:
    """Write down what came of it; the answer must not be lost to a full disk, so that is given."""
    try:
        keeper.conclude(evidence)
        save(work.folder.profile, work.profile(tuned))
        store(tuned)
        work.folder.concluded(
            "interrupted" if tuned.hurried else "finished",
            verdict=evidence["verdict"] if work.plan.verify else "",
            ratio=evidence["ratio"],
            low=evidence["low"],
            high=evidence["high"],
        )
    except SurroundingsError as error:
        return error
    return None
