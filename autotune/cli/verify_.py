"""`lcm verify M`: whether a stored profile still holds."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    *,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The GGUF file; of a split model, any shard.")
    ],
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="At most 90s, 5m; otherwise 2m, or two rounds."),
    ] = None,
    results_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the profile and studies are.")
    ] = None,
    llama_bench: Annotated[
        str | None, typer.Option(metavar="PATH", help="The llama-bench to measure with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what is wrong.")] = False,  # noqa: ARG001 - `main` has read it already
) -> int:
    """Measure the stored profile against llama.cpp's defaults: is it still better?

    Exits with 0 where it is, with 1 where that is not shown; names what has changed since.

    Example: lcm verify gemma-3-270m.gguf
    """
    from autotune.cli.verifying import Asked, verify_profile  # noqa: PLC0415 - loads Optuna

    return verify_profile(
        Asked(
            model=model,
            budget=budget,
            results_dir=results_dir,
            llama_bench=llama_bench,
            as_json=as_json,
        )
    )
