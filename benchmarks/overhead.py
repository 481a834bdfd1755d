"""What `lcm` costs beside llama-bench: its share of a session, of each trial, and of a long study.

The share is seen from outside: when llama-bench ran is looked for in /proc every 10 ms, and what
`lcm` itself writes down takes no part. The costs are those of a study in SQLite with records as
large as real ones; a study of thousands is a short one many times over, under other numbers.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from endurance import endure
from fakes.scripted import SPACE
from lifelike import LifelikeBench, lifelike_lab, readings
from llama_cpp_build import find_llama_cpp
from processes import Presence, lcm
from real_model import gemma_path
from tables import Figure, Table, environment, figures_table, parser, write

from autotune.cli.keeping import Keeper
from autotune.params import Params
from autotune.results.profile import Profile
from autotune.results.studies import read_folder
from autotune.tuning.study import Study

_LEAST_SHARE = 95.0
_MOST_ASK_MS, _MOST_RESUME_S = 50.0, 2.0
_T = TypeVar("_T")
_TIMES = 9  # Each cost is the middle of so many.


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of the wall time, in seconds."""

    whole_s: float  # From the start of lcm to its end.
    whole_bench_s: float
    session_s: float  # From the first start of llama-bench in the session to its last end.
    session_bench_s: float
    starts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of one trial, when there are so many already; in seconds."""

    trials: int
    begin_s: float
    tell_s: float
    proposal_s: float


def main() -> int:
    """Measure, print, and keep the table."""
    options = _options()
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        raise SystemExit("no llama.cpp here: `nox -s llama_cpp` builds one.")
    model = gemma_path()
    facts = environment(llama_cpp=llama_cpp, model=model)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        share = _share(llama_cpp, model, options.budget, base / "session")
        endure(base / "short", options.short)
        (short,) = base.glob("short/studies/*")
        sizes = (10, options.trials // 10, options.trials)
        studies = {n: _grown(short, base / f"of-{n}", n) for n in sizes}
        costs = [_costs(studies[n], n, base / f"asked-{n}.db") for n in sizes]
        long = dict(_long(studies[options.trials], base))
    write(
        options.out,
        "overhead",
        title="What lcm costs beside llama-bench",
        facts=facts,
        tables=[
            figures_table(_figures(share, costs, long)),
            _share_table(share, options.budget),
            _costs_table(costs),
            Table(
                title=f"A study of {options.trials:,} trials",
                header=("", "seconds"),
                rows=[(what, f"{seconds:.2f}") for what, seconds in long.items()],
            ),
        ],
        notes=[_NOTE],
    )
    return 0


_NOTE = (
    "llama-bench's processes are looked for in /proc every 10 ms, from outside. To ask is to write "
    "a trial down before it is measured (`Study.begin`), and in the tail what TPE proposes for it. "
    "To resume is `Study.resume`, and to answer every visit from the record (`Lab`), in a process "
    "that has its modules already; each study is a copy that was not opened before."
)


def _options() -> argparse.Namespace:
    made = parser("overhead", __doc__)
    made.add_argument("--budget", default="120s", help="of the real session (%(default)s)")
    made.add_argument("--trials", type=int, default=10_000, help="of the study (%(default)s)")
    made.add_argument(
        "--short", type=int, default=200, help="of the study that it is made of (%(default)s)"
    )
    return made.parse_args()


# --- the share of llama-bench --------------------------------------------------------------------


def _share(llama_cpp: Path, model: Path, budget: str, results: Path) -> Share:
    asked = ["--optimize", "--deep", "--budget", budget, "--results-dir", str(results), "--quiet"]
    start = time.monotonic()
    with subprocess.Popen(
        [*lcm(), "run", "--model", str(model), *asked],
        env=os.environ | {"LCM_LLAMA_DIR": str(llama_cpp)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as running:
        presence = Presence(running.pid)
        began = _moment(lambda: any(results.glob("studies/*/study.db")), running)
        running.wait()
        end = time.monotonic()
        presence.stop()
    if running.returncode:
        raise SystemExit(f"lcm ended with {running.returncode}")
    spans = [span for span in presence.spans if span[0] >= began]
    return Share(
        whole_s=end - start,
        whole_bench_s=presence.seconds,
        session_s=spans[-1][1] - spans[0][0],
        session_bench_s=sum(to - since for since, to in spans),
        starts=len(spans),
    )


def _moment(has_come: Callable[[], bool], running: subprocess.Popen[bytes]) -> float:
    """When the study was there: what ran before has only tried llama-bench."""
    while running.poll() is None and not has_come():
        time.sleep(Presence.EVERY_S)
    return time.monotonic()


# --- the costs of a trial ------------------------------------------------------------------------


def _grown(short: Path, folder: Path, trials: int) -> Path:
    """A study of so many trials: those of a short one again and again, under other numbers."""
    shutil.copytree(short, folder)
    kept = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    (folder / "study.json").write_text(json.dumps({**kept, "state": "interrupted"}))
    _grow_database(folder / "study.db", trials)
    _grow_journal(folder / "journal.jsonl", trials)
    return folder


_TABLES = {
    "trial_params": "param_name, param_value, distribution_json",
    "trial_values": "objective, value, value_type",
    "trial_user_attributes": "key, value_json",
}


def _grow_database(database: Path, trials: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        (short, step, seconds) = connection.execute(
            "SELECT count(*), max(trial_id), max(CAST(value_json AS REAL)) FROM trials "
            "LEFT JOIN trial_user_attributes USING (trial_id) WHERE key = 'elapsed_s'"
        ).fetchone()
        for n in range(1, -(-trials // short)):
            connection.execute(
                "INSERT INTO trials SELECT trial_id + ?, number + ?, study_id, state, "
                "datetime_start, datetime_complete FROM trials WHERE number < ?",
                (n * step, n * short, short),
            )
            for table, columns in _TABLES.items():
                copied = columns.replace(
                    "value_json",
                    "CASE key WHEN 'elapsed_s' THEN CAST(CAST(value_json AS REAL) + "
                    f"{n * (seconds + 1)} AS TEXT) ELSE value_json END",
                )
                connection.execute(
                    f"INSERT INTO {table} (trial_id, {columns}) SELECT trial_id + ?, {copied} "  # noqa: S608 - names of ours
                    f"FROM {table} WHERE trial_id <= ?",
                    (n * step, step),
                )
        for table in (*_TABLES, "trials"):
            connection.execute(
                f"DELETE FROM {table} WHERE trial_id IN "  # noqa: S608 - names of ours
                "(SELECT trial_id FROM trials WHERE number >= ?)",
                (trials,),
            )


def _grow_journal(journal: Path, trials: int) -> None:
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    head = [line for line in lines if line["type"] == "session"]
    rest = [line for line in lines if line["type"] in {"record", "trial"}]
    short = 1 + max(line.get("number", -1) for line in rest)
    seconds = 1 + max(line.get("elapsed_s", 0.0) for line in rest)
    with journal.open("w", encoding="utf-8") as file:
        for line in (*head, *_again(rest, short, seconds, trials)):
            file.write(json.dumps(line) + "\n")


def _again(
    lines: Sequence[dict[str, object]], short: int, seconds: float, trials: int
) -> Iterator[dict[str, object]]:
    for n in count():
        for line in lines:
            name = "number" if line["type"] == "trial" else "trial"
            number = n * short + int(str(line[name]))
            if number >= trials:
                return
            moved = {**line, name: number}
            if "elapsed_s" in line:
                moved["elapsed_s"] = float(str(line["elapsed_s"])) + n * seconds
            yield moved


def _costs(folder: Path, trials: int, database: Path) -> Costs:
    shutil.copy(folder / "study.db", database)
    study = Study.resume(database, SPACE)
    numbers = {reading.number for reading in study.readings()}
    begins, tells, proposals = [], [], []
    for n, (reading, seconds) in zip(range(_TIMES), readings(), strict=False):
        took_s, _ = _timed(partial(study.proposal, numbers, nth=n))
        proposals.append(took_s)
        took_s, ticket = _timed(partial(study.begin, reading.visit))
        begins.append(took_s)
        told = replace(reading, number=ticket.number, elapsed_s=1e9 + n)
        took_s, _ = _timed(partial(study.tell, ticket, told, seconds))
        tells.append(took_s)
    return Costs(
        trials=trials,
        begin_s=statistics.median(begins),
        tell_s=statistics.median(tells),
        proposal_s=statistics.median(proposals),
    )


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    start = time.perf_counter()
    came = work()
    return time.perf_counter() - start, came


# --- a long study --------------------------------------------------------------------------------


def _long(folder: Path, base: Path) -> Iterator[tuple[str, float]]:
    """What is done with it, and the seconds that each takes."""
    for name in ("opened", "resumed"):
        shutil.copy(folder / "study.db", base / f"{name}.db")
    opening_s, _ = _timed(partial(Study.facts_of, base / "opened.db"))
    yield _OPEN, opening_s
    resuming_s, study = _timed(partial(Study.resume, base / "resumed.db", SPACE))
    replaying_s, _ = _timed(partial(_replay, study))
    yield "to resume it: to read its trials", resuming_s
    yield "... and to answer every visit from the record", replaying_s
    yield _RESUME, resuming_s + replaying_s
    del study
    keeper = Keeper(read_folder(folder), budget_s=None, profile_of=_profile)
    keeping_s, _ = _timed(keeper.__enter__)
    keeper.__exit__()
    yield "to read its journal and to make its table anew, as a resumed session does", keeping_s
    yield "lcm results show", _command("show", folder)
    yield _EXPORT, _command("export", folder, "--format", "csv", "--level", "record")


_OPEN = "to open it"
_RESUME = "to resume it, together"
_EXPORT = "lcm results export --format csv --level record"


def _replay(study: Study) -> None:
    bench = LifelikeBench()
    asked = study.readings()
    lab = lifelike_lab(bench, study)
    for reading in asked:
        lab.visit([reading.visit])


def _command(name: str, folder: Path, *words: str) -> float:
    """The whole process, as a user waits for it."""
    results = folder.parent / "results"
    if not results.exists():
        (results / "studies").mkdir(parents=True)
        shutil.copytree(folder, results / "studies" / folder.name)
    command = [*lcm(), "results", name, folder.name, *words, "--results-dir", str(results)]
    out = ["--output", str(results / "out.csv")] if name == "export" else []
    took_s, done = _timed(
        partial(subprocess.run, [*command, *out], capture_output=True, text=True, check=False)
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return took_s


def _profile(params: Params) -> Profile:
    return Profile(params=params, date="", build="", model="gemma-3-270m")


# --- figures and tables --------------------------------------------------------------------------


def _figures(share: Share, costs: Sequence[Costs], long: dict[str, float]) -> list[Figure]:
    last = costs[-1]
    return [
        Figure(
            name="llama-bench's share of a session's wall time",
            aim=_LEAST_SHARE,
            measured=100 * share.session_bench_s / share.session_s,
            unit=" %",
            at_least=True,
        ),
        Figure(
            name=f"to ask at {last.trials:,} trials",
            aim=_MOST_ASK_MS,
            measured=1000 * last.begin_s,
            unit=" ms",
        ),
        Figure(
            name=f"to ask TPE for a proposal at {last.trials:,} trials",
            aim=_MOST_ASK_MS,
            measured=1000 * last.proposal_s,
            unit=" ms",
        ),
        Figure(
            name=f"to resume {last.trials:,} trials",
            aim=_MOST_RESUME_S,
            measured=long[_RESUME],
            unit=" s",
        ),
    ]


def _share_table(share: Share, budget: str) -> Table:
    return Table(
        title=f"A real session, --budget {budget}",
        header=("", "wall, s", "llama-bench, s", "share"),
        rows=[
            (
                f"the session, {share.starts} starts of llama-bench",
                f"{share.session_s:.1f}",
                f"{share.session_bench_s:.1f}",
                f"{share.session_bench_s / share.session_s:.1%}",
            ),
            (
                "the whole process, from its start to its end",
                f"{share.whole_s:.1f}",
                f"{share.whole_bench_s:.1f}",
                f"{share.whole_bench_s / share.whole_s:.1%}",
            ),
        ],
    )


def _costs_table(costs: Sequence[Costs]) -> Table:
    return Table(
        title="One trial more",
        header=("trials so far", "to ask", "to tell", "a proposal of TPE"),
        rows=[
            (
                f"{each.trials:,}",
                *(f"{1000 * s:.1f} ms" for s in (each.begin_s, each.tell_s, each.proposal_s)),
            )
            for each in costs
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
