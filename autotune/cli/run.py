"""`lcm run --model M --optimize`: recommend at once, by rules."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import console
from autotune.errors import ConfigError
from autotune.recommend import Recommendation, Request


def run(
    *,
    model: Annotated[
        Path, typer.Option(metavar="PATH", help="The GGUF file; of a split model, any shard.")
    ],
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Print the recommended parameters as JSON.")
    ] = False,
    ctx_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of context; otherwise what fits.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Print the reason and evidence for one parameter instead."
        ),
    ] = None,
) -> None:
    """Recommend llama.cpp parameters, without running the model.

    Example: lcm run --model gemma-3-270m.gguf --optimize
    """
    if not optimize and explain is None:
        raise ConfigError(
            "lcm run can only recommend so far: it does not start llama.cpp yet",
            hint="add --optimize; `command` in its answer is ready to be started",
        )
    from autotune.cli.compose import run_answer  # noqa: PLC0415 - --help does not pay for it
    from autotune.hardware import detect_hardware, storage_of  # noqa: PLC0415
    from autotune.model import analyze_model  # noqa: PLC0415
    from autotune.recommend import generate_recommendations  # noqa: PLC0415

    analyzed = analyze_model(model)
    hardware, storage = detect_hardware(), storage_of(model)
    for note in hardware.notes:
        console.warning(note)
    recommendation = generate_recommendations(
        hardware, analyzed, storage=storage, request=Request(n_ctx=ctx_size)
    )
    if explain is not None:
        console.text(_explained(recommendation, explain))
    else:
        console.answer(run_answer(hardware, storage, analyzed, recommendation))


def _explained(recommendation: Recommendation, key: str) -> str:
    """One parameter's value, reason and evidence."""
    wanted = "--" + key.strip("-").replace("_", "-")
    for choice in recommendation.choices:
        if choice.key == wanted:
            value = console.shown(choice.value)
            evidence = "".join(f"\n  - {line}" for line in choice.evidence)
            return f"{choice.key} {value}\n{choice.reason}{evidence}"
    keys = ", ".join(choice.key.strip("-") for choice in recommendation.choices)
    raise ConfigError(f"there is no recommended parameter {key!r}", hint=f"one of: {keys}")
