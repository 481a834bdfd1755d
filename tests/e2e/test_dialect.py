"""The commands that are recommended are commands that llama.cpp accepts.

`--version` is an option among the others: llama.cpp prints it and exits when its parser comes to
it. As the last word it is reached only when every word before it was accepted.
"""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any, Literal

import pytest
from fakes.hosts import card, cards, host, recorded, zoo_model
from fakes.tiny import write_tiny
from lcm_process import run_lcm

from autotune.hardware import Hardware, Storage
from autotune.llama_cpp.launch import launch
from autotune.params import Params
from autotune.recommend import Recommendation, generate_recommendations

pytestmark = pytest.mark.llama_cpp

PROGRAMS: tuple[Literal["cli", "server"], ...] = ("cli", "server")
DISK = Storage(filesystem="ext4", device="/dev/sda1", rotational=True, network=False)
SSD = replace(DISK, rotational=False)
START_SECONDS = 60


def refused(folder: Path, arguments: tuple[str, ...]) -> str:
    """Give what the program says against its arguments; nothing where it accepts them."""
    program, *rest = arguments
    done = subprocess.run(
        [str(folder / program), *rest, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    accepted = done.returncode == 0 and "version:" in done.stdout + done.stderr
    return "" if accepted else done.stderr


def command(program: Literal["cli", "server"], params: Params) -> tuple[str, ...]:
    """Give the command in today's dialect, as if nothing were installed."""
    return launch(program, Path("model.gguf"), params, environ={}).argv


def unlockable(hardware: Hardware) -> Hardware:
    return replace(hardware, memory=replace(hardware.memory, memlock_bytes=0))


MIXTURE = "qwen3moe-30b-a3b"
RECOMMENDED = {
    "plain": (host(), "llama3-8b", SSD),
    "offloaded": (host(cards(24)), "llama3-8b", SSD),
    "some layers": (host(cards(4)), "llama3-8b", SSD),
    "full GPU": (host([card(0.3, 24)]), "llama3-8b", SSD),
    "experts on the CPU": (host(cards(12)), MIXTURE, SSD),
    "split": (host(cards(24, 8)), "llama3-70b", SSD),
    "split experts": (host(cards(6, 4)), MIXTURE, SSD),
    "locked, read whole": (host(), "llama3-8b", DISK),
    "read whole": (unlockable(host()), "llama3-8b", DISK),
    "mapped": (unlockable(host()), "llama3-8b", SSD),
    "two sockets": (recorded("two-socket-numa"), "llama3-8b", SSD),
    "container": (recorded("container-memory"), "llama3-8b", SSD),
    "nothing could be read": (recorded("missing-files"), "gemma3-270m", SSD),
}


def recommended(kind: str) -> Recommendation:
    hardware, model, storage = RECOMMENDED[kind]
    return generate_recommendations(hardware, zoo_model(model), storage=storage)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", RECOMMENDED)
def test_a_recommended_command_is_accepted(
    kind: str, program: Literal["cli", "server"], llama_cpp_dir: Path
) -> None:
    arguments = command(program, recommended(kind).params)
    assert refused(llama_cpp_dir, arguments) == ""


def test_the_commands_above_have_every_flag_that_is_ever_recommended() -> None:
    flags = {
        word
        for kind in RECOMMENDED
        for word in command("server", recommended(kind).params)
        if word.startswith("--")
    }
    assert flags == {
        "--batch-size",
        "--cache-ram",
        "--cache-type-k",
        "--cache-type-v",
        "--ctx-size",
        "--device",
        "--fit",
        "--flash-attn",
        "--load-mode",
        "--model",
        "--n-cpu-moe",
        "--n-gpu-layers",
        "--numa",
        "--tensor-split",
        "--threads",
        "--threads-batch",
        "--ubatch-size",
    }


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "params",
    [
        Params(),
        Params(n_parallel=4),
        Params(flash_attn=True, type_k="q8_0", type_v="q8_0"),
        Params(flash_attn=False),
        *(
            Params(type_k=name)
            for name in ("f32", "bf16", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
        ),
        *(
            Params(load_mode=mode)
            for mode in ("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")
        ),
        *(Params(numa=kind) for kind in ("distribute", "isolate", "numactl")),
        Params(tensor_split=(0.0, 33.0, 2.5)),
        *(Params(split_mode=mode) for mode in ("none", "layer", "row", "tensor")),
        Params(split_mode="none", main_gpu=0),
    ],
    ids=lambda params: " ".join(command("cli", params)[3:]),
)
def test_every_value_of_a_parameter_is_accepted(
    params: Params, program: Literal["cli", "server"], llama_cpp_dir: Path
) -> None:
    assert refused(llama_cpp_dir, command(program, params)) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        ("--n-ctx", "4096"),
        ("--mlock",),
        ("--no-mmap",),
        ("--threads", "many"),
        ("--load-mode", "fast"),
        ("--cache-type-k", "q9"),
        ("--numa", "spread"),
        ("--flash-attn", "maybe"),
        ("--device", "CUDA99"),
        ("stray",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_word_anywhere_would_be_seen(
    program: Literal["cli", "server"], wrong: tuple[str, ...], llama_cpp_dir: Path
) -> None:
    name, *rest = command(program, recommended("plain").params)
    for arguments in ((name, *wrong, *rest), (name, *rest, *wrong)):
        assert "error" in refused(llama_cpp_dir, arguments)


# --- a server ------------------------------------------------------------------------------------


def free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def asked(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        url, data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
        return answer


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return asked(f"{url}/health")
        except OSError:  # Refused, or 503 while it loads.
            time.sleep(0.1)
    pytest.fail(f"llama-server did not get healthy:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(params=["tiny", "gemma"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "gemma":
        path: Path = request.getfixturevalue("gemma")
        return path
    write_tiny(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_a_server_started_as_recommended_answers_and_stops(
    model: Path, llama_cpp_dir: Path, tmp_path: Path
) -> None:
    done = run_lcm("--run", "--model", model, "--optimize")
    program, *arguments = json.loads(done.stdout)["command"]["llama-server"]
    port, log = free_port(), tmp_path / "server.log"
    # Only where it listens is not the recommendation's business.
    where = ["--host", "127.0.0.1", "--port", str(port), "--no-webui"]
    url = f"http://127.0.0.1:{port}"

    with running([str(llama_cpp_dir / program), *arguments, *where], log) as process:
        healthy = wait_until_healthy(url, process, log)
        completion = asked(f"{url}/completion", {"prompt": "w1 w2", "n_predict": 4})
        properties = asked(f"{url}/props")
        process.send_signal(signal.SIGTERM)
        stopped = process.wait(30)

    recommended_context = json.loads(done.stdout)["recommended_params"]["--n-ctx"]
    assert healthy == {"status": "ok"}
    assert 1 <= completion["tokens_predicted"] <= 4
    assert properties["default_generation_settings"]["n_ctx"] == recommended_context
    assert stopped == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
