"""`lcm run --model M`: recommend by rules with --optimize, or else start llama.cpp."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from autotune.errors import EXIT_DONE, ConfigError


class Mode(StrEnum):
    """What can be started."""

    cli = "cli"
    server = "server"


def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- ARGS]", help="For llama.cpp's program itself; they win over ours."
        ),
    ] = None,
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
    mode: Annotated[
        Mode | None,
        typer.Option(help="Without --optimize: which program to start; cli by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command instead of starting it.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start with a saved answer of --optimize."),
    ] = None,
) -> int:
    """Start llama-cli or llama-server with this model's parameters, or recommend them.

    Example: lcm run --model gemma-3-270m.gguf --optimize

    Example: lcm run --model gemma-3-270m.gguf --mode server -- --port 8081
    """
    if optimize or explain is not None:
        _refuse({"--mode": mode, "--dry-run": dry_run, "--config": config, "--": arguments})
        from autotune.cli.recommendation import recommend  # noqa: PLC0415 - --help does without

        recommend(model, ctx_size, explain)
        return EXIT_DONE
    from autotune.cli.start import start  # noqa: PLC0415 - the quick path does without

    target: Literal["cli", "server"] = "server" if mode is Mode.server else "cli"
    return start(
        model,
        target,
        config=config,
        ctx_size=ctx_size,
        dry_run=dry_run,
        given=arguments or [],
    )


def _refuse(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)} and --optimize exclude each other: one starts llama.cpp, the "
            "other only recommends",
            hint="leave one of them out",
        )
