"""Sessions of `lcm run --optimize --deep` in a row, with faults, watched from outside."""

import hashlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.benches import TOKEN, left_behind
from injected import Injector
from processes import Held, held_by, lcm

_POLL_S, _SAMPLE_S = 0.1, 1.0
# After a Ctrl-C it has ten seconds, and what is running in llama-bench ends before.
_ENDING_S = 90.0
FILES = ("journal.jsonl", "study.db", "records.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one session is asked for."""

    profile: str
    budget: str
    words: tuple[str, ...] = ()
    spared: bool = (
        False  # Faults are done to llama-bench alone, and once the defaults are measured.
    )

    def __str__(self) -> str:
        return " ".join((self.profile, *self.words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at a session."""

    held: Held
    trials: int  # That this process has told of, those of the record included.
    sizes: tuple[int, ...]  # Bytes of FILES.


@dataclass(slots=True, kw_only=True)
class Process:
    """One process of `lcm`, from its start to its end."""

    ask: Ask
    resumed: bool
    began_at: float
    study: Path | None = None
    ending: str = ""
    samples: list[Sample] = field(default_factory=list)
    told: set[int] = field(default_factory=set)  # Trials that it said it had measured.
    strays: Sequence[object] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What stood in a journal at a moment: its whole lines must stay as they are."""

    journal: Path
    size: int
    digest: str

    @staticmethod
    def now(journal: Path) -> "Written":
        """Look at it."""
        whole = journal.read_bytes() if journal.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]
        return Written(journal=journal, size=len(whole), digest=hashlib.sha256(whole).hexdigest())

    def still_stands(self) -> bool:
        """Whether the journal still begins with it."""
        if not self.size:
            return True
        return hashlib.sha256(self.journal.read_bytes()[: self.size]).hexdigest() == self.digest


class Soak:
    """Runs sessions until the time is up, and keeps what was seen of them."""

    def __init__(
        self, model: Path, llama_cpp: Path, folder: Path, *, seed: int, seconds: float
    ) -> None:
        self._model = model
        self._llama_cpp = llama_cpp
        self._folder = folder
        self._until_s = time.monotonic() + seconds
        self._token = uuid.uuid4().hex
        self.faults = Injector(seed)
        self.processes: list[Process] = []
        self.written: list[Written] = []

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self._until_s - time.monotonic()

    def run(self, ask: Ask, seed: int) -> None:
        """One study: a session, and what goes on with it after each end that was made."""
        process = self._once(ask, seed, resumed=False)
        while process.ending.startswith("ended by us") and self.left_s > 0:
            process = self._once(ask, seed, resumed=True)

    def _once(self, ask: Ask, seed: int, *, resumed: bool) -> Process:
        process = Process(ask=ask, resumed=resumed, began_at=time.time())
        self.processes.append(process)
        said = self._folder / f"said-{len(self.processes)}"
        with said.open("wb") as stderr:
            lcm = subprocess.Popen(
                [*self._command(ask, seed), *(["--resume"] if resumed else ["--fresh"])],
                env=os.environ | {TOKEN: self._token, "LCM_LLAMA_DIR": str(self._llama_cpp)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            try:
                self._attend(process, lcm, said)
            finally:
                lcm.kill()
                lcm.wait()
                self.faults.finish()
        process.told = _told(said)
        process.ending = process.ending or _ending(lcm.returncode, said)
        process.strays = left_behind(self._token, seconds=10)
        if not any(one.samples for one in self.processes):
            raise SystemExit(f"lcm {process.ask} could not begin: {process.ending}")
        return process

    def _command(self, ask: Ask, seed: int) -> list[str]:
        asked = ["--profile", ask.profile, "--budget", ask.budget, *ask.words, "--seed", str(seed)]
        kept = ["--results-dir", str(self._folder), "--json-progress"]
        model = ["--model", str(self._model)]
        return [*lcm(), "run", *model, "--optimize", "--deep", *asked, *kept]

    def _attend(self, process: Process, lcm: subprocess.Popen[bytes], said: Path) -> None:
        """Until it has ended: sample, do faults, and end it where that is its turn."""
        chance, began_s, sampled_s = self.faults, time.monotonic(), 0.0
        ends_s = self._until_s
        if not process.ask.spared and not process.resumed:
            ends_s = min(ends_s, began_s + chance.between(20, 75))
        while lcm.poll() is None:
            now = time.monotonic()
            if now - sampled_s >= _SAMPLE_S:
                sampled_s = now
                self._sample(process, lcm.pid, said)
            if now >= ends_s:
                self._end(process, lcm)
                return
            if process.samples and process.samples[-1].trials:  # There is something to spoil.
                chance.step(lcm.pid)
            time.sleep(_POLL_S)

    def _sample(self, process: Process, pid: int, said: Path) -> None:
        process.study = process.study or self._study_of(process)
        held = held_by(pid)
        if held is None or process.study is None:
            return
        files = [process.study / name for name in FILES]
        sizes = tuple(file.stat().st_size if file.exists() else 0 for file in files)
        trials = said.read_bytes().count(b'"trial":')
        process.samples.append(Sample(held=held, trials=trials, sizes=sizes))

    def _study_of(self, process: Process) -> Path | None:
        found = sorted(self._folder.glob("studies/*/study.db"), key=lambda p: p.stat().st_ctime)
        if process.resumed:
            return self.processes[-2].study
        known = {other.study for other in self.processes}
        return next((p.parent for p in reversed(found) if p.parent not in known), None)

    def _end(self, process: Process, lcm: subprocess.Popen[bytes]) -> None:
        """Kill it, or press Ctrl-C; what it had written stays, or something is lost."""
        self.faults.finish()
        kills = self.left_s > 0 and self.faults.between(0, 1) < 0.5  # noqa: PLR2004 - a coin
        kind = "lcm killed" if kills else "Ctrl-C"
        self.faults.note(kind)
        process.ending = f"ended by us: {kind}"
        lcm.send_signal(signal.SIGKILL if kills else signal.SIGINT)
        lcm.wait(_ENDING_S)
        if process.study:
            self.written.append(Written.now(process.study / FILES[0]))


def _told(said: Path) -> set[int]:
    """The trials that it told of as measured now; a last line may be torn."""
    lines = [_json(line) for line in said.read_bytes().splitlines() if b'"trial":' in line]
    return {line["trial"] for line in lines if line and line.get("replayed") is False}


def _ending(code: int, said: Path) -> str:
    if code == 0:
        return "finished"
    words = said.read_text(encoding="utf-8", errors="replace").splitlines()
    error = next((line for line in reversed(words) if '"error"' in line), "")
    return f"exit code {code}: {_json(error.encode()).get('message', '')}"


def _json(line: bytes) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
