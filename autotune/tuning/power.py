"""Which tests at a limit of power were disturbed by it, and which only show how this machine works.

A laptop, or a card whose owner has limited it, is at its limit whenever it works hard. To measure
that again would give the same again. So a limit is a disturbance where it is news: not where the
defaults met it when they were measured first, and not where the same configuration meets it twice.
"""

from autotune.hardware.power_limit import limited
from autotune.llama_cpp.records import State
from autotune.params import Params
from autotune.tuning.objective import Part
from autotune.tuning.visits import Kind


class PowerLimits:
    """What has been at its limit so far."""

    def __init__(self) -> None:
        self._usual: set[str] = set()
        self._met: set[tuple[str, Part, Params]] = set()

    def news(self, kind: Kind, part: Part, key: Params, before: State, after: State) -> str:
        """Say in a short phrase what was held back though it is not always; "" if nothing was.

        Args:
            kind: of the visit.
            part: of the request.
            key: what of the configuration moves that part.
            before: the machine when the test started.
            after: when it had ended.
        """
        held = limited(before, after)
        if kind is Kind.BASELINE:
            self._usual.update(held)
        unusual = [what for what in held if what not in self._usual]
        fresh = [what for what in unusual if (what, part, key) not in self._met]
        self._met.update((what, part, key) for what in unusual)
        return f"{fresh[0]} was held back by its limit of power" if fresh else ""
