"""`lcm run --optimize --deep`: measure, keep, and print what was found with its evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import EvidenceSection
from autotune.cli.circumstances import circumstances, machine_in_words
from autotune.cli.compose import run_answer
from autotune.cli.interruption import resume_hint
from autotune.cli.joined import joined
from autotune.cli.measured import refined
from autotune.cli.measuring import Undertaking, begun_folder, measure
from autotune.cli.stored import store
from autotune.cli.summary import summary, where_it_holds
from autotune.errors import EXIT_DONE, ConfigError
from autotune.results.profile import environ_with, profiles_of_machine
from autotune.results.served import served
from autotune.results.studies import unfinished
from autotune.tuning.ground import Ground, Order, look_around
from autotune.tuning.plan import plan_as_before, plan_of
from autotune.tuning.search import Seed
from autotune.tuning.session import Tuned
from autotune.tuning.study import Study
from autotune.tuning.study.address import Address

# Winners of other models that are tried beside the quick recommendation.
_MOST_SEEDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How to begin, and where to keep what is measured."""

    resume: bool = False
    fresh: bool = False
    results_dir: Path | None = None
    storage: Address | None = None  # Of a study that is shared with other machines.
    per_machine: bool = False


def deep(order: Order, start: Start) -> int:
    """Measure, and print the refined recommendation.

    Returns:
        The exit code: 0, also where llama.cpp's defaults are the best answer.
    """
    environ = environ_with(start.results_dir)
    console.note("looking at the machine and trying llama-bench")
    ground = look_around(order, environ)
    for note in ground.hardware.notes:
        console.warning(note)
    if order.workload.objective == "efficiency" and not ground.metered.of_cpu:
        console.warning(
            f"joules are counted of {', '.join(ground.metered.of)} alone: what is left to the CPU "
            "seems to cost nothing"
        )
    if start.storage:
        work = joined(
            order,
            ground,
            environ,
            address=start.storage,
            per_machine=start.per_machine,
            resume=start.resume,
            seeds=_seeds(ground, environ),
            hint=resume_hint(),
        )
    elif start.resume:
        work = _resumed(order, ground, environ)
    else:
        work = _begun(order, ground, environ, fresh=start.fresh)
    done = measure(work, lambda tuned: _store(work, tuned))
    _print(work, done.tuned, done.evidence)
    done.settle()
    return EXIT_DONE


def _begun(order: Order, ground: Ground, environ: Mapping[str, str], *, fresh: bool) -> Undertaking:
    kept = unfinished(ground.model.name, order.workload.name, environ)
    if kept is not None and not fresh:
        console.note(f"beginning anew; --resume would go on with {kept.path}")
    plan, facts = plan_of(order, ground, _seeds(ground, environ))
    if order.wishes.parameters:
        console.note("what --param fixes is fixed for llama.cpp's defaults too")
    folder = begun_folder(order, ground, environ)
    folder.keep_environment(circumstances(order, ground, plan))
    return Undertaking(
        order=order,
        ground=ground,
        environ=environ,
        folder=folder,
        plan=plan,
        open=lambda _: Study.create(folder.database, plan.space, facts, seed=order.seed),
        hint=resume_hint(),
    )


def _resumed(order: Order, ground: Ground, environ: Mapping[str, str]) -> Undertaking:
    folder = unfinished(ground.model.name, order.workload.name, environ)
    if folder is None:
        raise ConfigError(
            f"there is no unfinished study of {ground.model.name} for {order.workload.name}",
            hint="leave --resume out to begin one; --results-dir says where to look",
        )
    plan = plan_as_before(order, ground, folder.database)
    if not folder.environment.exists():  # Of format 1.
        machine, build = machine_in_words(ground.machine), ground.capabilities.version
        folder = replace(folder, machine=machine, build=build)
        folder.keep_environment(circumstances(order, ground, plan))
    return Undertaking(
        order=order,
        ground=ground,
        environ=environ,
        folder=folder,
        plan=plan,
        open=lambda known: Study.resume(folder.database, plan.space, known),
        hint=resume_hint(),
    )


def _seeds(ground: Ground, environ: Mapping[str, str]) -> list[Seed]:
    """What was best here before: for this model under another build, and for other models."""
    profiles = [p for p in profiles_of_machine(ground.machine, environ) if p.verdict == "better"]
    ours_first = sorted(profiles, key=lambda p: p.model != ground.model.name)
    return [
        Seed(source=f"winner of {profile.model}", params=profile.params)
        for profile in ours_first[:_MOST_SEEDS]
    ]


def _store(work: Undertaking, tuned: Tuned) -> None:
    """What needs arguments of its own is not what `lcm run` would start."""
    profile = work.profile(tuned)
    if not work.order.arguments and (not tuned.hurried or profile.verdict == "better"):
        store(work.profile_path, profile)


def _print(work: Undertaking, tuned: Tuned, evidence: EvidenceSection) -> None:
    """The answer for programs on stdout, the table for people on stderr."""
    ground, objective = work.ground, work.plan.objective
    recommendation = refined(ground.recommendation, tuned, objective, ground.hardware, ground.model)
    answer = run_answer(ground.hardware, ground.storage, ground.model, recommendation)
    answer["evidence"] = evidence
    try:
        console.answer(answer)
    finally:  # Last, where a terminal shows both: the answer is longer than a screen.
        console.lines("\n".join(filter(None, (summary(tuned, objective), served(evidence)))))
        if "fleet" in evidence:
            console.lines(where_it_holds(evidence["fleet"], objective))
        console.note(f"start it with: {console.quoted(answer['command']['llama-server'])}")
        console.note(f"a report to look at: lcm results report {work.folder.name}")
