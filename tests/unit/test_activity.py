"""What a machine is doing right now: recorded machines, NVML, and this machine itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest
from fakes import nvml
from fakes.machine import write

from autotune.hardware import Root
from autotune.hardware.activity import Activity

ME, CHILD, GRANDCHILD, STRANGER = 100, 101, 102, 200
CPU = "sys/devices/system/cpu"

# user nice system idle iowait irq softirq steal guest guest_nice, in ticks of 10 ms.
STAT = """\
cpu  1001 100 500 90000 700 20 30 40 900 90
cpu0 600 60 300 50000 400 10 20 30 500 50
cpu1 400 40 200 40000 300 10 10 10 400 40
intr 12345 0 0
ctxt 99"""
FILES = {
    "proc/stat": STAT,
    "proc/pressure/cpu": "some avg10=0.39 avg60=0.38 avg300=0.55 total=2500000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=7",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000",
    "proc/pressure/io": "some avg10=0.00 avg60=0.00 avg300=0.00 total=500000",
    "proc/vmstat": "nr_free_pages 5\npswpin 30\npswpout 12",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "3000000",
    f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "2000000",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "4",
    "sys/class/thermal/thermal_zone0/type": "acpitz",
    "sys/class/thermal/thermal_zone0/temp": "99000",
    "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
    "sys/class/thermal/thermal_zone1/temp": "61000",
    "sys/class/hwmon/hwmon0/name": "nvme",
    "sys/class/hwmon/hwmon0/temp1_input": "88000",
    "sys/class/hwmon/hwmon1/name": "coretemp",
    "sys/class/hwmon/hwmon1/temp1_input": "62500",
}
READ = {
    "busy_s": 16.91,
    "own_s": 1.76,
    "pressure_cpu_s": 2.5,
    "pressure_memory_s": 1.5,
    "pressure_io_s": 0.5,
    "swapped_pages": 42,
    "throttles": 7,
    "clock_mhz": 2500,
    "temperature_c": 62.5,
}


def stat_line(pid: int, parent: int, *times: int, name: str = "python") -> str:
    """Write /proc/PID/stat as proc_pid_stat(5) has it, with utime, stime, cutime and cstime."""
    middle = f"{pid} {pid} 0 -1 4194304 321 654 9 8"
    return f"{pid} ({name}) S {parent} {middle} {' '.join(map(str, times))} 20 0 1 0 77 88"


def write_process(folder: Path, pid: int, parent: int, *times: int, name: str = "python") -> None:
    write(folder, f"proc/{pid}/stat", stat_line(pid, parent, *times, name=name))
    if pid == ME:
        write(folder, "proc/self/stat", stat_line(pid, parent, *times, name=name))


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for path, content in FILES.items():
        write(tmp_path, path, content)
    write_process(tmp_path, 1, 0, 5000, 5000, 5000, 5000, name="init")
    write_process(tmp_path, ME, 1, 10, 5, 20, 1)
    write_process(tmp_path, CHILD, ME, 100, 10, 3, 2, name="a) S 1 (b c")
    write_process(tmp_path, GRANDCHILD, CHILD, 20, 5, 0, 0)
    write_process(tmp_path, STRANGER, 1, 9000, 9000, 0, 0)
    return tmp_path


def read(root: Root) -> dict[str, float]:
    state = Activity(root).read()
    del state["at_s"]
    return state


def test_a_recorded_machine_is_read(machine: Path) -> None:
    assert read(Root(machine)) == pytest.approx(READ)


def test_of_a_machine_that_shows_nothing_only_the_time_is_known(tmp_path: Path) -> None:
    assert list(Activity(Root(tmp_path)).read()) == ["at_s"]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("proc/stat", "busy_s"),
        ("proc/self/stat", "own_s"),
        ("proc/pressure/cpu", "pressure_cpu_s"),
        ("proc/pressure/memory", "pressure_memory_s"),
        ("proc/pressure/io", "pressure_io_s"),
        ("proc/vmstat", "swapped_pages"),
    ],
)
@pytest.mark.parametrize("content", [None, "", "cpu (x) S total=many", "cpu  1 2 3\ncpu0 1 2 3"])
def test_what_is_missing_or_garbled_is_left_out_alone(
    machine: Path, path: str, key: str, content: str | None
) -> None:
    (machine / path).unlink()
    if content is not None:
        write(machine, path, content)

    assert read(Root(machine)).keys() == READ.keys() - {key}


@pytest.mark.parametrize(
    ("paths", "key", "left"),
    [
        (["cpu1/cpufreq/scaling_cur_freq"], "clock_mhz", 3000),
        (["cpu1/thermal_throttle/core_throttle_count"], "throttles", 3),
        (["cpu0/cpufreq/scaling_cur_freq", "cpu1/cpufreq/scaling_cur_freq"], "clock_mhz", None),
    ],
)
def test_of_several_sensors_those_that_answer_count(
    machine: Path, paths: list[str], key: str, left: float | None
) -> None:
    for path in paths:
        write(machine, f"{CPU}/{path}", "<unknown>")

    assert read(Root(machine)).get(key) == left


@pytest.mark.parametrize(
    ("kind", "temperature_c"), [("cpu-thermal", 99), ("soc-thermal", 99), ("battery", 62.5)]
)
def test_the_temperature_is_that_of_a_processor(
    machine: Path, kind: str, temperature_c: float
) -> None:
    write(machine, "sys/class/thermal/thermal_zone0/type", kind)

    assert read(Root(machine))["temperature_c"] == temperature_c


def test_of_many_clocks_some_are_read_from_all_over_the_machine(machine: Path) -> None:
    for cpu in range(64):
        write(machine, f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq", str(cpu * 1000))

    assert read(Root(machine))["clock_mhz"] == sum(range(0, 64, 8)) / 8


def test_a_process_that_has_ended_since_it_was_listed_is_left_out(machine: Path) -> None:
    (machine / f"proc/{GRANDCHILD}/stat").unlink()

    assert read(Root(machine))["own_s"] == pytest.approx(READ["own_s"] - 0.25)


def test_throttling_of_a_package_counts_once_and_its_limit_of_power_beside_it(
    machine: Path,
) -> None:
    for cpu in (0, 1):
        write(machine, f"{CPU}/cpu{cpu}/topology/physical_package_id", "0")
        write(machine, f"{CPU}/cpu{cpu}/thermal_throttle/package_throttle_count", "5")
        write(machine, f"{CPU}/cpu{cpu}/thermal_throttle/core_power_limit_count", "2")
        write(machine, f"{CPU}/cpu{cpu}/thermal_throttle/package_power_limit_count", "9")

    state = read(Root(machine))

    assert (state["throttles"], state["power_limits"]) == (3 + 4 + 5, 2 + 2 + 9)


class ThisMachine(Root):
    """A recorded machine that is taken for the one this process runs on."""

    @property
    def is_real(self) -> bool:
        return True


def test_cpus_that_this_process_may_not_use_do_not_count(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})

    state = read(ThisMachine(machine))

    assert (state["busy_s"], state["clock_mhz"]) == (6.7, 2000)


class Reaping(Root):
    """A machine on which the child is reaped while the processes are being read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_text(self, path: str, *, most_bytes: int | None = None) -> str | None:
        file = self._folder / f"proc/{CHILD}/stat"
        if path == f"proc/{CHILD}/stat" and file.exists():
            file.unlink()
            (self._folder / f"proc/{GRANDCHILD}/stat").unlink()
            write_process(self._folder, ME, 1, 10, 5, 20 + 123, 1 + 17)
        return super().read_text(path, most_bytes=most_bytes)


def test_a_child_that_is_reaped_meanwhile_is_counted_once(machine: Path) -> None:
    assert read(Reaping(machine))["own_s"] == pytest.approx(READ["own_s"])


# --- NVIDIA GPUs


class NVMLError(Exception):
    """As pynvml has it: the base of everything that NVML answers with."""


class Driver:
    """What of pynvml is asked here; a function in `failing` answers as on a GPU without it."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_PERF_POLICY_POWER = 0

    def __init__(self) -> None:
        self.failing = ""
        self.computing = [CHILD]
        self.drawing = list[int]()

    def _answer(self, function: str, value: object) -> object:
        if function == self.failing:
            raise NVMLError
        return value

    def nvmlInit(self) -> object:  # noqa: N802
        return self._answer("nvmlInit", None)

    def nvmlDeviceGetCount(self) -> object:  # noqa: N802
        return self._answer("nvmlDeviceGetCount", 2)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        return self._answer(f"nvmlDeviceGetHandleByIndex {index}", index)

    def nvmlDeviceGetUUID(self, gpu: int) -> object:  # noqa: N802
        return f"GPU-{gpu}"

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> object:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._answer("nvmlDeviceGetTemperature", 50 + gpu)

    def nvmlDeviceGetClockInfo(self, gpu: int, clock: int) -> object:  # noqa: N802
        assert clock == self.NVML_CLOCK_SM
        return self._answer("nvmlDeviceGetClockInfo", 1800 + gpu)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: int) -> object:  # noqa: N802
        return self._answer("nvmlDeviceGetCurrentClocksThrottleReasons", 0x24 if gpu else 0x1)

    def nvmlDeviceGetViolationStatus(self, gpu: int, policy: int) -> object:  # noqa: N802
        assert policy == self.NVML_PERF_POLICY_POWER
        status = SimpleNamespace(referenceTime=9, violationTime=2_500_000_000 + gpu)
        return self._answer("nvmlDeviceGetViolationStatus", status)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> object:  # noqa: N802
        users = [] if gpu else [SimpleNamespace(pid=pid) for pid in self.computing]
        return self._answer("nvmlDeviceGetComputeRunningProcesses", users)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: int) -> object:  # noqa: N802
        users = [] if gpu else [SimpleNamespace(pid=pid) for pid in self.drawing]
        return self._answer("nvmlDeviceGetGraphicsRunningProcesses", users)


GPU = {
    "temperature_c": 50,
    "clock_mhz": 1800,
    "throttle_reasons": 1,
    "power_capped_s": 2.5,
    "foreign_processes": 0,
}
OTHER_GPU = {
    "temperature_c": 51,
    "clock_mhz": 1801,
    "throttle_reasons": 36,
    "power_capped_s": 2.500000001,
    "foreign_processes": 0,
}


@pytest.fixture
def driver(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    write(machine, "proc/driver/nvidia/version", "NVRM version: 570.124.06")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def read_gpu(machine: Path, index: int = 0) -> dict[str, float]:
    """Read what is known of one GPU, by the names that its keys end with."""
    prefix, state = f"gpu{index}_", read(Root(machine))
    assert READ.keys() <= state.keys()
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@pytest.mark.usefixtures("driver")
def test_each_gpu_is_read(machine: Path) -> None:
    assert (read_gpu(machine, 0), read_gpu(machine, 1)) == (GPU, OTHER_GPU)


@pytest.mark.usefixtures("driver")
def test_gpus_are_numbered_as_cuda_does(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert (read_gpu(machine, 0), read_gpu(machine, 1)) == (OTHER_GPU, {})


@pytest.mark.parametrize(
    ("computing", "drawing", "foreign"),
    [
        ([], [], 0),
        ([ME, CHILD, GRANDCHILD], [ME], 0),
        ([CHILD, STRANGER], [], 1),
        ([CHILD], [STRANGER, 1], 2),
        ([STRANGER], [STRANGER], 1),
        ([CHILD, 4711], [], None),  # Of a PID namespace that this /proc does not show.
    ],
)
def test_a_process_that_we_did_not_start_is_foreign_to_a_gpu(
    computing: list[int], drawing: list[int], foreign: int | None, driver: Driver, machine: Path
) -> None:
    driver.computing, driver.drawing = computing, drawing

    assert read_gpu(machine).get("foreign_processes") == foreign


def test_of_amds_and_intels_gpus_the_sensors_are_read(machine: Path) -> None:
    for path, content in {
        "card0/device/vendor": "0x8086",
        "card0/device/hwmon/hwmon3/temp2_input": "48000",
        "card1/device/vendor": "0x1002",
        "card1/device/hwmon/hwmon4/temp1_input": "71500",
        "card1/device/hwmon/hwmon4/freq1_input": "2482000000",
        "card2/device/vendor": "0x1002",
        "card3/device/vendor": "0x10de",
        "card3/device/hwmon/hwmon5/temp1_input": "90000",
    }.items():
        write(machine, f"sys/class/drm/{path}", content)

    read = Activity(Root(machine)).read()

    assert {key: value for key, value in read.items() if key.startswith("gpu")} == {
        "gpu0_temperature_c": 71.5,
        "gpu0_clock_mhz": 2482,
        "gpu2_temperature_c": 48,
    }


def test_a_card_that_falls_off_the_bus_shows_nothing_from_then_on(machine: Path) -> None:
    write(machine, "sys/class/drm/card0/device/vendor", "0x1002")
    write(machine, "sys/class/drm/card0/device/hwmon/hwmon4/temp1_input", "71500")
    activity = Activity(Root(machine))
    before = activity.read()["gpu0_temperature_c"]

    (machine / "sys/class/drm/card0/device/hwmon/hwmon4/temp1_input").write_text("")

    assert (before, activity.read().get("gpu0_temperature_c")) == (71.5, None)


@pytest.mark.parametrize(
    ("function", "left_out"),
    [
        ("nvmlInit", set(GPU)),
        ("nvmlDeviceGetCount", set(GPU)),
        ("nvmlDeviceGetTemperature", {"temperature_c"}),
        ("nvmlDeviceGetClockInfo", {"clock_mhz"}),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", {"throttle_reasons"}),
        ("nvmlDeviceGetViolationStatus", {"power_capped_s"}),
        ("nvmlDeviceGetComputeRunningProcesses", {"foreign_processes"}),
        ("nvmlDeviceGetGraphicsRunningProcesses", {"foreign_processes"}),
    ],
)
def test_what_nvml_does_not_answer_is_left_out(
    function: str, left_out: set[str], driver: Driver, machine: Path
) -> None:
    driver.failing = function

    assert read_gpu(machine).keys() == GPU.keys() - left_out


def test_reasons_go_by_their_newer_name_where_there_is_one(
    driver: Driver, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = "nvmlDeviceGetCurrentClocksEventReasons"
    monkeypatch.setattr(Driver, newer, lambda _, gpu: 0x80 + gpu, raising=False)
    driver.failing = "nvmlDeviceGetCurrentClocksThrottleReasons"

    assert read_gpu(machine)["throttle_reasons"] == 0x80


def test_a_gpu_that_is_lost_is_passed_over(driver: Driver, machine: Path) -> None:
    driver.failing = "nvmlDeviceGetHandleByIndex 0"

    assert read_gpu(machine) == OTHER_GPU


def test_without_a_driver_nvml_is_not_loaded(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # Importing it would fail.

    assert read(Root(machine)).keys() == READ.keys()


def test_the_real_pynvml_over_a_driver_without_these_functions_tells_nothing(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(machine, "proc/driver/nvidia/version", "NVRM version: 390.157")
    library = nvml.build(tmp_path_factory.mktemp("nvml"))
    state = tmp_path_factory.mktemp("state") / "state"
    state.write_text("driver 390.157\ngpu 0 0 8.9 24564 23028 GPU-1 NVIDIA GeForce RTX 4090")
    script = """
import sys
from autotune.hardware import Root
from autotune.hardware.activity import Activity
activity = Activity(Root(sys.argv[1]))
print(len(activity._gpus), [key for key in activity.read() if key.startswith("gpu")])
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    given = {
        "LD_LIBRARY_PATH": str(library.parent),
        "PYTHONPATH": os.pathsep.join(sys.path),
        nvml.STATE: str(state),
    }

    done = subprocess.run(
        [sys.executable, "-c", script, machine],
        env=kept | given,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    assert done.stdout == "1 []\n"


# --- This machine

# Far above the ticks of 0.01 s, and short.
WORK_S = 0.3
WORK = f"import time\nwhile time.process_time() < {WORK_S}: pass\n"
WORK_IN_A_CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {WORK!r}])\n"
# Its child works on, and reports, as an orphan.
WORK_AS_AN_ORPHAN = f"import os\nif os.fork(): os._exit(0)\n{WORK}"
REPORT_AND_WAIT = "import sys\nprint('done', flush=True)\nsys.stdin.read()\n"

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python code and wait for the line that it prints; its stdin ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        return process

    yield start
    for process in started:
        process.communicate()


def rises(activity: Activity, work: Callable[[], object]) -> tuple[float, float]:
    """Do some work; return by how much the time of everybody and our own have risen."""
    before = activity.read()
    work()
    after = activity.read()
    return after["busy_s"] - before["busy_s"], after["own_s"] - before["own_s"]


# Ticks are rounded down, and a CPU's are sampled.
LEAST_S = WORK_S - 0.1


@pytest.mark.parametrize(
    "code",
    [WORK + REPORT_AND_WAIT, WORK_IN_A_CHILD + REPORT_AND_WAIT],
    ids=["child", "grandchild"],
)
@pytest.mark.parametrize("reaped", [False, True], ids=["alive", "ended"])
def test_what_a_child_computes_is_our_own(code: str, start: Start, *, reaped: bool) -> None:
    def work() -> None:
        process = start(code)
        if reaped:
            process.communicate()

    busy_s, own_s = rises(Activity(), work)

    assert busy_s >= LEAST_S
    assert own_s >= LEAST_S


def test_what_a_strange_process_computes_is_not_our_own(start: Start) -> None:
    busy_s, own_s = rises(Activity(), lambda: start(WORK_AS_AN_ORPHAN + REPORT_AND_WAIT))

    assert busy_s - own_s >= LEAST_S
    assert own_s < LEAST_S


def test_elsewhere_psutil_counts_the_time(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    assert psutil.LINUX  # Loaded while the platform is the real one.
    monkeypatch.setattr(sys, "platform", "darwin")
    activity = Activity()

    busy_s, own_s = rises(activity, lambda: start(WORK + REPORT_AND_WAIT))

    known = {key for key in activity.read() if not key.startswith("gpu")}
    assert known == {"at_s", "busy_s", "own_s"}
    assert min(busy_s, own_s) >= LEAST_S
