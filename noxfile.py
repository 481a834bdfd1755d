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
    "numactl": "numactl",
    "pg_ctlcluster": "postgresql",
    "systemd-analyze": "systemd",
    "tmux": "tmux",
}

# What `nox -s vulkan` stands on: a file, and Debian's package that has it.
VULKAN_PACKAGES = {
    "/usr/bin/glslc": "glslc",
    "/usr/bin/vulkaninfo": "vulkan-tools",
    "/usr/include/vulkan/vulkan.hpp": "libvulkan-dev",
    "/usr/share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake": "spirv-headers",
    # Mesa's lavapipe, which computes on the CPU, is among them.
    "/usr/share/vulkan/icd.d": "mesa-vulkan-drivers",
}

# Tests that compute, and wait for nothing: they share the cores. All others measure, or wait for
# programs that do, and have the machine to themselves.
COMPUTING = [f"tests/{name}" for name in ("unit", "property", "hostile", "fuzz", "e2e/test_cli.py")]
# Hours in virtual time: counting their lines, which others cover, would take as long again.
SIMULATED = sorted(map(str, Path("tests/e2e").glob("test_*_simulated.py")))

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
    _prepare_tests(session)
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session)}
    session.run("python", "tests/compare_script.py")
    session.run("coverage", "erase")
    pytest = ["coverage", "run", "-m", "pytest"]
    if session.posargs:
        session.run(*pytest, *session.posargs, env=environ)
    else:
        shared = ["--numprocesses=2", "--dist=loadfile"]
        session.run("python", "-m", "pytest", *shared, *SIMULATED, env=environ)
        session.run(*pytest, *shared, *COMPUTING, env=environ)
        alone = [f"--ignore={path}" for path in (*SIMULATED, *COMPUTING)]
        session.run(*pytest, "--durations=30", "tests", *alone, env=environ)
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
def bench(session: nox.Session) -> None:
    """Run the benchmark after `--` and write its table; without one, name them."""
    _prepare_tests(session)
    known = sorted(file.stem for file in Path("benchmarks").glob("*.py") if _is_program(file))
    if not session.posargs or session.posargs[0] not in known:
        session.error(f"which one? nox -s bench -- {' | '.join(known)}")
    name, *arguments = session.posargs
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session), "PYTHONPATH": "tests"}
    session.run("python", f"benchmarks/{name}.py", *arguments, env=environ)


@nox.session
def faults(session: nox.Session) -> None:
    """Do to a running `--deep` what nights do to programs, each at many random moments."""
    _prepare_tests(session)
    environ = {"LCM_LLAMA_DIR": _llama_cpp(session), "LCM_FAULTS": "long"}
    session.run("python", "-m", "pytest", "tests/faults", *session.posargs, env=environ)


@nox.session
def vulkan(session: nox.Session) -> None:
    """Build a llama.cpp with Vulkan and test on a device that needs no GPU; `-- record` it."""
    _prepare_tests(session)
    missing = [name for path, name in VULKAN_PACKAGES.items() if not Path(path).exists()]
    _install_debian(session, missing)
    environ = {
        "LCM_LLAMA_DIR": _llama_cpp(session, "vulkan"),
        # No other driver, whatever GPU there is; and what computes on the CPU has to be named.
        "VK_ICD_FILENAMES": ":".join(map(str, Path("/usr/share/vulkan/icd.d").glob("lvp_*.json"))),
        "GGML_VK_VISIBLE_DEVICES": "0",
    }
    if session.posargs == ["record"]:
        session.run("python", "tests/vulkan/record.py", env=environ | {"PYTHONPATH": "tests"})
    else:
        tests = ["python", "-m", "pytest", "tests/vulkan/on_lavapipe.py"]
        session.run(*tests, *session.posargs, env=environ)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz all that reads a file or a program's output, `-- 600` seconds each (60)."""
    _prepare_tests(session)
    seconds = session.posargs[0] if session.posargs else "60"
    session.run("python", "tests/fuzz/run.py", "all", "--seconds", seconds)


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


def _prepare_tests(session: nox.Session) -> None:
    session.install("--editable", ".")
    _install_groups(session, "test")
    _install_programs(session)


def _is_program(file: Path) -> bool:
    return "__main__" in file.read_text(encoding="utf-8")


def _install_groups(session: nox.Session, *groups: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, *groups))


def _install_programs(session: nox.Session) -> None:
    """Install the programs that tests drive, where that is ours to do; else the tests name them."""
    _install_debian(session, [p for name, p in DEBIAN_PACKAGES.items() if not shutil.which(name)])


def _install_debian(session: nox.Session, missing: list[str]) -> None:
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "--quiet", external=True)
        install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
        session.run(*install, *missing, external=True)


def _llama_cpp(session: nox.Session, *variant: str) -> str:
    """Give the folder of llama.cpp's tools, which are built on the first call on a machine."""
    _install_groups(session, "llama-cpp")
    # Only stdout is the answer; what the build says meanwhile is for whoever waits.
    program = ["python", "tests/llama_cpp_build.py", *variant]
    folder = session.run(*program, silent=True, stderr=None)
    return str(folder).strip()
