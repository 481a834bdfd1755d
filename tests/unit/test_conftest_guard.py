"""The guard of conftest.py, which every other test relies on without noticing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_starting_an_outside_llama_cpp_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"llama-bench was started without"):
        subprocess.run(["/opt/llama.cpp/llama-bench", "--version"], check=False)


@pytest.mark.parametrize("command", ["llama-cli --help", ["llama-server"], Path("llama-cli")])
def test_every_form_of_a_command_is_seen(command: str | list[str] | Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="was started without"):
        subprocess.Popen(command)


def test_other_programs_run() -> None:
    done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True)

    assert done.stdout.split() == [b"1"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script with a #! line")
def test_a_fake_that_the_test_wrote_runs(tmp_path: Path) -> None:
    fake = tmp_path / "llama-bench"
    fake.write_text("#!/bin/sh\necho fake\n", encoding="utf-8")
    fake.chmod(0o755)

    assert subprocess.run([fake], capture_output=True, check=True).stdout == b"fake\n"


def test_children_find_no_llama_cpp() -> None:
    found = [
        shutil.which("llama-bench"),
        *map(os.environ.get, ("LCM_LLAMA_BENCH", "LCM_LLAMA_DIR")),
    ]

    assert found == [None, None, None]


@pytest.mark.llama_cpp
def test_the_mark_opens_the_way(llama_cpp_dir: Path) -> None:
    done = subprocess.run([llama_cpp_dir / "llama-bench", "--version"], check=False)

    assert done.returncode == 0
