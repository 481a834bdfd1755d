"""Workers on one shared study, each on a machine of its own, in virtual time.

Each is a thread, and only the one whose clock is furthest behind runs: what a worker sees of the
others is what they had done by that moment. So nothing depends on real time, nor on how threads are
scheduled.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from fakes.replay import RecordedMachine
from fakes.tuned import tested_memory
from fakes.weather import VirtualClock
from optuna.storages import InMemoryStorage

from autotune.tuning import events
from autotune.tuning.fleet import FleetSession
from autotune.tuning.study.founding import open_or_create
from autotune.tuning.study.server import Pulse, Server
from autotune.tuning.study.shared import SharedStudy
from autotune.tuning.study.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fakes.virtual import VirtualMachine

    from autotune.params import Params
    from autotune.tuning.confirm import Serves
    from autotune.tuning.session import Plan, Tuned
    from autotune.tuning.visits import Reading

NAME = "lcm-crew"
M = TypeVar("M", bound="VirtualMachine")


class Turns:
    """Lets the one run whose time is the earliest."""

    def __init__(self, n: int) -> None:
        self._at = dict.fromkeys(range(n), 0.0)
        lock = threading.Lock()
        self._turn = [threading.Condition(lock) for _ in range(n)]

    def arrive(self, me: int, at: float) -> None:
        """It is `at` for this one; returns when it is for no other any earlier."""
        with self._turn[me]:
            self._at[me] = at
            self._wake_next()
            self._turn[me].wait_for(lambda: self._next() == me)

    def leave(self, me: int) -> None:
        """This one does nothing more."""
        with self._turn[me]:
            del self._at[me]
            self._wake_next()

    def _next(self) -> int:
        return min(self._at, key=lambda n: (self._at[n], n))

    def _wake_next(self) -> None:
        if self._at:
            self._turn[self._next()].notify()


class TurnClock(VirtualClock):
    """Virtual time that does not pass the others'."""

    def __init__(self, turns: Turns, me: int) -> None:
        super().__init__()
        self._turns = turns
        self._me = me

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._turns.arrive(self._me, self.now())

    def pass_to(self, moment: float) -> None:
        super().pass_to(moment)
        self._turns.arrive(self._me, self.now())


@dataclass
class Hand:
    """One worker, and what was seen of it."""

    machine: VirtualMachine
    tuned: Tuned | None = None
    searched_s: float = 0.0  # When its search was over.
    measured: list[Reading] = field(default_factory=list)  # Here, and not elsewhere.
    searched: list[Reading] = field(default_factory=list)  # Here or elsewhere, as it was learned.
    leads: list[tuple[float, Params]] = field(default_factory=list)  # When it believed in what.
    error: BaseException | None = None

    def take(self, event: events.Event) -> None:
        now = self.machine.clock.now()
        if isinstance(event, events.Measured) and not event.replayed:
            self.measured.append(event.reading)
        elif isinstance(event, events.NewIncumbent):
            self.leads.append((now, event.params))
        elif isinstance(event, events.Stage) and event.name == "verification":
            self.searched_s = now


def crew(
    machines: Sequence[VirtualMachine], plan: Plan, *, serves: Serves | None = None
) -> tuple[list[Hand], Server]:
    """Let them all work on a new study to its end; gives what each saw, and where the study is."""
    turns = Turns(len(machines))
    server = Server(InMemoryStorage(), where="memory", say=lambda _: None, pulse=Pulse())
    open_or_create(server, NAME, {}, seed=plan.seed)
    hands = [Hand(machine) for machine in machines]

    def work(me: int) -> None:
        hand = hands[me]
        machine = hand.machine
        machine.clock = TurnClock(turns, me)
        try:
            machine.clock.sleep(0.01 * me)
            who = Worker(id=f"worker {me}", host=f"host{me}", pid=me)
            study = SharedStudy(server, NAME, plan.space, seed=plan.seed, me=who)
            session = FleetSession(
                plan,
                study=study,
                bench=machine,
                memory=tested_memory(machine, plan.objective),
                clock=machine.clock,
                observe=machine.observe,
                tell=hand.take,
                serves=serves,
            )
            hand.tuned = session.run()
            hand.searched = session.lab.knowledge.readings
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            hand.error = error
        finally:
            turns.leave(me)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hand in hands:
        if hand.error:
            raise hand.error
    return hands, server


def alike(machine: M, nth: int) -> M:
    """Make it the nth of machines that are alike: the same, in another weather."""
    if not isinstance(machine, RecordedMachine):
        machine.weather = replace(machine.weather, seed=1000 * machine.weather.seed + nth)
    return machine
