"""One session of measuring, with its display, its end by Ctrl-C and all that is kept of it."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import EvidenceSection
from autotune.cli.interruption import interrupted, interruptible
from autotune.cli.keeping import Keeper
from autotune.cli.live import watch
from autotune.cli.measured import evidence_section, memory_as_served, served
from autotune.cli.progress import Progress
from autotune.errors import AutotuneError, SurroundingsError
from autotune.hardware.activity import Activity
from autotune.llama_cpp.capabilities import build_identity
from autotune.model.footprint import Footprint
from autotune.params import Params
from autotune.results.profile import Profile, machine_digest, model_digest, profile_path, save
from autotune.results.studies import Folder, written_by_one
from autotune.tuning import events, prepare
from autotune.tuning.clock import RealClock
from autotune.tuning.prepare import Ground, Order
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Undertaking:
    """A study at work: what was asked, what is here, where it is kept, and what it measures."""

    order: Order
    ground: Ground
    environ: Mapping[str, str]
    folder: Folder
    plan: Plan
    open: Callable[[], Study]  # Once it is ours to write.
    hint: str  # What to do after an interrupt.

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
            params=served(params, ground.recommendation.params),
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            build=ground.capabilities.version,
            model=ground.model.name,
            model_digest=model_digest(ground.model),
            machine=machine_digest(ground.machine),
            workload=self.order.workload.name,
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
    keeper = Keeper(work.folder, budget_s=budget_s, profile_of=work.profile_of)
    with written_by_one(work.folder), keeper:
        console.note(f"everything that is measured is kept in {work.folder.path}")
        work.folder.in_state("running")
        tuned, signal_number = _run(work, keeper)
        evidence = _evidence(work, tuned)
        problem: AutotuneError | None = _keep(work, tuned, evidence, keeper, store)
    if tuned.hurried and not problem:
        problem = interrupted(signal_number, work.hint)
    return Done(tuned=tuned, evidence=evidence, problem=problem)


def _run(work: Undertaking, keeper: Keeper) -> tuple[Tuned, int]:
    """Run the session, with the display, and with Ctrl-C as a wish to come to an end."""
    order, ground, plan = work.order, work.ground, work.plan
    activity = Activity()
    progress = Progress(plan.objective, limits=plan.limits, verifies=plan.verify)
    with watch(progress, stderr_is_terminal=sys.stderr is not None and sys.stderr.isatty()) as show:

        def tell(event: events.Event) -> None:
            keeper.take(event)
            show(event)

        session = Session(
            plan,
            bench=prepare.bench_of(order, ground, activity),
            study=work.open(),
            memory=prepare.memory_of(order, ground, plan.objective),
            clock=RealClock(),
            observe=prepare.observer_of(order, activity),
            tell=tell,
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
    return evidence_section(tuned, objective, work.order.workload, folder, needs=needs)


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
