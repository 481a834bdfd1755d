"""A study as one HTML file, which needs nothing from anywhere to be shown."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from autotune import __version__
from autotune.errors import printable
from autotune.results.report import facts
from autotune.results.report.sections import sections
from autotune.results.report.surroundings import environment
from autotune.results.report.verdict import verdict
from autotune.results.stored import Stored
from autotune.shell import quoted

_HERE = Path(__file__).parent


def page(stored: Stored, *, command: Sequence[str] = ()) -> str:
    """Write the report of a study.

    Args:
        stored: The study, finished or not.
        command: What starts llama.cpp with what was found; empty where that is not known.
    """
    script = _text("copy.js")
    return _template().render(
        model=facts.short(stored.folder.model),
        workload=facts.short(stored.folder.workload),
        verdict=verdict(stored),
        sides=facts.sides(stored),
        sides_caption=facts.sides_caption(stored),
        machines=facts.machines(stored),
        candidate=facts.candidate_name(stored),
        changes=facts.changes(stored),
        command=quoted(command),
        course=facts.course(stored),
        warnings=facts.warnings(stored),
        sections=sections(stored),
        environment=environment(stored),
        rule=(stored.evidence or {}).get("rule", ""),
        style=_text("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    return templates.get_template("template.html")


def _shown(value: object) -> object:
    """A model's name can hold any character; what turns text around or is none is written out."""
    return printable(value) if type(value) is str else value
