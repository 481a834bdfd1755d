"""How many joules a machine has used: recorded trees of powercap and hwmon, and NVML."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import nvml
from fakes.machine import write

from autotune.hardware import Root
from autotune.hardware.energy import Meter, metered
from autotune.hardware.nvml_activity import open_gpus

POWERCAP = "sys/class/powercap"
SENSORS = "sys/class/hwmon"
RANGE = 262_143_328_850  # Of a counter of 32 bits in units of 61 uJ, as most have.

# The zones of a workstation with two sockets, with microjoules. What is in a package stands again
# beside it, "psys" has all of it, and the mmio zone is the first package by another way.
ZONES = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 700_000),
    "intel-rapl:0:1": ("uncore", 100_000),
    "intel-rapl:0:2": ("dram", 5_000_000),
    "intel-rapl:1": ("package-1", 9_000_000),
    "intel-rapl:1:0": ("dram", 2_000_000),
    "intel-rapl:2": ("psys", 60_000_000),
    "intel-rapl-mmio:0": ("package-0", 1_000_000),
}


def set_uj(folder: Path, zone: str, microjoules: int) -> None:
    write(folder, f"{POWERCAP}/{zone}/energy_uj", str(microjoules))


def write_zones(folder: Path) -> None:
    for zone, (name, microjoules) in ZONES.items():
        write(folder, f"{POWERCAP}/{zone}/name", name)
        write(folder, f"{POWERCAP}/{zone}/max_energy_range_uj", str(RANGE))
        set_uj(folder, zone, microjoules)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    write_zones(tmp_path)
    return tmp_path


def hide(folder: Path, zone: str) -> None:
    """Take the file's contents away, as from whoever is not root: a folder cannot be read."""
    file = folder / f"{POWERCAP}/{zone}/energy_uj"
    file.unlink()
    file.mkdir()


def test_packages_and_their_memory_count_and_nothing_twice(machine: Path) -> None:
    meter = Meter(Root(machine))

    for zone, (_, microjoules) in ZONES.items():
        set_uj(machine, zone, microjoules + 3_000_000)

    assert meter.read() == 4 * 3.0
    assert meter.metered.of == (
        "CPU package 0",
        "memory of package 0",
        "CPU package 1",
        "memory of package 1",
    )


def test_a_counter_that_wraps_around_goes_on(machine: Path) -> None:
    set_uj(machine, "intel-rapl:0", RANGE - 2_000_000)
    meter = Meter(Root(machine))

    set_uj(machine, "intel-rapl:0", 3_000_000)

    assert meter.read() == pytest.approx(5.0)


def test_a_counter_that_may_have_wrapped_around_twice_says_nothing_once(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter, now = Meter(Root(machine)), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)

    assert meter.read() is None
    set_uj(machine, "intel-rapl:0", 8_000_000)
    assert meter.read() == 7.0


def test_a_counter_without_a_range_that_falls_says_nothing_once(tmp_path: Path) -> None:
    write(tmp_path, f"{SENSORS}/hwmon3/name", "xe")
    write(tmp_path, f"{SENSORS}/hwmon3/energy1_input", "9000000")
    meter = Meter(Root(tmp_path))

    write(tmp_path, f"{SENSORS}/hwmon3/energy1_input", "1000000")

    assert meter.read() is None
    write(tmp_path, f"{SENSORS}/hwmon3/energy1_input", "3000000")
    assert meter.read() == 2.0


def test_a_counter_that_only_root_may_read_is_a_gap_with_a_remedy(machine: Path) -> None:
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        hide(machine, zone)

    found = metered(Root(machine))

    assert (found.is_whole, found.of_cpu) == (False, False)
    assert found.gap == (
        "only root may read /sys/class/powercap/intel-rapl:0/energy_uj (since CVE-2020-8694)"
    )
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in found.remedy


def test_a_machine_that_counts_nothing_says_so(tmp_path: Path) -> None:
    found, meter = metered(Root(tmp_path)), Meter(Root(tmp_path))

    assert (found.is_whole, meter.read()) == (False, None)
    assert found.gap == "neither RAPL nor a GPU shows a counter of joules here"


def test_what_stops_answering_makes_the_whole_unknown(machine: Path) -> None:
    meter = Meter(Root(machine))

    hide(machine, "intel-rapl:1")

    assert meter.read() is None


@pytest.mark.parametrize(
    ("enabled", "expected"),
    [("1", {"package0_energy_j": 2.0, "package0_limit_w": 65.0}), ("0", {})],
)
def test_a_package_has_a_limit_where_that_is_on(
    machine: Path, enabled: str, expected: dict[str, float]
) -> None:
    write(machine, f"{POWERCAP}/intel-rapl:0/constraint_0_power_limit_uw", "65000000")
    write(machine, f"{POWERCAP}/intel-rapl:0/enabled", enabled)
    meter = Meter(Root(machine))

    set_uj(machine, "intel-rapl:0", 3_000_000)

    assert meter.read_packages() == expected


def test_the_slowest_counter_says_how_long_a_test_must_be(machine: Path) -> None:
    of_cpu = metered(Root(machine))
    write(machine, f"{SENSORS}/hwmon3/name", "xe")
    write(machine, f"{SENSORS}/hwmon3/energy1_input", "9000000")
    with_card = metered(Root(machine))

    assert [of_cpu.least_s, of_cpu.wanted_s] == pytest.approx([0.005, 0.02])
    assert [with_card.least_s, with_card.wanted_s] == pytest.approx([0.5, 2.0])


def test_a_card_that_tells_its_watts_is_added_up(tmp_path: Path) -> None:
    write(tmp_path, f"{SENSORS}/hwmon2/name", "amdgpu")
    write(tmp_path, f"{SENSORS}/hwmon2/power1_average", "200000000")
    meter = Meter(Root(tmp_path))
    before, since = meter.read(), time.monotonic()

    time.sleep(0.25)  # The thread reads meanwhile.

    joules, passed_s = (meter.read() or 0.0) - (before or 0.0), time.monotonic() - since
    assert joules == pytest.approx(200 * passed_s, rel=0.05)


def test_a_gpu_in_the_processor_is_in_its_package(tmp_path: Path) -> None:
    write(tmp_path, f"{SENSORS}/hwmon2/name", "amdgpu")
    write(tmp_path, f"{SENSORS}/hwmon2/in1_label", "vddnb")
    write(tmp_path, f"{SENSORS}/hwmon2/power1_average", "15000000")

    assert Meter(Root(tmp_path)).metered.of == ()


class NVMLError(Exception):
    """As pynvml has it."""


class Driver:
    """Two GPUs; the first counts millijoules, the second is of before Volta and tells watts."""

    NVMLError = NVMLError
    millijoules = 5_000_000

    def nvmlInit(self) -> None:  # noqa: N802
        return None

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, gpu: int) -> str:  # noqa: N802
        return f"GPU-{gpu}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:  # noqa: N802
        if gpu:
            raise NVMLError
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:  # noqa: N802
        return 50_000 if gpu else 300_000


def test_gpus_count_or_are_added_up_beside_the_processors(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine, "proc/driver/nvidia/version", "NVRM version: 570.124.06")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    root = Root(machine)
    meter = Meter(root, open_gpus(root))
    before = meter.read() or 0.0

    driver.millijoules += 40_000
    set_uj(machine, "intel-rapl:0", 3_000_000)

    assert meter.metered.of[-2:] == ("GPU 0", "GPU 1")
    # The second GPU adds 50 W for the moment between the two readings.
    assert (meter.read() or 0.0) - before == pytest.approx(42.0, abs=1.0)


def test_the_real_pynvml_counts_by_the_library_of_the_driver(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(machine, "proc/driver/nvidia/version", "NVRM version: 570.124.06")
    library = nvml.build(tmp_path_factory.mktemp("nvml"))
    state = tmp_path_factory.mktemp("state") / "state"
    state.write_text(
        "gpu 0 0 9.0 143771 143000 GPU-1 NVIDIA H200\n"
        "energy 0 7250000\npower 0 310000\ncapped 0 2500000000 4\n"
        "gpu 0 0 6.1 8192 8000 GPU-2 NVIDIA GeForce GTX 1080\npower 0 150000\n"
        "gpu 0 0 5.0 2048 2000 GPU-3 NVIDIA GeForce GTX 750\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", _ASK, machine],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("CUDA_")},
            "LD_LIBRARY_PATH": str(library.parent),
            "PYTHONPATH": os.pathsep.join(sys.path),
            nvml.STATE: str(state),
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    assert json.loads(done.stdout) == {
        "of": ["GPU 0", "GPU 1"],  # The third counts nothing and tells no watts.
        "joules": [7250.0, None, None],
        "watts": [310.0, 150.0, None],
        "capped": {
            "gpu0_throttle_reasons": 4.0,
            "gpu0_power_capped_s": 2.5,
        },
    }


_ASK = """
import json, sys
from autotune.hardware import Root
from autotune.hardware.activity import Activity
from autotune.hardware.nvml_activity import open_gpus
root = Root(sys.argv[1])
activity, gpus = Activity(root), open_gpus(root)
json.dump({
    "of": [name for name in activity.meter.metered.of if name.startswith("GPU")],
    "joules": [gpu.joules() for gpu in gpus],
    "watts": [gpu.watts() for gpu in gpus],
    "capped": {key: value for key, value in activity.read().items() if key.startswith("gpu")},
}, sys.stdout)
"""
