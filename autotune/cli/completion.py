"""What could be typed next: asked by the shell at each Tab, so it looks at names alone."""

import contextlib

LATEST = "latest"  # As `results.studies` has it, which --help does without.


def workload_names(incomplete: str) -> list[str]:
    """Presets of `--profile` that begin so."""
    from autotune.tuning.workload import preset_names  # noqa: PLC0415 - --help does without

    return [name for name in preset_names() if name.startswith(incomplete)]


def study_names(incomplete: str) -> list[str]:
    """Folders of studies, and what stands for the latest, that begin so."""
    from autotune.results.profile import results_folder  # noqa: PLC0415 - --help does without

    with contextlib.suppress(OSError):  # None was made yet.
        folders = sorted(folder.name for folder in (results_folder() / "studies").iterdir())
        names = [*folders, LATEST] if folders else []
        return [name for name in names if name.startswith(incomplete)]
    return []


def circumstance_names(incomplete: str) -> list[str]:
    """Keys of `--across` that begin so."""
    from autotune.results.changes import KEYS  # noqa: PLC0415 - --help does without

    return [key for key in KEYS if key.startswith(incomplete)]
