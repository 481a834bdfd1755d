"""A profile belongs to one model, machine and build, and is read back as it was kept."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.hosts import recorded, zoo_model
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import ConfigError, SurroundingsError
from autotune.params import Params
from autotune.results.profile import (
    Kept,
    Profile,
    load,
    machine_digest,
    model_digest,
    newest_profile,
    profile_folder,
    profile_path,
    save,
)

ENVIRON = {"HOME": "/home/me"}

FULL = Params(
    n_ctx=8192,
    n_batch=512,
    n_threads=7,
    n_gpu_layers=999,
    tensor_split=(3.0, 1.5),
    split_mode="layer",
    devices=("CUDA0", "CUDA1"),
    tensor_buft_overrides=(("exps=x", "CPU"), ("ffn", "CUDA0")),
    type_k="q8_0",
    flash_attn=True,
    no_kv_offload=False,
    load_mode="mmap+mlock",
    numa="distribute",
    cache_ram=-1,
)
PROFILE = Profile(params=FULL, date="2026-11-20T03:00:00Z", build="0.5.0 (build 7, commit 1234567)")


def test_a_profile_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "profile.json"

    save(path, PROFILE)

    assert load(path) == PROFILE
    assert list(path.parent.iterdir()) == [path]


# Expressions over the names of tensors; none has what parts one from another in llama.cpp.
_PATTERNS = st.text(st.characters(codec="utf-8", exclude_characters=";,"), min_size=1).filter(
    lambda text: not text.startswith("-") and text.isprintable() and " " not in text
)


@given(
    params=st.builds(
        Params,
        n_threads=st.none() | st.integers(-1, 2**31 - 1),
        tensor_split=st.none()
        | st.lists(st.floats(min_value=0, allow_nan=False, allow_infinity=False)).map(tuple),
        devices=st.none() | st.lists(st.from_regex(r"\A[A-Za-z]+[0-9:.\[\]-]*\Z")).map(tuple),
        tensor_buft_overrides=st.none() | st.lists(st.tuples(_PATTERNS, _PATTERNS)).map(tuple),
        flash_attn=st.sampled_from([None, "auto", True, False]),
        load_mode=st.sampled_from([None, "auto", "none", "mlock", "mmap+mlock", "dio"]),
        repack=st.none() | st.booleans(),
    )
)
def test_any_parameters_are_read_back(
    params: Params, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"

    save(path, replace(PROFILE, params=params))

    assert load(path).params == params


def test_what_is_left_to_llama_cpp_is_not_written(tmp_path: Path) -> None:
    save(tmp_path / "p.json", replace(PROFILE, params=Params(n_threads=3)))

    assert json.loads((tmp_path / "p.json").read_text())["params"] == {"n_threads": 3}


def test_a_profile_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be full, or the machine go down: a reader sees the old one or the new one."""
    path = tmp_path / "profile.json"
    save(path, PROFILE)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SurroundingsError, match="No space left") as raised:
        save(path, replace(PROFILE, date="later"))

    assert load(path) == PROFILE
    assert list(tmp_path.iterdir()) == [path]
    assert "LCM_RESULTS_DIR" in raised.value.hint


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SurroundingsError, match="file"):
        save(tmp_path / "file" / "profile.json", PROFILE)


# --- of which model, machine and build ------------------------------------------------------------


def keep(folder: Path, model: str, build: str, date: str) -> Path:
    """Keep a profile of a model of the zoo, on the recorded machine with an AMD card."""
    analyzed, hardware = zoo_model(model), recorded("amd-gpu")
    path = profile_path(analyzed, hardware, build, {"LCM_RESULTS_DIR": str(folder)})
    ours = replace(PROFILE, model_digest=model_digest(analyzed), machine=machine_digest(hardware))
    save(path, replace(ours, build=build, date=date))
    return path


def newest(folder: Path, model: str, build: str, machine: str = "amd-gpu") -> Kept:
    environ = {"LCM_RESULTS_DIR": str(folder)}
    return newest_profile(zoo_model(model), recorded(machine), build, environ)


def test_the_profile_of_the_build_comes_before_newer_ones(tmp_path: Path) -> None:
    path = keep(tmp_path, "qwen3moe-30b-a3b", "b1", "2026-01-01")
    keep(tmp_path, "qwen3moe-30b-a3b", "b2", "2026-12-31")

    assert newest(tmp_path, "qwen3moe-30b-a3b", "b1") == (load(path), path)


def test_else_it_is_the_newest_of_the_model_on_the_machine(tmp_path: Path) -> None:
    keep(tmp_path, "qwen3moe-30b-a3b", "b1", "2026-01-01")
    path = keep(tmp_path, "qwen3moe-30b-a3b", "b2", "2026-06-01")
    keep(tmp_path, "llama3-8b", "b2", "2026-12-31")

    assert newest(tmp_path, "qwen3moe-30b-a3b", "b3").path == path


def test_of_another_model_or_machine_there_is_none(tmp_path: Path) -> None:
    keep(tmp_path, "qwen3moe-30b-a3b", "b1", "2026-01-01")

    for model, machine in (("llama3-8b", "amd-gpu"), ("qwen3moe-30b-a3b", "two-socket-numa")):
        with pytest.raises(FileNotFoundError):
            newest(tmp_path, model, "b1", machine)


def test_models_of_one_name_are_told_apart() -> None:
    model = zoo_model("qwen3moe-30b-a3b")

    assert model_digest(replace(model, quantization="Q8_0")) != model_digest(model)
    assert model_digest(replace(model, path=Path("/moved.gguf"))) == model_digest(model)


@pytest.mark.parametrize(("high", "is_slower"), [(None, False), (0.99, True), (1.0, False)])
def test_only_what_was_shown_to_be_slower_is(high: float | None, is_slower: bool) -> None:  # noqa: FBT001
    assert replace(PROFILE, high=high).is_slower is is_slower


# --- what is refused -----------------------------------------------------------------------------


def written(path: Path, **changes: object) -> Path:
    """Write a profile with other values for some of its keys."""
    save(path, PROFILE)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")


def test_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:5])
)
def test_what_is_no_profile_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"profile\.json"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"format_version": None}, "format_version is None"),
        ({"date": 20261120}, "date"),
        ({"build": None}, "build"),
        ({"params": []}, "params"),
        ({"params": {"n_treads": 3}}, "n_treads"),
        ({"params": {"n_threads": "3"}}, "params.n_threads is '3', not a whole number"),
        ({"params": {"n_threads": True}}, "params.n_threads"),
        ({"params": {"flash_attn": 1}}, "params.flash_attn"),
        ({"params": {"load_mode": "fast"}}, "params.load_mode is 'fast', not auto or none"),
        ({"params": {"tensor_split": "3,1"}}, "params.tensor_split"),
        ({"params": {"tensor_split": ["3"]}}, "params.tensor_split"),
        ({"params": {"tensor_buft_overrides": [["a"]]}}, "params.tensor_buft_overrides"),
        ({"params": {"n_threads": -2}}, "params.n_threads is '-2'"),
        ({"params": {"n_batch": 1 << 31}}, "params.n_batch"),
        ({"params": {"type_k": "--rpc"}}, "params.type_k is '--rpc'"),
        ({"params": {"type_v": "f16,q8_0"}}, "params.type_v"),
        ({"params": {"devices": ["-o"]}}, "params.devices"),
        ({"params": {"devices": ["a\nb"]}}, "params.devices"),
        ({"params": {"tensor_split": [-1]}}, "params.tensor_split"),
        ({"params": {"tensor_buft_overrides": [["--host", "x"]]}}, "params.tensor_buft"),
        ({"argv": ["sh", "-c", "id"], "params": {"argv": ["sh"]}}, "unknown key 'argv'"),
    ],
    ids=str,
)
def test_a_wrong_key_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile\.json") as raised:
        load(written(tmp_path / "profile.json", **changes))

    assert named in str(raised.value)


# --- where it is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({}, "/home/me/.local/share/lcm-autotune/profiles"),
        ({"XDG_DATA_HOME": "/data"}, "/data/lcm-autotune/profiles"),
        ({"XDG_DATA_HOME": ""}, "/home/me/.local/share/lcm-autotune/profiles"),
        ({"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/lcm-autotune/profiles"),
        ({"LCM_RESULTS_DIR": "/r", "XDG_DATA_HOME": "/data"}, "/r/profiles"),
    ],
    ids=str,
)
def test_the_folder_is_the_users(environ: dict[str, str], folder: str) -> None:
    assert profile_folder(ENVIRON | environ) == Path(folder)


LLAMA, MIXTURE = "llama3-8b", "gpt-oss-20b"


def path_of(model: str = LLAMA, machine: str = "one-socket-smt", build: str = "b1") -> Path:
    return profile_path(zoo_model(model), recorded(machine), build, ENVIRON)


def test_the_name_speaks_of_the_model_and_is_always_the_same() -> None:
    assert path_of() == path_of()
    assert path_of().suffix == ".json"
    assert zoo_model(LLAMA).name.split()[0] in path_of().name


def test_another_model_machine_or_build_has_another() -> None:
    paths = {path_of(), path_of(MIXTURE), path_of(machine="hybrid-smt"), path_of(build="b2")}

    assert len(paths) == 4


def test_a_model_that_was_moved_has_the_same() -> None:
    model = zoo_model(LLAMA)
    moved = replace(model, path=Path("/elsewhere.gguf"), files=(Path("/elsewhere.gguf"),))

    assert profile_path(moved, recorded("one-socket-smt"), "b1", ENVIRON) == path_of()


def test_memory_that_is_free_just_now_does_not_matter_and_a_quota_does() -> None:
    model, machine = zoo_model(LLAMA), recorded("one-socket-smt")
    memory = replace(machine.memory, available_bytes=1, swap_free_bytes=0)
    busy = replace(machine, memory=memory)
    limited = replace(machine, cpu=replace(machine.cpu, quota=2.0))

    assert profile_path(model, busy, "b1", ENVIRON) == path_of()
    assert profile_path(model, limited, "b1", ENVIRON) != path_of()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "...", "größe\n\x1b", "a" * 300, "\ud800"]
)
def test_a_models_name_does_not_lead_out_of_the_folder(name: str) -> None:
    model = replace(zoo_model(LLAMA), name=name)

    path = profile_path(model, recorded("one-socket-smt"), "b1", ENVIRON)

    assert path.parent == profile_folder(ENVIRON)
    assert path.name.isascii()
    assert path.name.isprintable()
    assert not path.name.startswith(".")
    assert len(path.name) < 120
