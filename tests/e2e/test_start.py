"""`lcm run` becomes llama.cpp's program: under whose parameters, and with whose flags.

Most of it is shown with stand-ins that write down what they were started with; at the end the real
llama-server answers a completion, and the real llama-cli a prompt.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from fakes.programs import OLD_SERVER_HELP, SERVER_HELP, write_program
from lcm_process import REPOSITORY, run_lcm

from autotune.cli.answer import FIELDS, RecommendedParams
from autotune.hardware import detect_hardware
from autotune.llama_cpp.capabilities import build_identity
from autotune.llama_cpp.locate import Program
from autotune.model import analyze_model
from autotune.params import Params
from autotune.results.profile import (
    Profile,
    load,
    machine_digest,
    model_digest,
    profile_path,
    save,
)

Json = dict[str, Any]

ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
# Writes down how it was started, each word ended by a NUL byte.
RECORDS = 'printf "%s\\0" "$0" "$@" >"$0.argv"'


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is remembered and what is kept out of the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LCM_RESULTS_DIR", raising=False)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a llama-cli and a llama-server that write down how they are started."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for name in ("llama-cli", "llama-server"):
        write_program(folder / name, help_text=SERVER_HELP, work=RECORDS)
    monkeypatch.setenv("LCM_LLAMA_DIR", str(folder))
    return folder


def popen(arguments: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
        **options,
    )


def started(program: Path) -> list[str]:
    words = (program.parent / f"{program.name}.argv").read_bytes().split(b"\0")
    return [os.fsdecode(word) for word in words[:-1]]


def dry(*arguments: str | Path) -> list[str]:
    """Give the words of the command that would be started."""
    done = run_lcm("run", "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def value_of(flag: str, words: Sequence[str]) -> str:
    return words[words.index(flag) + 1]


# --- the process ---------------------------------------------------------------------------------


def test_it_becomes_the_program_and_gives_its_exit_code(programs: Path, tiny: Path) -> None:
    write_program(programs / "llama-cli", help_text=SERVER_HELP, work='echo "$$"; exit 7')
    with popen(["run", "--model", tiny], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid
    assert process.returncode == 7


def test_a_signal_reaches_the_program_itself(programs: Path, tiny: Path) -> None:
    work = 'trap "echo stopped; exit 3" TERM; echo ready; while :; do sleep 0.05; done'
    write_program(programs / "llama-cli", help_text=SERVER_HELP, work=work)
    with popen(["run", "--model", tiny], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"stopped\n"
    assert process.returncode == 3


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which signals are ignored")
def test_no_signal_stays_ignored_because_python_ignores_it(programs: Path, tiny: Path) -> None:
    work = "grep SigIgn /proc/$$/status"
    write_program(programs / "llama-cli", help_text=SERVER_HELP, work=work)

    ignored = int(run_lcm("run", "--model", tiny).stdout.split()[1], base=16)

    assert not ignored >> (signal.SIGPIPE - 1) & 1
    assert not ignored >> (signal.SIGXFSZ - 1) & 1


def test_the_users_environment_is_the_programs(
    programs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_CUDA_P2P", "1")
    write_program(programs / "llama-cli", help_text=SERVER_HELP, work='echo "[$GGML_CUDA_P2P]"')

    assert run_lcm("run", "--model", tiny).stdout == "[1]\n"


def test_the_program_is_not_told_where_studies_are_shared(
    programs: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_STORAGE", "postgresql://lcm:secret@db.example/lcm")
    write_program(programs / "llama-cli", help_text=SERVER_HELP, work='echo "[$LCM_STORAGE]"')

    assert run_lcm("run", "--model", tiny).stdout == "[]\n"


@pytest.mark.parametrize("mode", [[], ["--mode", "cli"], ["--mode", "server"]], ids=" ".join)
def test_a_dry_run_prints_what_would_be_started(
    mode: list[str], programs: Path, tiny: Path
) -> None:
    program = programs / ("llama-server" if "server" in mode else "llama-cli")
    arguments: list[str | Path] = [
        "--model",
        tiny,
        *mode,
        "--",
        "-p",
        'it\'s "two"\nlines $HOME',
        "",
    ]

    words = dry(*arguments)
    assert not (programs / f"{program.name}.argv").exists()
    assert run_lcm("run", *arguments).returncode == 0

    assert words == started(program)
    assert words[0] == str(program)
    assert words[1:3] == ["--model", str(tiny)]


@pytest.mark.parametrize(
    "name",
    [
        b"my own.gguf",
        b'it\'s "quoted".gguf',
        b"new\nline.gguf",
        b"--fit",
        b"\xff\xfe.gguf",
        b"$x.gguf",
    ],
    ids=repr,
)
@pytest.mark.usefixtures("programs")
def test_a_model_of_any_name_is_printed_to_the_byte(
    name: bytes, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / os.fsdecode(name)).hardlink_to(tiny)
    arguments = ["run", f"--model={os.fsdecode(name)}", "--dry-run", "--", "--fit", "on"]
    with popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        words = [os.fsencode(w) for w in shlex.split(os.fsdecode(process.stdout.read()))]

    assert words[1:3] == [b"--model", name]
    assert words[-2:] == [b"--fit", b"on"]


def test_the_specified_spelling_starts_too(programs: Path, tiny: Path) -> None:
    words = dry("--model", tiny, "--", "--run", "-c", "5")
    done = run_lcm("--model", tiny, "--run", "--dry-run", "--", "--run", "-c", "5")

    assert shlex.split(done.stdout) == words
    assert words[-3:] == ["--run", "-c", "5"]
    assert words[0] == str(programs / "llama-cli")


# --- whose flags win -----------------------------------------------------------------------------


@pytest.mark.usefixtures("programs")
def test_without_arguments_everything_is_ours(tiny: Path) -> None:
    words = dry("--model", tiny)

    assert {"--ctx-size", "--threads", "--n-gpu-layers", "--fit"} <= set(words)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["-c", "77"], "--ctx-size"),
        (["--ctx-size", "77"], "--ctx-size"),
        (["--ctx_size", "77"], "--ctx-size"),
        (["-ngl", "77"], "--n-gpu-layers"),
        (["--gpu-layers", "77"], "--n-gpu-layers"),
        (["-fit", "on"], "--fit"),
        (["-m", "other.gguf"], "--model"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("programs")
def test_a_flag_of_the_user_replaces_ours_under_any_name(
    given: list[str], ours: str, tiny: Path
) -> None:
    without, words = dry("--model", tiny), dry("--model", tiny, "--", *given)

    at = without.index(ours)
    assert words == [*without[:at], *without[at + 2 :], *given]


@pytest.mark.usefixtures("programs")
def test_what_is_no_flag_of_ours_replaces_nothing(tiny: Path) -> None:
    given = ["--port", "8081", "-p", "threads", "--new-in-2027"]

    assert dry("--model", tiny, "--", *given) == [*dry("--model", tiny), *given]


@pytest.mark.usefixtures("programs")
def test_a_context_that_is_asked_for_is_started(tiny: Path) -> None:
    assert value_of("--ctx-size", dry("--model", tiny, "--ctx-size", "1234")) == "1234"


# --- dialects ------------------------------------------------------------------------------------


def test_an_old_program_is_told_what_it_understands(programs: Path, tiny: Path) -> None:
    write_program(programs / "llama-server", help_text=OLD_SERVER_HELP, work=RECORDS)

    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run")
    words = shlex.split(done.stdout)

    assert not {"--cache-ram", "--fit", "--load-mode", "--flash-attn"} & set(words)
    assert "lcm: warning: cache_ram=" in done.stderr
    assert "has no --cache-ram" in done.stderr


@pytest.mark.usefixtures("programs")
def test_a_program_that_can_everything_gives_no_warning(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run")

    assert "cache_ram" not in done.stderr


# --- whose parameters ----------------------------------------------------------------------------


@pytest.mark.usefixtures("programs")
def test_without_a_profile_it_is_the_quick_recommendation(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--dry-run")
    recommended = json.loads(run_lcm("run", "--model", tiny, "--optimize").stdout)

    assert "lcm: llama-cli with the quick recommendation: there is no profile" in done.stderr
    assert shlex.split(done.stdout) == recommended["command"]["llama-cli"]


def keep_profile(programs: Path, model: Path, params: Params) -> Path:
    """Keep a profile for this model, this machine and the build in `programs`."""
    program = Program(name="", command=(str(programs / "llama-server"),), found_by="")
    analyzed, hardware = analyze_model(model), detect_hardware()
    path = profile_path(analyzed, hardware, build_identity(program))
    save(
        path,
        Profile(
            params=params,
            date="2026-11-20",
            build="0.5.0 (build 7)",
            model_digest=model_digest(analyzed),
            machine=machine_digest(hardware),
        ),
    )
    return path


@pytest.mark.parametrize("mode", ["cli", "server"])
def test_a_profile_is_used_and_named(mode: str, programs: Path, tiny: Path) -> None:
    path = keep_profile(programs, tiny, Params(n_threads=11, n_ctx=333))

    done = run_lcm("run", "--model", tiny, "--mode", mode, "--dry-run")
    words = shlex.split(done.stdout)

    assert words[3:] == ["--ctx-size", "333", "--threads", "11"]
    assert f"lcm: llama-{mode} with the profile of 2026-11-20" in done.stderr
    assert "0.5.0 (build 7)" in done.stderr
    assert str(path) in done.stderr


def test_a_profile_of_another_build_is_used_and_that_is_said_once(
    programs: Path, tiny: Path
) -> None:
    path = keep_profile(programs, tiny, Params(n_threads=11))
    write_program(programs / "llama-server", help_text=SERVER_HELP, work=f"{RECORDS} # new")

    first, second = (run_lcm("run", "--model", tiny, "--dry-run") for _ in range(2))

    warning = (
        "lcm: warning: the profile of 2026-11-20 was measured with 0.5.0 (build 7), and 0.5.0-stub "
        f"(build 7, commit 1234567) is installed: `lcm verify {tiny}` says whether it still holds"
    )
    note = f"with the profile of 2026-11-20, measured with 0.5.0 (build 7): {path}"
    assert shlex.split(first.stdout)[3:] == shlex.split(second.stdout)[3:] == ["--threads", "11"]
    assert warning in first.stderr.splitlines()
    assert "warning" not in second.stderr
    assert note in first.stderr
    assert note in second.stderr


def test_what_cannot_be_remembered_is_said_again(
    programs: Path, tiny: Path, tmp_path: Path
) -> None:
    keep_profile(programs, tiny, Params(n_threads=11))
    write_program(programs / "llama-server", help_text=SERVER_HELP, work=f"{RECORDS} # new")
    (tmp_path / "cache").write_text("this is no folder")

    for _ in range(2):
        assert "is installed: `lcm verify" in run_lcm("run", "--model", tiny, "--dry-run").stderr


@pytest.mark.parametrize("what", ["model", "machine"])
def test_a_profile_of_another_model_or_machine_is_not_used(
    what: str, programs: Path, tiny: Path
) -> None:
    path = keep_profile(programs, tiny, Params(n_threads=11))
    kept = load(path)
    others = {
        "model": replace(kept, model_digest="another"),
        "machine": replace(kept, machine="another"),
    }
    save(path, others[what])
    write_program(programs / "llama-server", help_text=SERVER_HELP, work=f"{RECORDS} # new")

    done = run_lcm("run", "--model", tiny, "--dry-run")

    assert "the quick recommendation" in done.stderr


def test_a_profile_that_was_shown_to_be_slower_gives_way_to_the_defaults(
    programs: Path, tiny: Path
) -> None:
    path = keep_profile(programs, tiny, Params(n_threads=11, n_ctx=333, cache_ram=5))
    save(path, replace(load(path), verdict="worse", ratio=0.8, low=0.7, high=0.9))

    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run")

    assert shlex.split(done.stdout)[3:] == ["--ctx-size", "333", "--cache-ram", "5"]
    assert (
        "llama-server with llama.cpp's defaults: lcm verify has shown the profile to be slower, on "
        "2026-11-20"
    ) in done.stderr


def test_a_damaged_profile_is_named_and_passed_over(programs: Path, tiny: Path) -> None:
    path = keep_profile(programs, tiny, Params(n_threads=11))
    path.write_text("{")

    done = run_lcm("run", "--model", tiny, "--dry-run")

    assert done.returncode == 0
    assert "lcm: warning: the profile" in done.stderr
    assert str(path) in done.stderr
    assert "the quick recommendation" in done.stderr


def saved_answer(folder: Path, model: Path, **changes: object) -> Path:
    """Save an answer, with other values for some of its parameters; None takes one out."""
    answer: Json = json.loads(run_lcm("run", "--model", model, "--optimize").stdout)
    for key, value in changes.items():
        name = "--" + key.replace("_", "-")
        if value is None:
            del answer["recommended_params"][name]
        else:
            answer["recommended_params"][name] = value
    file = folder / "saved.json"
    file.write_text(json.dumps(answer))
    return file


def test_a_saved_answer_starts_what_it_recommended(
    programs: Path, tiny: Path, tmp_path: Path
) -> None:
    file = saved_answer(tmp_path, tiny)
    keep_profile(programs, tiny, Params(n_threads=11))

    done = run_lcm("run", "--model", tiny, "--mode", "server", "--dry-run", "--config", file)

    recommended = json.loads(file.read_text())["command"]["llama-server"]
    assert sorted(shlex.split(done.stdout)) == sorted(recommended)
    assert f"lcm: llama-server with the parameters of {file}" in done.stderr
    assert "another model" not in done.stderr


@pytest.mark.usefixtures("programs")
def test_what_was_measured_bound_to_a_node_is_started_bound(
    programs: Path, tiny: Path, tmp_path: Path
) -> None:
    """By the real numactl: node 0 is there on every machine."""
    file = saved_answer(tmp_path, tiny, numa="numactl")
    answer = json.loads(file.read_text())
    answer["recommended_params"]["numactl"] = "node0"
    file.write_text(json.dumps(answer))

    done = run_lcm("run", "--model", tiny, "--mode", "server", "--config", file)
    shown = dry("--model", tiny, "--mode", "server", "--config", file)

    words = started(programs / "llama-server")
    assert done.returncode == 0
    assert shown == [shown[0], "--cpunodebind=0", "--membind=0", *words]
    assert Path(shown[0]).name == "numactl"


@pytest.mark.usefixtures("programs")
def test_every_key_of_a_saved_answer_is_said(tiny: Path, tmp_path: Path) -> None:
    file = saved_answer(
        tmp_path, tiny, threads=5, n_ctx=99, flash_attn="on", mlock=False, no_mmap=True
    )

    words = dry("--model", tiny, "--config", file)

    assert value_of("--threads", words) == "5"
    assert value_of("--ctx-size", words) == "99"
    assert value_of("--flash-attn", words) == "on"
    assert value_of("--load-mode", words) == "none"


@pytest.mark.usefixtures("programs")
def test_a_key_that_is_taken_out_is_left_to_llama_cpp(tiny: Path, tmp_path: Path) -> None:
    assert "--threads" not in dry(
        "--model", tiny, "--config", saved_answer(tmp_path, tiny, threads=None)
    )


@pytest.mark.usefixtures("programs")
def test_a_gpu_that_was_left_out_stays_left_out(tiny: Path, tmp_path: Path) -> None:
    file = saved_answer(tmp_path, tiny, tensor_split=[3, 4])
    answer = json.loads(file.read_text())
    answer["recommended_params"]["--device"] = ["CUDA0", "CUDA2"]
    file.write_text(json.dumps(answer))

    words = dry("--model", tiny, "--config", file)

    assert value_of("--device", words) == "CUDA0,CUDA2"


@pytest.mark.usefixtures("programs")
def test_a_saved_answer_for_another_model_is_named(tiny: Path, tmp_path: Path) -> None:
    file = saved_answer(tmp_path, tiny)
    answer = json.loads(file.read_text())
    answer["model"] |= {"size_bytes": 1, "path": "other.gguf"}
    file.write_text(json.dumps(answer))

    done = run_lcm("run", "--model", tiny, "--dry-run", "--config", file)

    assert done.returncode == 0
    assert "was made for another model: other.gguf" in done.stderr


def test_every_recommended_parameter_can_be_read_back() -> None:
    switches = {"--mlock", "--no-mmap", "--no-repack"}  # Those that say no are read by hand.

    assert FIELDS.keys() | switches == get_type_hints(RecommendedParams).keys()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "not JSON"),
        ("[]", "not an object"),
        ("{}", "has no recommended_params"),
        ('{"recommended_params": [1]}', "has no recommended_params"),
        ('{"schema_version": 2, "recommended_params": {}}', "schema_version is 2"),
        ('{"recommended_params": {"--treads": 1, "-t": 2}}', "unknown keys: --treads, -t"),
        ('{"recommended_params": {"--threads": "7"}}', "--threads: '7', not a whole number"),
        ('{"recommended_params": {"--threads": 0}}', "--threads: 0 is less than 1"),
        ('{"recommended_params": {"--mlock": 1}}', "--mlock: 1, not true or false"),
        ('{"recommended_params": {"--flash-attn": "maybe"}}', "--flash-attn: 'maybe'"),
        ('{"recommended_params": {"--tensor-split": "3,1"}}', "--tensor-split: '3,1'"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("programs")
def test_a_file_that_is_no_saved_answer_is_named(
    content: str | None, said: str, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "saved.json"
    if content is not None:
        file.write_text(content)

    done = run_lcm("run", "--model", tiny, "--config", file)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"lcm: error: {file}" in done.stderr
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")


@pytest.mark.parametrize("mode", ["cli", "server"])
def test_llama_cpp_that_is_nowhere_is_exit_3_with_every_place(
    mode: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    done = run_lcm("run", "--model", tiny, "--mode", mode, "--dry-run", cwd=tmp_path)

    first, *places, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (3, "")
    assert first == f"lcm: error: llama-{mode} was not found; looked at:"
    assert all(place.startswith("  - ") for place in places)
    assert str(tmp_path / "bin" / f"llama-{mode}") in done.stderr
    assert str(tmp_path / "home" / ".llama-app") in done.stderr
    assert str(tmp_path / "build" / "bin" / f"llama-{mode}") in done.stderr
    assert hint.startswith("hint: ")


def test_a_program_that_does_not_start_is_exit_3(programs: Path, tiny: Path) -> None:
    said = "llama-cli: error while loading shared libraries: libllama.so.0: cannot open"
    write_program(programs / "llama-cli", help_text="", before=f"echo '{said}' >&2; exit 127")

    done = run_lcm("run", "--model", tiny)

    assert (done.returncode, done.stdout) == (3, "")
    assert "shared library libllama.so.0 is missing" in done.stderr


def test_a_file_that_is_no_program_is_exit_3(programs: Path, tiny: Path) -> None:
    (programs / "llama-cli").write_bytes(b"\x7fELF and nothing more")

    done = run_lcm("run", "--model", tiny)

    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be executed" in done.stderr


@pytest.mark.parametrize(
    "more",
    [["--mode", "server"], ["--dry-run"], ["--config", "x.json"], ["--", "-c", "1"]],
    ids=" ".join,
)
def test_recommending_and_starting_exclude_each_other(more: list[str], tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--optimize", *more)

    assert (done.returncode, done.stdout) == (2, "")
    assert more[0] in done.stderr


@pytest.mark.usefixtures("programs")
def test_a_model_that_is_missing_is_exit_3_before_anything_is_started(tmp_path: Path) -> None:
    done = run_lcm("run", "--model", tmp_path / "none.gguf")

    assert (done.returncode, done.stdout) == (3, "")
    assert "none.gguf" in done.stderr


# --- the real programs ---------------------------------------------------------------------------


@pytest.fixture
def real(llama_cpp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))
    return llama_cpp_dir


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(*arguments: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stderr, popen(arguments, stdout=stderr, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.kill()


def post(url: str, body: Json) -> Json:
    request = urllib.request.Request(  # noqa: S310 - loopback
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - loopback
        answer: Json = json.load(reply)
    return answer


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(f"{url}/health", timeout=5) as reply,  # noqa: S310 - loopback
        ):
            assert json.load(reply) == {"status": "ok"}
            return
        time.sleep(0.1)
    pytest.fail(log.read_text(errors="replace"))


@pytest.mark.llama_cpp
def test_the_real_server_answers_a_completion(real: Path, gemma: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    arguments: list[str | Path] = ["run", "--model", gemma, "--mode", "server"]
    with serving(*arguments, "--", "--port", str(port), "-c", "512", log=log) as process:
        wait_until_healthy(url, process, log)
        answer = post(f"{url}/completion", {"prompt": "1, 2, 3, 4,", "n_predict": 4, "seed": 1})
        executed = Path(f"/proc/{process.pid}/exe")
        if executed.exists():
            assert executed.resolve() == (real / "llama-server").resolve()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)

    assert len(answer["content"]) > 0
    assert "llama-server with the quick recommendation" in log.read_text(errors="replace")
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", port), 1):
        pass


@pytest.mark.llama_cpp
@pytest.mark.usefixtures("real")
def test_the_real_cli_answers_a_prompt(gemma: Path) -> None:
    done = run_lcm(
        *("run", "--model", gemma, "--"),
        *("--single-turn", "-p", "Name a colour.", "-n", "8", "-c", "256", "--temp", "0"),
    )

    assert done.returncode == 0, done.stderr
    assert "Name a colour." in done.stdout
    _, _, answered = done.stdout.partition("Name a colour.")
    assert any(character.isalpha() for character in answered)
    assert "llama-cli with the quick recommendation" in done.stderr


@pytest.mark.llama_cpp
@pytest.mark.parametrize("mode", ["cli", "server"])
def test_the_real_programs_flags_are_known_by_all_of_their_names(
    mode: str, real: Path, tiny: Path
) -> None:
    given = ["-c", "256", "--gpu-layers", "0", "-lm", "none", "-fa", "off", "-t", "2"]

    words = dry("--model", tiny, "--mode", mode, "--", *given)

    ours = {"--ctx-size", "--n-gpu-layers", "--load-mode", "--flash-attn", "--threads"}
    assert words[0] == str(real / f"llama-{mode}")
    assert not ours & set(words)
    assert {"--batch-size", "--threads-batch", *given} <= set(words)


@pytest.mark.usefixtures("programs")
def test_a_full_disk_only_costs_what_is_remembered(tiny: Path, tmp_path: Path) -> None:
    lcm = [sys.executable, "-c", ENTRY, "run", "--model", str(tiny), "--dry-run"]
    # What coverage writes would break off on this disk too.
    environ = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *lcm],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
        text=True,
        check=False,
    )
    assert (done.returncode, "llama-cli" in done.stdout) == (0, True)
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []
