"""The device that layers were given to is gone during a night."""

import random
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.oracle import free_port
from faults.checks import ended_well, is_named, kept, nothing_is_lost, says_how_to_go_on
from faults.running import Night, moments

pytestmark = pytest.mark.llama_cpp


class Device:
    """A `ggml-rpc-server`, always at the same port."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    def plug_in(self) -> None:
        command = [str(self._program), "-H", "127.0.0.1", "-p", str(self._port), "-t", "1"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + 20
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail("the device server does not accept connections")
            time.sleep(0.02)

    def pull_out(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
        except OSError:
            return False
        return True


@pytest.fixture
def device(llama_cpp_dir: Path) -> Iterator[Device]:
    device = Device(llama_cpp_dir / "ggml-rpc-server")
    device.plug_in()
    yield device
    device.pull_out()


@moments(1, 12)
def test_a_device_that_is_gone_is_named_and_with_it_back_the_night_goes_on(
    night: Night, device: Device, chance: random.Random
) -> None:
    night = replace(night, for_bench=("--rpc", device.endpoint), trials=30)
    with night.started() as running:
        running.until_some_moment(chance, most=4)
        device.pull_out()
        ended = running.end()
    is_named(ended, 4, f"Failed to connect to {device.endpoint}")
    says_how_to_go_on(ended)
    before = kept(night.folder)
    refused = night.resumed()
    is_named(refused, 3, f"Failed to connect to {device.endpoint}")

    device.plug_in()
    ended = night.resumed()

    ended_well(ended, night)
    nothing_is_lost(before, night.folder)
    # That it was gone is not held against what was tried then.
    assert ended.answer["evidence"]["failures"] == {}
