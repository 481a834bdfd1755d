"""A study that is named on the command line, whatever format it is kept in."""

from pathlib import Path

from autotune.cli import console
from autotune.errors import ConfigError
from autotune.llama_cpp.records import Measurement
from autotune.results.profile import Profile, environ_with
from autotune.results.stored import Stored, read_study, stored
from autotune.results.studies import Folder, find_study
from autotune.words import counted


def kept_study(name: str, results_dir: Path | None) -> Stored:
    """Read a study.

    Raises:
        ConfigError: there is none, or several begin with that name.
        SurroundingsError: it cannot be read.
    """
    folder = find_study(name, environ_with(results_dir))
    try:
        study = read_study(folder)
    except FileNotFoundError:
        study = _of_format_1(folder)
    if study.damaged:
        lines = counted(study.damaged, "line")
        console.warning(f"{folder.journal}: {lines} cannot be read and stand nowhere else")
    return study


def _of_format_1(folder: Folder) -> Stored:
    """Everything stands in the Optuna study; without one, nothing was measured yet."""
    if not folder.database.exists():
        return stored(folder, ())
    from autotune.cli.keeping import entries_of  # noqa: PLC0415 - knows the tuning room
    from autotune.tuning.study import Study  # noqa: PLC0415 - loads Optuna

    kept = Study.kept(folder.database)
    entries = [entry for reading, seconds in kept for entry in entries_of(reading, seconds)]
    return stored(folder, entries)


def shipped(study: Stored) -> Profile:
    """What a study has found to be used.

    Raises:
        ConfigError: it has measured nothing yet.
    """
    if study.profile is None:
        raise ConfigError(
            f"{study.folder.name} has found nothing to be used",
            hint="lcm results list shows what each study came to",
        )
    return study.profile


def model_of(study: Stored) -> Path:
    """The file that was measured, by the study's own word or by llama-bench's.

    Raises:
        ConfigError: neither says it.
    """
    said = study.environment.get("model", {}).get("path")
    measured = (record.outcome for record in study.records)
    printed = (one.record.get("model_filename") for one in measured if isinstance(one, Measurement))
    path = said or next(filter(None, printed), None)
    if not isinstance(path, str) or "\0" in path:
        raise ConfigError(
            f"{study.folder.name} does not say which file it measured",
            hint="it has measured nothing yet; lcm results list shows the others",
        )
    return Path(path)


def host_bytes(study: Stored) -> int | None:
    """What the shipped configuration takes of the host's memory; None: it is not known."""
    evidence = study.evidence or {}
    side = evidence.get("candidate" if evidence.get("winner") else "baseline") or {}
    host = side.get("memory", {}).get("host", {})
    return sum(n for key, n in host.items() if key.endswith("_bytes")) or None
