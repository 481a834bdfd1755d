"""Studies on the disk: found by name, read whole, in every format that was ever written."""

import json
import shutil
from pathlib import Path

import pytest

from autotune.cli.kept import kept_study
from autotune.errors import ConfigError, SurroundingsError
from autotune.results.journal import Entry, Evidence, Session
from autotune.results.stored import last_evidence
from autotune.results.studies import (
    FORMAT_VERSION,
    all_folders,
    find_study,
    new_folder,
    read_folder,
    unreadable_folders,
    written_by_one,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "studies"
FORMATS = sorted(FIXTURES.glob("format-*"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"LCM_RESULTS_DIR": str(tmp_path)}


def test_there_is_an_example_of_each_format() -> None:
    assert [folder.name for folder in FORMATS] == [
        f"format-{version}" for version in range(1, FORMAT_VERSION + 1)
    ]


@pytest.mark.parametrize("example", FORMATS, ids=lambda path: path.name)
def test_every_format_is_read(example: Path, tmp_path: Path) -> None:
    path = tmp_path / "studies" / "one"
    shutil.copytree(example, path)

    study = kept_study("latest", tmp_path)

    assert study.folder.model == "tiny-for-fixture"
    assert study.folder.state == "finished"
    assert study.damaged == 0
    assert len(study.visited) == 14
    kinds = [visited.trial.kind for visited in study.visited]
    assert kinds[0] == "baseline"
    assert kinds.count("verify") == 6
    baseline = study.visited[0]
    pp = baseline.measured("pp")
    assert pp is not None
    assert pp.median_ts > 0
    assert pp.run.argv[-1]
    assert baseline.trial.seconds
    assert study.profile is not None
    assert study.profile.params.n_threads == 1


def test_the_second_format_knows_the_verdict_and_the_circumstances(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "format-2", tmp_path / "studies" / "one")

    study = kept_study("one", tmp_path)

    assert study.folder.verdict == "better"
    assert study.evidence is not None
    assert study.evidence["ratio"] == study.folder.ratio
    assert study.environment["model"]["name"] == "tiny-for-fixture"
    assert study.environment["llama_cpp"]["version"] == study.folder.build
    assert study.incumbents
    assert [session.resumed for session in study.sessions] == [False]


def test_a_study_is_found_by_its_name_its_beginning_its_path_and_as_the_latest(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    alpha, beta = new_folder("alpha", "chat", environ), new_folder("beta", "chat", environ)

    latest = max(alpha, beta, key=lambda folder: (folder.started, folder.name))
    named = {alpha.name: alpha, "al": alpha, str(alpha.path): alpha, "latest": latest}
    assert {name: find_study(name, environ).path for name in named} == {
        name: folder.path for name, folder in named.items()
    }


def test_a_name_that_is_whole_wins_over_longer_ones(environ: dict[str, str]) -> None:
    short = new_folder("m", "chat", environ)
    longer = short.path.with_name(short.name + "-1")
    shutil.copytree(short.path, longer)

    assert find_study(short.name, environ).path == short.path


def test_what_is_not_there_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"no study in .* is named latest"):
        find_study("latest", environ)
    with pytest.raises(SurroundingsError, match="is no study"):
        find_study("/nowhere/at/all", environ)


def test_the_beginning_of_several_is_an_error_that_names_them(environ: dict[str, str]) -> None:
    names = {new_folder(name, "chat", environ).name for name in ("alpha", "alpine")}

    with pytest.raises(ConfigError, match="beginning of 2 studies") as error:
        find_study("alp", environ)

    assert set(error.value.details) == names


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 99}, "its format is 99"),
        ({"state": "asleep"}, "'asleep', not running or interrupted or finished"),
        ({"ratio": "much"}, "'much', not a number"),
        ({"later": 1}, "unknown key 'later'"),
        (None, "not JSON"),
    ],
)
def test_a_damaged_study_is_named_and_hides_no_other(
    environ: dict[str, str], change: dict[str, object] | None, said: str
) -> None:
    whole, damaged = new_folder("whole", "chat", environ), new_folder("damaged", "chat", environ)
    file = damaged.path / "study.json"
    kept = json.loads(file.read_text())
    file.write_text("{" if change is None else json.dumps({**kept, **change}))

    assert [folder.path for folder in all_folders(environ)] == [whole.path]
    assert unreadable_folders(environ) == [damaged.path]
    with pytest.raises(ConfigError, match=said):
        read_folder(damaged.path)


def test_the_latest_is_no_verification_where_there_is_another(environ: dict[str, str]) -> None:
    tuned = new_folder("m", "chat", environ)
    new_folder("z", "chat", environ, purpose="verify")

    assert find_study("latest", environ).path == tuned.path


def test_what_nobody_writes_any_more_was_interrupted(environ: dict[str, str]) -> None:
    folder = new_folder("m", "chat", environ)

    with written_by_one(folder):
        # A lock is of an open file, so this process can be held off by itself.
        assert read_folder(folder.path).state == "running"
        with pytest.raises(ConfigError, match="another lcm"), written_by_one(folder):
            pass

    assert read_folder(folder.path).state == "interrupted"


def test_a_folder_that_cannot_be_locked_is_an_error(environ: dict[str, str]) -> None:
    folder = new_folder("m", "chat", environ)
    (folder.path / "lock").mkdir()

    with pytest.raises(SurroundingsError, match="cannot be locked"), written_by_one(folder):
        pass


def test_a_state_keeps_what_is_known_and_a_conclusion_does_not(environ: dict[str, str]) -> None:
    folder = new_folder("m", "chat", environ)
    folder.concluded("interrupted", verdict="better", ratio=1.2, low=1.1, high=1.3)

    read_folder(folder.path).in_state("interrupted")
    assert read_folder(folder.path).ratio == 1.2

    read_folder(folder.path).concluded("finished", verdict="not shown")
    assert read_folder(folder.path).ratio is None


BEGAN = Session(at=0.0, lcm="0.1.0", budget_s=None, resumed=False)
BETTER, NOT_SHOWN = Evidence(evidence={"verdict": "better"}), Evidence(evidence={"verdict": "no"})


@pytest.mark.parametrize(
    ("entries", "last"),
    [
        ([BEGAN], None),
        ([BEGAN, NOT_SHOWN], NOT_SHOWN),
        ([BEGAN, NOT_SHOWN, BEGAN], None),
        ([BEGAN, BETTER, BEGAN], BETTER),
        ([BEGAN, BETTER, BEGAN, NOT_SHOWN], NOT_SHOWN),
    ],
)
def test_a_session_that_was_cut_off_leaves_only_a_gain_that_was_shown(
    entries: list[Entry], last: Evidence | None
) -> None:
    assert last_evidence(entries) == (last and last.evidence)


def test_two_studies_that_begin_at_once_have_folders_of_their_own(
    environ: dict[str, str],
) -> None:
    paths = {new_folder("m", "chat", environ).path for _ in range(3)}

    assert len(paths) == 3
