"""Whether the machine was itself while a test ran, and waiting until it is again."""

from collections.abc import Callable, Mapping

from autotune.llama_cpp.records import Failure, Measurement, Outcome, State
from autotune.tuning import events
from autotune.tuning.clock import Clock
from autotune.tuning.disturbance import disturbance, quiet
from autotune.tuning.objective import Objective, Part
from autotune.tuning.power import PowerLimits
from autotune.tuning.visits import Reading, Visit

# So long is waited for a quiet machine at one time, and so much of the budget in all.
MOST_WAIT_S, MOST_WAIT_SHARE = 60.0, 0.15
_LOOK_EVERY_S = 1.0
# However much is disturbed, no more is reserved for doing it again than this many times itself.
_MOST_REPEATS = 2.5


class Watch:
    """Looks at the machine around each test."""

    def __init__(
        self,
        *,
        observe: Callable[[], State],
        clock: Clock,
        n_cpus: int,
        budget_s: float | None,
        tell: Callable[[events.Event], None],
    ) -> None:
        self.waited_s = 0.0
        self.lost_s = 0.0  # By measuring again, and by waiting for that.
        self._observe = observe
        self._clock = clock
        self._n_cpus = n_cpus
        self._most_s = None if budget_s is None else MOST_WAIT_SHARE * budget_s
        self._tell = tell
        self._since: State = {}
        self._limits = PowerLimits()

    def test_begins(self) -> None:
        """Its warm-up has begun; what is dropped before it ends has no record of its own."""
        self._since = self._observe()

    def disturbed(
        self, visit: Visit, outcomes: Mapping[Part, Outcome], objective: Objective
    ) -> str:
        """What else the machine did during the tests of a visit; "" if nothing."""
        if any(isinstance(outcome, Failure) for outcome in outcomes.values()):
            return ""  # No neighbour makes it fail, and to try again would cost as much.
        for part in visit.parts:
            outcome = outcomes.get(part)
            if isinstance(outcome, Measurement):
                before, after = outcome.run.before, outcome.run.after
            elif outcomes:
                continue  # Dropped by the word of the other part, and never begun.
            else:
                before, after = self._since, self._observe()
            threads = objective.trial(visit.params, part).params.n_threads or self._n_cpus
            held = self._held_back(visit, part, before, after, objective)
            why = disturbance(before, after, n_threads=threads, n_cpus=self._n_cpus) or held
            if why:
                return why
        return ""

    def learn(self, reading: Reading, objective: Objective) -> None:
        """What an earlier session has seen of limits of power is not news to this one."""
        for part in reading.visit.parts:
            measured = reading.measured(part)
            if measured:
                run = measured.run
                self._held_back(reading.visit, part, run.before, run.after, objective)

    def _held_back(
        self, visit: Visit, part: Part, before: State, after: State, objective: Objective
    ) -> str:
        key = objective.key(visit.params, part)
        return self._limits.news(visit.kind, part, key, before, after)

    def repeats(self, elapsed_s: float) -> float:
        """How many times as long measuring takes here as its tests do, by what was seen."""
        if not self.lost_s:
            return 1.0
        return min(elapsed_s / max(elapsed_s - self.lost_s, 1e-9), _MOST_REPEATS)

    def wait_for_quiet(self, why: str, *, enough: Callable[[], bool]) -> None:
        """Wait until nothing else uses the machine, visibly and not for ever."""
        most_s = MOST_WAIT_S
        if self._most_s is not None:
            most_s = min(most_s, self._most_s - self.waited_s)
        waited_s = 0.0
        while waited_s < most_s and why and not enough():
            self._tell(events.Waiting(why=why, for_s=waited_s, at_most_s=most_s))
            before = self._observe()
            self._clock.sleep(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S
            why = quiet(before, self._observe())
        self.waited_s += waited_s
