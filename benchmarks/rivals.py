"""The tuners that are set beside each other: how each is started, and what it ends with."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counted import STARTS, loads_of, pairs, timed_runs
from lcm_process import install_lcm
from referee import Setting

# A tool that cannot be told a budget may overrun it by so much, before it is ended.
_OVERRUN = 1.5
_GRACE_S = 15
_THOROUGH_TRIALS = 15  # Of llama-dyno without a GPU; each is a warm-up process and a real one.
_DYNO_TRIAL = re.compile(
    r"\d+ +\d+ +(?P<flash>[✓✗]) +(?P<k>\w+)/(?P<v>\w+) +(?P<batch>\d+) +(?P<threads>\w+)"
    r" +(?P<pp>[\d.]+) +(?P<tg>[\d.]+) +\S+ +(?P<score>[\d.]+)"
)
_DYNO_FINAL = re.compile(
    r"dyno bench .* --(?P<flash>fa|no-fa) --ctk (?P<k>\w+) --ctv (?P<v>\w+)"
    r" --batch (?P<batch>\d+) .*--threads (?P<threads>\d+)"
)
_LEAST_S = 3.0  # With less, nothing is measured at all.
# What its help calls fine "for fast exploration/testing/debug", where a budget holds no trial.
_FOR_TESTING = ("--n-tokens", "10", "--repeat", "2")
# A trial takes longer than one of the defaults, because some have fewer threads.
_SLOWER = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Of llama.cpp's defaults, measured once: what a number of trials is reckoned from."""

    prompt: float  # Tokens per second.
    generation: float
    load_s: float  # Of a process, less its tests.

    def run_s(self, *, prompt: int = 0, generation: int = 0, repetitions: int = 1) -> float:
        """Seconds of one llama-bench."""
        once = prompt / self.prompt + generation / self.generation
        return self.load_s + repetitions * once


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tool runs, and on what: all that it writes goes into a folder of its own."""

    folder: Path
    programs: Path  # llama.cpp's, with a llama-bench that counts.
    model: Path
    budget_s: float
    quickest_s: float  # That the quickest of the peers took, or the budget.
    speed: Speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tool took, and what it ended with."""

    tool: str
    setting: Setting
    claim: str
    command: str = ""
    wall_s: float = 0.0
    loads: int = 0
    runs: int = 0  # Timed runs that llama-bench was asked for, repetitions counted.
    end: str = "by itself"

    def to_json(self) -> str:
        """For a file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """The inverse."""
        kept = json.loads(text)
        return cls(**kept | {"setting": Setting(**kept["setting"])})


class NotRunError(Exception):
    """A tool cannot take part; the message says why."""


class Tool(ABC):
    """One way to start a tuner."""

    name: str
    slug: str

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """The command line, as its user would write it.

        Raises:
            NotRunError: it is not here, or the budget is too small for it.
        """

    @abstractmethod
    def found(self, place: Place, said: str) -> tuple[Setting, str]:
        """Its final settings, and what it claims of them.

        Raises:
            NotRunError: it ended without any.
        """

    def limit_s(self, place: Place) -> float:
        """When it is ended."""
        return _OVERRUN * place.budget_s


class LcmDeep(Tool):
    """This project, with the whole budget."""

    name, slug = "`lcm --deep`", "lcm"

    def command(self, place: Place) -> list[str]:
        lcm = str(install_lcm(place.folder))
        words = ["run", "--model", str(place.model), "--optimize", "--deep"]
        return [lcm, *words, "--budget", f"{self.budget_s(place):.0f}s"]

    def budget_s(self, place: Place) -> float:
        """What it is told."""
        return place.budget_s

    def found(self, place: Place, said: str) -> tuple[Setting, str]:
        del place
        answer = _answer(said)
        seen = answer["evidence"]
        claim = f"{seen['verdict']}, {seen['trials']} trials"
        if seen["ratio"] is not None:
            span = f"{seen['low']:.3f} to {seen['high']:.3f}"
            claim = f"{seen['verdict']}: {seen['ratio']:.3f} times as fast as the defaults ({span})"
        return _of_lcm(answer["recommended_params"]), claim


class LcmQuarter(LcmDeep):
    """This project, with a quarter of the time that the quickest of the others took."""

    name, slug = "`lcm --deep`, a quarter of the time", "lcm-quarter"

    def budget_s(self, place: Place) -> float:
        """Less what it takes to start, and to end a test that is running."""
        return max(0.95 * place.quickest_s / 4 - 2, _LEAST_S)


class LcmQuick(Tool):
    """This project, without measuring."""

    name, slug = "`lcm --optimize`", "lcm-quick"

    def command(self, place: Place) -> list[str]:
        return [str(install_lcm(place.folder)), "run", "--model", str(place.model), "--optimize"]

    def found(self, place: Place, said: str) -> tuple[Setting, str]:
        del place
        return _of_lcm(_answer(said)["recommended_params"]), "nothing: rules, not measured"


class Optimus(Tool):
    """llama-optimus, with as many trials as its budget holds."""

    requirement = "llama-optimus==0.1.9"

    def __init__(self, programs: "Programs", *, lean: bool) -> None:
        self._programs, self._lean = programs, lean
        self.name = "`llama-optimus`" + (", told what this machine is" if lean else "")
        self.slug = "optimus-lean" if lean else "optimus"

    def command(self, place: Place) -> list[str]:
        words = [str(self._programs.find("llama-optimus", self.requirement))]
        words += ["--llama-bin", str(place.programs), "--model", str(place.model)]
        if self._lean:
            words += ["--ngl-max", "0", "--override-mode", "none", "--no-warmup"]
        trials = self._trials(place)
        if trials < 1 and self._lean:
            return [*words, *_FOR_TESTING, "--trials", "2"]
        if trials < 1:
            raise NotRunError(
                f"what it does beside its trials takes more than {place.budget_s:.0f} s"
            )
        return [*words, "--trials", str(trials)]

    def _trials(self, place: Place) -> int:
        """As many as leave room for what it does besides, by the speed of the defaults."""
        speed = place.speed
        trial_s = speed.load_s + _SLOWER * 3 * 192 / speed.generation
        besides_s = 3 + 2 * speed.run_s(prompt=256, generation=128, repetitions=6)
        if self._lean:
            besides_s += 2 * trial_s
        else:
            probe_s = speed.run_s(prompt=512, generation=1, repetitions=2)
            warm_s = speed.run_s(prompt=128, generation=128, repetitions=3)
            besides_s += 8 * probe_s + 35 * warm_s + 18 * trial_s
        return int((place.budget_s - besides_s) / (2 * trial_s))

    def found(self, place: Place, said: str) -> tuple[Setting, str]:
        bench = re.escape(str(place.programs / "llama-bench"))
        final = re.search(rf"(?m)^({bench} --model .* -t \d.*)$", said)
        if final is None:
            return self._last_best(said)
        rates = re.findall(r"\| *(pp\d+|tg\d+) *\| *([\d.]+)", said)
        shown = ", ".join(f"{test} {rate}" for test, rate in rates[:2])
        if len(rates) == 4:  # noqa: PLR2004 - both of its last tables
            shown += " t/s; the defaults " + ", ".join(rate for _, rate in rates[2:])
        return of_words(shlex.split(final[1])), shown or "nothing"

    def _last_best(self, said: str) -> tuple[Setting, str]:
        """Where it was ended: the best of its last stage that has one, as Optuna prints it."""
        for stage in reversed(said.split("A new study created")[1:]):
            trials = dict(re.findall(r"Trial (\d+) finished .*? parameters: (\{.*?\})", stage))
            best = re.findall(r"Best is trial (\d+) with value: (\d+\.\d+)", stage)
            params = json.loads(trials[best[-1][0]].replace("'", '"')) if best else {}
            if "threads" not in params:  # Its second stage has only switches.
                continue
            setting = Setting(
                threads=params["threads"],
                threads_batch=params["threads"],
                n_batch=params["batch"],
                n_ubatch=params["u_batch"],
                n_gpu_layers=params["gpu_layers"],
                flash_attn="on" if params.get("flash_attn") else None,  # 0: it says nothing.
            )
            return setting, f"tg {float(best[-1][1]):.1f} t/s, the best so far when it was ended"
        raise NotRunError("ended before its first trial")


class Dyno(Tool):
    """llama-dyno in the longest of its modes that the budget holds; llama-bench is on its PATH."""

    name, slug = "`llama-dyno`", "dyno"
    requirement = "llama-dyno==1.5.0"

    def __init__(self, programs: "Programs") -> None:
        self._programs = programs

    def command(self, place: Place) -> list[str]:
        dyno = str(self._programs.find("dyno", self.requirement))
        trial_s = place.speed.run_s(prompt=512, generation=128, repetitions=5)
        trial_s += place.speed.run_s(prompt=16, generation=16, repetitions=5)
        holds = _THOROUGH_TRIALS * trial_s < place.budget_s
        return [dyno, "tune", str(place.model), "--thorough" if holds else "--quick"]

    def found(self, place: Place, said: str) -> tuple[Setting, str]:
        del place
        trials = [trial for trial in map(_DYNO_TRIAL.search, said.splitlines()) if trial]
        if not trials:
            raise NotRunError(f"ended without a trial: {_last_line(said)}")
        best = max(trials, key=lambda trial: float(trial["score"]))
        claim = f"pp {best['pp']}, tg {best['tg']} t/s, compared with nothing"
        final = _DYNO_FINAL.search(said)
        if final is None:
            claim += "; the best so far when it was ended"
        return _of_dyno(final or best), claim


class Programs:
    """The peers' programs: beside this interpreter, or in environments made for them."""

    def __init__(self, folder: Path, *, install: bool) -> None:
        self._folder, self._install = folder, install

    def find(self, program: str, requirement: str) -> Path:
        """Give a program's path, and install it if that is wanted.

        Raises:
            NotRunError: it cannot be had.
        """
        name = requirement.partition("==")[0]
        own = self._folder / name / "bin"
        for folder in (Path(sys.executable).parent, own):
            if (folder / program).is_file():
                return folder / program
        if not self._install:
            raise NotRunError(f"not installed: pip install {requirement}")
        venv.create(self._folder / name, with_pip=True)
        pip = [str(own / "python"), "-m", "pip", "install", "--quiet", requirement]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise NotRunError(f"cannot be had: {errors[-1] if errors else 'pip failed'}")
        if not (own / program).is_file():
            raise NotRunError(f"{requirement} brings no {program}")
        return own / program


def speed_of(bench: Path, model: Path) -> Speed:
    """Measure llama.cpp's defaults: the best of three, which a neighbour has not slowed."""
    return max((_speed_once(bench, model) for _ in range(3)), key=lambda speed: speed.generation)


def _speed_once(bench: Path, model: Path) -> Speed:
    command = [str(bench), "-m", str(model), "-p", "512", "-n", "64", "-r", "1", "-o", "jsonl"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall_s = time.monotonic() - began
    prompt, generation = (json.loads(line)["avg_ts"] for line in done.stdout.splitlines())
    tests_s = 2 * 512 / prompt + 65 / generation  # With the warm-up.
    return Speed(prompt=prompt, generation=generation, load_s=max(wall_s - tests_s, 0.1))


def run(tool: Tool, place: Place) -> Outcome:
    """Run a tool to its end, or to its limit.

    Raises:
        NotRunError: it cannot be run, or ended without a result.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    command = tool.command(place)
    starts = place.folder / "starts.txt"
    starts.write_text("", encoding="utf-8")
    began = time.monotonic()
    ended = _run_to_limit(command, place, starts, tool.limit_s(place))
    wall_s = time.monotonic() - began
    said = "\n".join((place.folder / name).read_text("utf-8") for name in ("out.txt", "err.txt"))
    setting, claim = tool.found(place, said)
    loads = loads_of(starts)
    return Outcome(
        tool=tool.name,
        setting=setting,
        claim=claim,
        command=_shown(command, place),
        wall_s=wall_s,
        loads=len(loads),
        runs=sum(map(timed_runs, loads)),
        end="at its limit" if ended else "by itself",
    )


def _run_to_limit(command: Sequence[str], place: Place, starts: Path, limit_s: float) -> bool:
    """Whether it had to be ended."""
    with (
        (place.folder / "out.txt").open("w", encoding="utf-8") as out,
        (place.folder / "err.txt").open("w", encoding="utf-8") as err,
        subprocess.Popen(
            command,
            env=_environment(place, starts),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as process,
    ):
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def _environment(place: Place, starts: Path) -> Mapping[str, str]:
    """That of a user of this tool alone: what it keeps, and what it leaves, is in its folder."""
    folders = {"HOME": "home", "TMPDIR": "tmp", "LCM_RESULTS_DIR": "results"}
    for name in folders.values():
        (place.folder / name).mkdir(exist_ok=True)
    unwanted = ("LCM_LLAMA_BENCH", "LCM_LLAMA_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return (
        kept
        | {name: str(place.folder / folder) for name, folder in folders.items()}
        | {
            STARTS: str(starts),
            "COLUMNS": "300",  # A line that is read is not broken.
            "NO_COLOR": "1",
            "PATH": os.pathsep.join([str(place.programs), os.environ.get("PATH", "")]),
            # What it prints is read in the order in which it and its llama-bench wrote it.
            "PYTHONUNBUFFERED": "1",
        }
    )


def of_words(words: Sequence[str]) -> Setting:
    """What a command line of llama-bench sets."""
    said = dict(pairs(words))
    threads = _number(said.get("-t") or said.get("--threads"))
    flash = said.get("-fa") or said.get("--flash-attn")
    return Setting(
        threads=threads or None,
        threads_batch=threads or None,
        n_batch=_number(said.get("-b") or said.get("--batch-size")),
        n_ubatch=_number(said.get("-ub") or said.get("--ubatch-size")),
        flash_attn={"0": "off", "1": "on"}.get(flash or "", flash),
        type_k=said.get("-ctk"),
        type_v=said.get("-ctv"),
        n_gpu_layers=_number(said.get("-ngl")),
        tensor_overrides=said.get("-ot") or said.get("--override-tensor"),
    )


def _of_dyno(words: re.Match[str]) -> Setting:
    """What it prints, as a trial or as its winner; its ubatch is the batch, and at most 512."""
    threads = None if words["threads"] in {"auto", "0"} else int(words["threads"])
    return Setting(
        threads=threads,
        threads_batch=threads,
        n_batch=int(words["batch"]),
        n_ubatch=min(int(words["batch"]), 512),
        flash_attn="on" if words["flash"] in {"✓", "fa"} else "off",
        type_k=words["k"],
        type_v=words["v"],
    )


def _of_lcm(params: Mapping[str, Any]) -> Setting:
    load_mode = "none" if params["--no-mmap"] else None
    if params["--mlock"]:
        load_mode = "mlock" if params["--no-mmap"] else "mmap+mlock"
    return Setting(
        threads=params["--threads"],
        threads_batch=params["--threads-batch"],
        n_batch=params["--batch-size"],
        n_ubatch=params["--ubatch-size"],
        flash_attn=params["--flash-attn"],
        load_mode=load_mode,
        repack=0 if params.get("--no-repack") else None,
        type_k=params["--cache-type-k"],
        type_v=params["--cache-type-v"],
        n_gpu_layers=params["--n-gpu-layers"],
    )


def _answer(said: str) -> dict[str, Any]:
    """The JSON on stdout, which stands before what stderr said."""
    try:
        answer: dict[str, Any] = json.JSONDecoder().raw_decode(said)[0]
    except json.JSONDecodeError:
        raise NotRunError(_last_line(said)) from None
    return answer


def _shown(command: Sequence[str], place: Place) -> str:
    """The command with names in place of this machine's paths."""
    words = [Path(command[0]).name, *command[1:]]
    names = {str(place.model): "MODEL", str(place.programs): "LLAMA_BIN"}
    return shlex.join(names.get(w, w).replace(f"{place.folder}/", "") for w in words)


def _number(word: str | None) -> int | None:
    return None if word is None else int(word)


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip(" │╰╯─")]
    return lines[-1] if lines else "said nothing"


def forget(folder: Path) -> None:
    """Remove what a tool had kept, so that it finds nothing of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
