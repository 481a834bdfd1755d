"""The profile that was measured for a model, on this machine, under an installed build."""

from pathlib import Path

from autotune.cli import console
from autotune.cli.answer import MeasuredSection
from autotune.errors import AutotuneError, ConfigError, LlamaCppNotFound, SurroundingsError
from autotune.hardware import Hardware
from autotune.llama_cpp.capabilities import build_identity
from autotune.llama_cpp.locate import Program, find_program
from autotune.model import Model
from autotune.params import params_to_json
from autotune.results.profile import Profile, load, profile_path


def stored_profile(
    model: Model, hardware: Hardware, program: Program
) -> tuple[Profile, Path] | None:
    """What `program` is to be started with; None, with a warning: it cannot be used.

    Raises:
        FileNotFoundError: none is stored.
    """
    path = profile_path(model, hardware, build_identity(program))
    try:
        return load(path), path
    except (ConfigError, SurroundingsError) as error:
        _without(error)
        return None


def _without(error: AutotuneError) -> None:
    """Whatever it is for goes on without a profile."""
    console.warning(f"{error.message}; {error.hint}")


def measured_section(model: Model, hardware: Hardware) -> MeasuredSection | None:
    """What `lcm run --model M` would start with, if it was measured."""
    for name in ("llama-server", "llama-cli", "llama-bench"):
        try:
            kept = stored_profile(model, hardware, find_program(name))
        except (LlamaCppNotFound, FileNotFoundError):
            continue
        except (ConfigError, SurroundingsError) as error:  # What the user named is no program.
            _without(error)
            return None
        return _section(*kept) if kept else None
    return None


def _section(profile: Profile, path: Path) -> MeasuredSection:
    return {
        "date": profile.date,
        "build": profile.build,
        "verdict": profile.verdict,
        "ratio": profile.ratio,
        "low": profile.low,
        "high": profile.high,
        "workload": profile.workload,
        "params": params_to_json(profile.params),
        "profile": str(path),
    }
