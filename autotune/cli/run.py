"""`lcm run --model M`: recommend by rules or by measuring with --optimize, or start llama.cpp."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from autotune.cli.completion import workload_names
from autotune.errors import EXIT_DONE, ConfigError

# What `lcm run --help` leaves to `lcm run --deep --help`: all together would fill two screens.
_MEASURING = frozenset(
    "budget until trials profile objective allow_lossy_kv param seed resume fresh results_dir "
    "llama_bench no_verify storage per_machine quiet json_progress".split()
)
# What that one leaves to the other, or has in its example or in the text of another option.
_NOT_MEASURING = frozenset(
    "arguments mode dry_run config explain optimize deep ctx_size until fresh json_progress "
    "per_machine".split()
)
_DEEP_HELP = """Look for better parameters by measuring; -- ARGS are for llama-bench.

Example: lcm run --model gemma-3-270m.gguf --optimize --deep --budget 10m
"""


class RunCommand(TyperCommand):
    """`lcm run`, whose help speaks of measuring when that is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's, or Typer's copy
        if "--help" in args:
            self._speak_of(measuring="--deep" in args)
        return super().parse_args(ctx, args)

    def _speak_of(self, *, measuring: bool) -> None:
        left_out = _NOT_MEASURING if measuring else _MEASURING
        for parameter in self.params:
            if isinstance(parameter, TyperOption | TyperArgument):
                parameter.hidden = parameter.name in left_out
        if measuring:
            self.help = _DEEP_HELP


class Objective(StrEnum):
    """What is to be fast, or to spare energy."""

    request = "request"
    pp = "pp"
    tg = "tg"
    efficiency = "efficiency"


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
    model: Annotated[Path, typer.Option(metavar="PATH", help="The GGUF file, or any shard.")],
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Print the recommended parameters as JSON.")
    ] = False,
    ctx_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens of context; otherwise what fits.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Print the reason for one parameter instead."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Which program to start; cli by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command instead of starting it.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start with a saved answer of --optimize."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Measure; see lcm run --deep --help.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Measure for at most 10m, 8h; or --until HH:MM."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="HH:MM", help="Measure until then.")] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Search by at most so many, then verify.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The workload: chat, coding-agent, ..., or TOML.",
            autocompletion=workload_names,
        ),
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(metavar="WHAT", help="Make fast: request, pp or tg; or spare: efficiency."),
    ] = None,
    allow_lossy_kv: Annotated[
        str | None,
        typer.Option(metavar="TYPES", help="Also try such a cache: q8_0, or q8_0,q4_0."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUES", help="Fix or narrow one: n_ubatch=512,1024."),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of the search's choices.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after an interrupt; --fresh begins anew."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew.")] = False,
    results_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to keep what is measured.")
    ] = None,
    llama_bench: Annotated[
        str | None, typer.Option(metavar="PATH", help="The llama-bench to measure with.")
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Trust the search; claims nothing.")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL|@FILE", help="Share the study; or --per-machine."),
    ] = None,
    per_machine: Annotated[
        bool,
        typer.Option("--per-machine", help="In the storage, a study of this kind of machine."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Say only what is wrong; or --json-progress."),
    ] = False,
    json_progress: Annotated[
        bool, typer.Option("--json-progress", help="Say it as JSON, an object a line.")
    ] = False,
) -> int:
    """Start llama.cpp with the right parameters for this model, or recommend them.

    \b
    Example: lcm run --model gemma-3-270m.gguf --optimize
    Example: lcm run --model gemma-3-270m.gguf --optimize --deep --budget 10m
    Example: lcm run --model gemma-3-270m.gguf --mode server -- --port 8081
    """  # noqa: D301 - \b keeps the lines of a paragraph apart
    measuring = {
        "--budget": budget,
        "--until": until,
        "--trials": trials,
        "--profile": profile,
        "--objective": objective,
        "--allow-lossy-kv": allow_lossy_kv,
        "--param": param,
        "--seed": seed is not None,
        "--resume": resume,
        "--fresh": fresh,
        "--results-dir": results_dir,
        "--llama-bench": llama_bench,
        "--no-verify": no_verify,
        "--storage": storage,
        "--per-machine": per_machine,
        "--quiet": quiet,
        "--json-progress": json_progress,
    }
    if quiet and json_progress:
        raise ConfigError(
            "--quiet and --json-progress exclude each other", hint="leave one of them out"
        )
    if deep:
        _refuse({"--mode": mode, "--dry-run": dry_run, "--config": config, "--explain": explain})
        if not optimize:
            raise ConfigError("--deep measures for --optimize", hint="give both")
        from autotune.cli.deep import deep as measure  # noqa: PLC0415 - loads Optuna
        from autotune.cli.order import Asked, order_of  # noqa: PLC0415

        return measure(
            *order_of(
                Asked(
                    model=model,
                    n_ctx=ctx_size,
                    budget=budget,
                    until=until,
                    trials=trials,
                    profile=profile,
                    objective=objective.value if objective else None,
                    lossy_types=allow_lossy_kv,
                    parameters=tuple(param or ()),
                    seed=seed or 0,
                    resume=resume,
                    fresh=fresh,
                    results_dir=results_dir,
                    llama_bench=llama_bench,
                    verify=not no_verify,
                    storage=storage,
                    per_machine=per_machine,
                    arguments=tuple(arguments or ()),
                )
            )
        )
    given = [name for name, value in measuring.items() if value]
    if given:
        raise ConfigError(
            f"{', '.join(given)} is for measuring", hint="add --optimize --deep, or leave it out"
        )
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
