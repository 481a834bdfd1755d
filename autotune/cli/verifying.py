"""Measure a stored profile against llama.cpp's defaults anew: the work of `lcm verify`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.cli import console
from autotune.cli.before import circumstances_of, workload_of
from autotune.cli.circumstances import circumstances
from autotune.cli.measuring import Undertaking, begun_folder, measure
from autotune.cli.rechecked import Rechecked, reason_of, verify_answer, verify_lines
from autotune.errors import EXIT_DONE, EXIT_NO, ConfigError, SurroundingsError
from autotune.hardware import detect_hardware
from autotune.llama_cpp.capabilities import build_identity
from autotune.llama_cpp.locate import BENCH, find_program
from autotune.model import analyze_model
from autotune.results.changes import TESTS, changes
from autotune.results.profile import Kept, Profile, environ_with, newest_profile, save
from autotune.tuning.dimensions import Wishes
from autotune.tuning.environment import space_of
from autotune.tuning.ground import Ground, Order, look_around
from autotune.tuning.lab import Limits
from autotune.tuning.plan import memory_of, plan_of
from autotune.tuning.recheck import as_measured, is_the_defaults, obstacle, recheck
from autotune.tuning.session import Plan, Tuned
from autotune.tuning.study import Study
from autotune.tuning.verify import LEAST_ROUNDS
from autotune.tuning.workload import parse_duration
from autotune.words import THE_DEFAULTS

# As long as nobody asks for another time; with a model that takes long to load, two rounds.
BUDGET_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as they were typed."""

    model: Path
    budget: str | None
    results_dir: Path | None
    llama_bench: str | None
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """A profile that is to be verified, and what was found here."""

    kept: Kept
    then: Mapping[str, Any]  # Under which circumstances it was measured; empty: that is lost.
    order: Order
    ground: Ground
    plan: Plan
    facts: Mapping[str, Any]

    @property
    def now(self) -> dict[str, Any]:
        """The circumstances of today."""
        return circumstances(self.order, self.ground, self.plan)


def verify_profile(asked: Asked) -> int:
    """Verify the profile of a model, print what came of it, and keep that.

    Returns:
        The exit code: 0 where the profile is better than llama.cpp's defaults, else 1.
    """
    environ = environ_with(asked.results_dir)
    looked = _looked_around(asked, _kept(asked, environ), environ)
    reason = _why_not(looked)
    if reason:
        _print(asked, _rechecked(looked, reason=reason))
        return EXIT_NO
    work = _undertaking(looked, environ)
    done = measure(work, lambda tuned: _store(work, looked.kept.profile, tuned))
    seen = done.tuned.verification
    said = replace(
        _rechecked(looked, reason=reason_of(done.tuned)),
        verdict=seen.verdict,
        comparison=seen.comparison,
        evidence=done.evidence,
    )
    _print(asked, said)
    done.settle()
    return EXIT_DONE if said.verdict == "better" else EXIT_NO


def _kept(asked: Asked, environ: Mapping[str, str]) -> Kept:
    """The profile, looked for before anything that takes long: there may be none."""
    model, hardware = analyze_model(asked.model), detect_hardware()
    program = find_program(BENCH, given=asked.llama_bench, environ=environ)
    try:
        return newest_profile(model, hardware, build_identity(program), environ)
    except FileNotFoundError:
        raise SurroundingsError(
            f"there is no profile of {model.name} that was measured on this machine",
            hint=f"make one: {_tuning(asked)}",
        ) from None


def _tuning(asked: Asked) -> str:
    return console.quoted(["lcm", "run", "--model", str(asked.model), "--optimize", "--deep"])


def _looked_around(asked: Asked, kept: Kept, environ: Mapping[str, str]) -> _Looked:
    then = circumstances_of(kept.profile, environ)
    order = _order(asked, kept.profile, then)
    console.note("looking at the machine and trying llama-bench")
    ground = look_around(order, environ)
    for note in ground.hardware.notes:
        console.warning(note)
    order, plan, facts = _planned(order, ground)
    plan = recheck(plan, as_measured(kept.profile.params))
    if asked.budget is None:
        plan = replace(plan, least_rounds=LEAST_ROUNDS)
    facts["space"] = space_of(plan.space, plan.objective)
    return _Looked(kept=kept, then=then, order=order, ground=ground, plan=plan, facts=facts)


def _order(asked: Asked, profile: Profile, then: Mapping[str, Any]) -> Order:
    workload = workload_of(profile, then)
    return Order(
        model=asked.model,
        workload=workload,
        wishes=Wishes(parameters=workload.parameters),
        limits=Limits(budget_s=_budget_s(asked)),
        n_ctx=profile.params.n_ctx,
        llama_bench=asked.llama_bench,
    )


def _budget_s(asked: Asked) -> float:
    try:
        return BUDGET_S if asked.budget is None else parse_duration(asked.budget)
    except ValueError as error:
        raise ConfigError(f"--budget is {error}", hint="for example --budget 2m") from None


def _planned(order: Order, ground: Ground) -> tuple[Order, Plan, dict[str, Any]]:
    """With what was fixed for the defaults too, as far as that is still possible."""
    try:
        return order, *plan_of(order, ground, ())
    except ConfigError as error:
        if not order.wishes.parameters:
            raise
        console.warning(f"{THE_DEFAULTS} are measured as they are now: {error.message}")
    order = replace(order, wishes=Wishes(parameters={}))
    return order, *plan_of(order, ground, ())


def _why_not(looked: _Looked) -> str:
    """Why there is nothing to be measured; "" if there is."""
    order, ground, plan = looked.order, looked.ground, looked.plan
    known = as_measured(looked.kept.profile.params)
    if is_the_defaults(plan, known):
        return f"the profile is {THE_DEFAULTS}"
    memory = memory_of(order, ground, plan.objective)
    if ground.serving:
        can = ground.serving.batched_can
        why = obstacle(known, plan.objective, can, memory, target="batched-bench")
    else:
        why = obstacle(known, plan.objective, ground.capabilities, memory)
    return f"the profile cannot be measured here: {why}" if why else ""


def _undertaking(looked: _Looked, environ: Mapping[str, str]) -> Undertaking:
    order, ground, plan = looked.order, looked.ground, looked.plan
    folder = begun_folder(order, ground, environ, purpose="verify")
    folder.keep_environment(looked.now)
    return Undertaking(
        order=order,
        ground=ground,
        environ=environ,
        folder=folder,
        plan=plan,
        open=lambda _: Study.create(folder.database, plan.space, looked.facts, seed=order.seed),
        hint=f"verify again with: {console.quoted(['lcm', *sys.argv[1:]])}",
    )


def _store(work: Undertaking, kept: Profile, tuned: Tuned) -> None:
    """Let the profile of this build tell what was shown, if anything was, of its own request.

    What is better is what `lcm run` starts with from now on, also under a new build. What is worse
    keeps its parameters, so that it can be verified again; but `lcm run` starts llama.cpp's
    defaults then, which were measured to be faster. Where nothing is shown, what was shown before
    stands: two minutes are no proof that a gain is gone.
    """
    verification = tuned.verification
    seen = verification.comparison
    of_another_request = work.order.workload.name != kept.workload
    if seen is None or verification.verdict == "not shown" or of_another_request:
        return
    shown = replace(work.profile_of(kept.params), params=kept.params, verdict=verification.verdict)
    save(work.profile_path, replace(shown, ratio=seen.ratio, low=seen.low, high=seen.high))


def _rechecked(looked: _Looked, *, reason: str) -> Rechecked:
    """What is known without a comparison."""
    profile = looked.kept.profile
    then = looked.then or {"llama_cpp": {"version": profile.build}}
    return Rechecked(
        kept=looked.kept,
        verdict="not shown",
        reason=reason,
        comparison=None,
        evidence=None,
        changed=[change for change in changes(then, looked.now) if change.what != TESTS],
        study_is_known=bool(looked.then),
        objective=looked.order.workload.objective,
    )


def _print(asked: Asked, said: Rechecked) -> None:
    """The answer on stdout, and what to do about it on stderr."""
    if asked.as_json:
        console.answer(verify_answer(said))
    else:
        console.text(verify_lines(said))
    if said.verdict != "better":
        console.note(f"look for what is better now: {_tuning(asked)}")
