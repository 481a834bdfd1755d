"""A preset or the user's own file says what to tune for; what is wrong in it is named."""

import re
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from autotune.errors import ConfigError
from autotune.params import Params
from autotune.tuning import workload
from autotune.tuning.workload import (
    DEFAULT_BUDGET_S,
    DIMENSIONS,
    Value,
    Workload,
    load_workload,
    parse_duration,
    parse_parameter,
    preset_names,
)

_REPOSITORY = Path(__file__).parents[2]
_CONFIGS = _REPOSITORY / "configs"
_LEAST = "[request]\nn_prompt = 1\nn_gen = 2\n"


def _written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _budget(preset: Workload) -> str:
    return "until stopped" if preset.budget_s is None else f"{preset.budget_s / 60:.0f}m"


def test_the_readme_has_the_presets_as_they_are() -> None:
    presets = map(load_workload, preset_names())

    rows = [
        f"| `{one.name}` | {one.n_prompt} | {one.n_gen} | {one.n_depth} | {one.n_parallel} | "
        f"{_budget(one)} |"
        for one in presets
    ]

    readme = (_CONFIGS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `.*$", readme, re.MULTILINE) == rows


@pytest.mark.parametrize("path", sorted(_CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_number_of_a_preset_has_its_source(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()

    bare = [
        line
        for before, line in pairwise(lines)
        if " = " in line and not line.startswith("#") and before.startswith("[")
    ]

    assert bare == []


@pytest.mark.parametrize("name", ["quick", "overnight"])
def test_a_preset_that_differs_in_time_alone_has_the_request_of_chat(name: str) -> None:
    request = tomllib.loads((_CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))["request"]

    chat = tomllib.loads((_CONFIGS / "chat.toml").read_text(encoding="utf-8"))["request"]

    assert request == chat


def test_the_default_budget_is_that_of_chat() -> None:
    assert load_workload("chat").budget_s == DEFAULT_BUDGET_S


def test_the_wheel_has_the_presets_where_they_are_looked_for() -> None:
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))

    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert wheel["force-include"] == {"configs": "autotune/configs"}


def test_the_presets_of_an_installed_package_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "autotune/configs").mkdir(parents=True)
    (tmp_path / "autotune/configs/shipped.toml").write_text(_LEAST)

    monkeypatch.setattr(workload, "__file__", str(tmp_path / "autotune/tuning/workload.py"))

    assert preset_names() == ["shipped"]


def test_the_readmes_own_workload_loads(tmp_path: Path) -> None:
    readme = (_CONFIGS / "README.md").read_text(encoding="utf-8")
    example = readme.split("```toml\n")[1].split("```")[0]

    loaded = load_workload(_written(tmp_path, example))

    assert loaded == Workload(
        name="mine",
        description="Short questions to my notes",
        n_prompt=300,
        n_gen=100,
        n_depth=2000,
        objective="request",
        budget_s=5400.0,
        parameters={
            "n_ubatch": (512, 1024),
            "flash_attn": (True, "auto"),
            "cache_type": ("f16",),
        },
    )


def test_a_file_needs_only_the_request(tmp_path: Path) -> None:
    loaded = load_workload(_written(tmp_path, _LEAST))

    assert loaded == Workload(name="mine", description="", n_prompt=1, n_gen=2)


def test_a_budget_can_be_a_number_of_seconds(tmp_path: Path) -> None:
    loaded = load_workload(_written(tmp_path, _LEAST + "[search]\nbudget = 90\n"))

    assert loaded.budget_s == 90.0


def test_a_value_that_is_named_twice_is_meant_once(tmp_path: Path) -> None:
    loaded = load_workload(_written(tmp_path, _LEAST + "[parameters]\nn_batch = [64, 64]\n"))

    assert loaded.parameters == {"n_batch": (64,)}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[request\n", "it is not TOML: Expected ']' at the end of a table declaration (at line 1"),
        (f"a = 1{'0' * 5000}", "it is not TOML: "),
        ("a = " + "[" * 100_000, "it is not TOML: "),
        ("requests = 1", "'requests' is no key, which are description, request, search, param"),
        ("description = 1", "description is 1, not a text"),
        ("request = 1", "request is 1, not a table"),
        ("", "n_prompt is missing"),
        ("[request]\nn_prompt = 1", "n_gen is missing"),
        (
            "[request]\nn_promt = 1",
            "'n_promt' is no key of [request], which are n_prompt, n_gen, n_depth",
        ),
        ("[request]\nn_prompt = 'x'", "n_prompt is 'x', not a whole number"),
        ("[request]\nn_prompt = true", "n_prompt is True, not a whole number"),
        ("[request]\nn_prompt = 0", "n_prompt is 0, not from 1 to 2147483647"),
        ("[request]\nn_prompt = 2147483648", "n_prompt is 2147483648, not from 1"),
        (_LEAST + "n_depth = -1", "n_depth is -1, not from 0"),
        (_LEAST + "[search]\nbudget = 'soon'", "budget is 'soon', not a duration above 0 such as"),
        (_LEAST + "[search]\nbudget = 0", "budget is '0', not a duration above 0"),
        (_LEAST + "[search]\nbudget = inf", "budget is 'inf', not a duration"),
        (_LEAST + "[search]\nbudget = true", "budget is True, not a duration"),
        (_LEAST + "[search]\nobjective = 'p'", "objective is 'p', not request or pp or tg"),
        (_LEAST + "[parameters]\nubatch = 1", "'ubatch' is no key of [parameters], which are n_th"),
        (_LEAST + "[parameters]\nn_ubatch = 0", "n_ubatch is 0, not from 1"),
        (_LEAST + "[parameters]\nn_ubatch = []", "n_ubatch has no value"),
        (_LEAST + "[parameters]\nn_ubatch = [[1]]", "n_ubatch is [1], not a whole number"),
        (_LEAST + "[parameters]\nrepack = 1", "repack is 1, not true or false"),
        (_LEAST + "[parameters]\nflash_attn = 'on'", "flash_attn is 'on', not true or false or au"),
        (_LEAST + "[parameters]\nnuma = 'x'", "numa is 'x', not distribute or isolate or numactl"),
        (_LEAST + "[parameters]\ncache_type = 'q9'", "cache_type is 'q9', not f32 or f16 or"),
    ],
    ids=range(27),
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = _written(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load_workload(path)

    beginning = f"the workload {path} cannot be used: {what}"
    assert caught.value.message[: len(beginning)] == beginning


def test_a_file_that_is_not_utf_8_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"description = '\xff'")

    with pytest.raises(ConfigError) as caught:
        load_workload(str(path))

    assert caught.value.message == f"the workload {path} cannot be used: it is not UTF-8"


@pytest.mark.parametrize(("name", "why"), [("no.toml", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name

    with pytest.raises(ConfigError) as caught:
        load_workload(str(path))

    beginning = f"the workload {path} cannot be read: {why}"
    assert caught.value.message[: len(beginning)] == beginning


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        load_workload("chatt")

    names = "chat, coding-agent, long-context, overnight, quick, server, summarize"
    assert (caught.value.message, caught.value.hint) == (
        "no workload is named 'chatt'",
        f"choose one of {names}, or give the path of a .toml file",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("8h", 28800), ("1h30m", 5400), ("45", 45), ("1.5h", 5400)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "0m", "-1", "1h30", "30m1h", "10 m", "m", "1d", "nan", "inf", "9" * 400, "\u0661"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration above 0 such as 90s, 10m, 8h or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("n_ubatch=512,1024", ("n_ubatch", (512, 1024))),
        ("n_ubatch = 512, 512", ("n_ubatch", (512,))),
        ("n_gpu_layers=0", ("n_gpu_layers", (0,))),
        ("flash_attn=on,off,auto", ("flash_attn", (True, False, "auto"))),
        ("repack=1,false", ("repack", (True, False))),
        ("no_kv_offload=true,0", ("no_kv_offload", (True, False))),
        ("load_mode=none,mmap+mlock", ("load_mode", ("none", "mmap+mlock"))),
        ("cache_type=q8_0", ("cache_type", ("q8_0",))),
        ("tensor_split=3/1,1/1,auto", ("tensor_split", ("3/1", "1/1", "auto"))),
        ("devices=CUDA0,CUDA1/CUDA0", ("devices", ("CUDA0", "CUDA1/CUDA0"))),
        ("split_mode=layer,row", ("split_mode", ("layer", "row"))),
        ("main_gpu=1", ("main_gpu", (1,))),
    ],
)
def test_a_parameter_of_the_command_line_is_read(
    text: str, parameter: tuple[str, tuple[Value, ...]]
) -> None:
    assert parse_parameter(text) == parameter


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ubatch=1", "'ubatch' is no parameter, which are n_threads, "),
        ("n_ubatch", "n_ubatch is '', not a whole number"),
        ("n_ubatch=512,", "n_ubatch is '', not a whole number"),
        ("n_ubatch=0x10", "n_ubatch is '0x10', not a whole number"),
        ("n_ubatch=-1", "n_ubatch is -1, not from 1"),
        (f"n_ubatch={'9' * 5000}", "n_ubatch is '999"),
        ("repack=auto", "repack is 'auto', not true or false"),
        ("numa=on", "numa is 'on', not distribute"),
        ("tensor_split=3-1", "tensor_split is '3-1', not auto or such as 3/1"),
        ("tensor_split=3/", "tensor_split is '3/', not auto or such as 3/1"),
        ("devices=--rpc", "devices is '--rpc', not auto or such as CUDA0/CUDA1"),
        ("split_mode=column", "split_mode is 'column', not none or layer"),
    ],
    ids=range(12),
)
def test_what_is_wrong_in_a_parameter_is_named(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_parameter(text)

    beginning = f"--param {text}: {what}"
    assert caught.value.message[: len(beginning)] == beginning


def test_each_dimension_is_a_parameter_of_llama_cpp() -> None:
    known = {one.name for one in fields(Params)} | {"cache_type"}

    assert set(DIMENSIONS) - known == set()
