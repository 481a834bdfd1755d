"""What one program of llama.cpp can: asked of the program itself, by `--help`, not by its version.

A version can be 0, "unknown" or wrong; a help text is what the argument parser believes. The answer
is kept by the identity of the program's files, because a package manager may replace any of them.
"""

import contextlib
import fnmatch
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autotune import files, json_text
from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp.locate import PROGRAMS, Program, install_hint

if TYPE_CHECKING:
    from autotune.llama_cpp import process

# A CUDA build initialises its devices before it answers.
HELP_TIMEOUT_S = 60.0

# What to tell whoever has a llama-bench without `-o jsonl`.
STREAMS_RECORDS_SINCE = (
    "update to a llama.cpp of September 2024 (b3661) or later; ik_llama.cpp's llama-bench has none"
)

# Flags of an option, then its values; matches the help texts of tests/fixtures/llama_bench.
_OPTION = re.compile(r"^\s*(-{1,2}[A-Za-z][\w-]*(?:,?\s+-{1,2}[A-Za-z][\w-]*)*)\s*(.*)$")
_FLAG = re.compile(r"-{1,2}[A-Za-z][\w-]*")
_VARIABLE = re.compile(r"\(env: (\w+)\)")
_CHOICES = re.compile(r"[<\[{]([^>\]}]*)[>\]}]")
# What glibc's loader, musl's and macOS's say; each names the file.
_NO_LIBRARY = re.compile(
    r"error while loading shared libraries: ([^:\n]{1,1000}):"
    r"|Error loading shared library ([^:\n]{1,1000}):"
    r"|Library not loaded: (\S+)"
)
_LIBRARIES = ("lib*ggml*", "lib*llama*", "ggml*.dll", "llama*.dll")
# No line of a help text is as long; an expression takes its time for one of a million letters.
_LONGEST_LINE = 2000
_LONGEST_VERSION = 200
_MOST_KEPT_BYTES = 1 << 20  # What a program can is some 50 KB.


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The flags that a program takes, each with the values that its help lists."""

    options: Mapping[str, tuple[str, ...]]
    version: str  # As the program prints it; "" where it does not.
    # Each flag with all on its line of the help: other names of one setting, opposites included.
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Each flag that an environment variable can stand for, with that variable.
    variables: Mapping[str, str] = field(default_factory=dict)

    def has(self, flag: str) -> bool:
        """The program takes `flag`."""
        return flag in self.options

    def choices(self, flag: str) -> tuple[str, ...]:
        """The values that the help lists for `flag`."""
        return self.options.get(flag, ())

    def same_setting(self, flag: str) -> tuple[str, ...]:
        """All flags that set what `flag` sets, itself among them."""
        return self.aliases.get(flag, (flag,))

    @property
    def flavor(self) -> Literal["llama.cpp", "ik_llama.cpp"]:
        """Which project the program is of; ik_llama.cpp speaks a dialect of its own."""
        return "ik_llama.cpp" if self.has("-fmoe") or self.has("-rtr") else "llama.cpp"

    @property
    def streams_records(self) -> bool:
        """Records come one by one, each on its line (llama.cpp b3661, 2024-09)."""
        return "jsonl" in self.choices("-o")


def parse_help(text: str) -> dict[str, tuple[str, ...]]:
    """The options in a help text, each flag with the values that are listed for it."""
    options: dict[str, tuple[str, ...]] = {}
    for flags, rest in _option_lines(text):
        choices = _CHOICES.search(rest)
        values = tuple(re.split(r"[|,]", choices[1])) if choices and "|" in choices[1] else ()
        for flag in flags:
            options.setdefault(flag, values)
    return options


def parse_aliases(text: str) -> dict[str, tuple[str, ...]]:
    """The flags in a help text, each with those that stand on its line."""
    aliases: dict[str, tuple[str, ...]] = {}
    for flags, _ in _option_lines(text):
        for flag in flags:
            aliases.setdefault(flag, flags)
    return aliases


def parse_variables(text: str) -> dict[str, str]:
    """The flags in a help text that have an environment variable, each with it."""
    variables: dict[str, str] = {}
    flags: Sequence[str] = ()
    for line in lines_of(text):
        option, variable = _OPTION.match(line), _VARIABLE.search(line)
        if option and not line[0].isspace():  # Indented, a flag is a word of a description.
            flags = _FLAG.findall(option[1])
        if variable:  # Of the option that was named last: it may stand lines below its flags.
            variables |= {flag: variable[1] for flag in flags if flag not in variables}
    return variables


def _option_lines(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each line that begins with flags: these, and what follows them."""
    for line in lines_of(text):
        match = _OPTION.match(line)
        if match:
            yield tuple(_FLAG.findall(match[1])), match[2]


def lines_of(text: str) -> Iterator[str]:
    """The lines of an output, none longer than an expression can read in time."""
    return (line[:_LONGEST_LINE] for line in text.splitlines())


def ask(program: Program) -> Capabilities:
    """Ask the program what it can.

    Raises:
        LlamaCppUnusable: it cannot be executed, or its help is none.
    """
    answer = run_briefly(program, "--help")
    text = answer.stdout + "\n" + answer.stderr
    options = parse_help(text)
    if "-m" not in options:
        raise _unusable(program, answer)
    return Capabilities(
        options=options,
        version=_version(program, options),
        aliases=parse_aliases(text),
        variables=parse_variables(text),
    )


def _unusable(program: Program, answer: "process.Finished") -> LlamaCppUnusable:
    """Why there is no help."""
    library = _NO_LIBRARY.search(answer.stderr)
    if library:
        return LlamaCppUnusable(
            f"{program.path} does not start: the shared library {library[library.lastindex or 0]} "
            "is missing",
            hint=f"install it anew with all of its libraries: {install_hint()}",
        )
    ended = f"exit code {answer.code}" if answer.code >= 0 else f"signal {-answer.code}"
    last = (answer.stderr or answer.stdout).strip().rpartition("\n")[2]
    return LlamaCppUnusable(
        f"{' '.join(program.command)} --help does not print llama.cpp's options ({ended})"
        + (f": {last}" if last else ""),
        hint="is this a program of llama.cpp, built for this processor?",
    )


def ask_once(program: Program, cache: Path) -> Capabilities:
    """`ask`, unless it was asked before of the very same files.

    Args:
        program: the program.
        cache: a folder of this user, made where it is missing.
    """
    file = cache / f"{identity(program)}.json"
    try:
        kept = json_text.loads(files.read(file, _MOST_KEPT_BYTES))
        options, aliases = (
            {flag: tuple(values) for flag, values in kept[name].items()}
            for name in ("options", "aliases")
        )
        return Capabilities(
            options=options,
            version=str(kept["version"]),
            aliases=aliases,
            variables=dict(kept["variables"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        asked = ask(program)
        _keep(file, asked)
        return asked


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where what programs can is remembered, by each system's custom."""
    home = Path(environ.get("HOME") or Path("~").expanduser())
    if environ.get("XDG_CACHE_HOME"):
        base = Path(environ["XDG_CACHE_HOME"])
    elif os.name == "nt" and environ.get("LOCALAPPDATA"):
        base = Path(environ["LOCALAPPDATA"])
    else:
        base = home / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "lcm-autotune" / "capabilities"


def identity(program: Program) -> str:
    """Changes whenever the program or a library beside it does."""
    path = program.path.resolve()
    return _digest("\0".join(program.command), [path, *sorted(libraries(path))])


def build_identity(program: Program) -> str:
    """The same for every program of one build, as far as they lie together; changes with any."""
    path = program.path.resolve()
    beside = [path.with_name(name + path.suffix) for name in ("llama", *PROGRAMS)]
    files = {path, *(file for file in beside if file.is_file()), *libraries(path)}
    return _digest("", sorted(files))


def build_contents(program: Program) -> str:
    """As `build_identity`, and the same for copies of one build on several machines.

    By the names and sizes of its files: times differ between copies, and to read hundreds of
    megabytes takes seconds.
    """
    path = program.path.resolve()
    files = {path, *libraries(path)}
    sizes = sorted(f"{file.name} {file.stat().st_size}" for file in files)
    return hashlib.sha256("\n".join(sizes).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _digest(words: str, files: list[Path]) -> str:
    digest = hashlib.sha256(words.encode("utf-8", "surrogateescape"))
    for file in files:
        status = file.stat()
        name = file.name.encode("utf-8", "surrogateescape")
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def libraries(path: Path) -> list[Path]:
    """llama.cpp's libraries that lie where a program at `path` finds them."""
    found = []
    for folder in (path.parent, path.parent.parent / "lib"):
        with contextlib.suppress(OSError):
            names = os.listdir(folder)  # Once: /usr/bin and /usr/lib hold thousands.  # noqa: PTH208
            found += [folder / name for p in _LIBRARIES for name in fnmatch.filter(names, p)]
    return found


def _keep(file: Path, capabilities: Capabilities) -> None:
    """Remember; where that is not possible, the next call asks again."""
    text = json_text.dumps(
        {
            "options": dict(capabilities.options),
            "version": capabilities.version,
            "aliases": dict(capabilities.aliases),
            "variables": dict(capabilities.variables),
        }
    )
    beside = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()


def _version(program: Program, options: Mapping[str, tuple[str, ...]]) -> str:
    if "--version" not in options:
        return ""
    answer = run_briefly(program, "--version")  # It prints to stderr.
    lines = (
        line for line in (answer.stdout + "\n" + answer.stderr).splitlines() if "version" in line
    )
    return next(lines, "").removeprefix("version: ").strip()[:_LONGEST_VERSION]


def run_briefly(program: Program, *arguments: str) -> "process.Finished":
    """Run what ends by itself.

    Raises:
        LlamaCppUnusable: it cannot be executed, or does not end.
    """
    from autotune.llama_cpp import process  # noqa: PLC0415 - what is remembered needs no process

    command = [*program.command, *arguments]
    answer = process.run(command, timeout=HELP_TIMEOUT_S)
    if answer.timed_out:
        raise LlamaCppUnusable(
            f"{' '.join(command)} did not answer within {HELP_TIMEOUT_S:.0f} s",
            hint="run it by hand; a GPU driver that hangs shows itself here first",
        )
    return answer
