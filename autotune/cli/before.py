"""What is still known of how a profile was measured: its circumstances, and its request."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.cli import console
from autotune.cli.circumstances import request_of
from autotune.cli.order import DEFAULT_WORKLOAD
from autotune.errors import AutotuneError, ConfigError
from autotune.results.profile import Profile
from autotune.results.stored import environment_of
from autotune.results.studies import read_folder, studies_folder
from autotune.tuning.workload import Workload, load_workload


def circumstances_of(profile: Profile, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Those of its study, which may have been moved with all results; empty where it is gone."""
    named = Path(profile.study)
    for folder in (named, studies_folder(environ) / named.name) if named.name else ():
        with contextlib.suppress(AutotuneError):
            return environment_of(read_folder(folder))
    return {}


def workload_of(profile: Profile, then: Mapping[str, Any]) -> Workload:
    """The request that a profile is for.

    As it was measured: a workload's file may have been changed since, and `--objective` and
    `--param` stand in none. Where its study is gone, the one of that name, and else the default.

    Args:
        profile: the profile.
        then: the circumstances of its study.
    """
    kept = request_of(then)
    if kept:
        return kept
    with contextlib.suppress(ConfigError):
        workload = load_workload(profile.workload)
        spares = profile.objective == "efficiency"  # What a file says otherwise may be of today.
        return replace(workload, objective="efficiency") if spares else workload
    console.warning(
        f"the request that the profile is for, {profile.workload or 'without a name'}, is not "
        f"known any more: it is verified for {DEFAULT_WORKLOAD}"
    )
    return load_workload(DEFAULT_WORKLOAD)
