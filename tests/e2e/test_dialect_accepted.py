"""Whatever a configuration says, the real programs accept how it is said.

`--version` as the last word is reached only when every word before it was accepted.
"""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from property.params_strategies import params

from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.dialect import Target, render
from autotune.llama_cpp.locate import find_program
from autotune.params import Params

pytestmark = pytest.mark.llama_cpp


@pytest.mark.parametrize("target", ["bench", "cli", "server", "fit-params"])
def test_every_rendered_command_is_accepted(target: Target, llama_cpp_dir: Path) -> None:
    program = find_program(f"llama-{target}", given=str(llama_cpp_dir))
    capabilities = ask(program)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(asked=params())
    def accepted(asked: Params) -> None:
        rendered = render(asked, target, capabilities)
        done = subprocess.run(
            [*program.command, *rendered.arguments, "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert rendered.unsupported == ()
        assert (done.returncode, "version" in done.stdout + done.stderr) == (0, True), done.stderr

    accepted()


def test_a_word_that_is_not_accepted_would_be_seen(llama_cpp_dir: Path) -> None:
    program = find_program("llama-bench", given=str(llama_cpp_dir))
    done = subprocess.run(
        [*program.command, "-mmp", "0", "--version"], capture_output=True, check=False
    )
    assert done.returncode != 0
