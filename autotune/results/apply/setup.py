"""What is put to use and where, as every format takes it, and the comment that stands above."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autotune.errors import printable
from autotune.llama_cpp import numactl
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.launch import Launch, launch_of
from autotune.llama_cpp.locate import Program
from autotune.params import Params
from autotune.results.profile import Profile
from autotune.words import THE_DEFAULTS, quality, ratios

_LONGEST_NAME = 60


class Option(NamedTuple):
    """A long flag with its value; None: a switch."""

    flag: str
    value: str | None

    @property
    def words(self) -> tuple[str, ...]:
        return (self.flag,) if self.value is None else (self.flag, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A profile, its model, and the place where the two are put to use."""

    profile: Profile
    model: Path  # Absolute.
    program: Program  # llama-server, by its absolute path; by its name where it is not installed.
    capabilities: Capabilities | None = None  # What that can; None: today's dialect is spoken.
    gpu: str = ""  # llama.cpp's backend for this machine's GPU: CUDA, ROCm; "" without one.
    n_cpus: int | None = None  # Of this machine.
    memory_bytes: int | None = None  # RAM that weights, cache and buffers take; None: unknown.
    mount: Path | None = None  # The folder that a container is to see; None: the model's own.
    arguments: tuple[str, ...] = ()  # Given to llama-bench beside the profile's parameters.
    is_shown: bool = False  # The text is looked at on a terminal, which nothing in it commands.
    user: str = ""  # Whose process llama-server is to be; "": root's.

    @property
    def params(self) -> Params:
        return self.profile.params

    @property
    def launch(self) -> Launch:
        """How llama-server is started here."""
        return launch_of(self.program, self.capabilities, "server", self.model, self.params)

    @property
    def starts_with(self) -> tuple[str, ...]:
        """The words before the flags: llama-server, and what binds it to NUMA nodes."""
        return (*self.launch.prefix, *self.program.command)

    @property
    def unbound(self) -> tuple[str, ...]:
        """What a format cannot say that has no word for what stands before llama-server."""
        bound = shlex.join(numactl.prefix(self.params.numactl))
        return (f"it was measured under {bound}; start llama-server so",) if bound else ()

    @property
    def installed(self) -> bool:
        """llama-server was found here."""
        return self.program.path.is_absolute()

    @property
    def locked(self) -> bool:
        """The weights are locked into memory."""
        return self.params.load_mode in {"mlock", "mmap+mlock"}

    @property
    def unsaid(self) -> tuple[str, ...]:
        """What no format says of the measured configuration."""
        if not self.arguments:
            return ()
        said = shlex.join(self.arguments)
        return (f"measured with {said}, which stands for llama-bench; give llama-server the same",)

    @property
    def name(self) -> str:
        """The model's file, in letters that every tool takes as a model's name."""
        stem = re.sub(r"-\d{5}-of-\d{5}$", "", self.model.stem)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:_LONGEST_NAME].strip(".-")
        # llama-server keeps "default" for what stands above the first section of its presets.
        return name if name and name.lower() != "default" else "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A text in a tool's format, and what it does not say, with why."""

    text: str
    unsaid: tuple[str, ...] = ()


def options(launch: Launch, program: Program) -> list[Option]:
    """The flags of a command for llama-server, each with its value."""
    found: list[Option] = []
    for word in launch.argv[len(launch.prefix) + len(program.command) :]:
        # All that we write are long flags, and no value of ours begins as one.
        if word.startswith("--"):
            found.append(Option(word, None))
        else:
            found[-1] = Option(found[-1].flag, word)
    return found


def comment(
    setup: Setup, mark: str, use: Sequence[str], *, dialect: str = "", unsaid: Sequence[str] = ()
) -> str:
    """The lines above a text: what it is, what proves it, how it is used, what it lacks.

    Args:
        setup: what the text says.
        mark: what begins a comment in this format.
        use: how to put the text to use, and what that needs.
        dialect: whose flags the text has; "" where it has none of llama.cpp's.
        unsaid: what the format, or the program, has no words for.
    """
    lacking = (f"Not said here: {what}" for what in (*setup.unsaid, *unsaid))
    lines = [*_origin(setup.profile, dialect), *use, *lacking]
    return "".join(f"{mark} {_ended(printable(line))}\n" for line in lines)


def _ended(line: str) -> str:
    """The line; systemd reads a backslash at its end as "goes on below", in a comment too."""
    return f"{line} " if line.endswith("\\") else line


def _origin(profile: Profile, dialect: str) -> Iterator[str]:
    yield f"{profile.model or 'A model'} on llama.cpp, as lcm autotune found it."
    yield _evidence(profile)
    study = f"; study {profile.study}" if profile.study else ""
    yield f"Measured {profile.date} with llama.cpp {profile.build}{study}"
    if dialect and dialect not in profile.build:
        yield f"The flags are those of {dialect}."


def _evidence(profile: Profile) -> str:
    words = quality(profile.objective)
    workload = f", workload {profile.workload}" if profile.workload else ""
    if profile.ratio is None or profile.low is None or profile.high is None:
        if profile.verdict:
            return f"These are {THE_DEFAULTS}: nothing was shown to be {words.better}{workload}."
        return f"Not verified against {THE_DEFAULTS}{workload}."
    ratio, low, high = ratios(profile.ratio, profile.low, profile.high)
    verdict = (profile.verdict or "not verified").capitalize()
    interval = f"interval {low} to {high}"
    return f"{verdict}: {ratio}x as {words.good} as {THE_DEFAULTS} ({interval}){workload}."
