"""`lcm results list` and `show`: which studies there are, and what came of one."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from autotune.cli import console
from autotune.cli.answer import SCHEMA_VERSION, EvidenceSection, ShowAnswer, StudySection
from autotune.cli.kept import kept_study
from autotune.llama_cpp.records import Failure
from autotune.params import params_to_json
from autotune.results.profile import environ_with
from autotune.results.served import served
from autotune.results.stored import Stored
from autotune.results.studies import Folder, all_folders, studies_folder, unreadable_folders
from autotune.words import counted, described, digits, failures, quality, ratios

# What a list can be put in order by. The best comes first, and else what was last.
_ORDERS: dict[str, Callable[[Folder], Any]] = {
    "model": lambda folder: folder.model.lower(),
    "machine": lambda folder: folder.machine.lower(),
    "build": lambda folder: folder.build,
    "date": lambda folder: folder.started,
    "gain": lambda folder: (folder.verdict != "better", -(folder.ratio or 0)),
    "state": lambda folder: folder.state,
}
# As llama.cpp prints its version: "0.5.0-dev (build 1, commit 0c1e570)".
_BUILD = re.compile(r"build (\d+), commit (\w+)")


def print_list(sort: str, results_dir: Path | None, *, as_json: bool) -> None:
    """Print the studies, one a row."""
    environ = environ_with(results_dir)
    folders = sorted(all_folders(environ), key=_ORDERS[sort])
    unreadable = [str(path) for path in unreadable_folders(environ)]
    if as_json:
        studies = [study_section(folder) for folder in folders]
        console.answer(
            {"schema_version": SCHEMA_VERSION, "studies": studies, "unreadable": unreadable}
        )
        return
    for path in unreadable:
        console.warning(f"{path} cannot be read: of a later lcm, or damaged")
    if not folders:
        console.note(f"no study in {studies_folder(environ)}; lcm run --optimize --deep makes one")
        return
    rows = [["study", "gain", "state", "machine", "build"]]
    rows += [
        [f.name, gain_in_words(f), f.state, f.machine or "-", short_build(f.build)] for f in folders
    ]
    console.text(console.table(rows, "<<<<<"))


def print_study(name: str, results_dir: Path | None, *, as_json: bool) -> None:
    """Print one study."""
    study = kept_study(name, results_dir)
    if as_json:
        console.answer(_show_answer(study))
    else:
        console.text(console.table(_rows(study), "<<"))


def study_section(folder: Folder) -> StudySection:
    """What a study is of, and what came of it."""
    return {
        "name": folder.name,
        "model": folder.model,
        "workload": folder.workload,
        "purpose": folder.purpose,
        "machine": folder.machine,
        "build": folder.build,
        "started": folder.started,
        "state": folder.state,
        "verdict": folder.verdict,
        "ratio": folder.ratio,
        "low": folder.low,
        "high": folder.high,
        "folder": str(folder.path),
    }


def gain_in_words(folder: Folder) -> str:
    """The interval of the ratio where a gain was shown, and else the verdict."""
    if folder.verdict != "better" or not folder.low or not folder.high:
        return folder.verdict or "-"
    return f"{'-'.join(ratios(folder.low, folder.high))}x"


def short_build(build: str) -> str:
    """A version of llama.cpp in few letters."""
    found = _BUILD.search(build)
    return f"b{found[1]} {found[2]}" if found else build or "-"


def _failures(study: Stored) -> Counter[str]:
    outcomes = [record.outcome for record in study.records]
    return Counter(outcome.kind for outcome in outcomes if isinstance(outcome, Failure))


def _show_answer(study: Stored) -> ShowAnswer:
    profile = study.profile
    return {
        "schema_version": SCHEMA_VERSION,
        "study": study_section(study.folder),
        "trials": len(study.visited),
        "records": len(study.records),
        "failures": dict(_failures(study)),
        "params": params_to_json(profile.params) if profile else None,
        "evidence": cast("EvidenceSection | None", study.evidence),
        "environment": dict(study.environment),
    }


def _rows(study: Stored) -> list[list[str]]:
    """What is known, a label and a text each."""
    folder, profile = study.folder, study.profile
    rows = [
        ["study", folder.name],
        ["model", folder.model],
        ["workload", folder.workload],
        ["machine", folder.machine],
        ["build", folder.build],
        ["started", folder.started],
        ["state", f"{folder.state}, {counted(len(study.visited), 'trial')}"],
        ["failed", failures(_failures(study))],
        *_sides(study),
        ["verdict", _verdict(study)],
        ["served", served(study.evidence or {})],
    ]
    if profile:
        baseline = study.visited[0].trial.params if study.visited else profile.params
        rows.append(["shipped", described(profile.params, baseline)])
    rows.append(["folder", str(folder.path)])
    return [row for row in rows if row[1]]


def _sides(study: Stored) -> list[list[str]]:
    """The defaults and the candidate, as the evidence has them."""
    evidence = study.evidence or {}
    sides = {"defaults": evidence.get("baseline"), "candidate": evidence.get("candidate")}
    return [[name, _rates(side)] for name, side in sides.items() if side]


def _rates(side: dict[str, Any]) -> str:
    units = {
        "pp_tokens_per_s": "pp {} t/s",
        "tg_tokens_per_s": "tg {} t/s",
        "request_s": "{} s",
        "pp_tokens_per_joule": "pp {} t/J",
        "tg_tokens_per_joule": "tg {} t/J",
        "request_j": "{} J",
    }
    said = [text.format(digits(side[key])) for key, text in units.items() if side.get(key)]
    return ", ".join(said)


def _verdict(study: Stored) -> str:
    folder = study.folder
    if not folder.ratio or not folder.low or not folder.high:
        return folder.verdict
    ratio, low, high = ratios(folder.ratio, folder.low, folder.high)
    good = quality(study.objective).good
    return f"{folder.verdict}: {ratio}x as {good} as llama.cpp's defaults ({low} to {high})"
