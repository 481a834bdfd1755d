"""`--objective efficiency` as its user has it: on a machine that counts joules, and on others."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.benches import SCRIPT
from fakes.machine import write
from lcm_process import REPOSITORY

ZONE = "sys/class/powercap/intel-rapl:0"

# `lcm` on this machine, whose /sys/class/powercap lies in a folder. Its counter takes 40 W.
_LCM = """
import sys, threading, time
from pathlib import Path
from autotune.hardware import activity, energy
from autotune.hardware.root import Root

folder = Path(sys.argv.pop(1))

class Metered(Root):
    def _at(self, path):
        return Root(folder) if path.startswith("sys/class/powercap") else Root()
    def read_text(self, path, *, most_bytes=None):
        if path.endswith("energy_uj") and (folder / path).is_file():
            return str(int(40e6 * time.monotonic()))
        return self._at(path).read_text(path, most_bytes=most_bytes)
    def names(self, path):
        return self._at(path).names(path)
    def exists(self, path):
        return self._at(path).exists(path)

energy.Root = activity.Root = Metered
from autotune.cli import main
sys.argv[0] = "lcm"
sys.exit(main())
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    write(folder, f"{ZONE}/name", "package-0")
    write(folder, f"{ZONE}/max_energy_range_uj", "262143328850")
    write(folder, f"{ZONE}/energy_uj", "0")
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "LCM_RESULTS_DIR": str(tmp_path / "results"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LCM_LLAMA_BENCH": shlex.join([sys.executable, "-S", "-E", str(SCRIPT)]),
        "LCM_FAKE_MS": "1 20",
        "PYTHONPATH": str(REPOSITORY),
    }


def lcm(
    machine: Path, environ: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _LCM, str(machine), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def tune(
    machine: Path, environ: dict[str, str], tiny: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    order = ("run", "--model", str(tiny), "--optimize", "--deep", "--budget", "5s")
    return lcm(machine, environ, *order, "--objective", "efficiency", *more)


def test_joules_are_measured_kept_and_come_out_again(
    machine: Path, environ: dict[str, str], tiny: Path
) -> None:
    done = tune(machine, environ, tiny)

    assert done.returncode == 0, done.stderr
    evidence = json.loads(done.stdout)["evidence"]
    side = evidence["baseline"]
    assert evidence["workload"]["objective"] == "efficiency"
    assert side["request_j"] == pytest.approx(40 * side["request_s"], rel=0.25)
    assert re.search(r"request s +pp t/J +tg t/J +request J", done.stderr)

    table = lcm(machine, environ, "results", "export", "latest", "--format", "csv").stdout
    measured = [r for r in csv.DictReader(io.StringIO(table)) if r["outcome"] == "measured"]
    told = [float(r["tokens_per_joule"]) for r in measured if r["tokens_per_joule"]]
    # Where this process was not scheduled for a whole test of 20 ms, nobody can tell.
    assert (min(told) > 0, len(told) > len(measured) / 2) == (True, True)
    shown = lcm(machine, environ, "results", "show", "latest").stdout
    assert re.search(r"defaults .* t/J, [\d.]+ J", shown)
    page = lcm(machine, environ, "results", "report", "latest", "--format", "markdown").stdout
    assert "t/J" in page


def test_where_the_counter_is_root_s_alone_nothing_is_measured(
    machine: Path, environ: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    (machine / f"{ZONE}/energy_uj").unlink()
    (machine / f"{ZONE}/energy_uj").mkdir()

    done = tune(machine, environ, tiny)

    assert (done.returncode, done.stdout) == (3, "")
    assert "lcm: error: --objective efficiency: the energy of this machine cannot be" in done.stderr
    assert "only root may read /sys/class/powercap/intel-rapl:0/energy_uj" in done.stderr
    assert "hint: run it as root, or until the next boot: sudo chmod a+r" in done.stderr
    assert not (tmp_path / "results").exists()


def test_seconds_are_measured_where_nothing_counts_joules(
    tmp_path: Path, environ: dict[str, str], tiny: Path
) -> None:
    order = ("run", "--model", str(tiny), "--optimize", "--deep", "--budget", "3s")
    done = lcm(tmp_path / "nothing", environ, *order)

    side = json.loads(done.stdout)["evidence"]["baseline"]
    assert (side["request_j"], side["pp_tokens_per_joule"]) == (None, None)
    assert side["request_s"] > 0
