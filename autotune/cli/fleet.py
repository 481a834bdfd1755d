"""`lcm fleet`: many machines on one study."""

from typing import Annotated

import typer

from autotune.cli import console
from autotune.errors import EXIT_DONE

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Look after studies that many machines share.\n\nExample: lcm fleet status",
)


@app.callback()
def fleet(context: typer.Context) -> None:
    """Print the help where nothing else is asked."""
    if context.invoked_subcommand is None:
        console.text(context.get_help())


@app.command()
def status(
    *,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL|@FILE", help="The database; otherwise LCM_STORAGE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say who does what: studies, workers, the best so far, where it holds.

    Example: lcm fleet status --storage postgresql://lcm@db.example/lcm
    """
    from autotune.cli.standing import print_status  # noqa: PLC0415 - loads Optuna

    print_status(storage, as_json=as_json)
    return EXIT_DONE
