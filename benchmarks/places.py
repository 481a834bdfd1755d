"""Where strategies are compared: machines in virtual time of which the best is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fakes.recording import names, read_recording
from fakes.replay import RecordedMachine, recorded_plan
from fakes.simulator import Options, SimulatedMachine, cpu16, flat, moe, partial_offload
from fakes.tuned import CHAT, LONG_PROMPT, N_CTX, memory_of, plan_for
from fakes.virtual import VirtualMachine
from strategies import Handed

from autotune.tuning.lab import Limits
from autotune.tuning.session import Plan
from autotune.tuning.workload import Workload

# Seconds of virtual time. On a machine that loads a model in half a second an hour is long.
MOMENTS = (120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
RECORDED_MOMENTS = (15.0, 30.0, 60.0, 120.0, 300.0)
# A true gain below this is worse than the defaults; noise is no loss.
_WORSE = -0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a user has after so many seconds, by what the machine knows."""

    at_s: float
    regret: float  # A request takes so much longer than with the best that fits as it is served.
    gain: float  # Over the defaults; below 0 is worse than they are.
    fits: bool  # As it is served.
    claims: bool
    loads: int

    @property
    def is_worse(self) -> bool:
        """Slower than the defaults, by 1 % or more."""
        return self.gain < _WORSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A kind of machine with a model and a request; a seed makes one of them."""

    name: str
    what: str
    make: Callable[[int], VirtualMachine]
    plan_for: Callable[[VirtualMachine, Limits, int], Plan]
    workload: Workload
    moments: Sequence[float] = MOMENTS

    def judge(self, handed: Sequence[Handed], seed: int) -> list[Judged]:
        """Hold what was handed out against the truth."""
        machine, w = self.make(seed), self.workload
        fits = memory_of(machine, w).fits
        baseline = self.plan_for(machine, Limits(), seed).baseline
        size = (w.n_prompt, w.n_gen, w.n_depth)
        _, best_s = machine.optimum(*size, n_ctx=N_CTX, program="server", feasible=fits)
        baseline_s = machine.request_seconds(baseline, *size)

        def judged(one: Handed) -> Judged:
            seconds = machine.request_seconds(one.params, *size)
            return Judged(
                at_s=one.at_s,
                regret=max(seconds / best_s - 1, 0.0),  # What does not fit may be faster.
                gain=baseline_s / seconds - 1,
                fits=fits(one.params),
                claims=one.claims,
                loads=one.loads,
            )

        return [judged(one) for one in handed]


def _simulated(
    name: str,
    what: str,
    kind: Callable[..., SimulatedMachine],
    workload: Workload,
    options: Options | None = None,
) -> Place:
    def plan(machine: VirtualMachine, limits: Limits, seed: int) -> Plan:
        assert isinstance(machine, SimulatedMachine)  # noqa: S101 - as made here
        return plan_for(machine, workload, limits, seed=seed)

    return Place(
        name=name,
        what=what,
        make=lambda seed: kind(seed, **(options or {})),
        plan_for=plan,
        workload=workload,
    )


def _recorded(name: str) -> Place:
    recording = read_recording(name)
    ground = recording.ground

    def plan(machine: VirtualMachine, limits: Limits, seed: int) -> Plan:
        assert isinstance(machine, RecordedMachine)  # noqa: S101 - as made here
        return recorded_plan(machine, limits, seed=seed)

    return Place(
        name=name,
        what=f"recorded {ground.made[:10]}: {ground.model} on {ground.hardware.cpu.name}",
        make=lambda seed: RecordedMachine(recording, seed),
        plan_for=plan,
        workload=ground.workload,
        moments=RECORDED_MOMENTS,
    )


_BUSY = Options(bursts=1 / 3, smt=False)


def places() -> Mapping[str, Place]:
    """Every place by its name; the recorded ones are those that there are files of."""
    every = (
        _simulated("A", "16 cores with SMT, a dense model of 8B", cpu16, CHAT),
        _simulated("B", "a card of 24 GB, a dense model of 33 GB", partial_offload, LONG_PROMPT),
        _simulated("C", "a card of 16 GB, a mixture of experts of 18 GB", moe, LONG_PROMPT),
        _simulated("flat", "as A, but nothing makes a difference", flat, CHAT),
        _simulated(
            "A, busy", "as A without SMT, a neighbour a third of the time", cpu16, CHAT, _BUSY
        ),
        _simulated("flat, busy", "as flat, with that neighbour", flat, CHAT, _BUSY),
        *map(_recorded, names()),
    )
    return {place.name: place for place in every}
