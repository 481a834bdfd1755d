"""The circuit breaker: the same failure again and again is not the fault of a configuration."""

from autotune.errors import CouldNotMeasure
from autotune.llama_cpp.records import Failure, FailureKind

# The same failure of so many configurations in a row.
IN_A_ROW = 3


class Breaker:
    """Counts failures that are alike; running out of memory is a configuration's own."""

    def __init__(self) -> None:
        self._alike: list[Failure] = []

    def take(self, failure: Failure | None) -> None:
        """A visit is over, well or with a failure."""
        if failure is None or failure.kind is FailureKind.OOM:
            self._alike.clear()
            return
        said = failure.kind, failure.message
        alike = [f for f in self._alike if (f.kind, f.message) == said]
        self._alike = [*(f for f in alike if f.params != failure.params), failure]

    @property
    def is_open(self) -> bool:
        """It is time to ask whether llama-bench works at all."""
        return len(self._alike) >= IN_A_ROW

    def close(self) -> None:
        """It does: those configurations were at fault after all."""
        self._alike.clear()

    def explained(self) -> CouldNotMeasure:
        """What has happened, for the user."""
        failure, times = self._alike[-1], len(self._alike)
        often = f" {times} times in a row in the same way" if times > 1 else ""
        return could_not_measure(
            f"llama-bench failed{often}, {failure.kind}: {failure.message}; "
            "now llama.cpp's defaults fail too",
            failure,
        )


def could_not_measure(what: str, failure: Failure) -> CouldNotMeasure:
    """The error for the user: what llama-bench said last, and the command to try."""
    return CouldNotMeasure(
        what,
        hint="run that command by hand; `lcm doctor --model M` tries the build",
        details=[*failure.stderr_tail[-3:], f"ran: {' '.join(failure.run.argv)}"],
    )
