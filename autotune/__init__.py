"""The right llama.cpp flags for this machine and this model.

    from autotune import analyze_model, detect_hardware, generate_recommendations

    recommendation = generate_recommendations(detect_hardware(), analyze_model("model.gguf"))

    from autotune import tune

    tuned = tune("model.gguf", budget_s=600)

Each name is imported when it is first used, so that asking for one does not pay for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.hardware import detect_hardware
    from autotune.model import analyze_model
    from autotune.recommend import generate_recommendations
    from autotune.tuning.tune import tune

__version__ = "0.1.0"
__all__ = ["analyze_model", "detect_hardware", "generate_recommendations", "tune"]

_ROOM_OF = {
    "analyze_model": "autotune.model",
    "detect_hardware": "autotune.hardware",
    "generate_recommendations": "autotune.recommend",
    "tune": "autotune.tuning.tune",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the rooms give the types; see TYPE_CHECKING above
    """Import the room that holds `name` (PEP 562)."""
    try:
        room = _ROOM_OF[name]
    except KeyError:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}") from None
    return getattr(import_module(room), name)
