"""A long run on the real llama-bench with faults at random moments: what it holds and loses.

Sessions of `lcm run --optimize --deep` one after the other; llama-bench is killed, terminated and
stopped, a neighbour computes, `lcm` itself is killed or interrupted and goes on. Ends with 1 where
something was lost.
"""

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

from anchors import Anchor, anchors_of
from endurance import Stage, endure
from llama_cpp_build import find_llama_cpp
from real_model import gemma_path
from sessions import FILES, Ask, Process, Sample, Soak
from tables import Figure, Table, environment, figures_table, parser, write

from autotune.llama_cpp.records import Failure
from autotune.results.journal import Record, Trial, read_journal
from autotune.results.stored import Stored, read_study
from autotune.results.studies import read_folder
from autotune.tuning.study import NAME
from autotune.tuning.study.rows import read_rows

_LONG = Ask(profile="coding-agent", budget="18m", spared=True)
_ASKS = (
    Ask(profile="chat", budget="4m"),
    Ask(profile="chat", budget="4m", words=("--objective", "tg")),
    Ask(profile="quick", budget="3m", words=("--allow-lossy-kv", "q8_0")),
    Ask(profile="summarize", budget="4m", words=("--objective", "pp")),
)
_LONG_FROM_MINUTES = 20
_MOST_MB_PER_1000 = 5.0
_MOST_UNEVEN = 1.25


def main() -> int:
    """Run, judge, print, and keep the table."""
    options = _options()
    llama_cpp = find_llama_cpp()
    if llama_cpp is None:
        raise SystemExit("no llama.cpp here: `nox -s llama_cpp` builds one.")
    model: Path = options.model or gemma_path()
    facts = environment(llama_cpp=llama_cpp, model=model, seed=str(options.seed))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(model, llama_cpp, Path(folder), seed=options.seed, seconds=60 * options.minutes)
        _run(soak, options.minutes)
        studies = [_read(path) for path in dict.fromkeys(p.study for p in soak.processes) if path]
        anchors = [a for one in studies for a in anchors_of(one, soak.faults.done)]
        lost = [*_lost(soak, studies)]
        stages = _endured(Path(folder) / "endured", options.trials)
        figures = _figures(soak, anchors, lost, stages)
        write(
            options.out,
            "soak",
            title="A long run with faults",
            facts=facts,
            tables=[
                figures_table(figures),
                _processes_table(soak.processes),
                _files_table(soak.processes),
                _endured_table(stages),
                _faults_table(soak, studies),
                _anchors_table(anchors),
            ],
            notes=[_OF_ANCHORS, _OF_ENDURANCE, *lost],
        )
    return 0 if all(figure.is_reached for figure in figures[:4]) else 1


_OF_ANCHORS = (
    "RSS is what a process holds in memory. An anchor is the best so far measured again, every "
    "sixth visit of the tail; it has drifted where it differs from what was known by more than "
    "4 times the noise and 5 %."
)
_OF_ENDURANCE = (
    "In the endurance run one process measures on a scripted llama-bench that answers at once, "
    "and writes its study, journal and table as a session does."
)


def _options() -> argparse.Namespace:
    made = parser("soak", __doc__)
    made.add_argument("--model", type=Path, help="a GGUF; otherwise gemma-3-270m")
    made.add_argument("--minutes", type=float, default=30, help="of sessions (%(default)s)")
    made.add_argument(
        "--trials", type=int, default=1000, help="of the endurance run after them (%(default)s)"
    )
    made.add_argument("--seed", type=int, default=6, help="of the faults (%(default)s)")
    return made.parse_args()


def _run(soak: Soak, minutes: float) -> None:
    first = [_LONG] if minutes >= _LONG_FROM_MINUTES else []
    for seed, ask in enumerate([*first, *_ASKS]):
        if soak.left_s > 0:
            soak.run(ask, seed)
    for seed, ask in enumerate(cycle(_ASKS), start=100):
        if soak.left_s <= 0:
            return
        soak.run(ask, seed)


def _endured(folder: Path, trials: int) -> list[Stage]:
    """In a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(endure, folder, trials).result()


def _read(path: Path) -> Stored:
    return read_study(read_folder(path))


# --- what was lost -------------------------------------------------------------------------------


def _lost(soak: Soak, studies: Sequence[Stored]) -> Iterable[str]:
    """Whatever was told or written and is not there, or is there twice; in words."""
    for written in soak.written:
        if not written.still_stands():
            yield f"{written.journal.parent.name}: what stood in the journal at an end is not there"
    for stored in studies:
        entries = read_journal(stored.folder.journal).entries
        kept = Counter(entry.number for entry in entries if isinstance(entry, Trial))
        records = [entry for entry in entries if isinstance(entry, Record)]
        name = stored.folder.name
        told = {n for p in soak.processes if p.study == stored.folder.path for n in p.told}
        in_study = _in_study(stored.folder.database)
        rows = (stored.folder.path / FILES[2]).read_text(encoding="utf-8").count("\n") - 1
        for number in sorted((told | in_study) - kept.keys()):
            yield f"{name}: trial {number} is not in the journal"
        for number in sorted(kept.keys() - in_study):
            yield f"{name}: trial {number} is not in the study"
        for number in sorted(n for n, times in kept.items() if times > 1):
            yield f"{name}: trial {number} is in the journal {kept[number]} times"
        if rows != len(records):
            yield f"{name}: {len(records)} records, {rows} rows of the table"
        if stored.damaged:
            yield f"{name}: {stored.damaged} lines of the journal cannot be read"


def _in_study(database: Path) -> set[int]:
    """Numbers of the trials that are over; also of those whose failure is not believed any more."""
    with closing(sqlite3.connect(database)) as connection:
        rows = read_rows(connection, NAME)
    return {row.number for row in rows if "outcomes" in row.attributes}


# --- figures and tables --------------------------------------------------------------------------


def _figures(
    soak: Soak, anchors: Sequence[Anchor], lost: Sequence[str], stages: Sequence[Stage]
) -> list[Figure]:
    strays = sum(len(process.strays) for process in soak.processes)
    unexplained = sum(not anchor.is_explained for anchor in anchors)
    first, last = stages[0], stages[-1]
    growth = (last.rss_mb - first.rss_mb) / (last.trials - first.trials) * 1000
    uneven = max(
        statistics.mean(per_trial) / first
        for per_trial in zip(*(stage.bytes_per_trial for stage in stages[1:]), strict=True)
        if (first := per_trial[0])
    )
    return [
        Figure(name="records lost, torn or kept twice", aim=0, measured=len(lost)),
        Figure(name="stray processes", aim=0, measured=strays),
        Figure(name="anchors that drifted unexplained", aim=0, measured=unexplained),
        Figure(
            name="open files that a session gathers in its last third",
            aim=0,
            measured=max((_more_fds(p.samples) for p in soak.processes), default=0),
        ),
        Figure(
            name="memory of lcm for each 1,000 trials",
            aim=_MOST_MB_PER_1000,
            measured=growth,
            unit=" MB",
        ),
        Figure(
            name="bytes for each trial, all along over those at first",
            aim=_MOST_UNEVEN,
            measured=uneven,
        ),
    ]


def _more_fds(samples: Sequence[Sample]) -> int:
    """While llama-bench runs, whose pipes count: the last third against the middle one."""
    third = len(samples) // 3
    if third < 20:  # noqa: PLR2004 - seconds, in which a test and a pause have their place
        return 0
    middle, last = samples[third : 2 * third], samples[-third:]
    before, after = _fewest(middle), _fewest(last)
    return 0 if before is None or after is None else max(after - before, 0)


def _fewest(samples: Sequence[Sample]) -> int | None:
    return min((sample.held.fds for sample in samples if sample.held.children), default=None)


def _processes_table(processes: Sequence[Process]) -> Table:
    return Table(
        title="Processes of lcm",
        header=(
            "session",
            "min",
            "trials",
            "RSS at 10 %, MB",
            "50 %",
            "100 %",
            "MB an hour, second half",
            "open files, most",
            "threads, most",
            "ending",
        ),
        rows=[_process_row(process) for process in processes if process.samples],
    )


def _process_row(process: Process) -> tuple[str | int, ...]:
    samples = process.samples
    minutes = (samples[-1].held.at - samples[0].held.at) / 60
    at = [samples[min(int(share * len(samples)), len(samples) - 1)] for share in (0.1, 0.5, 1)]
    return (
        f"{process.ask}{', resumed' if process.resumed else ''}",
        f"{minutes:.1f}",
        samples[-1].trials,
        *(f"{sample.held.rss_mb:.1f}" for sample in at),
        f"{_slope(samples[len(samples) // 2 :]):+.1f}" if minutes > 1 else "-",
        max(sample.held.fds for sample in samples),
        max(sample.held.threads for sample in samples),
        process.ending,
    )


def _slope(samples: Sequence[Sample]) -> float:
    """MB an hour, by a straight line."""
    hours = [sample.held.at / 3600 for sample in samples]
    if len(set(hours)) < 2:  # noqa: PLR2004 - no line through a point
        return 0.0
    return statistics.linear_regression(hours, [s.held.rss_mb for s in samples]).slope


def _files_table(processes: Sequence[Process]) -> Table:
    """Of the process with the most trials: bytes for each of them, in its halves."""
    longest = max(processes, key=lambda p: p.samples[-1].trials if p.samples else 0)
    samples = longest.samples
    middle = next(s for s in samples if 2 * s.trials >= samples[-1].trials)
    first = next((s for s in samples if s.trials), samples[0])
    return Table(
        title=f"Files of the longest session ({longest.ask}, {samples[-1].trials} trials)",
        header=("file", "bytes a trial, first half", "second half", "at the end"),
        rows=[
            (
                name,
                _per_trial(first, middle, n),
                _per_trial(middle, samples[-1], n),
                f"{samples[-1].sizes[n] / 1e3:.0f} kB",
            )
            for n, name in enumerate(FILES)
        ],
    )


def _per_trial(one: Sample, other: Sample, file: int) -> str:
    trials = other.trials - one.trials
    return f"{(other.sizes[file] - one.sizes[file]) / trials:.0f}" if trials else "-"


def _endured_table(stages: Sequence[Stage]) -> Table:
    return Table(
        title="Endurance: one process, a scripted llama-bench",
        header=("trials", "RSS, MB", *(f"{name}, bytes a trial" for name in FILES)),
        rows=[
            (s.trials, f"{s.rss_mb:.1f}", *(f"{each:.0f}" for each in s.bytes_per_trial))
            for s in stages
        ],
    )


def _faults_table(soak: Soak, studies: Sequence[Stored]) -> Table:
    done = Counter(fault.kind for fault in soak.faults.done)
    failures = Counter(
        record.outcome.kind.value
        for stored in studies
        for record in stored.records
        if isinstance(record.outcome, Failure)
    )
    disturbed = sum(bool(one.trial.disturbed) for stored in studies for one in stored.visited)
    trials = sum(len(stored.visited) for stored in studies)
    return Table(
        title="Faults, and what became of them",
        header=("", "times"),
        rows=[
            *done.items(),
            *((f"trials recorded as {kind}", times) for kind, times in failures.items()),
            ("trials recorded as disturbed", disturbed),
            ("trials in all", trials),
        ],
    )


def _anchors_table(anchors: Sequence[Anchor]) -> Table:
    return Table(
        title="Anchors",
        header=("study", "trial", "drift", "limit", "explanation"),
        rows=[
            (
                anchor.study,
                anchor.number,
                f"{anchor.drift:+.1%}",
                f"{anchor.limit:.1%}",
                anchor.why or "**none**",
            )
            for anchor in anchors
        ],
    )


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(code)
