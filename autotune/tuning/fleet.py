"""One of many workers on a shared study.

Every worker runs the same search, which is a function of what was measured. What it asks for is
answered from the record where anybody has measured it, and measured here where nobody is at it: all
visits that share a load, in one go. Where others are at all of it, a worker looks ahead: it goes
through the search once more, takes what is not known yet for a little slower than llama.cpp's
defaults, which is what most of it turns out to be, and measures the first thing that nobody is at.
Where the guess was right, that is what the search asks for next, and it is there already.

The verification is each worker's own: it says whether the winner holds on that machine.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from autotune.errors import AutotuneError, CouldNotMeasure
from autotune.llama_cpp import grids
from autotune.llama_cpp.records import Measurement, Outcome
from autotune.params import Params, params_to_json
from autotune.tuning import events
from autotune.tuning.job import Lost
from autotune.tuning.knowledge import Knowledge
from autotune.tuning.lab import STILL_WELL, Lab, TimeIsUp, measured_by
from autotune.tuning.objective import Part
from autotune.tuning.session import Plan, Session, Tuned
from autotune.tuning.study import SharedStudy, Ticket
from autotune.tuning.study.shared import Slot
from autotune.tuning.study.workers import Holding
from autotune.tuning.verify import Verification
from autotune.tuning.visits import DECIDING, Kind, Reading, Visit

# How often a worker that has nothing to do looks whether that has changed.
_LOOK_EVERY_S = 0.5
_NOT_WORTH_A_WORD_S = 5.0
_LONGEST_WAIT_S = 3600.0  # Where nothing else bounds it, so long is said.
_WHY = "other workers measure what comes next"
# What is not known yet is taken to be so many times as slow as llama.cpp's defaults.
_WORSE = 1.05
_ASSUMED = -1  # The number of what was not measured.


class _Ahead(Exception):
    """What was ahead of the search is done."""


class FleetLab(Lab):
    """Measures what nobody else does, and is answered the rest."""

    proposals_at_once = 8  # Or each would have to wait for the one before.

    def __init__(self, *, study: SharedStudy, **rest: Any) -> None:  # noqa: ANN401 - as `Lab` has it
        self._rest = {**rest, "memory": copy.deepcopy(rest["memory"])}
        super().__init__(study=study, **rest)
        self._shared = study
        self._asked: Counter[Visit] = Counter()
        self._claimed: list[tuple[Visit, Ticket]] = []
        self._told: set[int] = set()  # Numbers of what was measured here.
        self._waited_s = 0.0
        self._looked_ahead_of: object = None
        self._ahead: FleetLab | None = None
        self._is_ahead = False
        # Goes through the whole search in another lab.
        self.rehearse: Callable[[Lab], None] = lambda _: None

    def hurry(self, seconds: float) -> None:
        """End what is running; what follows has so many seconds. Safe in a signal handler."""
        super().hurry(seconds)
        self._shared.hurry(seconds)
        if self._ahead:
            self._ahead.hurry(seconds)

    def _once(self, visits: Sequence[Visit], repetitions: int, lost: Lost | None) -> list[Reading]:
        slots = self._slots(visits)
        while self._unanswered(slots):  # By what was seen last: an answer stays what it is.
            self._shared.look()
            open_ = self._unanswered(slots)
            mine = self._claim(open_, repetitions)
            if mine:
                self._measure(mine, repetitions, lost)
            elif open_ and self._is_ahead:
                break
            elif open_:
                self._wait(visits)
        self._waited_s = 0.0
        self._asked.update(visits)
        readings = [self._shared.answer(slot) or self._assumed(slot.visit) for slot in slots]
        # Its own time is that of the session which has measured it.
        readings = [replace(reading, elapsed_s=self.elapsed_s) for reading in readings]
        for reading in readings:
            self._take(reading)
        return readings

    def _unanswered(self, slots: Sequence[Slot]) -> list[Slot]:
        return [slot for slot in slots if self._shared.answer(slot) is None]

    def _slots(self, visits: Sequence[Visit]) -> list[Slot]:
        asked = Counter(self._asked)
        slots = []
        for visit in visits:
            is_own = visit.kind in DECIDING or visit.source == STILL_WELL
            slots.append(self._shared.slot(visit, asked[visit], own=is_own))
            asked[visit] += 1
        return slots

    def _claim(self, slots: Sequence[Slot], repetitions: int) -> list[Visit]:
        """The first load whose visits nobody is at, as many of them as are ours then."""
        groups: dict[Params, list[Slot]] = {}
        for slot in slots:
            groups.setdefault(self._load_of(slot.visit), []).append(slot)
        for group in groups.values():
            if not all(map(self._shared.is_free, group)):
                continue
            self._check_time([slot.visit for slot in group], repetitions)
            for slot in group:
                ticket = self._shared.claim(slot)
                if ticket is None:
                    break
                self._claimed.append((slot.visit, ticket))
            if self._claimed:
                return [visit for visit, _ in self._claimed]
        return []

    def _load_of(self, visit: Visit) -> Params:
        trial = self.knowledge.objective.trial(visit.params, visit.parts[0])
        return grids.model_params(trial.params)

    def _measure(self, mine: Sequence[Visit], repetitions: int, lost: Lost | None) -> None:
        try:
            measured = self._measured(mine, repetitions, lost)
        finally:
            for _, ticket in self._claimed:  # What was never begun.
                self._shared.give_up(ticket, "interrupted")
            self._claimed.clear()
        if None in measured:
            raise TimeIsUp
        if self._is_ahead:
            raise _Ahead

    def begin(self, visit: Visit) -> Ticket:
        """Note in the study that a visit is being measured: it was claimed for that."""
        for n, (claimed, ticket) in enumerate(self._claimed):
            if claimed == visit:
                del self._claimed[n]
                return ticket
        return super().begin(visit)

    def _keep(self, ticket: Ticket, reading: Reading) -> None:
        """It is learned when the search is answered it, as by every other worker."""
        known = self._known_with(reading)
        self._told.add(reading.number)
        self._shared.tell(ticket, reading, known.cost(reading.visit.params))
        self.tell(measured_by(known, reading, replayed=False))
        self._breaker.take(reading.failure)

    def _known_with(self, reading: Reading) -> Knowledge:
        """What is known with a reading; what a rehearsal takes for granted is not."""
        known = Knowledge(self.knowledge.objective)
        for one in (*self.knowledge.readings, reading.bare()):
            if one.number != _ASSUMED:
                known.add(one)
        return known

    def _take(self, reading: Reading) -> None:
        """Learn what anybody has measured."""
        self._learn(reading)
        if reading.number != _ASSUMED:  # Machines that are alike have the same limits of power.
            self.watch.learn(reading, self.knowledge.objective)
        if reading.number not in self._told:
            self.tell(measured_by(self.knowledge, reading, replayed=True, elsewhere=True))

    def _calm_down(self, disturbed: Reading) -> None:
        if disturbed.number in self._told and not self._is_ahead:  # Else another was busy.
            self.watch.wait_for_quiet(disturbed.disturbed, enough=lambda: self._hurried)

    # --- while others measure --------------------------------------------------------------------

    def _wait(self, visits: Sequence[Visit]) -> None:
        # Without the defaults there is no answer at all, whoever measures them.
        is_patient = visits[0].kind is Kind.BASELINE and not self._hurried
        if self._hurried or (self.left_s() <= 0 and not is_patient):
            raise TimeIsUp
        if visits[0].kind not in DECIDING and self._has_worked_ahead():
            self._waited_s = 0.0
            return
        self._clock.sleep(_LOOK_EVERY_S)
        self._waited_s += _LOOK_EVERY_S
        if self._waited_s > _NOT_WORTH_A_WORD_S:
            at_most_s = min(self.left_s(), _LONGEST_WAIT_S)
            self.tell(events.Waiting(why=_WHY, for_s=self._waited_s, at_most_s=at_most_s))

    def _has_worked_ahead(self) -> bool:
        """Measure what the search will probably ask for, if there is anything."""
        if self._looked_ahead_of == self._shared.version or not self.knowledge.readings:
            return False
        self._looked_ahead_of = self._shared.version
        ahead = self._one_step_ahead()
        self._ahead = ahead
        try:
            self.rehearse(ahead)
        except _Ahead:
            return True
        except CouldNotMeasure:
            return False
        finally:
            self._ahead = None
        return False

    def _one_step_ahead(self) -> "FleetLab":
        """A lab for a rehearsal: nothing is known in it, and the time is the same."""
        nothing: dict[str, Any] = {
            "knowledge": Knowledge(self.knowledge.objective),
            "memory": copy.deepcopy(self._rest["memory"]),
            "tell": self._tell_of_measuring,
        }
        ahead = FleetLab(study=self._shared, **{**self._rest, **nothing})
        ahead._began = self._began
        ahead.kept_s = self.kept_s
        ahead._told = self._told
        ahead._breaker = self._breaker
        ahead._is_ahead = True
        return ahead

    def _tell_of_measuring(self, event: events.Event) -> None:
        """Of a rehearsal nothing is true but what was measured in it."""
        is_true = isinstance(event, events.Measuring | events.Recorded)
        if is_true or (isinstance(event, events.Measured) and not event.replayed):
            self.tell(event)

    def _assumed(self, visit: Visit) -> Reading:
        """What was measured before comes out as it did; what is new, a little worse than the rest.

        Raises:
            TimeIsUp: nothing was measured that could be gone by.
        """
        outcomes: dict[Part, Outcome] = {}
        for part in visit.parts:
            outcome = self._guessed(visit.params, part)
            if outcome is None:
                raise TimeIsUp
            outcomes[part] = outcome
        return Reading(
            visit=visit,
            outcomes=outcomes,
            disturbed="",
            elapsed_s=self.elapsed_s,
            number=_ASSUMED,
        )

    def _guessed(self, params: Params, part: Part) -> Measurement | None:
        key = self.knowledge.objective.key
        known = [(r.visit.params, m) for r in self.knowledge.readings if (m := r.measured(part))]
        same = (m for p, m in known if key(p, part) == key(params, part))
        found = next(same, None)
        if found is None and known:
            _, first = known[0]
            slower = tuple(round(_WORSE * ns) for ns in first.samples_ns)
            found = replace(first, samples_ns=slower)
        return found


class FleetSession(Session):
    """A worker's session: the search is everybody's, the verification its own."""

    lab_class = FleetLab

    def __init__(self, plan: Plan, *, study: SharedStudy, **rest: Any) -> None:  # noqa: ANN401 - as `Session` has it
        super().__init__(plan, study=study, **rest)
        self._shared = study
        if isinstance(self.lab, FleetLab):
            self.lab.rehearse = lambda lab: self.search_in(lab).run()

    def run(self) -> Tuned:
        """Search with the others, and verify here what they have come to.

        Raises:
            CouldNotMeasure: nothing was measured that an answer could rest on.
        """
        try:
            return self._told(super().run())
        except CouldNotMeasure:
            self._shared.withdraw()
            self._shared.now("failed")
            raise
        except (AutotuneError, KeyboardInterrupt):
            with contextlib.suppress(AutotuneError):
                self._shared.now("interrupted")
            raise
        finally:
            self._shared.leave()

    def _verified(self) -> Verification:
        shared, known = self._shared, self.lab.knowledge.readings
        winner = shared.agree_on(self.search.incumbent, len(known))
        if self.plan.space.holds(winner) and self.lab.memory.fits(winner):
            self.search.adopt(winner)
        shared.now("verifying")
        return super()._verified()

    def _told(self, tuned: Tuned) -> Tuned:
        """What the others are told when all is over, also the word of a real server."""
        state = "interrupted" if tuned.hurried else "finished"
        self._shared.now(state, _holding(tuned.verification))
        self._shared.look()
        return tuned

    def _candidates(self) -> list[Params]:
        """The winner, and no rival beside it: every machine is to speak of the same."""
        return super()._candidates()[:1]


def _holding(verification: Verification) -> Holding | None:
    if verification.candidate is None:
        return None
    seen = verification.comparison
    return Holding(
        params=params_to_json(verification.candidate),
        verdict=verification.verdict,
        ratio=seen.ratio if seen else None,
        low=seen.low if seen else None,
        high=seen.high if seen else None,
    )
