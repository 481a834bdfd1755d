"""What could be typed next: asked by the shell at each Tab, so it looks at names alone."""

import contextlib


def workload_names(incomplete: str) -> list[str]:
    """Presets of `--profile` that begin so."""
    from autotune.tuning.workload import preset_names  # noqa: PLC0415 - --help does without

    return [name for name in preset_names() if name.startswith(incomplete)]


def study_names(incomplete: str) -> list[str]:
    """Folders of studies that begin so."""
    from autotune.results.profile import results_folder  # noqa: PLC0415 - --help does without

    with contextlib.suppress(OSError):  # None was made yet.
        folders = (results_folder() / "studies").iterdir()
        return sorted(folder.name for folder in folders if folder.name.startswith(incomplete))
    return []
