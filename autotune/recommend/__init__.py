"""Turn a machine and a model into llama.cpp parameters, by rules and without running anything.

    placement   what goes on which GPU, and the context that fits
    rules       threads, batch, load mode: the specification's rules, with exact knowledge over them
    answer      the Recommendation: parameters, reasons, warnings, verdict, memory, context ladder

Pure: everything it knows comes in through its two arguments.
"""

from autotune.recommend.answer import (
    Recommendation,
    Request,
    Rung,
    Verdict,
    context_ladder,
    generate_recommendations,
    judge,
)
from autotune.recommend.rules import Advice, Choice

__all__ = [
    "Advice",
    "Choice",
    "Recommendation",
    "Request",
    "Rung",
    "Verdict",
    "context_ladder",
    "generate_recommendations",
    "judge",
]
