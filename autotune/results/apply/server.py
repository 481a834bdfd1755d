"""llama-server itself: as a command, by its variables, by its preset file."""

import shlex
from collections.abc import Mapping

from autotune.llama_cpp.capabilities import Capabilities
from autotune.results.apply.setup import Applied, Option, Setup, comment, options
from autotune.results.apply.text import holding, variable
from autotune.shell import quoted

_MEMLOCK = (
    "The weights are locked into memory; `ulimit -l` must allow it, where llama-server starts."
)
# Variables of today's llama-server that are not named after their flags; "": it has none.
# test_apply.py holds this, and the rule in `_todays_variable`, against a recorded help text.
_ODD_VARIABLES: Mapping[str, str] = {
    "--batch-size": "LLAMA_ARG_BATCH",
    "--ubatch-size": "LLAMA_ARG_UBATCH",
    "--parallel": "LLAMA_ARG_N_PARALLEL",
    "--threads-batch": "",
    "--no-op-offload": "",
}


def shell(setup: Setup) -> Applied:
    """A command for a POSIX shell, to the byte."""
    launch = setup.launch
    join = quoted if setup.is_shown else shlex.join
    program = join(setup.starts_with)
    arguments = [join(option.words) for option in options(launch, setup.program)]
    use = [*memlock_note(setup), "Use: paste it, or save it to FILE and run: sh FILE"]
    above = comment(setup, "#", use, dialect=launch.dialect, unsaid=launch.unsupported)
    text = above + " \\\n  ".join([program, *arguments]) + "\n"
    return Applied(text=text, unsaid=launch.unsupported)


def env_file(setup: Setup) -> Applied:
    """`LLAMA_ARG_*`, in what systemd, a shell and Docker read alike.

    Raises:
        ConfigError: a value has a line break or is no text.
    """
    launch = setup.launch
    lines, unsaid, quoted = [], [*setup.unbound, *launch.unsupported], False
    for option in options(launch, setup.program):
        name, value = _variable(option, setup.capabilities)
        if name:
            written = variable(holding(value, "env"))
            quoted = quoted or written != value
            lines.append(f"{name}={written}\n")
        elif not _follows(option, setup):
            unsaid.append(f"{shlex.join(option.words)} has no variable; give it to llama-server")
    above = comment(
        setup,
        "#",
        [*memlock_note(setup), *_reading(quoted=quoted)],
        dialect=launch.dialect,
        unsaid=unsaid,
    )
    return Applied(text=above + "".join(lines), unsaid=tuple(unsaid))


def _follows(option: Option, setup: Setup) -> bool:
    """It is so without being said: llama.cpp takes --threads for both."""
    params = setup.params
    return option.flag == "--threads-batch" and params.n_threads_batch == params.n_threads


def _reading(*, quoted: bool) -> list[str]:
    use = ["Use: EnvironmentFile=FILE in a systemd unit, or: set -a; . ./FILE; llama-server"]
    if quoted:
        return [*use, "docker run --env-file FILE keeps the quotes: it needs the values without."]
    return [*use, "Or: docker run --env-file FILE, with the model at the same path."]


def _variable(option: Option, capabilities: Capabilities | None) -> tuple[str, str]:
    """The variable that says the same as a flag, and its value; "": there is none."""
    flag = option.flag
    if capabilities is None:
        name = _todays_variable(flag)
        turned = flag.startswith("--no-")
    else:
        name = capabilities.variables.get(flag, "")
        # --no-repack is 0 of --repack where both are one setting, and a switch of its own before.
        turned = flag.replace("--no-", "--", 1) in set(capabilities.same_setting(flag)) - {flag}
    if option.value is not None:
        return name, option.value
    return name, "0" if turned else "1"


def _todays_variable(flag: str) -> str:
    words = flag.removeprefix("--").removeprefix("no-")
    return _ODD_VARIABLES.get(flag, "LLAMA_ARG_" + words.upper().replace("-", "_"))


def preset_ini(setup: Setup) -> Applied:
    """A section for `llama-server --models-preset`.

    Raises:
        ConfigError: a value has what ends a value there: a line break, # or ;.
    """
    launch = setup.launch
    lines = []
    for option in options(launch, setup.program):
        value = "true" if option.value is None else option.value
        edges = "" if value == value.strip() else " "  # They would be taken off.
        value = holding(value, "llama-server-ini", forbidden="#;" + edges)
        lines.append(f"{option.flag.removeprefix('--')} = {value}\n")
    unsaid = [*setup.unbound, *launch.unsupported, *_without_presets(setup.capabilities)]
    use = [
        *memlock_note(setup),
        f'Use: llama-server --models-preset FILE, then ask it for "model": "{setup.name}"',
    ]
    above = comment(setup, ";", use, dialect=launch.dialect, unsaid=unsaid)
    text = f"{above}version = 1\n\n[{setup.name}]\n" + "".join(lines)
    return Applied(text=text, unsaid=tuple(unsaid))


def _without_presets(capabilities: Capabilities | None) -> list[str]:
    if capabilities is None or capabilities.has("--models-preset"):
        return []
    return ["this llama-server has no --models-preset; a llama.cpp of 2026 has"]


def memlock_note(setup: Setup) -> list[str]:
    """What the weights in locked memory need of the place where llama-server starts."""
    return [_MEMLOCK] if setup.locked else []
