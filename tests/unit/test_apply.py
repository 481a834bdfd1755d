"""What `lcm results apply` prints says the measured configuration, in each tool's own words."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.applied import (
    CPU,
    GPU,
    HOSTILE,
    LINE_BREAK,
    NO_UTF_8,
    OF_2025,
    SPECIAL,
    TODAY,
    called,
    installed,
    profile,
    server_of,
    setup,
)

from autotune.errors import ConfigError
from autotune.llama_cpp.dialect import FLAGS
from autotune.llama_cpp.locate import Program
from autotune.params import Params
from autotune.results.apply import TARGETS, Setup
from autotune.results.apply.setup import options

_PARAMS = pytest.mark.parametrize("params", [CPU, GPU], ids=["cpu", "gpu"])
_FORMATS = pytest.mark.parametrize("target", TARGETS)


def text_of(target: str, made: Setup) -> str:
    return TARGETS[target](made).text


def comments(target: str, made: Setup) -> list[str]:
    mark = ";" if target == "llama-server-ini" else "#"
    lines = text_of(target, made).splitlines()
    return [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]


def flags_of(made: Setup) -> dict[str, str | None]:
    return {option.flag: option.value for option in options(made.launch, made.program)}


def variables_of(made: Setup) -> dict[str, str]:
    lines = [line for line in text_of("env", made).splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# What stands above


@_FORMATS
def test_it_begins_with_what_it_is_and_what_proves_it(target: str) -> None:
    said = "\n".join(comments(target, setup()))
    assert said.startswith("Gemma 3 270m on llama.cpp")
    assert "Better: 1.31x as fast as llama.cpp's defaults (interval 1.28 to 1.34)" in said
    assert "Measured 2026-10-03T12:00:00Z with llama.cpp 0.5.0-dev (build 11434" in said
    assert "/home/u/studies/gemma-chat" in said
    assert "Use: " in said


@_FORMATS
def test_what_was_never_verified_claims_nothing(target: str) -> None:
    unverified = replace(profile(), verdict="", ratio=None, low=None, high=None)
    said = "\n".join(comments(target, setup(profile=unverified)))
    assert "Not verified" in said
    assert "as fast" not in said


@_FORMATS
def test_defaults_that_nothing_was_shown_to_beat_are_called_that(target: str) -> None:
    kept = replace(profile(), verdict="not shown", ratio=None, low=None, high=None)
    said = "\n".join(comments(target, setup(profile=kept)))
    assert "These are llama.cpp's defaults: nothing was shown to be faster" in said


@_FORMATS
def test_a_name_and_a_study_command_nothing(target: str) -> None:
    named = replace(profile(), model=HOSTILE, study=HOSTILE, workload=HOSTILE, build=HOSTILE)
    made = setup(profile=named)
    text = text_of(target, made)
    harmless = text_of(target, setup())
    assert len(text.splitlines()) == len(harmless.splitlines())
    assert "\x1b" not in text
    text.encode()
    assert not [
        line for line in text.splitlines() if line.startswith(("#", ";")) and line[-1] == "\\"
    ]


@_FORMATS
def test_flags_of_another_build_than_the_measured_are_named(target: str) -> None:
    made = setup(**installed())
    named = any(TODAY in line for line in comments(target, made))
    assert named == (target not in {"ollama", "docker-compose"})


# Shell


@_PARAMS
def test_a_shell_command_holds_the_very_arguments(params: Params) -> None:
    made = setup(params, called(HOSTILE), **installed())
    # Python's lexer does not know a line that goes on below; real shells are asked in contract/.
    command = text_of("sh", made).replace(" \\\n  ", " ")
    assert shlex.split(command, comments=True) == list(made.launch.argv)


def test_what_a_program_cannot_be_told_is_a_comment_and_is_told() -> None:
    applied = TARGETS["sh"](setup(GPU, **installed(OF_2025)))
    assert applied.unsaid == ("n_cpu_moe=12: llama-server has no --n-cpu-moe", *applied.unsaid[1:])
    assert "# Not said here: n_cpu_moe=12: llama-server has no --n-cpu-moe\n" in applied.text


# Variables


def test_todays_variables_are_those_that_todays_help_names() -> None:
    every = Params(
        **{
            field.name: getattr(CPU, field.name) or getattr(GPU, field.name)
            for field in fields(CPU)
        }
    )
    every = replace(every, split_mode="row", main_gpu=1, numa="isolate", kv_unified=True)
    every = replace(every, cache_ram=0, repack=False, n_gpu_layers=7)
    assert None not in {getattr(every, name) for name in FLAGS}
    assert variables_of(setup(every)) == variables_of(setup(every, **installed(TODAY)))


@_PARAMS
def test_every_flag_has_its_variable_or_a_comment(params: Params) -> None:
    made = setup(params, **installed())
    for option in options(made.launch, made.program):
        name = server_of(TODAY).variables.get(option.flag)
        said = variables_of(made).get(name or "")
        told = [
            what
            for what in TARGETS["env"](made).unsaid
            if what.startswith(f"{shlex.join(option.words)} ")
        ]
        assert (said is not None) != bool(told)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (TODAY, {"LLAMA_ARG_KV_OFFLOAD": "0", "LLAMA_ARG_REPACK": "0"}),
        (OF_2025, {"LLAMA_ARG_NO_KV_OFFLOAD": "1"}),
    ],
)
def test_a_switch_that_says_no_is_said_as_the_build_reads_it(
    build: str, said: Mapping[str, str]
) -> None:
    variables = variables_of(setup(GPU, **installed(build)))
    switches = {k: v for k, v in variables.items() if re.search("KV_OFFLOAD|REPACK", k)}
    assert switches == said


def test_threads_for_prompts_need_no_variable_where_they_are_the_same() -> None:
    same = replace(CPU, n_threads_batch=CPU.n_threads)
    assert TARGETS["env"](setup(same)).unsaid == ()
    assert "--threads-batch 2 has no variable" in TARGETS["env"](setup(CPU)).unsaid[0]


def test_plain_values_have_no_quotes_because_docker_would_keep_them() -> None:
    assert '"' not in text_of("env", setup(CPU))
    assert variables_of(setup(CPU))["LLAMA_ARG_LOAD_MODE"] == "mmap+mlock"
    assert any(
        "docker run --env-file FILE keeps the quotes" in c for c in comments("env", setup(GPU))
    )


# The preset file


@_PARAMS
def test_a_preset_says_each_flag_without_its_dashes(params: Params) -> None:
    made = setup(params, **installed())
    _, _, section = text_of("llama-server-ini", made).partition("[gemma-3-270m-q4_k_m]\n")
    said = dict(line.split(" = ", 1) for line in section.splitlines())
    assert said == {k.removeprefix("--"): v or "true" for k, v in flags_of(made).items()}


def test_a_server_without_presets_is_told_of() -> None:
    assert (
        "no --models-preset" in TARGETS["llama-server-ini"](setup(**installed(OF_2025))).unsaid[-1]
    )


@pytest.mark.parametrize("name", ["default", "DEFAULT", "...", "\N{SNOWMAN}", NO_UTF_8, HOSTILE])
def test_a_name_of_a_model_is_one_that_every_tool_takes(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", setup(model=called(name)).name)
    assert setup(model=Path(f"/{name}.gguf")).name.lower() != "default"


def test_parts_of_one_model_are_named_as_one() -> None:
    assert setup(model=Path("/m/glm-Q4-00001-of-00003.gguf")).name == "glm-Q4"


# llama-swap


@_PARAMS
@pytest.mark.parametrize("model", [called("plain"), called(SPECIAL + ";#")], ids=["plain", "odd"])
def test_llama_swap_starts_the_very_arguments(params: Params, model: Path) -> None:
    made = setup(params, model, **installed())
    ((name, entry),) = yaml.safe_load(text_of("llama-swap", made))["models"].items()
    # internal/config: macros first, each in any place; then the words of a shell.
    macros = {"${PORT}": "5800", "${MODEL_ID}": name, "${env.HOME}": "/home"}
    command = entry["cmd"]
    for macro, value in macros.items():
        command = command.replace(macro, value)
    program, port, number, *rest = shlex.split(command)
    assert ([program, *rest], port, number) == (list(made.launch.argv), "--port", "5800")
    assert entry.keys() <= {"name", "cmd"}
    assert not re.search(r"\$\{[a-zA-Z0-9_-]+\}", command)


def test_llama_swap_shows_the_models_name_and_expands_nothing_in_it() -> None:
    named = replace(profile(), model="${PORT} " + "long" * 99)
    text = text_of("llama-swap", setup(profile=named))
    (entry,) = yaml.safe_load(text)["models"].values()
    assert entry["name"].startswith("$ {PORT} long")
    assert len(entry["name"]) <= 128
    assert text.count("${") == 1  # Of the port.


# Ollama


def modelfile(text: str) -> dict[str, str]:
    """Read a Modelfile as docs/modelfile.mdx has it: comments, FROM, PARAMETER name value."""
    said = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            name, value = (
                (rest.split(" ", 1)) if instruction == "PARAMETER" else (instruction, rest)
            )
            said[name] = value.removeprefix('"').removesuffix('"') if value[0] == '"' else value
    return said


def test_ollama_is_told_what_it_has_a_parameter_for() -> None:
    assert modelfile(text_of("ollama", setup(CPU))) == {
        "FROM": "/models/gemma-3-270m-q4_k_m.gguf",
        "num_ctx": "512",  # Of each of two slots.
        "num_batch": "128",
        "num_gpu": "0",
        "num_thread": "3",
    }


def test_ollama_is_told_the_rest_by_its_server_or_not_at_all() -> None:
    said = "\n".join(comments("ollama", setup(CPU)))
    assert (
        "OLLAMA_NUM_PARALLEL=2 OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0 ollama serve"
        in said
    )
    unsaid = " ".join(TARGETS["ollama"](setup(CPU)).unsaid)
    assert all(word in unsaid for word in ("batch 512", "locks no weights", "threads-batch 2"))
    unsaid = " ".join(TARGETS["ollama"](setup(GPU)).unsaid)
    assert all(word in unsaid for word in ("cpu-moe 12", "devices CUDA0/CUDA1", "repack off"))


def test_two_types_of_cache_are_beyond_ollama() -> None:
    applied = TARGETS["ollama"](setup(Params(type_k="q8_0", type_v="f16")))
    assert "OLLAMA_KV_CACHE_TYPE" not in applied.text
    assert "cache-k q8_0, cache-v f16" in applied.unsaid[0]


def test_each_field_is_said_to_ollama_or_reported() -> None:
    for field in fields(Params):
        one = replace(
            Params(), **{field.name: getattr(CPU, field.name) or getattr(GPU, field.name)}
        )
        if one != Params():
            applied = TARGETS["ollama"](setup(one))
            assert applied.unsaid or applied.text != text_of("ollama", setup(Params())), field.name


def test_a_file_that_is_not_mapped_is_so_for_ollama() -> None:
    assert "PARAMETER use_mmap false\n" in text_of("ollama", setup(Params(load_mode="none")))
    assert "use_mmap" not in text_of("ollama", setup(Params(load_mode="mmap")))


def test_ollama_takes_no_model_of_many_files() -> None:
    unsaid = TARGETS["ollama"](setup(Params(), Path("/m/a-00001-of-00003.gguf"))).unsaid
    assert "llama-gguf-split --merge" in unsaid[0]


def test_a_path_with_spaces_at_its_end_is_quoted_for_ollama() -> None:
    text = text_of("ollama", setup(model=Path("/m/a ")))
    assert 'FROM "/m/a "\n' in text
    assert modelfile(text)["FROM"] == "/m/a "


# systemd


def test_locked_memory_makes_a_unit_of_the_system_with_its_limit() -> None:
    text = text_of("systemd", setup(CPU, user="ada", **installed()))
    assert "LimitMEMLOCK=infinity\n" in text
    assert "User=ada\n" in text
    assert "WantedBy=multi-user.target\n" in text
    assert "sudo systemctl enable --now" in text.replace("daemon-reload && sudo systemctl ", "")


def test_else_it_is_a_unit_of_the_users_own() -> None:
    text = text_of("systemd", setup(GPU, user="ada", **installed()))
    assert "MEMLOCK" not in text
    assert "User=" not in text
    assert "WantedBy=default.target\n" in text
    assert "systemctl --user enable --now llama-server" in text


def test_a_unit_without_a_program_asks_for_its_path() -> None:
    said = "\n".join(comments("systemd", setup()))
    assert "write its absolute path behind ExecStart=" in said
    assert "absolute path" not in "\n".join(comments("systemd", setup(**installed())))


def test_a_dollar_stands_for_itself_in_a_program_and_is_doubled_in_an_argument() -> None:
    made = setup(CPU, called("$HOME 100%"), **installed(path="/opt/$x/llama-server"))
    text = text_of("systemd", made)
    assert "ExecStart=/opt/$x/llama-server \\\n" in text
    assert '--model "/models of $$HOME 100%%/$$HOME 100%%.gguf"' in text


def test_systemd_says_line_breaks_and_any_bytes_by_their_numbers() -> None:
    text = text_of("systemd", setup(CPU, called(LINE_BREAK + NO_UTF_8), **installed()))
    assert r"a\x0a[Service]\x0a# ba\xffb.gguf" in text


# Docker Compose


def service(made: Setup) -> Mapping[str, Any]:
    (one,) = yaml.safe_load(text_of("docker-compose", made))["services"].values()
    assert isinstance(one, dict)
    return one


@_PARAMS
def test_a_container_gets_the_arguments_in_todays_dialect(params: Params) -> None:
    inside = Path("/models/gemma-3-270m-q4_k_m.gguf")
    today = replace(setup(params, inside), program=Program(name="", command=(), found_by=""))
    here = ["--host", "0.0.0.0", "--port", "8080"]  # noqa: S104 - inside of a container
    assert service(setup(params, **installed(OF_2025)))["command"] == [*today.launch.argv, *here]
    said = comments("docker-compose", setup(params, **installed(OF_2025)))
    assert "The flags are those of llama.cpp 0.5.0." in said


def test_a_container_reads_the_models_folder_and_is_reached_from_here_only() -> None:
    one = service(setup(model=called(SPECIAL)))
    (volume,) = one["volumes"]
    assert volume["source"] == str(called(SPECIAL).parent).replace("$", "$$")
    assert (volume["target"], volume["read_only"]) == ("/models", True)
    assert one["command"][1] == "/models/" + called(SPECIAL).name.replace("$", "$$")
    assert one["ports"] == ["127.0.0.1:8080:8080"]


def test_a_container_sees_the_folder_it_is_told_to() -> None:
    model = Path("/hub/models--a/snapshots/1/m.gguf")
    one = service(setup(model=model, mount=Path("/hub/models--a")))
    assert one["volumes"][0]["source"] == "/hub/models--a"
    assert one["command"][1] == "/models/snapshots/1/m.gguf"


def test_locked_memory_lifts_the_limit_of_a_container() -> None:
    assert service(setup(CPU))["ulimits"] == {"memlock": {"soft": -1, "hard": -1}}
    assert "ulimits" not in service(setup(GPU))


@pytest.mark.parametrize(
    ("params", "gpu", "image", "reserves", "nodes"),
    [
        (CPU, "CUDA", "server", False, None),
        (GPU, "", "server-cuda", True, None),
        (Params(), "", "server", False, None),
        (Params(), "CUDA", "server-cuda", True, None),
        (Params(devices=("none",)), "CUDA", "server", False, None),
        (Params(n_gpu_layers=9), "ROCm", "server-rocm", False, ["/dev/kfd", "/dev/dri"]),
        (Params(devices=("Vulkan1",)), "CUDA", "server-vulkan", False, ["/dev/dri"]),
    ],
)
def test_the_image_is_that_of_the_gpu_which_computes(
    params: Params,
    gpu: str,
    image: str,
    reserves: bool,  # noqa: FBT001
    nodes: list[str] | None,
) -> None:
    one = service(setup(params, gpu=gpu))
    resources = one.get("deploy", {}).get("resources", {})
    assert one["image"] == f"ghcr.io/ggml-org/llama.cpp:{image}"
    assert ("reservations" in resources) == reserves
    assert one.get("devices") == (nodes and [f"{node}:{node}" for node in nodes])


def test_a_gpu_that_no_image_drives_is_told_of() -> None:
    applied = TARGETS["docker-compose"](setup(Params(n_gpu_layers=9), gpu="Metal"))
    assert "no image for Metal" in applied.unsaid[0]
    assert "llama.cpp:server\n" in applied.text


@pytest.mark.parametrize(
    ("params", "n_cpus", "memory_bytes", "limits"),
    [
        (CPU, 16, None, {"cpus": "4"}),
        (CPU, 3, None, {"cpus": "3"}),
        (Params(cache_ram=0), 16, 10 << 30, {"memory": f"{11264 + 1024}M"}),
        (Params(), 16, 10 << 30, {"memory": f"{11264 + 1024 + 8192}M"}),
        (Params(cache_ram=-1), 16, 10 << 30, None),
        (Params(), 16, None, None),
    ],
)
def test_a_container_is_limited_to_what_the_configuration_takes(
    params: Params, n_cpus: int, memory_bytes: int | None, limits: Mapping[str, str] | None
) -> None:
    one = service(setup(params, n_cpus=n_cpus, memory_bytes=memory_bytes))
    assert one.get("deploy", {}).get("resources", {}).get("limits") == limits


# What cannot be said


@pytest.mark.parametrize(
    ("target", "names"),
    {
        "env": [LINE_BREAK, NO_UTF_8],
        "llama-server-ini": [LINE_BREAK, NO_UTF_8, "a;b", "a#b"],
        "llama-swap": [LINE_BREAK, NO_UTF_8],
        "docker-compose": [LINE_BREAK, NO_UTF_8],
        "ollama": [LINE_BREAK, NO_UTF_8, "a\xa0b"],
    }.items(),
)
def test_a_path_that_a_format_has_no_place_for_is_refused(target: str, names: list[str]) -> None:
    for name in names:
        with pytest.raises(ConfigError, match="cannot say") as caught:
            TARGETS[target](setup(model=called(name)))
        assert "another name" in caught.value.hint


@pytest.mark.parametrize("letter", ["'", '"', "\\", "\n"])
def test_a_program_that_systemd_would_not_start_is_refused(letter: str) -> None:
    with pytest.raises(ConfigError, match="systemd cannot say"):
        TARGETS["systemd"](setup(**installed(path=f"/opt/{letter}/llama-server")))


_Check = Callable[[str], object]
_PARSED: Mapping[str, _Check] = {"llama-swap": yaml.safe_load, "docker-compose": yaml.safe_load}


@pytest.mark.parametrize("target", _PARSED)
def test_yaml_is_read_back_whatever_the_names_are(target: str) -> None:
    named = replace(profile(), model=SPECIAL + ": - |\u2028\ufeff")
    assert _PARSED[target](text_of(target, setup(model=called(SPECIAL + ": #"), profile=named)))


# Bound to NUMA nodes


BOUND = Params(n_threads=8, numa="numactl", numactl="node1")


@pytest.fixture
def numactl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A numactl that is installed."""
    program = tmp_path / "numactl"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(program)


@pytest.mark.parametrize("target", ["sh", "llama-swap", "systemd"])
def test_where_a_command_stands_it_begins_with_what_binds_it(target: str, numactl: str) -> None:
    made = setup(BOUND, **installed())

    text = text_of(target, made)

    starts = f"{numactl} --cpunodebind=1 --membind=1 {made.program.command[0]}"
    assert (starts in text, "numactl" in made.launch.argv[-1]) == (True, True)


@pytest.mark.parametrize("target", ["env", "llama-server-ini", "docker-compose"])
@pytest.mark.usefixtures("numactl")
def test_where_none_stands_it_is_told_what_it_was_measured_under(target: str) -> None:
    applied = TARGETS[target](setup(BOUND, **installed()))

    measured = "it was measured under numactl --cpunodebind=1 --membind=1; start llama-server so"
    assert measured in applied.unsaid
    assert f"Not said here: {measured}\n" in applied.text
