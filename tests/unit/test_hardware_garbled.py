"""No content of any file that detection reads is a crash."""

from pathlib import Path

import pytest
from fakes.machine import unfold
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.hardware import Root, detect_hardware, storage_of

MACHINES = ["one-socket-smt", "nested-cgroup", "cgroup-v1", "amd-gpu", "intel-arc", "sandbox"]


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    unfold(request.param, folder)
    return folder


@st.composite
def garbled(draw: st.DrawFn, original: bytes) -> bytes:
    """Cut the file short, replace a part of it, or all of it."""
    start = draw(st.integers(0, len(original)))
    end = draw(st.integers(start, len(original)))
    return draw(
        st.sampled_from([original[:start], original[:start] + original[end:]])
        | st.binary(max_size=40).map(lambda noise: original[:start] + noise + original[end:])
        | st.binary(max_size=200)
    )


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_one_garbled_file_leaves_a_machine_that_can_be_used(
    machine: Path, data: st.DataObject
) -> None:
    files = sorted(path for path in machine.rglob("*") if path.is_file() and not path.is_symlink())
    file = data.draw(st.sampled_from(files), label="file")
    original = file.read_bytes()
    file.write_bytes(data.draw(garbled(original), label="content"))
    try:
        hardware = detect_hardware(Root(machine))
        storage_of("/srv/models/model.gguf", Root(machine))
    finally:
        file.write_bytes(original)
    assert hardware.cpu.max_threads >= 1
    assert hardware.cpu.usable_cpus
    assert hardware.memory.available_bytes >= 0


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("content", [b"", b"\0\0\0\0", b"\xff\xfe -1 : - \n"])
def test_garbled_files_alone_are_a_machine_of_one_core(
    name: str, content: bytes, tmp_path: Path
) -> None:
    root = unfold(name, tmp_path)
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        file.write_bytes(content)
    assert detect_hardware(root).cpu.usable_cpus == (0,)
