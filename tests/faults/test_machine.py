"""The machine becomes slower, busier or short of memory during a night."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from faults.checks import ended_well, failures, kept, nothing_is_lost
from faults.running import BUDGET_S, GRACE_S, Night, Running, moments

pytestmark = pytest.mark.llama_cpp

# What makes no difference to a test: how the file is read before it. Everything else is fixed.
FLAT = (
    *("--param", "n_ubatch=64"),
    *("--param", "flash_attn=on"),
    *("--param", "repack=true"),
)
_TICK_S = 0.002
LITTLE_BYTES = 1 << 20


@contextmanager
def throttled(running: Running) -> Iterator[None]:
    """Let llama-bench work half of the time, in turns too short for a test to tell."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            benches = running.benches()
            for number in (signal.SIGSTOP, signal.SIGCONT) * 10:
                for pid in benches:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(_TICK_S)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@moments(1, 12)
def test_a_machine_that_starts_to_throttle_is_no_gain(night: Night, chance: random.Random) -> None:
    night = replace(night, options=FLAT)
    # Chance may make one night in twenty a winner, and says so; not two in a row.
    again = replace(night, results=night.results / "again")
    claims = throttled_night(night, chance) == "better"
    assert not claims or throttled_night(again, chance) != "better"


def throttled_night(night: Night, chance: random.Random) -> str:
    """Its verdict."""
    with night.started() as running:
        running.until_some_moment(chance, most=2)
        with throttled(running):
            ended = running.end()

    ended_well(ended, night)
    nothing_is_lost(kept(night.folder), night.folder)
    assert ended.took_s < BUDGET_S + GRACE_S
    verdict: str = ended.answer["evidence"]["verdict"]
    return verdict


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """One on each CPU."""
    cpus = os.cpu_count() or 1
    command = [sys.executable, "-c", "while True: pass"]
    # Of other sessions: no descendants of lcm could be meant.
    programs = [subprocess.Popen(command, start_new_session=True) for _ in range(cpus)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


@moments(1, 12)
def test_a_neighbour_that_appears_is_named_in_the_records(
    night: Night, chance: random.Random
) -> None:
    with night.started() as running:
        running.until_some_moment(chance, most=4)
        n_before = night.n_trials()
        with busy_neighbours():
            ended = running.end()

    ended_well(ended, night)
    whole = kept(night.folder)
    nothing_is_lost(whole, night.folder)
    later = [trial["disturbed"] for trial in whole.of_type("trial")[n_before:]]
    assert any(why.startswith("other programs used") for why in later)
    assert ended.took_s < BUDGET_S + GRACE_S


def refuse_memory(pid: int) -> None:
    """Let a process have no more than it has."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))


@moments(1, 25)
def test_memory_that_is_refused_costs_the_configuration_that_asked_for_it(
    night: Night, chance: random.Random
) -> None:
    with night.started() as running:
        running.until_some_moment(chance, most=3)
        squeezed = squeeze_until_one_fails(running, night, refuse_memory)
        ended = running.end()

    ended_well(ended, night)
    nothing_is_lost(kept(night.folder), night.folder)
    failed = failures(night.folder)
    assert {failure["kind"] for failure in failed} == {"oom"}
    assert len(failed) <= squeezed


@moments(1, 12)
def test_what_the_kernel_kills_for_memory_is_named_so(night: Night, chance: random.Random) -> None:
    with night.started() as running, little_memory() as take_it_away:
        running.until_some_moment(chance, most=3)
        squeezed = squeeze_until_one_fails(running, night, take_it_away)
        ended = running.end()

    ended_well(ended, night)
    nothing_is_lost(kept(night.folder), night.folder)
    failed = failures(night.folder)
    said = {(failure["kind"], failure["message"]) for failure in failed}
    assert said == {("oom", "the kernel killed it, because the machine's memory was full")}
    assert len(failed) <= squeezed


def squeeze_until_one_fails(running: Running, night: Night, squeeze: Callable[[int], None]) -> int:
    """Give the number of llama-bench processes that it was done to."""
    squeezed: set[int] = set()
    while not failures(night.folder):
        for pid in set(running.until_benches()) - squeezed:
            if _has_loaded(pid, night.model):
                squeeze(pid)
                squeezed.add(pid)
    return len(squeezed)


def _has_loaded(pid: int, model: Path) -> bool:
    """Before that it would not even start, which says nothing of memory."""
    with contextlib.suppress(OSError):
        return str(model) in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return False


@contextmanager
def little_memory() -> Iterator[Callable[[int], None]]:
    """Give what lets a process have no more than it has: the kernel ends one that needs it."""
    group, limit = _new_group(f"lcm-faults-{os.getpid()}")

    def take_away(pid: int) -> None:
        with contextlib.suppress(OSError):  # It has ended.
            (group / "cgroup.procs").write_text(str(pid))

    try:
        (group / limit).write_text(str(LITTLE_BYTES))
        yield take_away
    finally:
        _dissolve(group)


def _new_group(name: str) -> tuple[Path, str]:
    """A control group for memory, and the name of its limit."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    base, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    try:
        (base / name).mkdir()
    except OSError as error:
        reason = f"no control group can be made: {error}"
        # Where nobody reads the list of what was skipped, that must not pass.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return base / name, limit


def _dissolve(group: Path) -> None:
    """The kernel keeps it for a moment after its last process has ended."""
    deadline = time.monotonic() + 20
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
