"""`--storage`: several lcm on one study in a real PostgreSQL, in a night with much trouble."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fakes.benches import SCRIPT
from fakes.postgres import Postgres, postgres
from fakes.tiny import write_tiny
from optuna.trial import FrozenTrial, TrialState
from unit.test_schema import errors

from autotune.results.journal import Record, read_journal
from autotune.tuning.study.address import address_of
from autotune.tuning.study.server import connect

ENTRY = "import sys; from autotune.cli import main; sys.argv[0] = 'lcm'; sys.exit(main())"
BENCH = shlex.join([sys.executable, "-S", "-E", str(SCRIPT)])
N_WORKERS = 4
OVER = {TrialState.COMPLETE, TrialState.PRUNED}


@dataclass
class Fleet:
    """Workers on one database, and what was seen of them."""

    database: Postgres
    folder: Path
    model: Path
    seen_of_children: list[bytes] = field(default_factory=list)

    def start(self, name: str, *more: str, **environ: str) -> subprocess.Popen[str]:
        words = ["run", "--model", str(self.model), "--optimize", "--deep", *more]
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with out.open("w") as stdout, err.open("w") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", ENTRY, *words, "--results-dir", str(self.folder / name)],
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                text=True,
            )

    def run(self, name: str, *more: str, **environ: str) -> tuple[int, str, str]:
        code = self.start(name, *more, **environ).wait(120)
        return code, self.said(name, "out"), self.said(name, "err")

    def run_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", ENTRY, *words],
            env=self.environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

    def said(self, name: str, where: str) -> str:
        return (self.folder / f"{name}.{where}").read_text(encoding="utf-8")

    @property
    def environ(self) -> dict[str, str]:
        return os.environ | {
            "LCM_STORAGE": self.database.url_with(self.database.password),
            "LCM_LLAMA_BENCH": BENCH,
            "LCM_FAKE_MS": "1 3",
            "LCM_HEARTBEAT_S": "1",
            "LCM_DEBUG": "1",  # Tracebacks may not tell the secret either.
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "NO_COLOR": "1",
        }

    def trials(self, workload: str = "chat") -> list[FrozenTrial]:
        """Of the study of a workload; none before there is one."""
        server = connect(address_of(self.database.url_with(self.database.password)))
        try:
            every = server.storage.get_all_studies()
            found = [one._study_id for one in every if f"-{workload}-" in one.study_name]  # noqa: SLF001 - no other name
            return server.storage.get_all_trials(found[0]) if found else []
        finally:
            server.close()

    def look_at_children(self) -> None:
        """Keep what everybody can see of each llama-bench, and what its user can."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                if str(SCRIPT).encode() in words:
                    self.seen_of_children.append(words + (process / "environ").read_bytes())
            except OSError:
                continue

    def everything_written(self) -> Iterator[tuple[Path, bytes]]:
        for path in self.folder.rglob("*"):
            if path.is_file():
                yield path, path.read_bytes()


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@dataclass(frozen=True)
class Night:
    """What was left of it."""

    fleet: Fleet
    killed: int  # Process id.
    codes: Sequence[int]
    trials: Sequence[FrozenTrial]


@pytest.fixture(scope="module")
def night(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Four workers; one is killed while it measures, and then the database crashes."""
    folder = tmp_path_factory.mktemp("fleet")
    model = folder / "tiny.gguf"
    write_tiny(model)
    fleet = Fleet(database, folder, model)
    workers = [fleet.start(f"worker{n}", "--budget", "30s") for n in range(N_WORKERS)]
    try:
        victim = _kill_one_that_measures(fleet, workers)
        database.stop()
        _wait_until_one_says_so(fleet, workers)
        database.start()
        while any(worker.poll() is None for worker in workers):
            fleet.look_at_children()
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return Night(fleet, victim.pid, [w.returncode for w in workers], fleet.trials())


def _kill_one_that_measures(
    fleet: Fleet, workers: Sequence[subprocess.Popen[str]]
) -> subprocess.Popen[str]:
    """Stop one, so that it does not end what it is at before it is killed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        fleet.look_at_children()
        if len(fleet.trials()) > 8:
            for worker in workers:
                worker.send_signal(signal.SIGSTOP)
                measures = any(
                    _is_of(trial, worker.pid) and trial.state == TrialState.RUNNING
                    for trial in fleet.trials()
                )
                worker.send_signal(signal.SIGKILL if measures else signal.SIGCONT)
                if measures:
                    worker.wait()
                    return worker
        time.sleep(0.05)
    raise AssertionError("nothing was measured within a minute")


def _wait_until_one_says_so(fleet: Fleet, workers: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        said = [fleet.said(f"worker{n}", "err") for n in range(len(workers))]
        if any("does not answer" in one for one in said):
            return
        time.sleep(0.1)


def _is_of(trial: FrozenTrial, pid: int) -> bool:
    return f"-{pid}-" in trial.user_attrs.get("worker", "")


def test_all_but_the_killed_one_come_to_an_end(night: Night) -> None:
    assert sorted(night.codes) == [-signal.SIGKILL, 0, 0, 0], night.fleet.said("worker0", "err")


def test_nothing_is_measured_twice(night: Night) -> None:
    slots = [t.user_attrs["slot"] for t in night.trials if t.state in OVER]

    assert len(slots) > 20
    assert len(slots) == len(set(slots))


def test_nothing_that_was_measured_is_lost(night: Night) -> None:
    over = {t.number for t in night.trials if t.state in OVER}
    for n in range(N_WORKERS):
        if night.codes[n] == 0:
            (journal,) = (night.fleet.folder / f"worker{n}").glob("studies/*/journal.jsonl")
            entries = read_journal(journal).entries
            measured = {e.trial for e in entries if isinstance(e, Record) and e.trial is not None}
            assert measured
            assert measured <= over


def test_what_the_killed_one_was_at_is_nobodys_word(night: Night) -> None:
    """It was ahead of the search, perhaps: then nobody has asked for it since."""
    left = [t for t in night.trials if _is_of(t, night.killed) and t.state == TrialState.FAIL]
    by = {t.user_attrs["slot"]: t for t in night.trials if t.state in OVER}

    assert left
    assert not any(_is_of(by[slot], night.killed) for t in left if (slot := _slot(t)) in by)


def _slot(trial: FrozenTrial) -> str:
    return str(trial.user_attrs["slot"])


def test_nothing_is_left_running(night: Night) -> None:
    assert [t.number for t in night.trials if not t.state.is_finished()] == []


def test_all_come_to_the_same_and_each_says_where_it_holds(night: Night) -> None:
    answers = [
        json.loads(night.fleet.said(f"worker{n}", "out"))
        for n in range(N_WORKERS)
        if night.codes[n] == 0
    ]

    assert [errors(answer) for answer in answers] == [[], [], []]
    assert len({answer["evidence"]["fleet"]["study"] for answer in answers}) == 1
    last = max(answers, key=lambda a: _n_done(a["evidence"]["fleet"]["workers"]))
    workers = last["evidence"]["fleet"]["workers"]
    assert len(workers) == N_WORKERS
    assert _n_done(workers) == N_WORKERS - 1
    candidates = [a["evidence"]["candidate"] for a in answers]
    assert len({json.dumps(c and c["params"], sort_keys=True) for c in candidates}) == 1


def _n_done(workers: Sequence[dict[str, Any]]) -> int:
    return sum(worker["state"] == "finished" for worker in workers)


def test_one_line_tells_that_the_database_is_away(night: Night) -> None:
    told = [
        night.fleet.said(f"worker{n}", "err").count("does not answer")
        for n in range(N_WORKERS)
        if night.codes[n] == 0
    ]

    assert max(told) == 1


def test_the_password_is_nowhere(night: Night) -> None:
    password = night.fleet.database.password
    forms = [password.encode(), quote(password, safe="").encode()]
    places = [(str(p), content) for p, content in night.fleet.everything_written()]
    places += [("a child", seen) for seen in night.fleet.seen_of_children]

    assert night.fleet.seen_of_children
    assert [where for where, content in places if any(form in content for form in forms)] == []


# --- who does what -------------------------------------------------------------------------------


def test_status_says_who_does_what(night: Night) -> None:
    done = night.fleet.run_command("fleet", "status", "--json")

    answer = json.loads(done.stdout)
    assert errors(answer, "FleetStatusAnswer") == []
    study = next(s for s in answer["studies"] if s["workload"] == "chat")
    workers = {worker["pid"]: worker for worker in study["workers"]}
    assert len(workers) == N_WORKERS
    assert workers.pop(night.killed)["state"] == "silent"
    assert {worker["state"] for worker in workers.values()} == {"finished"}
    assert study["trials"] == sum(t.state in OVER for t in night.trials)
    assert sum(w["trials"] for w in study["workers"]) == study["trials"]
    assert study["best_cost"] <= study["baseline_cost"]


def test_status_is_a_table_for_people(night: Night) -> None:
    done = night.fleet.run_command("fleet", "status")

    assert "lcm-tiny-chat-" in done.stdout
    assert "silent" in done.stdout
    assert night.fleet.database.password not in done.stdout + done.stderr


@pytest.fixture
def fleet(database: Postgres, tiny: Path, tmp_path: Path) -> Fleet:
    return Fleet(database, tmp_path, tiny)


def test_what_a_dead_worker_held_is_measured_by_the_next(fleet: Fleet) -> None:
    asked = ["--profile", "coding-agent", "--budget", "20s", "--no-verify"]
    dead = fleet.start("dead", *asked, LCM_FAKE_MS="1 1000")  # It will not be done soon.
    deadline = time.monotonic() + 60
    while not fleet.trials("coding-agent") and time.monotonic() < deadline:
        time.sleep(0.1)
    dead.kill()
    dead.wait()

    code, _, err = fleet.run("next", *asked)

    held, again = [t for t in fleet.trials("coding-agent") if t.user_attrs["kind"] == "baseline"][
        :2
    ]
    assert code == 0, err
    assert (held.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert _slot(held) == _slot(again)
    assert (_is_of(held, dead.pid), _is_of(again, dead.pid)) == (True, False)


def test_who_is_interrupted_leaves_the_rest_to_others_and_says_how_to_go_on(
    fleet: Fleet,
) -> None:
    # Long tests, or it would be done before anybody could press a key.
    worker = fleet.start("one", "--profile", "summarize", "--budget", "60s", LCM_FAKE_MS="1 100")
    deadline = time.monotonic() + 60
    while "race" not in fleet.said("one", "err") and time.monotonic() < deadline:
        time.sleep(0.1)

    worker.send_signal(signal.SIGINT)
    code = worker.wait(60)
    answer = json.loads(fleet.said("one", "out"))
    status = json.loads(fleet.run_command("fleet", "status", "--json").stdout)

    assert code == 130, fleet.said("one", "err")
    assert "--resume" in fleet.said("one", "err")
    name = answer["evidence"]["fleet"]["study"]
    study = next(s for s in status["studies"] if s["name"] == name)
    assert [(w["state"], w["measuring"]) for w in study["workers"]] == [("interrupted", "")]


# --- who may join --------------------------------------------------------------------------------


def test_a_machine_that_differs_is_refused_with_what_differs(fleet: Fleet) -> None:
    asked = ["--profile", "long-context", "--budget", "5s", "--no-verify"]
    assert fleet.run("first", *asked)[0] == 0

    code, out, err = fleet.run("other", *asked, "--param", "n_threads=1")
    its_own, _, said = fleet.run("own", *asked, "--param", "n_threads=1", "--per-machine")

    assert (code, out) == (5, "")
    assert "cannot join the study lcm-tiny-long-context-" in err
    assert "  - parameters: " in err
    assert "--per-machine" in err
    assert its_own == 0, said


def test_a_password_on_the_command_line_is_refused(fleet: Fleet) -> None:
    url = fleet.database.url_with("hunter2")

    code, out, err = fleet.run("worker", "--storage", url)

    assert (code, out) == (2, "")
    assert "LCM_STORAGE" in err
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("storage", "code", "said"),
    [
        ("oracle://db/lcm", 2, "no database that is known here"),
        ("postgresql://lcm@127.0.0.1:1/lcm", 3, "cannot be used"),
        ("@/nonexistent", 3, "cannot be read"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(
    fleet: Fleet, storage: str, code: int, said: str
) -> None:
    found, out, err = fleet.run("worker", "--storage", storage)

    assert (found, out) == (code, "")
    assert said in err
    assert "hint: " in err


def test_a_wrong_password_is_an_error_that_does_not_say_it(fleet: Fleet) -> None:
    url = fleet.database.url_with("hunter2")

    code, _, err = fleet.run("worker", LCM_STORAGE=url)

    assert code == 3
    assert "password authentication failed" in err
    assert "hunter2" not in err
