"""`lcm results report`: a study as a page to look at, or as text to paste."""

import contextlib
import os
from pathlib import Path

from autotune.cli import console
from autotune.cli.kept import model_of, shipped
from autotune.cli.output import replaced, write_file
from autotune.errors import ConfigError
from autotune.llama_cpp.capabilities import cache_folder
from autotune.llama_cpp.launch import launch
from autotune.results.report.markdown import markdown
from autotune.results.stored import Stored


def report(stored: Stored, *, fmt: str, output: Path | None) -> None:
    """Write a report of a study.

    Args:
        stored: The study, finished or not.
        fmt: "html" or "markdown".
        output: The file; None: Markdown goes to stdout, a page into the study's folder.

    Raises:
        SurroundingsError: the file cannot be written.
    """
    text = _text(stored, fmt)
    if output is not None:
        write_file(output, text)
    elif fmt == "markdown":
        console.text(text.rstrip("\n"))
    else:
        path = stored.folder.path / "report.html"
        replaced(path, text)  # Never what a link of that name leads to.
        console.path(str(path))


def _text(stored: Stored, fmt: str) -> str:
    command = _command(stored)
    if fmt == "markdown":
        return markdown(stored, command=command)
    # Matplotlib makes a folder of its own, and keeps a list of fonts in it.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder(os.environ).parent / "matplotlib"))
    from autotune.results.report.page import page  # noqa: PLC0415 - loads matplotlib

    return page(stored, command=command)


def _command(stored: Stored) -> tuple[str, ...]:
    """What starts a server with what was found; nothing before anything was measured."""
    with contextlib.suppress(ConfigError):
        return launch("server", model_of(stored), shipped(stored).params).argv
    return ()
