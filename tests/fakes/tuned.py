"""A whole session of tuning on a simulated machine, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from fakes.simulator import SimulatedMachine
from fakes.virtual import VirtualMachine

from autotune.hardware.energy import Metered
from autotune.llama_cpp.capabilities import Capabilities, parse_help
from autotune.llama_cpp.records import Test
from autotune.params import Params
from autotune.recommend import Request, generate_recommendations
from autotune.tuning import events
from autotune.tuning.confirm import Serves
from autotune.tuning.dimensions import Wishes, make_space
from autotune.tuning.lab import Limits
from autotune.tuning.memory import Memory
from autotune.tuning.objective import Objective, objective_of
from autotune.tuning.search import Seed
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import Study
from autotune.tuning.workload import Workload

N_CTX = 4096
METERED = Metered(of=("CPU package 0",), resolution_s=0.001)
EFFICIENT_CHAT = Workload(
    name="chat", description="", n_prompt=512, n_gen=256, objective="efficiency"
)
CHAT = Workload(name="chat", description="", n_prompt=512, n_gen=256)
LONG_PROMPT = Workload(name="long prompt", description="", n_prompt=2048, n_gen=256)

_HELP = Path(__file__).parent.parent / "fixtures" / "llama_bench" / "0.3.36-2026-10" / "help.txt"


@cache
def capabilities_of_today() -> Capabilities:
    return Capabilities(options=parse_help(_HELP.read_text(encoding="utf-8")), version="0.5.0-dev")


@dataclass(frozen=True)
class Simulated:
    """What came of a session, and what the machine knows to be true of it."""

    machine: VirtualMachine
    session: Session
    tuned: Tuned
    workload: Workload

    def true_s(self, which: str = "shipped") -> float:
        """Seconds of a request, without noise."""
        return self.seconds_of(getattr(self.tuned, which))

    def seconds_of(self, params: Params) -> float:
        """Seconds of a request under any parameters, without noise."""
        w = self.workload
        return self.machine.request_seconds(params, w.n_prompt, w.n_gen, w.n_depth)

    @property
    def regret(self) -> float:
        """Of what is shipped, against the best that fits as it is served."""
        return self.true_s() / self._best_s - 1

    @property
    def gain(self) -> float:
        """True gain of what is shipped over the defaults; below 0 is worse than they are."""
        return self.true_s("baseline") / self.true_s() - 1

    @property
    def _best_s(self) -> float:
        w = self.workload
        fits = memory_of(self.machine, w).fits
        _, seconds = self.machine.optimum(
            w.n_prompt, w.n_gen, w.n_depth, n_ctx=N_CTX, program="server", feasible=fits
        )
        return seconds


def memory_of(machine: VirtualMachine, workload: Workload) -> Memory:
    """What fits as it is served, before anything has failed."""
    n_tested = max(workload.n_prompt, workload.n_gen) + workload.n_depth
    return Memory(machine.hardware, machine.model, n_ctx=N_CTX, n_tested=n_tested)


def tested_memory(machine: VirtualMachine, objective: Objective) -> Memory:
    """The same, as it is tested."""
    return Memory(machine.hardware, machine.model, n_ctx=N_CTX, n_tested=objective.longest_test())


def plan_for(
    machine: SimulatedMachine, workload: Workload, limits: Limits, *, seed: int = 0
) -> Plan:
    """Decide everything that is decided before the first measurement."""
    hardware, model = machine.hardware, machine.model
    recommendation = generate_recommendations(hardware, model, request=Request(n_ctx=N_CTX))
    defaults = memory_of(machine, workload).as_by_default(machine.defaults)
    assert defaults is not None
    defaults = replace(defaults, n_threads_batch=defaults.n_threads)
    prompt, generation = Test(n_prompt=16), Test(n_gen=2)
    objective = objective_of(
        workload,
        pp_rate=16 / machine.seconds(defaults, prompt),
        tg_rate=2 / machine.seconds(defaults, generation),
        on_gpu=bool(hardware.gpus),
        metered=METERED if machine.watts else None,
    )
    space = make_space(
        hardware=hardware,
        model=model,
        capabilities=capabilities_of_today(),
        objective=objective,
        defaults=defaults,
        seed=recommendation.params,
        wishes=Wishes(parameters=workload.parameters),
    )
    return Plan(
        hardware=hardware,
        objective=objective,
        space=space,
        baseline=space.fixed,
        seeds=(Seed(source="quick recommendation", params=recommendation.params),),
        seed=seed,
        limits=limits,
    )


def session_on(
    machine: VirtualMachine,
    plan: Plan,
    study: Study | None = None,
    tell: Callable[[events.Event], None] = lambda _: None,
    serves: Serves | None = None,
) -> Session:
    return Session(
        plan,
        bench=machine,
        study=study or Study.create(None, plan.space, {}, seed=plan.seed),
        memory=tested_memory(machine, plan.objective),
        clock=machine.clock,
        observe=machine.observe,
        tell=tell,
        serves=serves,
    )


def tune_simulated(
    machine: SimulatedMachine,
    workload: Workload,
    *,
    budget_s: float | None = 900,
    seed: int = 0,
    tell: Callable[[events.Event], None] = lambda _: None,
) -> Simulated:
    """Tune to the end."""
    plan = plan_for(machine, workload, Limits(budget_s=budget_s), seed=seed)
    session = session_on(machine, plan, tell=tell)
    return Simulated(machine, session, session.run(), workload)
