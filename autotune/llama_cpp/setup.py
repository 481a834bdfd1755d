"""What every program that measures is given: itself, a model, and how it is waited for."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.patience import Patience
from autotune.llama_cpp.plausibility import LEAST_ACTIVE_SHARE
from autotune.llama_cpp.records import State


@dataclass(kw_only=True)
class Setup:
    """One program that measures, and one model.

    `observe` is called at each warm-up and after each record for the machine's state; it must be
    quick, since the next test is already running by then. `meter` tells the joules that the machine
    has used up to now, and is read whenever the program says something.
    """

    program: Program
    capabilities: Capabilities
    model: Path
    patience: Patience = field(default_factory=Patience)
    observe: Callable[[], State] = dict
    meter: Callable[[], float | None] = lambda: None
    metered_s: float = 0.0  # Of a shorter test the meter says nothing.
    extra_arguments: tuple[str, ...] = ()  # Such as --rpc HOST:PORT.
    active_share: float = LEAST_ACTIVE_SHARE  # Of the weights, for one token; 1 without experts.

    def model_bytes(self) -> int:
        """The size of the model's files; 0 where it cannot be read, as the program will say."""
        parts = re.search(r"-00001-of-(\d{5})\.gguf$", self.model.name)
        try:
            return self.model.stat().st_size * (int(parts[1]) if parts else 1)
        except OSError:
            return 0
