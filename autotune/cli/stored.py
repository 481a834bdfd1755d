"""The profile that was measured for this model, machine and build, beside the rules' answer."""

from autotune.cli import console
from autotune.cli.answer import MeasuredSection
from autotune.errors import ConfigError, LlamaCppNotFound, SurroundingsError
from autotune.hardware import Hardware
from autotune.llama_cpp.capabilities import build_identity
from autotune.llama_cpp.locate import find_program
from autotune.model import Model
from autotune.results.profile import Profile, load, profile_path


def stored_profile(model: Model, hardware: Hardware) -> MeasuredSection | None:
    """What `lcm run --model M` would start with, if it was measured."""
    for name in ("llama-server", "llama-cli", "llama-bench"):
        try:
            program = find_program(name)
            path = profile_path(model, hardware, build_identity(program))
            return _section(load(path), str(path))
        except (LlamaCppNotFound, FileNotFoundError):
            continue
        except (ConfigError, SurroundingsError) as error:
            console.warning(f"{error.message}; {error.hint}")
            return None
    return None


def _section(profile: Profile, path: str) -> MeasuredSection:
    params = {
        name: list(value) if isinstance(value, tuple) else value
        for name in profile.params.__slots__
        if (value := getattr(profile.params, name)) is not None
    }
    return {
        "date": profile.date,
        "build": profile.build,
        "verdict": profile.verdict,
        "ratio": profile.ratio,
        "low": profile.low,
        "high": profile.high,
        "workload": profile.workload,
        "params": params,
        "profile": path,
    }
