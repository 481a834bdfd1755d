"""Find llama.cpp's programs, and say where was looked when they are not there.

In this order: a path that is given, `LCM_LLAMA_BENCH`, `LCM_LLAMA_DIR`, PATH, beside a
`llama-server` that is on PATH (a package may link only some), the single binary `llama` with a
subcommand, the folder of llama.app, Homebrew, and `./build/bin`.
"""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import ConfigError, LlamaCppNotFound

BENCH = "llama-bench"
BATCHED_BENCH = "llama-batched-bench"
SERVER = "llama-server"
PROGRAMS = (BENCH, BATCHED_BENCH, "llama-cli", SERVER, "llama-fit-params")

_HOMEBREW = ("/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One of llama.cpp's programs, and the words that start it."""

    name: str
    command: tuple[str, ...]  # One path, or a prefix: ("llama", "bench"), a container command.
    found_by: str  # "PATH", "LCM_LLAMA_DIR", ...

    @property
    def path(self) -> Path:
        """The file that is executed."""
        return Path(self.command[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place that was looked at."""

    description: str
    command: tuple[str, ...]


def find_program(
    name: str, *, given: str | None = None, environ: Mapping[str, str] | None = None
) -> Program:
    """Find one of llama.cpp's programs.

    Args:
        name: `llama-bench`, `llama-server`, ...
        given: what the user named on the command line: a file, a folder, or a prefix of words.
        environ: where variables and PATH are read from; this process's by default.

    Raises:
        ConfigError: what the user named is no program.
        LlamaCppNotFound: it is nowhere; the message lists every place.
    """
    environ = os.environ if environ is None else environ
    named = _named_by_user(name, given, environ)
    if named:
        return named
    places = list(_places(name, environ))
    for place in places:
        if is_executable(place.command[0]):
            return Program(name=name, command=place.command, found_by=place.description)
    raise _not_found(name, places, environ)


def is_executable(path: str) -> bool:
    """There is a file at `path` that this process may execute."""
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113 - a str is at hand


def _named_by_user(name: str, given: str | None, environ: Mapping[str, str]) -> Program | None:
    """A program that was named is taken, or it is an error: never passed over for another."""
    bench_variable = environ.get("LCM_LLAMA_BENCH") if name == BENCH else None
    for source, value in (("--" + name, given), ("LCM_LLAMA_BENCH", bench_variable)):
        if value:
            return Program(
                name=name, command=_command(name, value, source, environ), found_by=source
            )
    return None


def _command(name: str, value: str, source: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    path = Path(value).expanduser()
    if path.is_dir():
        path /= name
    if is_executable(str(path)):
        return (str(path.absolute()),)
    try:
        words = shlex.split(value)
    except ValueError:  # An open quote.
        words = []
    first = shutil.which(words[0], path=environ.get("PATH")) if len(words) > 1 else None
    if first:  # A prefix, such as a container command.
        return (first, *words[1:])
    raise ConfigError(
        f"{source} names {value!r}, which is no program that can be executed",
        hint=f"give the path of {name}, its folder, or a command that starts it",
    )


def _places(name: str, environ: Mapping[str, str]) -> Iterator[Place]:
    """Every place to look at, in order."""
    file = name + (".exe" if os.name == "nt" else "")
    subcommand = name.removeprefix("llama-")
    home = Path(environ.get("HOME") or "~").expanduser()

    def single(folder: Path) -> tuple[str, ...]:
        return (str(folder / "llama"), subcommand)

    folder, bench = environ.get("LCM_LLAMA_DIR"), environ.get("LCM_LLAMA_BENCH")
    if folder:
        yield Place(description="LCM_LLAMA_DIR", command=(str(Path(folder).expanduser() / file),))
    named = Path(bench).expanduser() if bench else None
    if named and named.exists() and name != BENCH:  # The programs of one build lie together.
        beside = named if named.is_dir() else named.parent
        yield Place(description="beside the llama-bench named", command=(str(beside / file),))
    on_path = [Path(entry) for entry in environ.get("PATH", "").split(os.pathsep) if entry]
    for entry in on_path:
        yield Place(description="PATH", command=(str(entry / file),))
    server = shutil.which("llama-server", path=environ.get("PATH", ""))
    if server:
        beside = Path(server).resolve().parent
        yield Place(description="beside llama-server", command=(str(beside / file),))
    for entry in on_path:
        yield Place(description="the single binary on PATH", command=single(entry))
    for entry in (home / ".llama-app", home / ".local" / "bin"):
        yield Place(description="llama.app", command=single(entry))
    for prefix in _HOMEBREW:
        yield Place(description="Homebrew", command=(str(Path(prefix) / file),))
    yield Place(description="a build here", command=(str(Path("build/bin").absolute() / file),))


def _not_found(name: str, places: list[Place], environ: Mapping[str, str]) -> LlamaCppNotFound:
    looked = [f"LCM_LLAMA_BENCH and LCM_LLAMA_DIR: {_unset(environ)}"]
    by_description: dict[str, list[str]] = {}
    for place in places:
        by_description.setdefault(place.description, []).append(" ".join(place.command))
    looked += [f"{what}: {', '.join(paths)}" for what, paths in by_description.items()]
    return LlamaCppNotFound(
        f"{name} was not found; looked at:", details=looked, hint=install_hint()
    )


def _unset(environ: Mapping[str, str]) -> str:
    names = ("LCM_LLAMA_BENCH", "LCM_LLAMA_DIR")
    return "set" if any(environ.get(name) for name in names) else "not set"


def install_hint() -> str:
    """How to get llama.cpp on this system."""
    ways = {
        "brew": "brew install llama.cpp",
        "winget": "winget install llama.cpp",
        "nix": "nix profile install nixpkgs#llama-cpp",
        "conda": "conda install -c conda-forge llama.cpp",
    }
    for tool, command in ways.items():
        if shutil.which(tool):
            return command
    return (
        "build it in a checkout of llama.cpp: cmake -B build && cmake --build build --target "
        "llama-bench llama-batched-bench llama-server llama-cli; or unpack a release and name it "
        "in LCM_LLAMA_DIR"
    )
