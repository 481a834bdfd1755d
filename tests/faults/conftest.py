"""Where a night is spent: a model, a folder of results, and processes that carry a mark."""

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.benches import left_behind
from faults.running import REQUEST, Night


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Give what decides on the moment of a fault, by the seed of `moments`."""
    return random.Random(request.param)  # noqa: S311 - nothing is to be kept secret


@pytest.fixture
def night(
    tiny: Path, llama_cpp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Night]:
    """Give a night on the real llama-bench; no process of it may be left in the end."""
    monkeypatch.setenv("LCM_LLAMA_DIR", str(llama_cpp_dir))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    token, request = uuid.uuid4().hex, tmp_path / "moment.toml"
    request.write_text(REQUEST, encoding="utf-8")
    yield Night(model=tiny, request=request, results=tmp_path / "results", token=token)
    assert left_behind(token) == []
