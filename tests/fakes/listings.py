"""What programs print of devices, recorded; tests/fixtures/devices/README.md says where."""

from __future__ import annotations

from pathlib import Path

from autotune.llama_cpp.devices import Device, parse_devices

FOLDER = Path(__file__).parents[1] / "fixtures" / "devices"


def recorded_text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def recorded_devices(name: str) -> tuple[Device, ...]:
    """Give the devices that a recorded `--list-devices` lists."""
    log = FOLDER / f"{name}.log"
    return parse_devices(recorded_text(f"{name}.txt"), log.read_text() if log.is_file() else "")
