"""The model or llama-bench is another one than it was: while it is measured, or when resumed."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults.checks import (
    ended_well,
    is_named,
    kept,
    nothing_is_lost,
    outcomes_in_journal,
    says_how_to_go_on,
)
from faults.running import Night, moments

pytestmark = pytest.mark.llama_cpp


def replace_it(path: Path) -> None:
    """By another file of the same size."""
    other = path.with_suffix(".other")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    other.replace(path)


def truncate_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove_it(path: Path) -> None:
    path.unlink()


FAULTS = [
    pytest.param(replace_it, 5, "replaced or changed", 5, "model file changed", id="replaced"),
    pytest.param(truncate_it, 5, "bytes now", 3, "is truncated", id="truncated"),
    pytest.param(remove_it, 3, "is gone", 3, "there is no model at", id="removed"),
]


@moments(1, 12)
@pytest.mark.parametrize(("spoil", "code", "said", "code_again", "said_again"), FAULTS)
def test_a_model_that_does_not_stay_what_it_is_ends_the_session_until_it_is_put_back(
    night: Night,
    chance: random.Random,
    tmp_path: Path,
    *,
    spoil: Callable[[Path], None],
    code: int,
    said: str,
    code_again: int,
    said_again: str,
) -> None:
    original, model = night.model, tmp_path / "model.gguf"
    shutil.copy2(original, model)
    night = replace(night, model=model)
    with night.started() as running:
        running.until_some_moment(chance)
        spoil(model)
        ended = running.end()
    is_named(ended, code, str(model), said)
    says_how_to_go_on(ended)
    before = kept(night.folder)

    refused = night.resumed()

    is_named(refused, code_again, said_again)
    assert kept(night.folder) == before
    put_back = tmp_path / "put-back"
    shutil.copy2(original, put_back)
    put_back.replace(model)
    ended_well(night.resumed(), night)
    nothing_is_lost(before, night.folder)


@pytest.fixture
def own_llama_cpp(llama_cpp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of llama.cpp that may be changed."""
    folder = tmp_path / "llama.cpp"
    shutil.copytree(llama_cpp_dir, folder, symlinks=True)
    monkeypatch.setenv("LCM_LLAMA_DIR", str(folder))
    return folder


def upgrade(folder: Path, commit: str, new: str) -> None:
    """Let every program and library say another commit, as a new build does."""
    changed = 0
    for path in folder.iterdir():
        content = path.read_bytes()
        if not path.is_symlink() and commit.encode() in content:
            beside = folder / "being-written"
            beside.write_bytes(content.replace(commit.encode(), new.encode()))
            beside.chmod(0o755)
            beside.replace(path)
            changed += 1
    assert changed > 0


def commits(night: Night) -> set[str]:
    """Of llama.cpp, as it wrote them into its records."""
    outcomes = outcomes_in_journal(night.folder)
    return {outcome["build_commit"] for outcome in outcomes if "build_commit" in outcome}


@moments(1, 5)
def test_an_upgraded_llama_bench_does_not_go_on_with_what_the_old_one_measured(
    night: Night, chance: random.Random, own_llama_cpp: Path
) -> None:
    with night.started() as running:
        running.until_some_moment(chance)
        running.process.kill()
        running.end()
    before, old, (commit,) = kept(night.folder), night.folder, commits(night)
    upgrade(own_llama_cpp, commit, "c0ffee1")

    refused = night.resumed()

    is_named(refused, 5, "llama.cpp build: ", str(night.folder))
    assert "--fresh" in refused.stderr.splitlines()[-1]
    assert kept(night.folder) == before
    ended_well(night.run("--fresh"), night)
    assert (commits(night), night.folder != old) == ({"c0ffee1"}, True)
    assert kept(old) == before


@moments(1, 5)
def test_a_llama_bench_that_is_upgraded_while_it_measures_ends_the_session(
    night: Night, chance: random.Random, own_llama_cpp: Path
) -> None:
    with night.started() as running:
        running.until_some_moment(chance)
        (commit,) = commits(night)
        upgrade(own_llama_cpp, commit, "c0ffee1")
        ended = running.end()

    is_named(ended, 5, "llama-bench", "another build")
    assert commits(night) == {commit}
