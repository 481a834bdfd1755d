"""A llama-server that is asked by several at once: what it answers, how it fails, what is left."""

import time
import uuid
from pathlib import Path

import pytest
from fakes.benches import TOKEN, fake_server, left_behind

from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.records import FailureKind
from autotune.llama_cpp.serving import NotServed, Requests, Served, Server
from autotune.params import Params

N_VOCAB = 8192  # Of the tiny model.
FOUR = Requests(number=4, n_prompt=24, n_gen=6, n_vocab=N_VOCAB)
TWO_SLOTS = Params(n_threads=1, n_ctx=512, n_parallel=2, cache_ram=0)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    token = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN, token)
    return token


def server_of(program: Program, model: Path) -> Server:
    return Server(
        program=program,
        capabilities=ask(program),
        model=model,
        model_bytes=model.stat().st_size,
        healthy_within_s=30,
    )


class ServerContract:
    """Subclasses give the fixture `server`."""

    def test_all_are_answered_as_asked_and_nothing_is_left(
        self, server: Server, token: str
    ) -> None:
        served = server.serve(TWO_SLOTS, FOUR, limit_s=60)
        assert isinstance(served, Served), served
        slowest_s = max(map(sum, zip(served.prompt_ms, served.generation_ms, strict=True))) / 1e3
        assert (len(served.prompt_ms), served.seconds > slowest_s * 0.9) == (4, True)
        assert left_behind(token) == []

    def test_who_wants_an_end_has_it_at_once(self, server: Server, token: str) -> None:
        server.enough = lambda: True
        served = server.serve(TWO_SLOTS, FOUR, limit_s=60)
        assert isinstance(served, NotServed)
        assert (served.kind, left_behind(token)) == (FailureKind.INTERRUPTED, [])


class TestTheFake(ServerContract):
    @pytest.fixture
    def server(self, tiny: Path) -> Server:
        return server_of(fake_server(), tiny)


@pytest.mark.llama_cpp
class TestTheRealOne(ServerContract):
    @pytest.fixture
    def server(self, llama_cpp_dir: Path, tiny: Path) -> Server:
        command = (str(llama_cpp_dir / "llama-server"),)
        return server_of(Program(name="llama-server", command=command, found_by="tests"), tiny)

    def test_a_model_that_is_not_there_ends_it(self, server: Server, tmp_path: Path) -> None:
        server.model = tmp_path / "missing.gguf"
        served = server.serve(TWO_SLOTS, FOUR, limit_s=60)
        assert isinstance(served, NotServed)
        assert served.message.startswith("it has ended: ")

    def test_prompts_that_no_slot_holds_are_no_success(self, server: Server) -> None:
        long = Requests(number=2, n_prompt=600, n_gen=4, n_vocab=N_VOCAB)
        served = server.serve(TWO_SLOTS, long, limit_s=60)
        assert isinstance(served, NotServed)
        assert (served.kind, served.message[:15]) == (FailureKind.BAD_OUTPUT, "it answered 400")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("dies-first", (FailureKind.OOM, "it has ended: ")),
        ("dies-asked", (FailureKind.CRASH, "it has ended: ")),
        ("never-healthy", (FailureKind.TIMEOUT, "it was not healthy within ")),
        ("never-answers", (FailureKind.TIMEOUT, "not all were answered within 1 s")),
        ("miscounts", (FailureKind.BAD_OUTPUT, "it answered 0 tokens to a prompt of 16")),
        ("refuses", (FailureKind.BAD_OUTPUT, "it answered 400: ")),
        ("babbles", (FailureKind.BAD_OUTPUT, "its answer has no timings")),
    ],
)
def test_a_fault_is_named_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
    tiny: Path,
    token: str,
    fault: str,
    named: tuple[FailureKind, str],
) -> None:
    server = server_of(fake_server(), tiny)
    server.healthy_within_s = 1 if fault == "never-healthy" else 30
    monkeypatch.setenv("LCM_FAKE_SERVER", fault)
    served = server.serve(TWO_SLOTS, FOUR, limit_s=1)
    assert isinstance(served, NotServed)
    assert (served.kind, served.message[: len(named[1])]) == named
    assert left_behind(token) == []


def test_one_that_hears_no_signal_is_killed(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str
) -> None:
    server = server_of(fake_server(), tiny)
    monkeypatch.setenv("LCM_FAKE_SERVER", "deaf")
    began = time.monotonic()
    assert isinstance(server.serve(TWO_SLOTS, FOUR, limit_s=30), Served)
    assert (left_behind(token), time.monotonic() - began < 15) == ([], True)


def test_an_interrupt_leaves_no_server(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, token: str
) -> None:
    server = server_of(fake_server(), tiny)
    monkeypatch.setenv("LCM_FAKE_SERVER", "never-answers")
    began = time.monotonic()

    def interrupted() -> bool:
        if time.monotonic() > began + 1:
            raise KeyboardInterrupt
        return False

    server.enough = interrupted
    with pytest.raises(KeyboardInterrupt):
        server.serve(TWO_SLOTS, FOUR, limit_s=30)
    assert left_behind(token) == []


def test_a_program_that_cannot_be_started_is_named(tiny: Path, tmp_path: Path) -> None:
    server = server_of(fake_server(), tiny)
    broken = tmp_path / "llama-server"
    broken.write_text("no program\n")
    server.program = Program(name="llama-server", command=(str(broken),), found_by="tests")
    served = server.serve(TWO_SLOTS, FOUR, limit_s=30)
    assert isinstance(served, NotServed)
    assert "cannot be executed" in served.message
