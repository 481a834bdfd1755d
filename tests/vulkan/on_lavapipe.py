"""A real Vulkan device without a GPU: Mesa's lavapipe, which computes on the CPU.

`nox -s vulkan` builds the llama.cpp for it, which takes minutes, and runs these; the other sessions
do not collect this file.
"""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes.listings import recorded_devices
from lcm_process import run_lcm

from autotune.llama_cpp.capabilities import ask
from autotune.llama_cpp.devices import Device, list_devices
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.records import parse_record

pytestmark = pytest.mark.llama_cpp

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))


@pytest.fixture
def bench(llama_cpp_dir: Path) -> Program:
    path = llama_cpp_dir / "llama-bench"
    return Program(name="llama-bench", command=(str(path),), found_by="the test")


@pytest.fixture
def lavapipe(bench: Program) -> Device:
    (device,) = list_devices(bench, ask(bench)) or ()
    return device


def answer(*arguments: str | Path, timeout: float = 120) -> dict[str, Any]:
    done = run_lcm(*arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_the_device_is_the_one_that_was_recorded(lavapipe: Device) -> None:
    """Its LLVM and its memory are those of this Mesa; all else is as in the recording."""
    (recorded,) = recorded_devices("vulkan-lavapipe")

    assert lavapipe.name == recorded.name == "Vulkan0"
    assert lavapipe.description.partition(" ")[0] == recorded.description.partition(" ")[0]
    assert lavapipe.shares_memory == recorded.shares_memory
    assert 0 < lavapipe.free_mib <= lavapipe.total_mib


def test_without_the_variable_there_is_no_device(
    bench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES")
    assert list_devices(bench, ask(bench)) == ()


def test_a_number_that_is_no_devices_leaves_none(
    bench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "7")
    assert list_devices(bench, ask(bench)) == ()


def test_llama_bench_computes_on_it(bench: Program, tiny: Path) -> None:
    test = ["-ngl", "99", "-p", "16", "-n", "2", "-r", "1", "-o", "jsonl"]
    done = subprocess.run(
        [*bench.command, "-m", str(tiny), *test], capture_output=True, text=True, check=True
    )

    records = [parse_record(line) for line in done.stdout.splitlines()]

    assert [record.raw["backends"] for record in records] == ["Vulkan", "Vulkan"]
    assert [record.settings["n_gpu_layers"] for record in records] == [99, 99]


def test_the_recommendation_uses_it_and_calls_it_what_it_is(tiny: Path, lavapipe: Device) -> None:
    printed = answer("run", "--model", tiny, "--optimize")

    (gpu,) = printed["hardware"]["gpus"]
    assert (gpu["device"], gpu["name"], gpu["integrated"]) == (
        "Vulkan0",
        lavapipe.description,
        True,
    )
    assert gpu["total_bytes"] == lavapipe.total_mib * MIB
    assert printed["hardware"]["gpu_type"] == "Vulkan"
    assert printed["recommended_params"]["--n-gpu-layers"] == 999
    assert any("is no GPU: it computes on the CPU" in one["what"] for one in printed["warnings"])


def test_what_is_recommended_starts(tiny: Path, llama_cpp_dir: Path) -> None:
    """The command of the answer, with a prompt and an end, generates on the device."""
    command = answer("run", "--model", tiny, "--optimize", "--ctx-size", "256")["command"]
    chat = ["-p", "a", "-n", "2", "--single-turn", "--no-warmup", "--verbose"]

    done = subprocess.run(
        [*command["llama-cli"], *chat],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )

    assert command["llama-cli"][0] == str(llama_cpp_dir / "llama-cli")
    # A model of random weights says any bytes.
    assert (done.returncode, b"Vulkan0 model buffer size" in done.stdout + done.stderr) == (0, True)


def test_the_doctor_names_it(tiny: Path, lavapipe: Device) -> None:
    printed = answer("doctor", "--model", tiny, "--json")

    for program in printed["programs"]:
        assert [device["name"] for device in program["devices"]] == ["Vulkan0"]
        assert "Vulkan" in program["backends"]
    assert printed["hardware"]["gpus"][0]["sources"] == ["llama.cpp"]
    assert any(lavapipe.description in found["what"] for found in printed["findings"])


def test_measuring_tries_layers_on_it_and_off_it(
    tiny: Path, tmp_path: Path, lavapipe: Device
) -> None:
    workload = tmp_path / "short.toml"
    workload.write_text("[request]\nn_prompt = 32\nn_gen = 8\n", encoding="utf-8")

    others = ("n_threads=2", "n_batch=2048", "flash_attn=auto", "load_mode=auto")
    fixed = [word for one in (*others, "no_kv_offload=0") for word in ("--param", one)]

    printed = answer(
        *("run", "--model", str(tiny), "--optimize", "--deep", "--profile", str(workload)),
        *("--param", "n_gpu_layers=0,7", *fixed, "--ctx-size", "256"),
        *("--trials", "6", "--no-verify"),
        timeout=900,
    )

    (table,) = (tmp_path / "results").rglob("records.csv")
    with table.open(encoding="utf-8", newline="") as rows:
        measured = list(csv.DictReader(rows))
    assert [gpu["device"] for gpu in printed["hardware"]["gpus"]] == ["Vulkan0"]
    assert {row["gpu_info"] for row in measured} == {lavapipe.description}
    assert {row["n_gpu_layers"] for row in measured} == {"0", "999"}
    assert printed["evidence"]["failures"] == {}
