"""The real readers of each format find in it the configuration that was measured, to the byte."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fakes.applied import CPU, GPU, HOSTILE, NO_UTF_8, SPECIAL, called, installed, profile, setup
from programs_here import needed

from autotune.cli.applied import print_applied
from autotune.errors import ConfigError
from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.locate import Program, find_program
from autotune.params import Params
from autotune.results.apply import TARGETS, Setup
from autotune.results.apply.setup import options
from autotune.results.apply.text import unit_word

_SCHEMA = Path(__file__).parent.parent / "fixtures" / "apply" / "compose-spec.json"
_ENVIRONMENT_D = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
_PARAMS = pytest.mark.parametrize("params", [CPU, GPU], ids=["cpu", "gpu"])
_NAMES = pytest.mark.parametrize("name", ["plain", SPECIAL], ids=["plain", "special"])
# What its name says that it is: a program that prints its arguments.
_PRINTS = ("/bin/sh", "-c", 'printf "%s\\0" "$@"', "llama-server")


def text_of(target: str, made: Setup) -> str:
    return TARGETS[target](made).text


def output(*argv: str | Path, **how: Any) -> bytes:  # noqa: ANN401 - of subprocess
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=60, **how)
    return bytes(done.stdout)


# Shells


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("name", ["plain", HOSTILE], ids=["plain", "hostile"])
@_PARAMS
def test_a_shell_passes_on_the_very_arguments(shell: str, name: str, params: Params) -> None:
    printing = Program(name="llama-server", command=_PRINTS, found_by="")
    made = setup(params, called(name), program=printing)
    said = output(needed(shell), input=os.fsencode(text_of("sh", made)))
    assert [os.fsdecode(word) for word in said.split(b"\0")[:-1]] == list(
        made.launch.argv[len(_PRINTS) :]
    )


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@_NAMES
@_PARAMS
def test_a_shell_reads_the_variables(shell: str, name: str, params: Params, tmp_path: Path) -> None:
    made = setup(params, called(name), **installed())
    assert sourced(needed(shell), text_of("env", made), tmp_path) == variables_of(made)


def variables_of(made: Setup) -> dict[str, str]:
    """What the file of variables means, by the flags and the table of the program."""
    assert made.capabilities is not None
    words = iter(made.launch.argv[1:])
    negated = {"--no-kv-offload": "0", "--no-repack": "0"}
    said = {}
    for flag in words:
        value = negated.get(flag) or ("1" if flag == "--no-op-offload" else next(words))
        if flag in made.capabilities.variables:
            said[made.capabilities.variables[flag]] = value
    return said


def sourced(shell: str, text: str, folder: Path) -> dict[str, str]:
    (folder / "file").write_text(text, encoding="utf-8")
    said = output(shell, "-c", "set -a; . ./file; env -0", cwd=folder, env={"PATH": os.defpath})
    pairs = (entry.decode().split("=", 1) for entry in said.split(b"\0")[:-1])
    return {name: value for name, value in pairs if name.startswith("LLAMA_ARG_")}


# systemd


@_NAMES
@_PARAMS
def test_systemd_reads_the_variables_alike(name: str, params: Params, tmp_path: Path) -> None:
    needed(_ENVIRONMENT_D)
    # This reader of the same grammar expands variables, as EnvironmentFile= does not.
    made = setup(params, called(name.replace("$", "")), **installed())
    (tmp_path / "environment.d").mkdir()
    (tmp_path / "environment.d" / "1.conf").write_text(text_of("env", made), encoding="utf-8")
    read = output(_ENVIRONMENT_D, env={"XDG_CONFIG_HOME": str(tmp_path)}).decode()
    assert sourced(needed("sh"), read, tmp_path) == variables_of(made)


@pytest.mark.parametrize("name", ["plain", HOSTILE], ids=["plain", "hostile"])
@pytest.mark.parametrize("folder", ["plain", "a %b$c;#d\N{SNOWMAN}"], ids=["plain", "special"])
@_PARAMS
def test_systemd_takes_the_unit(folder: str, name: str, params: Params, tmp_path: Path) -> None:
    made = setup(params, called(name), **installed(path=stub(tmp_path / folder)), user="daemon")
    assert verified(text_of("systemd", made), tmp_path) == ""


def test_systemd_reads_bytes_by_their_numbers(tmp_path: Path) -> None:
    path = stub(tmp_path / f"a {NO_UTF_8}")
    written = unit_word(path, program=True)
    assert r"\xff" in written
    assert verified(f"[Service]\nExecStart={written}\n", tmp_path) == ""


def test_systemd_would_say_that_there_is_no_such_program(tmp_path: Path) -> None:
    made = setup(CPU, **installed(path=str(tmp_path / "a %b" / "llama-server")))
    assert "is not executable" in verified(text_of("systemd", made), tmp_path)


def stub(folder: Path) -> str:
    folder.mkdir()
    path = folder / "llama-server"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def verified(unit: str, folder: Path) -> str:
    file = folder / "llama-server.service"
    file.write_text(unit, encoding="utf-8")
    done = subprocess.run(
        [needed("systemd-analyze"), "verify", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (said == "")
    return said


def test_systemd_reads_a_quoted_word_as_it_was(tmp_path: Path) -> None:
    # tmpfiles.d has systemd's quotes and specifiers, and shows what it read: it makes the file.
    name = SPECIAL.replace("/", "")
    line = f"f {unit_word(f'{tmp_path}/{name}', program=True)} - - - - -\n"
    (tmp_path / "1.conf").write_text(line, encoding="utf-8")
    output(needed("systemd-tmpfiles"), "--create", tmp_path / "1.conf")
    assert (tmp_path / name).is_file()


# Docker Compose


@_NAMES
@pytest.mark.parametrize("gpu", ["", "CUDA", "ROCm", "Vulkan", "Metal"])
@_PARAMS
def test_compose_takes_the_service(params: Params, gpu: str, name: str) -> None:
    made = setup(params, called(name), gpu=gpu, memory_bytes=3 << 30, n_cpus=8)
    file = yaml.safe_load(text_of("docker-compose", made))
    compose().validate(file)


def compose() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(_SCHEMA.read_text(encoding="utf-8")))


def test_compose_would_not_take_any_key() -> None:
    file = yaml.safe_load(text_of("docker-compose", setup()))
    file["services"]["llama-server"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        compose().validate(file)


# The real llama-server


@pytest.mark.llama_cpp
def test_llama_server_takes_its_settings_from_the_variables(
    llama_cpp_dir: Path, tiny: Path, tmp_path: Path
) -> None:
    model = tmp_path / f"{SPECIAL.replace('/', '')}.gguf"
    model.symlink_to(tiny)
    made = here(llama_cpp_dir, SMALL, model)
    variables = sourced("sh", text_of("env", made), tmp_path)
    with serving(made, environ=variables) as server:
        properties = server.get("/props")
        said = server.log()
    assert properties["model_path"] == str(model)
    assert (properties["total_slots"], properties["default_generation_settings"]["n_ctx"]) == (
        2,
        256,
    )
    for setting in (
        "n_threads = 1 (n_threads_batch = 1)",
        "n_batch               = 128",
        "n_ubatch              = 64",
        "flash_attn            = enabled",
        "load_mode = none",
        "K (q8_0)",
    ):
        assert setting in said


@pytest.mark.llama_cpp
def test_llama_server_lists_the_preset_with_its_arguments(
    llama_cpp_dir: Path, tiny: Path, tmp_path: Path
) -> None:
    model = tmp_path / f"{SPECIAL.replace('/', '')}.gguf"
    model.symlink_to(tiny)
    made = here(llama_cpp_dir, SMALL, model)
    preset = tmp_path / "presets.ini"
    preset.write_text(text_of("llama-server-ini", made), encoding="utf-8")
    with serving(made, "--models-preset", str(preset), "--offline") as server:
        (listed,) = [m for m in server.get("/models")["data"] if m["id"] == made.name]
        arguments = listed["status"]["args"]
        server.post("/models/load", {"model": made.name})
        properties = server.get(f"/props?model={made.name}", until=lambda p: "total_slots" in p)
    given = set(pairwise(arguments))
    for option in options(made.launch, made.program):
        assert option.flag in arguments
        assert option.value is None or (option.flag, option.value) in given
    assert properties["model_path"] == str(model)
    assert properties["total_slots"] == 2


SMALL = Params(
    n_ctx=512,
    n_batch=128,
    n_ubatch=64,
    n_threads=1,
    n_threads_batch=1,
    n_gpu_layers=0,
    type_k="q8_0",
    type_v="q8_0",
    flash_attn=True,
    no_kv_offload=True,
    repack=False,
    n_parallel=2,
    load_mode="none",
)


def here(folder: Path, params: Params, model: Path) -> Setup:
    server = find_program("llama-server", environ={"LCM_LLAMA_DIR": str(folder)})
    return setup(params, model, program=server, capabilities=ask(server))


class Server:
    """A llama-server that is running."""

    def __init__(self, port: int, log: Path) -> None:
        self._at, self._log = f"http://127.0.0.1:{port}", log

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, until: Any = lambda _: True) -> Any:  # noqa: ANN401 - JSON
        """The answer, as soon as there is one that holds."""
        for _ in range(300):
            try:
                with urllib.request.urlopen(self._at + path, timeout=5) as answer:  # noqa: S310
                    said = json.load(answer)
                if until(said):
                    return said
            except OSError:
                pass
            time.sleep(0.1)
        return pytest.fail(f"no answer to {path}:\n{self.log()[-4000:]}")

    def post(self, path: str, body: Mapping[str, str]) -> None:
        request = urllib.request.Request(  # noqa: S310 - of this machine
            self._at + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - likewise


@contextmanager
def serving(made: Setup, *words: str, environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(made.model.parent) / "log"
    command = [*made.program.command, *words, "--port", str(port), "--verbose"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **(environ or {})}
        )
    try:
        server = Server(port, log)
        server.get("/health")
        yield server
    finally:
        process.terminate()
        process.wait(30)


# The command


@pytest.mark.parametrize("target", TARGETS)
def test_the_text_is_on_stdout_and_what_it_lacks_on_stderr(
    target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gemma.gguf").touch()
    print_applied(profile(GPU), tmp_path / "gemma.gguf", target, memory_bytes=1 << 30)
    out, err = capfd.readouterr()
    assert out.startswith(("# Gemma", "; Gemma"))
    assert "llama-server was not found; what follows is for llama.cpp 0.5.0" in err
    assert ("Not said here" in out) == (err.count("warning") > 1)


def test_a_link_in_a_cache_is_mounted_with_what_it_leads_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs" / "0a").touch()
    link = tmp_path / "snapshots" / "m.gguf"
    link.symlink_to("../blobs/0a")

    print_applied(profile(), link, "docker-compose")

    (one,) = yaml.safe_load(capfd.readouterr().out)["services"].values()
    assert one["volumes"][0]["source"] == str(tmp_path)
    assert one["command"][:2] == ["--model", "/models/snapshots/m.gguf"]


def test_a_link_that_a_container_cannot_follow_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "m.gguf"
    link.symlink_to("/data/m.gguf")
    with pytest.raises(ConfigError, match="a container cannot follow") as caught:
        print_applied(profile(), link, "docker-compose")
    assert "/data/m.gguf" in caught.value.hint


@pytest.mark.parametrize("target", TARGETS)
def test_what_only_llama_bench_was_given_is_told_above_and_beside(
    target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print_applied(profile(), tmp_path / "m.gguf", target, arguments=("--rpc", "host:1\nevil"))
    out, err = capfd.readouterr()
    said = "measured with --rpc 'host:1\\nevil', which stands for llama-bench"
    assert said in out
    assert f"warning: {target}: {said}" in err


def test_a_model_that_is_gone_is_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.gguf"
    print_applied(profile(), model, "sh")
    assert f"warning: {model} is not there" in capfd.readouterr().err
    model.touch()
    print_applied(profile(), model, "sh")
    assert "is not there" not in capfd.readouterr().err
