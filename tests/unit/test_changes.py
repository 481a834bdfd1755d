"""What is not as it was is named, each with what it was and what it is."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.results.changes import KEYS, changes

KEPT = Path(__file__).parents[1] / "fixtures" / "studies" / "format-2" / "environment.json"
CARD = {"name": "RTX 4090", "driver": "550.54"}


def as_kept() -> dict[str, Any]:
    """Give the circumstances of a study that was really made, with two cards."""
    kept: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    kept["hardware"]["gpus"] = [dict(CARD), dict(CARD)]
    kept["request"]["parameters"] = {}
    return kept


def with_value(place: str, value: object) -> dict[str, Any]:
    kept = as_kept()
    *parents, last = place.split("/")
    inside: Any = kept
    for key in parents:
        inside = inside[int(key) if key.isdigit() else key]
    assert last in inside
    inside[last] = value
    return kept


def test_where_nothing_has_changed_nothing_is_named() -> None:
    assert changes(as_kept(), as_kept()) == ()


@pytest.mark.parametrize(
    ("place", "now", "change"),
    [
        ("llama_cpp/version", "0.6.0", ("build", "0.5.0-dev (build 1, commit 0c1e570)", "0.6.0")),
        ("llama_cpp/build", "9" * 32, ("build", "files 664f93e9", "files 99999999")),
        ("llama_cpp/backends", "CUDA", ("build", "CPU", "CUDA")),
        ("llama_cpp/arguments", ["--rpc", "h:1"], ("arguments", "none", "--rpc h:1")),
        ("hardware/gpus/1/driver", "560.1", ("driver", "550.54", "550.54, 560.1")),
        ("hardware/gpus", [], ("machine", "RTX 4090, RTX 4090", "no GPU")),
        ("hardware/cpu_name", "Ryzen", ("machine", "AMD EPYC, 2 cores", "Ryzen, 2 cores")),
        ("hardware/ram_total_gb", 31.2, ("machine", "24 GiB", "31 GiB")),
        ("kernel", "6.19.0", ("kernel", "6.18.44-fc-v657", "6.19.0")),
        (
            "model/files",
            [{"modified": "2026-12-01T00:00:00Z"}],
            ("file", "2026-11-23T20:27:21Z", "2026-12-01T00:00:00Z"),
        ),
        ("model/size_bytes", 7, ("model", "17115584 bytes", "7 bytes")),
        (
            "request/parameters",
            {"n_threads": [1, 2]},
            ("request", "nothing fixed", "n_threads=1,2"),
        ),
        ("n_ctx", 8192, ("context", "4096", "8192")),
        ("lcm", "0.2.0", ("lcm", "0.1.0", "0.2.0")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_changed_is_named(place: str, now: object, change: tuple[str, str, str]) -> None:
    assert changes(as_kept(), with_value(place, now))[0] == change


def test_another_kernel_is_not_another_system() -> None:
    now = with_value("kernel", "6.19.0")
    now["operating_system"] = "Linux-6.19.0-x86_64-with-glibc2.36"

    assert [change.what for change in changes(as_kept(), now)] == ["kernel"]


def test_another_system_is_named_without_its_kernel() -> None:
    now = with_value("operating_system", "Linux-6.18.44-fc-v657-x86_64-with-glibc2.41")

    assert changes(as_kept(), now) == (
        ("kernel", "Linux x86_64-with-glibc2.36", "Linux x86_64-with-glibc2.41"),
    )


@pytest.mark.parametrize(
    ("place", "now"),
    [
        ("host", "elsewhere"),
        ("model/path", "/moved/model.gguf"),
        ("hardware/ram_available_gb", 3.0),
        ("hardware/ram_total_gb", 23.6),
        ("llama_cpp/program", "/moved/llama-bench"),
        ("budget_s", 5),
    ],
)
def test_what_moves_no_number_is_no_change(place: str, now: object) -> None:
    assert changes(as_kept(), with_value(place, now)) == ()


def test_what_only_one_of_them_knows_is_no_change() -> None:
    only_the_build = {"llama_cpp": {"version": "0.4.0"}}

    assert [c.what for c in changes(only_the_build, as_kept())] == ["build"]
    assert [c.what for c in changes(as_kept(), only_the_build)] == ["build"]
    assert changes({}, as_kept()) == ()


@given(
    kept=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from("hardware model llama_cpp request gpus files name kernel".split()),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_stands_in_the_file_is_read(kept: object) -> None:
    then = {"hardware": kept, "model": kept, "llama_cpp": kept, "request": kept, "kernel": kept}

    assert {change.what for change in changes(then, deepcopy(as_kept()))} <= set(KEYS)
