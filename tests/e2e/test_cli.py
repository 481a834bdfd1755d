"""The command as its users meet it: processes, exit codes, streams, and files with odd names.

No recorded machine is used here: `lcm` always reads the machine that it runs on, and an option that
lets a test pretend another would be one that only tests use. What it concludes from other machines
is in the unit tests, from `Root` on.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fcntl import F_SETPIPE_SZ, fcntl
from itertools import permutations
from pathlib import Path
from select import select
from typing import Any

import pytest
from fakes.gguf_writer import write_shards
from fakes.tiny import tiny_llama, write_tiny
from fakes.zoo import ZOO, Spec, Trunk, dense, spec
from jsonschema import Draft202012Validator
from lcm_process import REPOSITORY, run_lcm

from autotune import __version__, json_text
from autotune.cli import main

Json = dict[str, Any]

SCHEMA = json.loads((REPOSITORY / "docs" / "schema.json").read_text(encoding="utf-8"))
ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"

PLACE_KEYS = {"weights_bytes", "kv_cache_bytes", "recurrent_bytes", "compute_bytes", "exact"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    path = folder / "tiny.gguf"
    write_tiny(path)
    return path


@pytest.fixture(scope="module")
def mixture(folder: Path) -> Path:
    """Give a mixture of experts, without its weights."""
    path = folder / "mixture.gguf"
    ZOO["gpt-oss-20b"]().write(path)
    return path


@pytest.fixture(scope="module")
def recurrent(folder: Path) -> Path:
    path = folder / "recurrent.gguf"
    ZOO["mamba-2.8b"]().write(path)
    return path


def answer(*arguments: str | Path) -> Json:
    done = run_lcm(*arguments)
    assert done.returncode == 0, done.stderr
    printed: Json = json.loads(done.stdout)
    return printed


def invalid(printed: Json, root: str) -> list[str]:
    schema = {"$ref": f"#/$defs/{root}", "$defs": SCHEMA["$defs"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(printed)]


def without_what_changes(printed: Json) -> Json:
    """Leave out the memory that is free at the moment, and what follows from it."""
    hardware = {key: value for key, value in printed["hardware"].items() if "available" not in key}
    parameters = {**printed["recommended_params"], "--cache-ram": 0}
    kept = ("schema_version", "model", "memory", "verdict")
    return {"hardware": hardware, "parameters": parameters} | {key: printed[key] for key in kept}


# --- lcm run -------------------------------------------------------------------------------------


def test_the_specified_spelling_works_in_any_order(tiny: Path) -> None:
    orders = permutations([["--run"], ["--model", str(tiny)], ["--optimize"]])
    commands = [[word for words in order for word in words] for order in orders]
    commands.append(["run", "--model", str(tiny), "--optimize"])
    commands.append(["run", "--optimize", f"--model={tiny}"])

    answers = [without_what_changes(answer(*command)) for command in commands]

    assert len(answers) == 8
    assert [other for other in answers if other != answers[0]] == []


def test_stdout_is_the_json_and_nothing_else(tiny: Path) -> None:
    done = run_lcm("--run", "--model", tiny, "--optimize")
    printed = json.loads(done.stdout)
    assert done.stdout == json.dumps(printed, indent=2) + "\n"
    assert invalid(printed, "RunAnswer") == []


def test_the_model_is_described(tiny: Path) -> None:
    model = answer("--run", "--model", tiny, "--optimize")["model"]
    assert (model["path"], model["size_bytes"]) == (str(tiny), tiny.stat().st_size)
    assert (model["architecture"], model["n_layers"], model["n_ctx_train"]) == ("llama", 6, 4096)


def test_the_command_starts_with_the_program_and_the_model(tiny: Path) -> None:
    printed = answer("--run", "--model", tiny, "--optimize")
    for program in ("llama-cli", "llama-server"):
        assert printed["command"][program][:3] == [program, "--model", str(tiny)]


def test_a_context_that_is_asked_for_is_given(tiny: Path) -> None:
    printed = answer("run", "--model", tiny, "--optimize", "--ctx-size", "1234")
    assert printed["recommended_params"]["--n-ctx"] == 1234
    assert "1234" in printed["command"]["llama-server"]


def test_the_smallest_context_is_one_token(tiny: Path) -> None:
    printed = answer("run", "--model", tiny, "--optimize", "--ctx-size", "1")
    assert printed["recommended_params"]["--n-ctx"] == 1


@pytest.mark.parametrize(
    "spelling",
    [["--explain", "threads"], ["--explain=--threads"], ["--explain", "--threads"]],
    ids=" ".join,
)
def test_a_parameter_is_explained(spelling: list[str], tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, *spelling)
    first, reason, *evidence = done.stdout.splitlines()
    assert re.fullmatch(r"--threads \d+", first)
    assert reason.endswith(".")
    assert [line[:4] for line in evidence] == ["  - "] * len(evidence)
    assert len(evidence) > 0


@pytest.mark.parametrize("key", ["--n-gpu-layers", "n_gpu_layers", "n-gpu-layers"])
def test_a_key_is_known_in_any_spelling(key: str, tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, f"--explain={key}")
    assert done.stdout.startswith("--n-gpu-layers ")


def test_every_recommended_parameter_can_be_explained(tiny: Path) -> None:
    keys = answer("--run", "--model", tiny, "--optimize")["recommended_params"]
    hint = run_lcm("run", "--model", tiny, "--explain=nonsense").stderr.splitlines()[-1]
    assert [f"--{key}" for key in hint.removeprefix("hint: one of: ").split(", ")] == list(keys)


def test_a_key_that_does_not_exist_is_an_error_that_names_those_that_do(tiny: Path) -> None:
    done = run_lcm("run", "--model", tiny, "--explain", "thread")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: one of: threads, " in done.stderr


# --- lcm inspect ---------------------------------------------------------------------------------


def test_an_inspection_is_valid_and_has_the_keys_that_are_promised(tiny: Path) -> None:
    printed = answer("inspect", tiny, "--json", "--n-gpu-layers", "3")
    assert invalid(printed, "InspectAnswer") == []
    assert printed["memory"]["host"].keys() == PLACE_KEYS
    assert [gpu.keys() for gpu in printed["memory"]["gpus"]][:1] == [PLACE_KEYS]
    assert printed["memory"]["host"]["exact"]["kv_cache_bytes"] is True
    assert printed["memory"]["host"]["exact"]["compute_bytes"] is False
    assert len(printed["context_ladder"]) == 14


def test_an_inspection_is_readable(tiny: Path) -> None:
    lines = run_lcm("inspect", tiny, "--n-gpu-layers", "0").stdout.splitlines()
    assert lines[0] == "tiny"
    assert lines[1].startswith("llama Q4_K_M, 0.03 B parameters, ")
    assert next(line.split()[:2] for line in lines if "KV cache" in line) == ["KV", "cache"]
    assert len([line for line in lines if re.match(r" *(2048|131072) ", line)]) == 4
    assert max(map(len, lines)) <= 80


def part(printed: Json, name: str, place: str = "all") -> int:
    memory = printed["memory"]
    places = {"host": [memory["host"]], "gpus": memory["gpus"]}
    chosen = places.get(place, [memory["host"], *memory["gpus"]])
    return sum(one[name] for one in chosen)


HOST = ["--n-gpu-layers", "0"]


@pytest.mark.parametrize(
    ("model", "less", "more", "name"),
    [
        ("tiny", ["--ctx-size", "4096"], ["--ctx-size", "8192"], "kv_cache_bytes"),
        ("tiny", ["--cache-type-k", "q8_0"], [], "kv_cache_bytes"),
        ("tiny", ["--cache-type-v", "q8_0"], [], "kv_cache_bytes"),
        ("tiny", [], ["--cache-type-k", "f32"], "kv_cache_bytes"),
        ("tiny", ["--ubatch-size", "128"], ["--ubatch-size", "1024"], "compute_bytes"),
        ("tiny", ["--for", "cli"], ["--for", "bench"], "compute_bytes"),
        ("recurrent", ["--parallel", "1"], ["--parallel", "8"], "recurrent_bytes"),
        ("recurrent", ["--for", "cli"], ["--for", "server"], "recurrent_bytes"),
        ("mixture", ["--parallel", "1"], ["--parallel", "8"], "kv_cache_bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "default",
)
def test_an_option_changes_the_memory_in_its_direction(
    model: str, less: list[str], more: list[str], name: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    smaller, larger = (
        part(answer("inspect", path, "--json", *HOST, *options), name) for options in (less, more)
    )
    assert smaller < larger


def test_layers_move_from_the_host_to_the_gpu(tiny: Path) -> None:
    none, some, every = (
        answer("inspect", tiny, "--json", "--n-gpu-layers", n) for n in ("0", "3", "999")
    )
    for name in ("weights_bytes", "kv_cache_bytes"):
        on_host = [part(printed, name, "host") for printed in (none, some, every)]
        on_gpus = [part(printed, name, "gpus") for printed in (none, some, every)]
        assert on_host == sorted(on_host, reverse=True)
        assert len(set(on_host)) == 3
        assert on_gpus == sorted(on_gpus)
        assert on_gpus[0] == 0
    assert part(every, "kv_cache_bytes", "host") == 0


def test_experts_move_from_the_gpu_to_the_host(mixture: Path) -> None:
    gpu = ["--json", "--n-gpu-layers", "999"]
    without, with_some = (answer("inspect", mixture, *gpu, "--n-cpu-moe", n) for n in ("0", "5"))
    assert part(with_some, "weights_bytes") == part(without, "weights_bytes")
    assert part(with_some, "weights_bytes", "host") > part(without, "weights_bytes", "host")
    assert part(with_some, "kv_cache_bytes", "host") == 0


def test_the_ladder_rises_with_the_context(tiny: Path) -> None:
    ladder = answer("inspect", tiny, "--json")["context_ladder"]
    for cache_type in ("f16", "q8_0"):
        rungs = [rung for rung in ladder if rung["cache_type"] == cache_type]
        assert [rung["n_ctx"] for rung in rungs] == [2048 << n for n in range(7)]
        caches = [rung["kv_cache_bytes"] for rung in rungs]
        assert caches == [caches[0] << n for n in range(7)]


# --- errors --------------------------------------------------------------------------------------


def broken_models(folder: Path) -> Mapping[str, Path]:
    whole = folder / "whole.gguf"
    write_tiny(whole)
    content = whole.read_bytes()
    files = {
        "empty": b"",
        "not-gguf": b"PK\3\4 this is a zip archive, with a wrong name",
        "truncated": content[:-1000],
        "header-cut": content[:300],
        "hostile-count": content[:8] + b"\xff" * 16 + content[24:],
    }
    paths = {name: folder / f"{name}.gguf" for name in files}
    for name, path in paths.items():
        path.write_bytes(files[name])
    return paths | {"missing": folder / "no such.gguf", "directory": folder}


BROKEN = ["missing", "directory", "empty", "not-gguf", "truncated", "header-cut", "hostile-count"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return broken_models(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("command", [["--run", "--optimize", "--model"], ["inspect"]], ids=" ".join)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_cannot_be_used_is_named_with_a_hint(
    kind: str, command: list[str], broken: Mapping[str, Path]
) -> None:
    done = run_lcm(*command, broken[kind])
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (3, "")
    assert error.startswith("lcm: error: ")
    assert str(broken[kind]) in error
    assert re.match(r"hint: \w", hint)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run", "--optimize"], "missing option '--model'"),
        (["run", "--optimize", "--model"], "requires an argument"),
        (["inspect"], "missing argument 'MODEL'"),
        (["inspect", "MODEL", "--colour"], "no such option: --colour"),
        (["inspect", "MODEL", "--ctx-size", "0"], "0 is not in the range"),
        (["inspect", "MODEL", "--ctx-size", "much"], "'much' is not a valid int"),
        (["inspect", "MODEL", "--cache-type-k", "q9"], "'q9' is no type"),
        (["inspect", "MODEL", "--for", "lunch"], "'lunch' is not one of"),
        (["--run", "--model", "MODEL", "--optimize", "--ctx-size", "-1"], "-1 is not in the range"),
        (["--model", "MODEL", "--optimize"], "no such option: --model"),
        (["bench"], "no such command 'bench'"),
        (["inspect", "MODEL", "OTHER"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], said: str, tiny: Path) -> None:
    words = [str(tiny) if word == "MODEL" else word for word in arguments]
    done = run_lcm(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lcm: error: ")
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert said in done.stderr


def test_a_cache_type_that_this_models_rows_cannot_have_is_exit_2(folder: Path) -> None:
    path = folder / "one-head-of-80.gguf"
    t = Trunk("llama", vocab=256, ctx=512, layers=1, embd=80, ff=256, heads=(1, 1, 80))
    spec(t, [dense(t)]).write(path)
    done = run_lcm("inspect", path, "--cache-type-k", "q8_0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "80 elements cannot be q8_0" in done.stderr
    assert run_lcm("inspect", path).returncode == 0


# --- names ---------------------------------------------------------------------------------------

NAMES = {
    "spaces": b"my own model.gguf",
    "quotes": b'it\'s "quoted".gguf',
    "newline": b"new\nline.gguf",
    "dash": b"-m.gguf",
    "escape": b"\x1b[31mred.gguf",
    "umlaut": "größe.gguf".encode(),
    "no UTF-8": b"\xff\xfe.gguf",
    "percent": b"%s{}$HOME.gguf",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_model_of_any_name_is_recommended_for(name: bytes, tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.hardlink_to(tiny)

    done = run_lcm("--run", "--model", os.fsdecode(name), "--optimize", cwd=tmp_path)

    printed = json_text.loads(done.stdout)
    assert os.fsencode(printed["model"]["path"]) == name
    assert os.fsencode(printed["command"]["llama-cli"][2]) == name
    assert no_control_characters(done.stdout + done.stderr)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_model_of_any_name_is_inspected(name: bytes, tmp_path: Path, tiny: Path) -> None:
    (tmp_path / os.fsdecode(name)).hardlink_to(tiny)

    done = run_lcm("inspect", "--", os.fsdecode(name), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("llama Q4_K_M")
    assert no_control_characters(done.stdout + done.stderr)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_missing_model_of_any_name_is_named(name: bytes, tmp_path: Path) -> None:
    done = run_lcm("inspect", "--", os.fsdecode(name), cwd=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 2
    assert no_control_characters(done.stderr)


def no_control_characters(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_metadata_commands_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    bare = tiny_llama()
    name = "\x1b]0;owned\x07\x1b[2J\nforged line\r\u202eevil"
    Spec({**bare.metadata, "general.name": name}, bare.tensors).write(path)

    texts = [run_lcm("inspect", path), run_lcm("inspect", path, "--json")]
    texts += [run_lcm("--run", "--model", path, "--optimize")]

    assert [done.returncode for done in texts] == [0, 0, 0]
    assert all(no_control_characters(done.stdout + done.stderr) for done in texts)
    assert "owned" in json.loads(texts[1].stdout)["model"]["name"]
    assert "\nforged line" not in texts[0].stdout


def test_a_split_model_is_given_by_any_shard(tmp_path: Path) -> None:
    bare = tiny_llama()
    shards = write_shards(
        tmp_path / "model.gguf", metadata=bare.metadata, tensors=bare.tensors, count=3
    )
    model = answer("--run", "--model", shards[1], "--optimize")["model"]
    assert (model["files"], model["path"]) == (3, str(shards[0]))
    shards[2].unlink()
    done = run_lcm("--run", "--model", shards[0], "--optimize")
    assert done.returncode == 3
    assert shards[2].name in done.stderr


# --- streams and signals -------------------------------------------------------------------------


def start(arguments: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1"},
        **options,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "arguments",
    [["inspect", "MODEL"], ["inspect", "MODEL", "--json"], ["--help"], ["--version"]],
    ids=" ".join,
)
def test_a_reader_that_is_gone_is_no_error(
    arguments: list[str], unbuffered: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    words = [str(tiny) if word == "MODEL" else word for word in arguments]
    process = start(words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named(tiny: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(["inspect", tiny], stdout=full, stderr=subprocess.PIPE)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert stderr.startswith(
        b"lcm: error: the answer could not be written: No space left on device"
    )
    assert len(stderr.splitlines()) == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tiny: Path) -> None:
    script = f'"$@" {closed}'
    command = ["sh", "-c", script, "sh", sys.executable, "-c", ENTRY, "inspect", str(tiny)]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_does_not_move_to_stdout_where_stderr_is_closed(tmp_path: Path) -> None:
    command = [
        "sh",
        "-c",
        '"$@" 2>&-',
        "sh",
        sys.executable,
        "-c",
        ENTRY,
        "inspect",
        "missing.gguf",
    ]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (3, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pipe smaller than the answer")
def test_an_interrupt_is_exit_130_without_a_traceback(tiny: Path) -> None:
    """It is sent while the answer is being written, which a pipe of one page holds up."""
    reader, writer = os.pipe()
    fcntl(reader, F_SETPIPE_SZ, 4096)
    process = start(["--run", "--model", tiny, "--optimize"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert select([reader], [], [], 60)[0] == [reader]
    process.send_signal(signal.SIGINT)
    with os.fdopen(reader, "rb") as answer_:
        # What is stuck in the buffer is written on the way out.
        while select([answer_], [], [], 60)[0] and answer_.read1(4096):
            pass
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-2].startswith(b"lcm: error: interrupted")
    assert b"Traceback" not in stderr


def test_a_terminal_gets_no_escape_codes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for arguments in (["inspect", str(tiny)], ["--help"], ["inspect", "missing.gguf"]):
        master, slave = pty.openpty()
        process = start(arguments, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        written = read_terminal(master)
        process.wait(60)
        assert b"\x1b" not in written
        assert len(written) > 0


def read_terminal(master: int) -> bytes:
    parts = []
    with os.fdopen(master, "rb", buffering=0) as terminal:
        while True:
            try:
                part_ = terminal.read(4096)
            except OSError:  # Linux's way to say that the other side is gone.
                break
            if not part_:
                break
            parts.append(part_)
    return b"".join(parts)


# --- surroundings --------------------------------------------------------------------------------


def test_it_needs_no_home(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert run_lcm("--run", "--model", tiny, "--optimize").returncode == 0


def test_it_needs_no_folder_to_write_to(tiny: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        done = run_lcm("--run", "--model", tiny, "--optimize", cwd=tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_it_writes_nothing_anywhere_near(tiny: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tiny.parent.iterdir())
    run_lcm("--run", "--model", tiny, "--optimize", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in tiny.parent.iterdir()) == before


@pytest.mark.parametrize("coerced", ["1", "0"])
def test_an_ascii_locale_is_enough(
    coerced: str, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", coerced)
    monkeypatch.setenv("PYTHONUTF8", coerced)
    (tmp_path / "größe.gguf").hardlink_to(tiny)
    for arguments in (["inspect"], ["--run", "--optimize", "--model"]):
        assert run_lcm(*arguments, "größe.gguf", cwd=tmp_path).returncode == 0
    assert run_lcm("inspect", "fehlt-größe.gguf", cwd=tmp_path).returncode == 3


# --- bugs, help, version -------------------------------------------------------------------------


def test_a_bug_is_exit_70_with_the_version_and_no_traceback(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_analysis(_: Path) -> None:
        raise ZeroDivisionError("a bug of the test's own")

    monkeypatch.setattr("autotune.cli.recommendation.analyze_model", broken_analysis)
    monkeypatch.delenv("LCM_DEBUG", raising=False)

    code = main(["--run", "--model", str(tiny), "--optimize"])

    printed = capsys.readouterr()
    assert (code, printed.out) == (70, "")
    assert f"a bug in lcm {__version__}: ZeroDivisionError: a bug of the test's own" in printed.err
    assert "LCM_DEBUG=1" in printed.err
    assert "Traceback" not in printed.err


def test_a_bug_shows_its_traceback_to_those_who_ask(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_analysis(_: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("autotune.cli.recommendation.analyze_model", broken_analysis)
    monkeypatch.setenv("LCM_DEBUG", "1")

    with pytest.raises(ZeroDivisionError):
        main(["--run", "--model", str(tiny), "--optimize"])


def test_the_version_is_printed() -> None:
    done = run_lcm("--version")
    assert (done.returncode, done.stdout) == (0, f"lcm-autotune {__version__}\n")


@pytest.mark.parametrize(
    ("command", "most_lines"),
    # What measuring can be told is shown when it is asked for: it is longer than a small terminal.
    [([], 24), (["run"], 24), (["inspect"], 24), (["run", "--deep"], 32)],
    ids=["lcm", "run", "inspect", "run --deep"],
)
def test_the_help_fits_a_terminal_and_has_an_example(command: list[str], most_lines: int) -> None:
    done = run_lcm(*command, "--help")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) <= most_lines
    assert max(map(len, lines)) <= 80
    assert any(line.strip().startswith("Example: lcm ") for line in lines)


def test_without_arguments_the_help_is_printed() -> None:
    assert run_lcm().stdout == run_lcm("--help").stdout


# --- the real model ------------------------------------------------------------------------------


def test_the_real_model_from_end_to_end(gemma: Path) -> None:
    printed = answer("--run", "--model", gemma, "--optimize")

    assert invalid(printed, "RunAnswer") == []
    model, parameters = printed["model"], printed["recommended_params"]
    assert (model["architecture"], model["n_layers"], model["n_vocab"]) == ("gemma3", 18, 262144)
    assert model["n_ctx_train"] == 32768
    assert model["quantization"] == "Q4_K_M"
    assert model["size_bytes"] == gemma.stat().st_size
    assert 1 <= parameters["--threads"] <= len(os.sched_getaffinity(0))
    assert parameters["--n-ctx"] <= 32768
    assert len(printed["rationale"]) == len(parameters)
    assert printed["memory"]["host"]["exact"]["weights_bytes"] is True
