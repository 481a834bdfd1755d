"""The commands together, and the one place where an error becomes an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autotune import __version__
from autotune.cli import console
from autotune.cli.console import Voice
from autotune.cli.doctor import doctor
from autotune.cli.fleet import app as fleet
from autotune.cli.inspect_ import inspect
from autotune.cli.results import app as results
from autotune.cli.run import RunCommand, run
from autotune.cli.verify_ import verify
from autotune.errors import EXIT_BUG, EXIT_DONE, AutotuneError, ConfigError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count it
# Set by the shell's script for completion, which runs `lcm` to ask what could come next.
_COMPLETION = "_LCM_COMPLETE"
_VOICES = {"--json-progress": Voice.PROGRAMS, "--quiet": Voice.NOBODY}

# Typer carries its own copy of click from 0.26 on: its error is reached through what Typer exports.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


class Lcm(TyperGroup):
    """`lcm`, in both spellings; a shell's completion asks here too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's, or Typer's copy
        return super().parse_args(ctx, _specified_spelling(args))


app = typer.Typer(
    cls=Lcm,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich costs 75 ms.
)
app.command(cls=RunCommand, short_help="Recommend llama.cpp's parameters, or start it with them.")(
    run
)
app.command()(inspect)
app.command(short_help="Say what is here, what is missing and how to get it.")(doctor)
app.command(short_help="Say whether a stored profile is still better.")(verify)
app.add_typer(results, name="results")
app.add_typer(fleet, name="fleet")


def _print_version(asked: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if asked:
        console.text(f"lcm-autotune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """The right llama.cpp flags for this machine and this model.

    Example: lcm --run --model gemma-3-270m.gguf --optimize
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lcm` and return its exit code; a wrong command line, a missing model, a bug included."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with console.speaking(_voice(given)):
        return _exit_code(given)


def _voice(given: list[str]) -> Voice:
    """Known before anything is read that could be wrong: programs are told of errors too."""
    own = given[: _own_end(given)]
    return next((voice for option, voice in _VOICES.items() if option in own), Voice.PEOPLE)


def _exit_code(given: list[str]) -> int:
    try:
        return _run(given)
    except AutotuneError as error:
        console.error(error.message, error.hint, error.details, exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        console.error(
            "interrupted",
            "nothing was changed; run the same command again",
            exit_code=EXIT_INTERRUPTED,
        )
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        console.discard_stdout()
        return EXIT_DONE
    except Exception as error:
        if "LCM_DEBUG" in os.environ:
            raise
        console.error(
            f"this is a bug in lcm {__version__}: {type(error).__name__}: {error}",
            "set LCM_DEBUG=1 to see the traceback, and report it with the command you ran",
            exit_code=EXIT_BUG,
        )
        return EXIT_BUG


def _run(given: list[str]) -> int:
    try:
        result = app(given or ["--help"], prog_name="lcm", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # A closed pipe shows here, not in the interpreter's last moments.
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as end:
        if end.code and _COMPLETION not in os.environ:  # What Typer makes of a closed pipe.
            raise BrokenPipeError from None
        return int(end.code or EXIT_DONE)  # A shell was told what it asked for.
    except _CommandLineError as error:
        message = getattr(error, "format_message", error.__str__)()
        raise ConfigError(_sentence(message), hint="see lcm --help") from None
    if result == EXIT_INTERRUPTED:  # What Typer makes of SIGINT.
        raise KeyboardInterrupt
    return result if isinstance(result, int) else EXIT_DONE


def _sentence(message: str) -> str:
    """Click's messages in the form of ours."""
    return message.rstrip(".")[:1].lower() + message.rstrip(".")[1:]


def _own_end(given: list[str]) -> int:
    """Where what is for llama.cpp begins."""
    return given.index("--") if "--" in given else len(given)


def _specified_spelling(given: list[str]) -> list[str]:
    """`lcm --run --model M` means `lcm run --model M`, wherever `--run` stands."""
    end = _own_end(given)
    if "--run" not in given[:end]:
        return given
    return ["run", *(argument for argument in given[:end] if argument != "--run"), *given[end:]]
