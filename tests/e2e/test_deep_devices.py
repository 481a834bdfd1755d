"""`--deep` with two real device servers, of which one has less memory than it says."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from fakes.layered import LAYERS, write_layered
from fakes.oracle import limited_device
from lcm_process import run_lcm

pytestmark = pytest.mark.llama_cpp

# One thread everywhere, so that two servers and llama-bench do not wait for each other's.
REQUEST = """\
[request]
n_prompt = 64
n_gen = 16
[parameters]
n_threads = 1
n_threads_batch = 1
n_ubatch = 64
n_batch = 64
load_mode = "none"
"""
# Of address space: the program has some 45 MB of it, a layer takes 5. The first holds all 25 layers
# of the model, the second not even 20; both say that they have all of this machine's memory.
ROOMY_KIB, SMALL_KIB = 230_000, 125_000
DEFAULT_SPLIT = [float(LAYERS // 2 + 1), float(LAYERS // 2)]  # Of equals, as they seem to be.


@pytest.fixture(autouse=True)
def results(tmp_path: Path, llama_cpp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))
    monkeypatch.setenv("LCM_RESULTS_DIR", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "layered.gguf"
    write_layered(path)
    return path


def deep(model: Path, folder: Path, *options: str, rpc: str) -> dict[str, Any]:
    request = folder / "request.toml"
    request.write_text(REQUEST, encoding="utf-8")
    asked: list[str | Path] = ["run", "--model", model, "--optimize", "--deep", "--no-verify"]
    asked += ["--ctx-size", "512", "--profile", request, "--budget", "60s", *options]
    done = run_lcm(*asked, "--", "--rpc", rpc, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def trials(results: Path) -> list[optuna.trial.FrozenTrial]:
    (database,) = results.glob("studies/*/study.db")
    return optuna.load_study(study_name="lcm", storage=f"sqlite:///{database}").get_trials()


def on_the_second(params: dict[str, Any]) -> float:
    """Layers on the second server, by what was asked for."""
    layers = min(params["n_gpu_layers"], LAYERS + 1)
    names = params.get("devices", ["RPC0", "RPC1"])
    if "RPC1" not in names:
        return 0
    shares = params.get("tensor_split") or ([1.0] if len(names) == 1 else DEFAULT_SPLIT)
    return float(layers * shares[names.index("RPC1")] / sum(shares))


def test_layers_are_spread_over_two_servers_and_the_edge_of_the_smaller_is_found_by_halves(
    tmp_path: Path, llama_cpp_dir: Path, results: Path, model: Path
) -> None:
    server = llama_cpp_dir / "ggml-rpc-server"
    with limited_device(server, ROOMY_KIB) as first, limited_device(server, SMALL_KIB) as second:
        answer = deep(model, tmp_path, "--trials", "9", rpc=f"{first},{second}")

    done = trials(results)
    tried = [trial.user_attrs["params"] for trial in done]
    failed = [t.user_attrs["params"] for t in done if t.user_attrs.get("failure") == "oom"]
    worked = [p for p in tried if p not in failed]
    assert [gpu["name"] for gpu in answer["hardware"]["gpus"]] == [first, second]
    assert [p for p in tried if len(p.get("devices", ())) == 1]
    assert any("tensor_split" in p for p in tried)
    # Only what gives the second too much has failed, and once that is known no more of it is tried.
    assert 1 <= len(failed) <= 4
    assert min(map(on_the_second, failed)) > max(map(on_the_second, worked))
    assert [*map(on_the_second, failed)] == sorted(map(on_the_second, failed), reverse=True)
    assert max(map(on_the_second, worked)) > LAYERS / 2


def test_what_is_shipped_splits_the_layers_as_they_were_measured(
    tmp_path: Path, llama_cpp_dir: Path, results: Path, model: Path
) -> None:
    server = llama_cpp_dir / "ggml-rpc-server"
    wish = ("--param", "tensor_split=16/9", "--param", "devices=RPC1/RPC0", "--trials", "1")
    with limited_device(server, ROOMY_KIB) as first, limited_device(server, ROOMY_KIB) as second:
        answer = deep(model, tmp_path, *wish, rpc=f"{first},{second}")

    (trial,) = trials(results)
    argv = next(iter(trial.user_attrs["outcomes"].values()))["run"]["argv"]
    command = answer["command"]["llama-server"]
    asked = {flag: argv[argv.index(flag) + 1] for flag in ("-ts", "-dev")}
    shipped = {flag: command[command.index(flag) + 1] for flag in ("--tensor-split", "--device")}
    assert (asked, shipped) == (
        {"-ts": "16/9", "-dev": "RPC1/RPC0"},
        {"--tensor-split": "16,9", "--device": "RPC1,RPC0"},
    )
    assert answer["recommended_params"]["--tensor-split"] == [16, 9]
