"""Real llama.cpp for the tests: the one that the user has, or a portable build that is kept.

As a program it prints the folder that holds the tools, building them first where it must; all
else it has to say goes to stderr. With the word `vulkan` it does so for a second build, with that
backend. As a module it gives `find_llama_cpp` to the tests, which never build.
Linux and macOS; on Windows an installed llama.cpp is found, but none is built.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

TOOLS = (
    "llama-bench",
    "llama-batched-bench",
    "llama-fit-params",
    "llama-cli",
    "llama-server",
    "ggml-rpc-server",
)
REQUIREMENT = Path(__file__).with_suffix(".txt")

# cmake's names, and those of /proc/cpuinfo and macOS's sysctl, which says `AVX1.0`, in lower case.
_X86_FEATURES = {
    "AVX": ("avx", "avx1.0"),
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "F16C": ("f16c",),
    "BMI2": ("bmi2",),
}

_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # The folder is moved when it is finished, and a user may move it again: libraries are looked
    # for beside the program ($ORIGIN, @loader_path) and not where they were linked.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    # Not -march=native: it believes CPUID. There are virtual machines that advertise AMX and have
    # not enabled it, and such a build dies there with SIGILL on its first matrix product. It would
    # also tie the kept build to this very CPU, while a home folder is often shared by several.
    "-DGGML_NATIVE=OFF",
    # ggml-rpc-server gives a machine without a GPU a true offload device.
    "-DGGML_RPC=ON",
    # No test downloads, and the build must not depend on which headers a machine happens to have.
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    # The web interface of the server would be fetched and embedded.
    "-DLLAMA_BUILD_UI=OFF",
)

# Builds beside the plain one, each with what it is configured with.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "": (),
    "vulkan": (
        "-DGGML_VULKAN=ON",
        f"-DCMAKE_CXX_FLAGS=-I{Path(__file__).parent / 'vulkan' / 'headers'}",
    ),
}

_LOG_TAIL_LINES = 30


class LlamaCppError(Exception):
    """No usable llama.cpp, with the reason and the way out."""


class Found(NamedTuple):
    """A folder of llama.cpp's tools and who named it."""

    folder: Path
    origin: str


def cache_root(
    platform_name: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> Path:
    """Say where this user's caches lie, for all that the project's tests keep between runs."""
    home = home or Path.home()
    if platform_name == "darwin":
        base = home / "Library" / "Caches"
    elif platform_name == "win32":
        base = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        # The XDG specification: a relative path is invalid and ignored, and so is an empty one.
        xdg = Path(environ.get("XDG_CACHE_HOME", ""))
        base = xdg if xdg.is_absolute() else home / ".cache"
    return base / "lcm-autotune"


def find_llama_cpp() -> Path | None:
    """Find the folder with all the tools: the user's own, or one built before. Never builds.

    Raises LlamaCppError where an environment variable names a folder that lacks a tool: to test
    another llama.cpp than the one asked for would be worse than not to test.
    """
    if users := _users_llama_cpp():
        return users.folder
    built = _built_folder()
    return None if _missing_tools(built) else built


def ensure_llama_cpp(variant: str = "") -> Found:
    """Give the folder with all the tools, building them if they are nowhere.

    A variant is always one of ours: whatever llama.cpp the user has need not be that.
    """
    if not variant and (users := _users_llama_cpp()):
        return users
    target = _built_folder(variant)
    if not _missing_tools(target):
        return Found(target, "built before")
    build(target, fetch_source, VARIANTS[variant])
    return Found(target, "built now")


def cmake_flags(cpu_features: frozenset[str]) -> list[str]:
    """Give the configuration: portable, and with those vector instructions that the machine has."""
    switches = {
        name: "ON" if cpu_features.intersection(spellings) else "OFF"
        for name, spellings in _X86_FEATURES.items()
    }
    # Written out also where OFF, since ggml's default for each is ON in a build that is not native.
    return [*_FLAGS, *(f"-DGGML_{name}={switch}" for name, switch in switches.items())]


def cpu_features() -> frozenset[str]:
    """Read what the CPU says of itself, in lower case; empty where nothing can be read."""
    if sys.platform == "darwin":
        # Apple silicon has neither key, and none of these instructions.
        keys = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        answers = [_output(["/usr/sbin/sysctl", "-n", key]) for key in keys]
        return frozenset(" ".join(answers).lower().split())
    with contextlib.suppress(OSError):
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return frozenset()


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Give the flags that every x86 core of a /proc/cpuinfo has."""
    lists = re.findall(r"^flags\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset.intersection(*(frozenset(flags.split()) for flags in lists or [""]))


def fetch_source(work: Path, log: Path) -> Path:
    """Download the pinned sdist into `work`, unpack it, and give the root of llama.cpp's tree."""
    # The sdist by name, and not by :all:, which would also build its build tools from source.
    options = ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    pip = [sys.executable, "-m", "pip", "download", *options]
    _run([*pip, "--requirement", str(REQUIREMENT), "--dest", str(work)], log)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # From Python 3.11.4 on.
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(work)  # noqa: S202 - pip has compared its hash with the pinned one
    (root,) = work.glob("*/vendor/llama.cpp")
    return root


def build(target: Path, fetch: Callable[[Path, Path], Path], flags: Sequence[str] = ()) -> None:
    """Build the tools into `target`, which appears at once and whole, or not at all.

    A second process that asks for the same build waits for the first and uses its result.
    """
    if sys.platform == "win32":
        raise LlamaCppError("llama.cpp is not built on Windows: install one and set LCM_LLAMA_DIR.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(_beside(target, "lock")):
        if not _missing_tools(target):
            return
        _clear_remains(target)
        # Under a new name each time: the compilers of a killed build may still write into the old.
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.build-", dir=target.parent))
        try:
            _build_in(work, target, fetch, flags)
        finally:
            # A gigabyte of objects; the log lies beside and stays.
            shutil.rmtree(work, ignore_errors=True)


def _clear_remains(target: Path) -> None:
    """Remove the trees of killed builds, and a target that somebody has removed files from."""
    for remains in (target, *target.parent.glob(f"{target.name}.build-*")):
        shutil.rmtree(remains, ignore_errors=True)


def _build_in(
    work: Path, target: Path, fetch: Callable[[Path, Path], Path], more: Sequence[str]
) -> None:
    log = _beside(target, "log")
    log.write_bytes(b"")
    _say(f"building llama.cpp: four minutes on two idle cores, once. Log: {log}")
    started = time.monotonic()
    source = fetch(work, log)
    tree = work / "tree"
    flags = [*cmake_flags(cpu_features()), *more]
    _run(["cmake", "-S", str(source), "-B", str(tree), "-G", "Ninja", *flags], log)
    _run(["cmake", "--build", str(tree), "--target", *TOOLS], log)
    # On the same disk, so that both are renames; between them it is tried where it was not linked.
    moved = (tree / "bin").rename(work / "moved")
    _run([str(moved / "llama-bench"), "--version"], log)
    if missing := _missing_tools(moved):
        raise LlamaCppError(f"The build made no {', '.join(missing)}. Log: {log}")
    moved.rename(target)
    _say(f"built in {time.monotonic() - started:.0f} s")


def _beside(target: Path, kind: str) -> Path:
    # Not `with_suffix`: a version has dots of its own.
    return target.with_name(f"{target.name}.{kind}")


def _built_folder(variant: str = "") -> Path:
    """Name the folder by everything that decides what the binaries in it are."""
    version = re.search(r"^llama-cpp-python==(\S+)", REQUIREMENT.read_text("utf-8"), re.MULTILINE)
    if version is None:
        raise LlamaCppError(f"{REQUIREMENT} pins no version of llama-cpp-python.")
    parts = [*TOOLS, *cmake_flags(cpu_features()), platform.system(), platform.machine()]
    parts += [variant] if variant else []
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return cache_root() / "llama.cpp" / f"{version[1]}-{digest}"


def _users_llama_cpp() -> Found | None:
    if bench := os.environ.get("LCM_LLAMA_BENCH"):
        return _named_by("LCM_LLAMA_BENCH", _folder_of(Path(bench)))
    if folder := os.environ.get("LCM_LLAMA_DIR"):
        return _named_by("LCM_LLAMA_DIR", Path(folder).absolute())
    if bench := shutil.which("llama-bench"):
        folder_on_path = _folder_of(Path(bench))
        if not _missing_tools(folder_on_path):
            return Found(folder_on_path, "on PATH")
        _say(
            f"{bench} is passed over: it stands without {', '.join(_missing_tools(folder_on_path))}"
        )
    return None


def _folder_of(bench: Path) -> Path:
    """Give the folder of llama-bench's siblings; its own may hold nothing but a link to it."""
    own, real = bench.absolute().parent, bench.resolve().parent
    return real if _missing_tools(own) and not _missing_tools(real) else own


def _named_by(variable: str, folder: Path) -> Found:
    if missing := _missing_tools(folder):
        raise LlamaCppError(
            f"{variable} leads to {folder}, which has no {', '.join(missing)}. "
            f"Unset {variable} to have a llama.cpp built."
        )
    return Found(folder, variable)


def _missing_tools(folder: Path) -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool, path=str(folder)) is None]


def _run(command: Sequence[str], log: Path) -> None:
    """Run a step of the build with its output in the log, and show the end of it on failure."""
    environ = os.environ | {
        # The sdist brings llama.cpp's commit along, which the tools print. Where git refuses to
        # read it, that of a repository around the cache folder must not pass for it.
        "GIT_CEILING_DIRECTORIES": str(log.parent),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
    }
    if shutil.which(command[0], path=environ["PATH"]) is None:
        raise LlamaCppError(
            f"No {command[0]}: `pip install cmake ninja`, or call this through nox."
        )
    with log.open("ab") as sink:
        sink.write(f"\n$ {' '.join(command)}\n".encode())
        sink.flush()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environ, check=False
        )
    if done.returncode:
        tail = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        reason = (
            f"`{command[0]}` failed with {done.returncode}; it needs a C++ compiler. Log: {log}"
        )
        raise LlamaCppError("\n".join([*tail, "", reason]))


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold `lock`; the kernel releases it with the process, however that ends."""
    with lock.open("w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is building llama.cpp; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(variant: str = "") -> int:
    """Print the folder of the tools."""
    try:
        found = ensure_llama_cpp(variant)
    except LlamaCppError as problem:
        _say(str(problem))
        return 1
    _say(f"llama.cpp ({found.origin}):")
    print(found.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
