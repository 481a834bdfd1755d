"""Ask the real llama.cpp how much memory it would take.

`llama-fit-params --fit-print on` loads a model without its weights and prints a line
`DEVICE MODEL CONTEXT COMPUTE` in MiB for every device, `Host` last. A `ggml-rpc-server` on loopback
is a device like any other to it, so `-ngl` can be tested where there is no GPU. One thing it does
not show: a GPU also takes single operations on weights that stayed in host memory, and needs room
for those weights in its compute buffer (`offload_op` in ggml; ggml-rpc has none).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HOST = "127.0.0.1"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_START_ATTEMPTS = 3

Breakdown: TypeAlias = tuple[int, int, int]
"""Model, context and compute, in MiB, each rounded down."""

_LINE = re.compile(r"^(\S+) (\d+) (\d+) (\d+) *$", re.MULTILINE)


class OracleError(RuntimeError):
    """llama.cpp could not load the model, or its RPC server did not start."""


def fit_print(
    binary: Path, model: Path, *args: str, timeout: float = 120.0
) -> dict[str, Breakdown]:
    """Return what `llama-fit-params` prints for each device."""
    # Repacking would move weights to a buffer that depends on this machine's instruction set.
    command = [str(binary), "--no-repack", "--fit-print", "on", "-m", str(model), *args]
    # A failed assertion in ggml would start a debugger, whose words would hide its own.
    quiet = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=quiet
    )
    found = {
        name: (int(weights), int(context), int(compute))
        for name, weights, context, compute in _LINE.findall(done.stdout)
    }
    if done.returncode or "Host" not in found:
        tail = "\n".join(done.stderr.splitlines()[-12:])
        raise OracleError(f"{' '.join(command)} exited with {done.returncode}:\n{tail}")
    return found


@contextmanager
def rpc_server(binary: Path) -> Iterator[str]:
    """Run a `ggml-rpc-server` and yield its "HOST:PORT" once it accepts connections."""
    process, endpoint = _start(binary)
    try:
        yield endpoint
    finally:
        _stop(process)


@contextmanager
def limited_device(binary: Path, kib: int) -> Iterator[str]:
    """A device server of so much memory, started anew whenever its memory has ended it."""
    endpoint = f"{_HOST}:{free_port()}"
    loop = (
        f'while :; do (ulimit -v {kib}; exec "$0" -H {_HOST} -p {endpoint.rpartition(":")[2]} '
        "-t 1) >/dev/null 2>&1; sleep 0.1; done"
    )
    with subprocess.Popen(["/bin/sh", "-c", loop, str(binary)], start_new_session=True) as server:
        try:
            time.sleep(1)
            yield endpoint
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def _start(binary: Path) -> tuple[subprocess.Popen[bytes], str]:
    for _ in range(_START_ATTEMPTS):
        port = free_port()
        process = subprocess.Popen(
            [str(binary), "-H", _HOST, "-p", str(port), "-t", "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            accepts = _wait_until_it_accepts(process, port)
        except BaseException:
            _stop(process)
            raise
        if accepts:
            return process, f"{_HOST}:{port}"
        # Someone else took the port between our look and the server's: try another.
        _stop(process)
    raise OracleError(f"{binary} did not accept a connection on {_HOST}")


def free_port() -> int:
    """Give a port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_it_accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((_HOST, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            # A stranger on this port would have made our own server exit.
            return process.poll() is None
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
