"""`lcm results`: everything that was measured, out again."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import console
from autotune.cli.completion import LATEST, circumstance_names, study_names
from autotune.errors import EXIT_DONE

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Show, export, compare and use what was measured.\n\nExample: lcm results list",
)

StudyName = Annotated[
    str,
    typer.Argument(
        metavar="[STUDY]",
        help="Its name, or how that begins; by default the latest.",
        autocompletion=study_names,
    ),
]
ResultsDir = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where to look for studies.")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")
]


class Sort(StrEnum):
    """What the list can be put in order by."""

    model = "model"
    machine = "machine"
    build = "build"
    date = "date"
    gain = "gain"
    state = "state"


class ExportFormat(StrEnum):
    """What tables can be written as."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"
    llama_bench = "llama-bench"


class Level(StrEnum):
    """What a row is."""

    trial = "trial"
    record = "record"
    sample = "sample"


class ReportFormat(StrEnum):
    """What a report can be."""

    html = "html"
    markdown = "markdown"


class Target(StrEnum):
    """The tools whose configuration can be written."""

    sh = "sh"
    env = "env"
    llama_server_ini = "llama-server-ini"
    llama_swap = "llama-swap"
    ollama = "ollama"
    systemd = "systemd"
    docker_compose = "docker-compose"


@app.callback()
def without_command(context: typer.Context) -> None:
    """Print the help where no command is given."""
    if context.invoked_subcommand is None:
        console.text(context.get_help())


@app.command("list")
def list_(
    *,
    sort: Annotated[Sort, typer.Option(help="What to order it by.")] = Sort.date,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = None,
) -> int:
    """List the studies: gain, state, machine, build and name of each.

    Example: lcm results list --sort gain
    """
    from autotune.cli.listed import print_list  # noqa: PLC0415 - --help does without

    print_list(sort.value, results_dir, as_json=as_json)
    return EXIT_DONE


@app.command()
def show(
    study: StudyName = LATEST,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = None,
) -> int:
    """Show one study: what it is of, and what came of it.

    Example: lcm results show latest
    """
    from autotune.cli.listed import print_study  # noqa: PLC0415

    print_study(study, results_dir, as_json=as_json)
    return EXIT_DONE


@app.command()
def export(
    study: StudyName = LATEST,
    *,
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="What to write.")
    ] = ExportFormat.csv,
    level: Annotated[Level | None, typer.Option(help="What a row is; record by default.")] = None,
    output: Output = None,
    results_dir: ResultsDir = None,
) -> int:
    """Write what was measured as a table; docs/csv.md describes the columns.

    Example: lcm results export --level sample -o samples.csv
    """
    from autotune.cli.exported import export as write  # noqa: PLC0415 - loads pandas
    from autotune.cli.kept import kept_study  # noqa: PLC0415

    kept = kept_study(study, results_dir)
    write(kept, fmt=format_.value, level=level and level.value, output=output)
    return EXIT_DONE


@app.command()
def report(
    study: StudyName = LATEST,
    *,
    format_: Annotated[
        ReportFormat, typer.Option("--format", help="A page to look at, or text to paste.")
    ] = ReportFormat.html,
    output: Output = None,
    results_dir: ResultsDir = None,
) -> int:
    """Write a report: one page that needs no network, or Markdown.

    Example: lcm results report --format markdown
    """
    from autotune.cli.kept import kept_study  # noqa: PLC0415
    from autotune.cli.reported import report as write  # noqa: PLC0415 - loads matplotlib

    write(kept_study(study, results_dir), fmt=format_.value, output=output)
    return EXIT_DONE


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A study, as for lcm results show.", autocompletion=study_names
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="Another.", autocompletion=study_names)
    ],
    *,
    across: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="What may differ, such as build; may be repeated.",
            autocompletion=circumstance_names,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results_dir: ResultsDir = None,
) -> int:
    """Set two studies side by side, if they can be compared.

    Example: lcm results compare gemma-chat-20261101 latest --across build
    """
    from autotune.cli.compared import print_comparison  # noqa: PLC0415

    print_comparison(first, second, tuple(across or ()), results_dir, as_json=as_json)
    return EXIT_DONE


@app.command()
def apply(
    study: StudyName = LATEST,
    *,
    target: Annotated[Target, typer.Option("--for", help="The tool that is to be configured.")],
    results_dir: ResultsDir = None,
) -> int:
    """Print what was found in the format of the tool that needs it.

    Example: lcm results apply latest --for systemd
    """
    from autotune.cli.applied import print_applied  # noqa: PLC0415
    from autotune.cli.kept import host_bytes, kept_study, model_of, shipped  # noqa: PLC0415

    kept = kept_study(study, results_dir)
    print_applied(
        shipped(kept),
        model_of(kept),
        target.value,
        memory_bytes=host_bytes(kept),
        arguments=kept.environment.get("llama_cpp", {}).get("arguments") or (),
    )
    return EXIT_DONE
