"""Stored studies: any file in a study's folder may hold any bytes; which, the first byte says."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz.bytes_mutator import broken, mutated
from fuzz.invariants import check_error, check_lines, check_whole

from autotune.cli.applied import print_applied
from autotune.cli.before import workload_of
from autotune.cli.compared import print_comparison
from autotune.cli.kept import host_bytes, kept_study, model_of, shipped
from autotune.cli.listed import print_list, print_study
from autotune.errors import AutotuneError
from autotune.results.apply import TARGETS
from autotune.results.export import csv_text, jsonl_text, llama_bench_text
from autotune.results.report.markdown import markdown
from autotune.results.studies import all_folders
from autotune.tuning.study import Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.results.stored import Stored

_FIXTURES = Path(__file__).parents[1] / "fixtures" / "studies"
_FILES = {
    b"S": "study.json",
    b"E": "environment.json",
    b"J": "journal.jsonl",
    b"P": "profile.json",
    b"C": "records.csv",
    b"D": "study.db",
}
_RESULTS = Path(tempfile.mkdtemp(prefix="lcm-fuzz-"))
_FUZZED, _OTHER = "fuzzed", "other"


def one_input(data: bytes) -> None:
    """Put it in a study's place of one file, and ask for everything that can be made of a study."""
    name = _FILES.get(data[:1])
    if name is None:
        return
    folder = _fresh(_FUZZED, old=name == "study.db")
    (folder / name).write_bytes(data[1:])
    _fresh(_OTHER)
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        _listed()
        try:
            _read(folder)
        except AutotuneError as error:
            check_error(error)
    check_lines(told.getvalue())


def _fresh(name: str, *, old: bool = False) -> Path:
    folder = _RESULTS / "studies" / name
    shutil.rmtree(folder, ignore_errors=True)
    # Without a journal, everything is read from the database.
    shutil.copytree(_FIXTURES / ("format-1" if old else "format-2"), folder)
    return folder


def _listed() -> None:
    for sort in ("model", "gain", "date"):
        check_lines(_printed(partial(print_list, sort, _RESULTS, as_json=False)))
    _check_answer(_printed(partial(print_list, "date", _RESULTS, as_json=True)))
    assert any(folder.name == _OTHER for folder in all_folders({"LCM_RESULTS_DIR": str(_RESULTS)}))


def _read(folder: Path) -> None:
    if (folder / "study.db").exists() and not (folder / "journal.jsonl").exists():
        Study.facts_of(folder / "study.db")
    study = kept_study(_FUZZED, _RESULTS)
    check_lines(_printed(lambda: print_study(_FUZZED, _RESULTS, as_json=False)))
    _check_answer(_printed(lambda: print_study(_FUZZED, _RESULTS, as_json=True)))
    _exported(study)
    check_lines(markdown(study, command=["llama-server", "-m", study.folder.model]))
    for work in (_compared, _applied, _verified):
        try:
            work(study)
        except AutotuneError as error:
            check_error(error)


def _exported(study: Stored) -> None:
    for level in ("trial", "record", "sample"):
        for line in jsonl_text(study, level).splitlines():
            _check_answer(line)
        csv_text(study, level).encode()
    check_whole(json.loads(llama_bench_text(study)))


def _compared(study: Stored) -> None:
    across = ("machine", "build", "model", "request", "arguments", "driver", "kernel", "context")
    names = (study.folder.name, _OTHER)
    told = _printed(lambda: print_comparison(*names, (*across, "tests"), _RESULTS, as_json=False))
    check_lines(told)
    _check_answer(
        _printed(lambda: print_comparison(*names, (*across, "tests"), _RESULTS, as_json=True))
    )


def _applied(study: Stored) -> None:
    arguments = study.environment.get("llama_cpp", {}).get("arguments") or ()
    facts: dict[str, Any] = {"memory_bytes": host_bytes(study), "arguments": arguments}
    for target in TARGETS:
        try:
            _printed(partial(print_applied, shipped(study), model_of(study), target, **facts))
        except AutotuneError as error:
            check_error(error)


def _verified(study: Stored) -> None:
    workload = workload_of(shipped(study), study.environment)
    json.dumps(asdict(workload), default=dict)


def _printed(work: Callable[[], object]) -> str:
    """What is printed, both streams as a terminal shows them."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        work()
        out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    check_lines(err.getvalue())
    return out.buffer.getvalue().decode(errors="surrogateescape").removesuffix("\n")


def _check_answer(text: str) -> None:
    check_whole(json.loads(text, parse_constant=_refused))


def _refused(word: str) -> None:
    raise AssertionError(word)


@cache
def seeds() -> tuple[bytes, ...]:
    """Every file of the kept studies."""
    kept = [
        kind + file.read_bytes()
        for kind, name in _FILES.items()
        for folder in ("format-2", "format-1")
        if (file := _FIXTURES / folder / name).exists()
    ]
    journal = (_FIXTURES / "format-2" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    # Less than the whole, so that what is broken is more often something.
    return (*kept, b"J" + b"".join([*journal[:6], *journal[-1:]]), b"J" + journal[-1])


def mutations(number: int, seed: int) -> list[bytes]:
    """Give so many broken files, always the same ones for a seed."""
    return mutated(seeds(), number, seed)


__all__ = ["broken", "mutations", "one_input", "seeds"]
