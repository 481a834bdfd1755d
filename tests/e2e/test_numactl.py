"""Bound to NUMA nodes: a recorded machine of two with a stand-in, and this one with numactl."""

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.benches import SCRIPT, bench_of, outcomes
from fakes.hosts import recorded
from unit.test_nodes import NUMACTL

import autotune
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.records import Measurement
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params
from autotune.tuning import ground

# Nothing but the bindings is searched.
REQUEST = """\
[request]
n_prompt = 64
n_gen = 16
[parameters]
n_threads = 4
n_threads_batch = 4
n_ubatch = 64
n_batch = 64
flash_attn = true
load_mode = "none"
repack = true
"""


def test_each_binding_is_a_process_of_its_own_on_a_machine_of_two_nodes(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "numactl"
    program.write_text(NUMACTL.replace("--cpunodebind=1)", "--cpunodebind=7)"), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LCM_LLAMA_BENCH", shlex.join([sys.executable, "-S", "-E", str(SCRIPT)]))
    monkeypatch.setenv("LCM_FAKE_MS", "1 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = replace(recorded("two-socket-numa"), gpus=())
    monkeypatch.setattr(ground, "detect_hardware", lambda: machine)

    request = tmp_path / "request.toml"
    request.write_text(REQUEST, encoding="utf-8")
    tuned = autotune.tune(tiny, workload=str(request), budget_s=20)

    log = program.with_name("numactl.log").read_text(encoding="utf-8")
    bound = {" ".join(line.split()[:2]) for line in log.splitlines() if "--numa numactl" in line}
    assert bound == {
        f"--interleave=all {sys.executable}",
        "--cpunodebind=0 --membind=0",
        "--cpunodebind=1 --membind=1",
    }
    assert tuned.n_trials > len(bound)


@pytest.mark.llama_cpp
def test_the_real_one_binds_the_real_llama_bench(tiny: Path, llama_cpp_dir: Path) -> None:
    program = Program(
        name="llama-bench", command=(str(llama_cpp_dir / "llama-bench"),), found_by="tests"
    )
    params = Params(n_threads=1, numa="numactl", numactl="node0")
    free = replace(params, numa=None, numactl=None)
    trials = [Trial(p, BenchTest(n_gen=2)) for p in (params, free)]

    found = [outcome for _, outcome in outcomes(bench_of(program, tiny).run(trials, repetitions=1))]

    assert [type(outcome) for outcome in found] == [Measurement, Measurement], json.dumps(
        [str(outcome) for outcome in found]
    )
    begun = [outcome.run.argv[:4] for outcome in found]
    assert begun[0] == ("numactl", "--cpunodebind=0", "--membind=0", *program.command)
    assert begun[1][0] == program.command[0]
