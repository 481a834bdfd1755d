"""What llama.cpp lists as a device is used, named and told, from the command line on."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.programs import SERVER_HELP, write_program
from lcm_process import run_lcm

RADEON = "Vulkan0: AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 24000 MiB free)"


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a llama-server that lists a card, which a variable chooses."""
    says = f"echo 'Available devices:'; echo '  {RADEON}'; exit"
    # Where the variable does not arrive, there is no device.
    chosen = f'case "$GGML_VK_VISIBLE_DEVICES$*" in 1--list-devices*) {says} ;; esac'
    monkeypatch.setenv("LCM_LLAMA_DIR", str(tmp_path))
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "1")
    return write_program(tmp_path / "llama-server", help_text=SERVER_HELP, before=chosen)


def answer(*arguments: str | Path) -> dict[str, Any]:
    done = run_lcm(*arguments)
    assert done.stderr == ""
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_the_recommendation_is_for_the_device_that_llama_cpp_lists(
    server: Path, tiny: Path
) -> None:
    printed = answer("run", "--model", tiny, "--optimize")

    (gpu,) = [gpu for gpu in printed["hardware"]["gpus"] if gpu["usable"]]
    assert (printed["hardware"]["gpu_type"], gpu["device"]) == ("Vulkan", "Vulkan0")
    assert "llama.cpp" in gpu["sources"]
    assert printed["recommended_params"]["--n-gpu-layers"] == 999
    assert printed["command"]["llama-server"][0] == str(server)


def test_the_doctor_says_who_tells_of_a_device() -> None:
    text = " ".join(run_lcm("doctor").stdout.split())

    card = "GPU AMD Radeon RX 7900 XTX (RADV NAVI31) (Vulkan0), 23.4 GiB of 24.0 GiB free"
    assert f"{card} told by llama.cpp" in text


def test_a_start_is_planned_with_it(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run")

    assert "999" in done.stdout.split()
