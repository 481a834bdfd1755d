"""`lcm doctor`: what is here, what is missing and how to get it, for people and for scripts."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.hosts import recorded
from fakes.machine import write
from fakes.programs import (
    BENCH_HELP,
    OLD_BENCH_HELP,
    OLD_SERVER_HELP,
    SERVER_HELP,
    WORKS,
    write_program,
)
from jsonschema import Draft202012Validator
from lcm_process import REPOSITORY, run_lcm

from autotune.cli.answer import DoctorAnswer
from autotune.cli.diagnosis import doctor_answer
from autotune.hardware import Gpu, Hardware, Root, Storage
from autotune.hardware.energy import Metered
from autotune.hardware.governor import read_governor
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.checkup import Checked
from autotune.llama_cpp.devices import Device
from autotune.llama_cpp.locate import Program

Json = dict[str, Any]

SCHEMA = json.loads((REPOSITORY / "docs" / "schema.json").read_text(encoding="utf-8"))
PROGRAMS = ["llama-bench", "llama-batched-bench", "llama-cli", "llama-server", "llama-fit-params"]
GIB = 1 << 30


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a stand-in for each program, all of them in order."""
    folder = tmp_path / "llama"
    folder.mkdir()
    write_program(folder / "llama-bench", help_text=BENCH_HELP, work=WORKS)
    for name in PROGRAMS[1:]:
        write_program(folder / name, help_text=SERVER_HELP)
    monkeypatch.setenv("LCM_LLAMA_DIR", str(folder))
    return folder


def diagnosis(*arguments: str | Path, code: int) -> Json:
    done = run_lcm("doctor", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    answer: Json = json.loads(done.stdout)
    assert invalid(answer) == []
    assert answer["healthy"] is (code == 0)
    return answer


def invalid(answer: Json | DoctorAnswer) -> list[str]:
    schema = {"$ref": "#/$defs/DoctorAnswer", "$defs": SCHEMA["$defs"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(answer)]


def problems(answer: Json | DoctorAnswer) -> list[str]:
    return [found["what"] for found in answer["findings"] if found["kind"] == "problem"]


def notes(answer: Json | DoctorAnswer) -> list[str]:
    return [found["what"] for found in answer["findings"] if found["kind"] == "note"]


def program_in(answer: Json, name: str) -> Json:
    section: Json = next(one for one in answer["programs"] if one["name"] == name)
    return section


def fits_a_screen(text: str) -> bool:
    """No line is longer than 80 columns but by one word that cannot be broken, such as a path."""
    lines = [line for line in text.splitlines() if len(line) > 80]
    return all(len(re.sub(r"^(- |[\w-]+:? +)", "", line.strip()).split()) == 1 for line in lines)


# --- all is well ---------------------------------------------------------------------------------


def test_a_machine_in_order_is_healthy(programs: Path) -> None:
    answer = diagnosis(code=0)

    assert [one["name"] for one in answer["programs"]] == PROGRAMS
    assert problems(answer) == []
    for one in answer["programs"]:
        assert one["path"] == str(programs / one["name"])
        assert one["command"] == [one["path"]]
        assert (one["found_by"], one["flavor"]) == ("LCM_LLAMA_DIR", "llama.cpp")
        assert one["version"] == "0.5.0-stub (build 7, commit 1234567)"
        assert (one["usable"], one["runs"], one["devices"]) == (True, None, [])


@pytest.mark.usefixtures("programs")
def test_the_dialect_is_told(tiny: Path) -> None:
    answer = diagnosis("--model", tiny, code=0)

    bench, server = (program_in(answer, name) for name in ("llama-bench", "llama-server"))
    assert bench["dialect"] == {"flash_attn": "words", "load_mode": "--load-mode", "jsonl": True}
    assert server["dialect"] == {"flash_attn": "words", "load_mode": "--load-mode", "jsonl": None}
    assert (bench["runs"], server["runs"]) == (True, None)
    assert bench["backends"] == ["CPU"]


def test_an_old_dialect_is_told(programs: Path) -> None:
    write_program(programs / "llama-bench", help_text=OLD_BENCH_HELP, work=WORKS)
    write_program(programs / "llama-server", help_text=OLD_SERVER_HELP)

    answer = diagnosis(code=0)

    bench, server = (
        program_in(answer, name)["dialect"] for name in ("llama-bench", "llama-server")
    )
    assert bench == {"flash_attn": "numbers", "load_mode": "-mmp", "jsonl": True}
    assert server == {"flash_attn": "switch", "load_mode": "--no-mmap, --mlock", "jsonl": None}


def test_the_text_says_the_same(programs: Path, tiny: Path) -> None:
    done = run_lcm("doctor", "--model", tiny)

    assert (done.returncode, done.stderr) == (0, "")
    assert all(str(programs / name) in done.stdout for name in PROGRAMS)
    assert "runs the model" in done.stdout
    assert "-fa on|off|auto" in done.stdout
    assert done.stdout.splitlines()[-1] == "No problems."
    assert fits_a_screen(done.stdout)


def test_the_texts_stand_in_one_column() -> None:
    lines = run_lcm("doctor").stdout.splitlines()

    rows = lines[: lines.index("")]
    assert {line[20] for line in rows} == {" "}
    assert {line[21] for line in rows} & {" "} == set()
    assert [row.split()[0] for row in rows][:3] == ["machine", "system", "cores"]


# --- nothing is installed ------------------------------------------------------------------------


def test_a_newcomer_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("HOME", str(tmp_path))

    done = run_lcm("doctor", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("problem: ") == 1
    assert "problem: llama.cpp is not installed" in done.stdout
    assert "lcm run --optimize` works without it" in " ".join(done.stdout.split())
    assert str(tmp_path / "empty" / "llama-bench") in done.stdout
    assert "hint: build it" in done.stdout
    assert "cmake -B build" in " ".join(done.stdout.split())
    assert all(re.search(rf"^{name} +not found$", done.stdout, re.MULTILINE) for name in PROGRAMS)
    assert fits_a_screen(done.stdout)


def test_the_installer_that_is_there_is_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brew = tmp_path / "brew"
    brew.write_text("#!/bin/sh\n")
    brew.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))

    (found,) = [f for f in diagnosis(code=1)["findings"] if f["kind"] == "problem"]

    assert found["remedy"] == "brew install llama.cpp"
    assert any(str(tmp_path / "llama-bench") in place for place in found["places"])


# --- something is wrong --------------------------------------------------------------------------


def test_without_llama_bench_nothing_can_be_measured(programs: Path) -> None:
    (programs / "llama-bench").unlink()

    answer = diagnosis(code=1)

    assert problems(answer) == ["llama-bench was not found; looked at:"]
    assert program_in(answer, "llama-bench")["path"] is None
    assert program_in(answer, "llama-server")["usable"]


def test_without_llama_server_it_is_only_noted(programs: Path) -> None:
    (programs / "llama-server").unlink()

    answer = diagnosis(code=0)

    assert any("llama-server was not found; `lcm run --mode server`" in n for n in notes(answer))


def test_a_variable_that_names_nothing_is_a_problem(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_LLAMA_BENCH", str(programs / "lama-bench"))

    (problem,) = problems(diagnosis(code=1))

    assert "LCM_LLAMA_BENCH" in problem
    assert "lama-bench" in problem


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("echo 'x: error while loading shared libraries: libggml.so.0: no' >&2; exit 127", "lib"),
        ("kill -ILL $$", "signal 4"),
        ("echo hello; exit", "does not print llama.cpp's options"),
        ("echo 'warning: debug build, performance may be affected' >&2", "a debug build"),
        ("echo 'warning: asserts enabled, performance may be affected' >&2", "its assertions"),
    ],
    ids=["library", "SIGILL", "another program", "debug", "asserts"],
)
def test_a_llama_bench_that_is_unusable_is_a_problem(
    before: str, said: str, programs: Path
) -> None:
    write_program(programs / "llama-bench", help_text=BENCH_HELP, before=before)

    answer = diagnosis(code=1)

    (problem,) = problems(answer)
    assert said in problem
    assert program_in(answer, "llama-bench")["usable"] is False
    assert all(found["remedy"] for found in answer["findings"] if found["kind"] == "problem")


def test_a_llama_bench_that_dies_at_work_is_found_with_a_model(programs: Path, tiny: Path) -> None:
    write_program(programs / "llama-bench", help_text=BENCH_HELP, work="kill -ILL $$")

    assert problems(diagnosis(code=0)) == []
    answer = diagnosis("--model", tiny, code=1)

    (problem,) = problems(answer)
    assert "an instruction that this processor does not have" in problem
    assert program_in(answer, "llama-bench")["runs"] is False


def test_a_llama_bench_that_runs_without_repacking_is_a_problem_with_a_remedy(
    programs: Path, tiny: Path
) -> None:
    work = f'case "$*" in *"--repack 0"*) ;; *) kill -ILL $$ ;; esac\n{WORKS}'
    write_program(programs / "llama-bench", help_text=BENCH_HELP, work=work)

    answer = diagnosis("--model", tiny, code=1)
    text = run_lcm("doctor", "--model", tiny).stdout

    bench = program_in(answer, "llama-bench")
    assert (bench["runs"], bench["repack_off"]) == (True, True)
    assert "runs with --repack 0" in problems(answer)[0]
    assert "runs the model, with --repack 0" in text


def test_a_model_that_is_missing_is_exit_3(tmp_path: Path) -> None:
    done = run_lcm("doctor", "--model", tmp_path / "none.gguf")

    assert (done.returncode, done.stdout) == (3, "")


def test_programs_of_two_builds_are_noted(programs: Path) -> None:
    text = (programs / "llama-server").read_text().replace("build 7", "build 8")
    (programs / "llama-server").write_text(text)

    answer = diagnosis(code=0)

    assert [note for note in notes(answer) if "build 8" in note and "build 7" in note] != []


# --- limits and GPUs, of machines that this one is not ------------------------------------------


def checked(*devices: Device) -> list[Checked]:
    """Give programs in order that list these devices."""
    can = Capabilities(options={"-m": (), "--list-devices": ()}, version="1")
    return [
        Checked(
            name=name,
            program=Program(name=name, command=(f"/bin/{name}",), found_by="PATH"),
            capabilities=can,
            devices=devices,
        )
        for name in PROGRAMS
    ]


def doctor(
    hardware: Hardware,
    *,
    governor: str | None = None,
    programs: list[Checked] | None = None,
    metered: Metered | None = None,
) -> DoctorAnswer:
    storage = Storage(filesystem="ext4", device="/dev/sda", rotational=False, network=False)
    answer = doctor_answer(
        hardware, storage, governor, programs or checked(), None, metered=metered or Metered()
    )
    assert invalid(answer) == []
    return answer


def machine(*gpus: Gpu, **memory: int | None) -> Hardware:
    """Give a machine without limits, but for those that are named."""
    plain = recorded("one-socket-smt")
    unlimited: Json = {"memlock_bytes": None, "limit_bytes": None, "swap_free_bytes": 2 * GIB}
    kept = replace(plain.memory, **unlimited | {"swap_total_bytes": 2 * GIB} | memory)
    return replace(plain, memory=kept, gpus=gpus, cpu=replace(plain.cpu, quota=None), notes=())


CARD = Gpu(
    backend="CUDA",
    index=0,
    name="NVIDIA GeForce RTX 4090",
    total_bytes=24 * GIB,
    free_bytes=23 * GIB,
    integrated=False,
    driver="580.1",
    compute_capability="8.9",
)
CUDA0 = Device(name="CUDA0", description="NVIDIA GeForce RTX 4090", total_mib=24000, free_mib=23000)


def test_a_counter_of_joules_that_cannot_be_read_is_noted_with_what_to_do() -> None:
    path = "/sys/class/powercap/intel-rapl:0/energy_uj"

    answer = doctor(machine(), governor="performance", metered=Metered(hidden=(path,)))

    assert [path in finding["what"] for finding in answer["findings"]] == [True]
    assert "sudo chmod a+r" in answer["findings"][0]["remedy"]
    assert answer["healthy"]


def test_what_counts_joules_is_told() -> None:
    counted = ("CPU package 0", "GPU 0")

    answer = doctor(machine(), governor="performance", metered=Metered(of=counted))

    assert (answer["energy"]["of"], answer["findings"]) == ([*counted], [])


def test_a_machine_without_limits_has_nothing_to_note() -> None:
    assert doctor(machine(), governor="performance")["findings"] == []


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"memlock_bytes": 8 << 20}, "may lock 8.0 MiB"),
        ({"limit_bytes": 4 * GIB}, "limits memory to 4.0 GiB"),
        ({"swap_free_bytes": 1 * GIB}, "1.0 GiB of swap is in use"),
    ],
    ids=str,
)
def test_a_limit_is_noted_with_its_remedy(memory: dict[str, int], said: str) -> None:
    answer = doctor(machine(**memory))

    (found,) = answer["findings"]
    assert (found["kind"], answer["healthy"]) == ("note", True)
    assert said in found["what"]
    assert found["remedy"]


def test_a_quota_is_noted() -> None:
    plain = machine()
    limited = replace(plain, cpu=replace(plain.cpu, quota=1.5))

    assert "grants 1.5 CPUs" in notes(doctor(limited))[0]


@pytest.mark.parametrize("governor", ["powersave", "schedutil"])
def test_a_governor_that_saves_power_is_noted(governor: str) -> None:
    (found,) = doctor(machine(), governor=governor)["findings"]

    assert governor in found["what"]
    assert "performance" in found["remedy"]


def test_the_governor_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert read_governor(Root(tmp_path)) is None

    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")

    assert read_governor(Root(tmp_path)) == "powersave"


def test_a_gpu_that_no_program_lists_is_a_problem() -> None:
    answer = doctor(machine(CARD))

    (problem,) = problems(answer)
    assert "NVIDIA GeForce RTX 4090 (CUDA) cannot be used" in problem
    assert "-DGGML_CUDA=ON" in answer["findings"][0]["remedy"]
    assert not answer["healthy"]


def test_a_gpu_that_every_program_lists_is_in_order() -> None:
    answer = doctor(machine(CARD), programs=checked(CUDA0))

    assert answer["findings"] == []
    assert answer["programs"][0]["devices"][0]["name"] == "CUDA0"
    assert answer["programs"][0]["devices"][0]["total_bytes"] == 24000 << 20


def test_a_blas_library_is_no_gpu() -> None:
    blas = Device(name="BLAS", description="OpenBLAS", total_mib=0, free_mib=0)

    assert len(problems(doctor(machine(CARD), programs=checked(blas)))) == 1


def test_a_gpu_that_one_program_misses_is_noted() -> None:
    programs = [*checked()[:1], *checked(CUDA0)[1:]]

    (note,) = notes(doctor(machine(CARD), programs=programs))

    assert "cannot be used by llama-bench" in note


def test_a_graphics_core_that_stays_idle_is_noted() -> None:
    answer = doctor(machine(replace(CARD, integrated=True, backend="Vulkan")))

    assert len(notes(answer)) == 1
    assert answer["healthy"]


def test_a_program_that_cannot_list_devices_says_nothing_of_them() -> None:
    old = [
        replace(one, capabilities=Capabilities(options={"-m": ()}, version="1"))
        for one in checked()
    ]

    assert doctor(machine(CARD), programs=old)["findings"] == []


# --- the real programs ---------------------------------------------------------------------------


@pytest.mark.llama_cpp
def test_the_real_programs_are_described(
    llama_cpp_dir: Path, gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))

    done = run_lcm("doctor", "--json", "--model", gemma)
    answer = json.loads(done.stdout)

    assert invalid(answer) == []
    assert problems(answer) == [], done.stdout
    bench = program_in(answer, "llama-bench")
    assert (bench["runs"], bench["usable"], bench["repack_off"]) == (True, True, False)
    assert "CPU" in bench["backends"]
    for name in PROGRAMS[:3]:
        program = program_in(answer, name)
        assert program["path"] == str(llama_cpp_dir / name)
        assert program["version"]
        assert program["dialect"]["flash_attn"] == "words"
        assert program["dialect"]["load_mode"]
