"""A saved answer becomes the parameters that hold for the machine that it is started on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.hosts import MIB, recorded, zoo_model

from autotune.cli.saved import read_saved
from autotune.params import Params

MODEL, MACHINE = zoo_model("llama3-8b"), recorded("one-socket-smt")


def read(folder: Path, *, memlock_bytes: int | None = None, **recommended: object) -> Params:
    """Read a saved answer on a machine that may lock so much memory."""
    values = {"--" + key.replace("_", "-"): value for key, value in recommended.items()}
    file = folder / "saved.json"
    file.write_text(json.dumps({"recommended_params": values}))
    memory = replace(MACHINE.memory, memlock_bytes=memlock_bytes)
    return read_saved(file, MODEL, replace(MACHINE, memory=memory))


def test_the_keys_become_parameters(tmp_path: Path) -> None:
    params = read(
        tmp_path,
        threads=7,
        threads_batch=8,
        n_gpu_layers=0,
        n_cpu_moe=0,
        tensor_split=[3, 1],
        n_ctx=4096,
        batch_size=512,
        ubatch_size=256,
        flash_attn="auto",
        cache_type_k="q8_0",
        cache_type_v="f16",
        numa="distribute",
        cache_ram=-1,
    )

    assert params == Params(
        n_threads=7,
        n_threads_batch=8,
        n_gpu_layers=0,
        n_cpu_moe=0,
        tensor_split=(3.0, 1.0),
        n_ctx=4096,
        n_batch=512,
        n_ubatch=256,
        flash_attn="auto",
        type_k="q8_0",
        type_v="f16",
        numa="distribute",
        cache_ram=-1,
    )


def test_nothing_recommended_leaves_everything_to_llama_cpp(tmp_path: Path) -> None:
    assert read(tmp_path) == Params()


@pytest.mark.parametrize(("word", "value"), [("on", True), ("off", False), ("auto", "auto")])
def test_flash_attention_is_said_in_words(word: str, value: object, tmp_path: Path) -> None:
    assert read(tmp_path, flash_attn=word).flash_attn == value


@pytest.mark.parametrize(
    ("mlock", "no_mmap", "mode"),
    [
        (False, False, None),
        (True, False, "mmap+mlock"),
        (True, True, "mlock"),
        (False, True, "none"),
    ],
)
def test_the_two_switches_make_a_load_mode(
    *, mlock: bool, no_mmap: bool, mode: str | None, tmp_path: Path
) -> None:
    assert read(tmp_path, mlock=mlock, no_mmap=no_mmap).load_mode == mode


def test_memory_that_may_not_be_locked_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = read(tmp_path, memlock_bytes=8 * MIB, mlock=True)

    assert params.load_mode is None
    assert "--mlock is left out: this process may lock 8.0 MiB" in capsys.readouterr().err
