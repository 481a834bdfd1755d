"""A real llama-server on this machine alone, asked by several clients at once.

It is started as it would be shipped, on a free port of 127.0.0.1, and stopped with all that it has
started, whatever happens. Its clients send prompts of exact length that have nothing in common, and
want an exact number of tokens, so that the work is that of llama-batched-bench, and sampling, HTTP
and the scheduling of the slots come on top.
"""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotune import json_text
from autotune.llama_cpp import failures
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.failures import Reason
from autotune.llama_cpp.launch import launch_of
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.patience import SLOWEST_LOAD_BYTES_PER_S
from autotune.llama_cpp.process import Child, Exit, NotStarted
from autotune.llama_cpp.program_run import STDERR_TAIL_LINES
from autotune.llama_cpp.records import FailureKind
from autotune.params import Params

HEALTHY_WITHIN_S = 300.0  # Or as long as a slow disk takes for the model.
_HOST = "127.0.0.1"
_LOOK_EVERY_S = 0.05
_LONGEST_ANSWER = 1 << 24  # Bytes; with all its settings repeated, one takes some kilobytes.
_WARM_PROMPT, _WARM_GEN = 16, 1
_CLIENTS_END_S = 5.0  # Once their server is gone.
_CONNECTED_WITHIN_S = 3.0  # Tries after one second and again after two more (tcp(7)).
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What is asked at once."""

    number: int
    n_prompt: int
    n_gen: int
    n_vocab: int

    @property
    def n_tokens(self) -> int:
        """Of all of them, prompts included."""
        return self.number * (self.n_prompt + self.n_gen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """All requests were answered."""

    seconds: float  # From the first that was sent to the last that was answered.
    prompt_ms: tuple[float, ...]  # Of each, by the server's own clock.
    generation_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotServed:
    """They were not, and why."""

    kind: FailureKind
    message: str
    stderr_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    prompt_ms: float
    generation_ms: float
    began: float
    ended: float


class _Failed(Exception):
    """What ends it early."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.reason = Reason(kind, message)


@dataclass(kw_only=True)
class Server:
    """One llama-server and one model."""

    program: Program
    capabilities: Capabilities
    model: Path
    model_bytes: int
    extra_arguments: tuple[str, ...] = ()
    healthy_within_s: float = HEALTHY_WITHIN_S
    enough: Callable[[], bool] = field(default=lambda: False)  # The user wants an end.

    def arguments(self, params: Params, port: int) -> tuple[str, ...]:
        """The command, the program included."""
        given = (*self.extra_arguments, "--host", _HOST, "--port", str(port))
        return launch_of(
            self.program, self.capabilities, "server", self.model, params, given=given
        ).argv

    def serve(self, params: Params, requests: Requests, *, limit_s: float) -> Served | NotServed:
        """Start it with these parameters, ask it, and stop it.

        Args:
            params: as they would be shipped.
            requests: what it is asked at once.
            limit_s: seconds that the answers may take.
        """
        port = _free_port()
        said: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        try:
            with Child(self.arguments(params, port)) as child:
                return self._ask(_Served(child, said, self.enough), port, requests, limit_s)
        except NotStarted as error:
            return NotServed(kind=FailureKind.CRASH, message=error.message)
        except _Failed as failed:
            kind, message, _ = failed.reason
            return NotServed(kind=kind, message=message, stderr_tail=tuple(said))

    def _ask(self, server: "_Served", port: int, requests: Requests, limit_s: float) -> Served:
        slowly_s = self.model_bytes / SLOWEST_LOAD_BYTES_PER_S
        server.wait_until_healthy(port, max(self.healthy_within_s, slowly_s))
        rng = random.Random(_SEED)  # noqa: S311 - prompts without a meaning, the same for both
        prompts = [_prompt(rng, requests, requests.n_prompt) for _ in range(requests.number)]
        warm = _prompt(rng, requests, min(_WARM_PROMPT, requests.n_prompt))
        server.answers(port, [warm], _WARM_GEN, limit_s)
        answers = server.answers(port, prompts, requests.n_gen, limit_s)
        return Served(
            seconds=max(a.ended for a in answers) - min(a.began for a in answers),
            prompt_ms=tuple(a.prompt_ms for a in answers),
            generation_ms=tuple(a.generation_ms for a in answers),
        )


class _Served:
    """A llama-server that runs, and what it says meanwhile."""

    def __init__(self, child: Child, said: deque[str], enough: Callable[[], bool]) -> None:
        self._child = child
        self._said = said
        self._enough = enough

    def wait_until_healthy(self, port: int, most_s: float) -> None:
        """It answers that it has loaded the model; _Failed where it never does."""
        deadline = time.monotonic() + most_s
        while not _is_healthy(port):
            self._look(deadline, f"it was not healthy within {most_s:.0f} s")

    def answers(
        self, port: int, prompts: Sequence[Sequence[int]], n_gen: int, limit_s: float
    ) -> list[_Answer]:
        """Ask all at once, and wait for the last; _Failed where one is not answered as asked."""
        clients = [_Client(port, prompt, n_gen, limit_s) for prompt in prompts]
        deadline = time.monotonic() + limit_s
        # Connected before any is timed: a server's queue of connections may be short, and who finds
        # it full tries again a second later.
        for client in clients:
            client.connect()
        for client in clients:
            client.start()
        try:
            while any(client.is_alive() for client in clients):
                self._look(deadline, f"not all were answered within {limit_s:.0f} s")
        except BaseException:
            self._child.stop()  # Or they would wait for it.
            raise
        finally:
            for client in clients:
                client.join(_CLIENTS_END_S)
        return [client.answer() for client in clients]

    def _look(self, deadline: float, too_late: str) -> None:
        """Read what it says for a moment, and see that it lives and there is time."""
        event = self._child.next_event(_LOOK_EVERY_S)
        if isinstance(event, Exit):
            reason = failures.classify(event.code, tuple(self._said))
            raise _Failed(reason.kind, f"it has ended: {reason.message}")
        if event is not None:
            self._said.append(failures.shortened(event.text))
        if self._enough():
            raise _Failed(FailureKind.INTERRUPTED, "it was interrupted")
        if time.monotonic() > deadline:
            raise _Failed(FailureKind.TIMEOUT, too_late)


class _Client(threading.Thread):
    """One that sends a request and waits for the answer."""

    def __init__(self, port: int, prompt: Sequence[int], n_gen: int, limit_s: float) -> None:
        super().__init__(name="client of llama-server", daemon=True)
        self._connection = http.client.HTTPConnection(_HOST, port, timeout=_CONNECTED_WITHIN_S)
        self._limit_s = limit_s
        self._n_prompt, self._n_gen = len(prompt), n_gen
        # Nothing of one prompt is in the cache for another, and no answer ends early.
        self._body = json.dumps(
            {
                "prompt": list(prompt),
                "n_predict": n_gen,
                "ignore_eos": True,
                "cache_prompt": False,
                "seed": _SEED,
            }
        )
        self._answer: _Answer | _Failed | None = None

    def connect(self) -> None:
        """Be ready to ask; where that fails, asking will."""
        with contextlib.suppress(OSError):
            self._connection.connect()
            self._connection.sock.settimeout(self._limit_s)
        self._connection.timeout = self._limit_s

    def run(self) -> None:
        """Ask; what goes wrong is for `answer` to raise."""
        began = time.monotonic()
        try:
            status, text = _exchange(self._connection, "POST", "/completion", self._body)
            self._answer = self._read(status, text, began, time.monotonic())
        except (OSError, http.client.HTTPException) as error:
            self._answer = _Failed(FailureKind.BAD_OUTPUT, f"a request has failed: {error!r}")

    def answer(self) -> _Answer:
        """What was answered; _Failed where that is not what was asked."""
        if isinstance(self._answer, _Answer):
            return self._answer
        raise self._answer or _Failed(FailureKind.TIMEOUT, "a request was not answered")

    def _read(self, status: int, text: bytes, began: float, ended: float) -> _Answer | _Failed:
        if status != http.client.OK:
            said = text[:200].decode(errors="replace")
            return _Failed(FailureKind.BAD_OUTPUT, f"it answered {status}: {said}")
        try:
            timings = json_text.loads(text.decode())["timings"]
            counted = timings["prompt_n"], timings["predicted_n"]
            prompt_ms, generation_ms = float(timings["prompt_ms"]), float(timings["predicted_ms"])
        except (ValueError, KeyError, TypeError):
            return _Failed(FailureKind.BAD_OUTPUT, "its answer has no timings")
        if counted != (self._n_prompt, self._n_gen):
            what = f"it answered {counted[1]} tokens to a prompt of {counted[0]}"
            asked = f"{self._n_gen} to {self._n_prompt} were asked for"
            return _Failed(FailureKind.BAD_OUTPUT, f"{what}, where {asked}")
        return _Answer(prompt_ms=prompt_ms, generation_ms=generation_ms, began=began, ended=ended)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> tuple[int, bytes]:
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(_LONGEST_ANSWER)
    finally:
        connection.close()


def _is_healthy(port: int) -> bool:
    try:
        status, _ = _exchange(http.client.HTTPConnection(_HOST, port, timeout=1), "GET", "/health")
    except (OSError, http.client.HTTPException):
        return False
    return status == http.client.OK


def _prompt(rng: random.Random, requests: Requests, length: int) -> list[int]:
    return [rng.randrange(requests.n_vocab) for _ in range(length)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
