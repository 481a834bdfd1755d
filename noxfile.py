"""The project's chores. A bare `nox` runs what a contributor needs before a commit."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
# What is installed is compared again on each run; only the minute of making it anew is saved.
nox.options.reuse_venv = "yes"

# What some tests drive: a program, and Debian's package that has it.
DEBIAN_PACKAGES = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "git": "git",
    "systemd-analyze": "systemd",
    "tmux": "tmux",
}

PROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    _install_groups(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of everything, tests included, with mypy."""
    session.install("--editable", ".")
    _install_groups(session, "types")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests beside a real llama.cpp and report coverage; takes pytest's arguments."""
    session.install("--editable", ".")
    _install_groups(session, "test")
    _install_programs(session)
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session)}
    session.run("python", "tests/compare_script.py")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=environ)
    session.run("coverage", "combine", "--quiet")
    # The floor is one for the whole suite; a part of it covers a part.
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def llama_cpp(session: nox.Session) -> None:
    """Find or build the llama.cpp of the tests and print its folder."""
    session.log(_llama_cpp(session))


@nox.session
def demo(session: nox.Session) -> None:
    """Recommend for and measure a small model that is written here, or the one after `--`."""
    session.install(".")
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session)}
    session.run("python", "tests/demo.py", *session.posargs, env=environ)


@nox.session
def startup(session: nox.Session) -> None:
    """Time the quick path beside llama.cpp's own tool; `-- --gguf` adds the official reader."""
    session.install(".")
    _install_groups(session, "startup")
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session), "PYTHONPATH": "tests"}
    session.run("python", "benchmarks/quick.py", *session.posargs, env=environ)


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel, and run the wheel's command from an environment of its own."""
    session.install("build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    (wheel,) = Path("dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "venv", folder)
        programs = Path(folder, "Scripts" if sys.platform == "win32" else "bin")
        session.run(str(programs / "pip"), "install", "--quiet", str(wheel), external=True)
        session.run(str(programs / "lcm"), "--version", external=True)


def _install_groups(session: nox.Session, *groups: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, *groups))


def _install_programs(session: nox.Session) -> None:
    """Install the programs that tests drive, where that is ours to do; else the tests name them."""
    missing = [package for name, package in DEBIAN_PACKAGES.items() if not shutil.which(name)]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "--quiet", external=True)
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
        session.run(*install, *missing, external=True)


def _llama_cpp(session: nox.Session) -> str:
    """Give the folder of llama.cpp's tools, which are built on the first call on a machine."""
    _install_groups(session, "llama-cpp")
    # Only stdout is the answer; what the build says meanwhile is for whoever waits.
    folder = session.run("python", "tests/llama_cpp_build.py", silent=True, stderr=None)
    return str(folder).strip()
