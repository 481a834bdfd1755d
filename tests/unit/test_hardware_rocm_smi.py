"""AMD's own tools are asked where the kernel shows no memory, and nothing they do is a danger."""

import os
import signal
import time
from pathlib import Path

import pytest
from fakes.listings import FOLDER, recorded_text
from fakes.machine import unfold, write

from autotune.hardware import Gpu, Root, detect_hardware, rocm_smi, tools
from autotune.hardware.rocm_smi import Card, parse_amd_smi, parse_rocm_smi, read_cards

MIB = 1 << 20
RX_7900_XT = Card(
    name="Radeon RX 7900 XT",
    vram_total=21458059264,
    vram_used=27856896,
    gtt_total=0,
    gtt_used=0,
    driver="",
)
MI300X = Card(
    name="AMD Instinct MI300X",
    vram_total=196592 * MIB,
    vram_used=17153 * MIB,
    gtt_total=0,
    gtt_used=0,
    driver="6.19.14",
)


def test_rocm_smi_is_read() -> None:
    assert parse_rocm_smi(recorded_text("rocm-smi-7900xt.json")) == [RX_7900_XT]


def test_an_old_rocm_smi_writes_its_keys_otherwise() -> None:
    assert parse_rocm_smi(recorded_text("rocm-smi-4.3.json")) == [
        Card(
            name="AMD GPU",
            vram_total=17163091968,
            vram_used=17776640,
            gtt_total=17163091968,
            gtt_used=25608192,
            driver="5.9.25",
        )
    ]


def test_amd_smi_is_read_in_two_parts_that_need_not_know_the_same_cards() -> None:
    metric, static = (recorded_text(f"amd-smi-{part}-mi300x.json") for part in ("metric", "static"))

    first, second = parse_amd_smi(static, metric)

    assert first == MI300X
    assert (second.name, second.vram_used) == ("AMD GPU", 284 * MIB)


def test_a_warning_above_the_answer_is_passed_over() -> None:
    answer = '[{"gpu": 0, "mem_usage": {"total_vram": 100, "used_vram": {"value": 40}}}]'

    (card,) = parse_amd_smi(None, f"WARNING: not in the group render\n{answer}")

    assert (card.vram_total, card.vram_used) == (100 * MIB, 40 * MIB)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "no GPU",
        "{",
        "[" * 100_000,
        '{"card0": {"VRAM Total Memory (B)": "N/A"}}',
        '{"card0": {"VRAM Total Memory (B)": -5}, "card1": 7, "system": []}',
        '{"card0": {"VRAM Total Memory (B)": true}}',
        '{"gpu_data": [3, {"gpu": [], "mem_usage": {"total_vram": {"value": {}}}}]}',
        '{"gpu_data": {"gpu": 0}}',
        "1e999",
    ],
)
def test_what_is_not_understood_is_no_card(text: str | None) -> None:
    assert parse_rocm_smi(text) == []
    assert parse_amd_smi(text, text) == []


def install(folder: Path, name: str, lines: str) -> None:
    """Put a tool into an unfolded machine."""
    path = folder / "opt/rocm/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def test_the_newer_tool_is_asked_first(tmp_path: Path) -> None:
    answers = f"{FOLDER}/amd-smi-$1-mi300x.json"
    install(tmp_path, "amd-smi", f"cat {answers}")
    install(tmp_path, "rocm-smi", f"cat {FOLDER}/rocm-smi-7900xt.json")

    assert read_cards(Root(tmp_path))[0] == MI300X


def test_the_older_tool_answers_where_the_newer_fails(tmp_path: Path) -> None:
    install(tmp_path, "amd-smi", "echo 'no driver' >&2; exit 1")
    install(tmp_path, "rocm-smi", f"cat {FOLDER}/rocm-smi-7900xt.json")

    assert read_cards(Root(tmp_path)) == [RX_7900_XT]


def hidden(folder: Path) -> Root:
    """Unfold the machine with a Radeon as a sandbox shows it: no memory, but the compute node."""
    root = unfold("amd-gpu", folder)
    for file in folder.glob("sys/class/drm/card*/device/mem_info_*"):
        file.unlink()
    return root


def test_the_tool_stands_in_for_a_sysfs_that_is_hidden(tmp_path: Path) -> None:
    root = hidden(tmp_path)
    install(tmp_path, "rocm-smi", f"cat {FOLDER}/rocm-smi-7900xt.json")

    assert detect_hardware(root).gpus == (
        Gpu(
            backend="ROCm",
            index=0,
            name="Radeon RX 7900 XT",
            total_bytes=21458059264,
            free_bytes=21458059264 - 27856896,
            integrated=False,
            driver="",
            compute_capability="",
            sources=("ROCm-SMI",),
        ),
    )


def test_the_tool_is_not_asked_where_sysfs_tells_or_nothing_could_compute(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    telling, without_node = tmp_path / "telling", tmp_path / "without"
    roots = [unfold("amd-gpu", telling), hidden(without_node)]
    (without_node / "dev/kfd").unlink()
    for folder in (telling, without_node):
        install(folder, "rocm-smi", f"touch {asked}")

    counts = [len(detect_hardware(root).gpus) for root in roots]

    assert (counts, asked.exists()) == ([2, 0], False)


def asked(folder: Path, lines: str) -> str | None:
    install(folder, "tool", lines)
    return tools.ask(Root(folder), "opt/rocm/bin/tool", timeout_s=0.5)


def test_a_tool_is_told_its_arguments_and_nothing_else(tmp_path: Path) -> None:
    install(tmp_path, "tool", 'echo "$*"; cat; echo quiet >&2')
    assert tools.ask(Root(tmp_path), "opt/rocm/bin/tool", "--json", "a b") == "--json a b\n"


@pytest.mark.parametrize(
    "lines",
    ["exec sleep 60", "echo begun; sleep 60 & wait", "yes", "exit 3", "exec >&-; exec sleep 60"],
    ids=["hangs", "hangs with a child", "talks without end", "fails", "closes its mouth and hangs"],
)
def test_a_tool_that_does_not_answer_is_left_alone_in_time(lines: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert asked(tmp_path, lines) is None
    assert time.monotonic() - begun < 10


def test_a_tool_that_cannot_be_killed_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its driver, inside the kernel."""
    kill, hanging = os.killpg, list[int]()
    monkeypatch.setattr(os, "killpg", lambda group, _: hanging.append(group))
    begun = time.monotonic()

    answer = asked(tmp_path, "exec sleep 60")

    kill(hanging[0], signal.SIGKILL)
    os.waitpid(hanging[0], 0)
    assert (answer, time.monotonic() - begun < 10) == (None, True)


def test_where_every_tool_hangs_not_each_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocm_smi, "_MOST_S", 1.0)
    begun = time.monotonic()
    for name in ("amd-smi", "rocm-smi"):
        install(tmp_path, name, f"echo . >> {tmp_path}/asked; exec sleep 60")

    assert read_cards(Root(tmp_path)) == []
    assert (time.monotonic() - begun < 4, (tmp_path / "asked").read_text()) == (True, ".\n")


def test_a_tool_that_is_no_program_is_none(tmp_path: Path) -> None:
    write(tmp_path, "opt/rocm/bin/tool", "no program")
    assert tools.ask(Root(tmp_path), "opt/rocm/bin/tool") is None
    (tmp_path / "opt/rocm/bin/tool").chmod(0o755)
    (tmp_path / "opt/rocm/bin/tool").write_bytes(b"\x7fELF")
    assert tools.ask(Root(tmp_path), "opt/rocm/bin/tool") is None
