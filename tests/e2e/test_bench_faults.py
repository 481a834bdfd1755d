"""Every way in which llama-bench fails: named, paid by one trial alone, and with nothing left."""

import itertools
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.benches import TOKEN, bench_of, fake_bench, left_behind, marked, outcomes
from fakes.oracle import rpc_server

from autotune.errors import LlamaCppUnusable
from autotune.llama_cpp.bench import Bench, Run
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.program_run import Progress, Result
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, Outcome
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP, TG = BenchTest(n_prompt=16), BenchTest(n_gen=4)
BAD = 7  # The threads of the trial that shall fail.


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark what the test starts; afterwards nothing of it may be left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN, mark)
    yield mark
    assert left_behind(mark) == []


Make = Callable[..., Bench]


@pytest.fixture
def fake(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(faults: str = "") -> Bench:
        monkeypatch.setenv("LCM_FAKE", faults if "no-progress" in faults else "")
        bench = bench_of(fake_bench(), tiny)
        monkeypatch.setenv("LCM_FAKE", faults)
        return bench

    return make


def of_threads(*threads: int, test: BenchTest = TG) -> list[Trial]:
    return [Trial(Params(n_threads=t), test) for t in threads]


def kinds(results: Sequence[tuple[Trial, Outcome]]) -> dict[int | None, str]:
    """Name the outcome of each trial by its threads; each has exactly one."""
    named = {
        trial.params.n_threads: outcome.kind if isinstance(outcome, Failure) else "measured"
        for trial, outcome in results
    }
    assert len(named) == len(results)
    return named


FAULTS = [
    ("oom", FailureKind.OOM, "cudaMalloc failed: out of memory"),
    ("cuda", FailureKind.OOM, "CUDA error: out of memory"),
    ("crash=11", FailureKind.CRASH, "SIGSEGV"),
    ("crash=4", FailureKind.CRASH, "SIGILL: it executed an instruction"),
    ("crash=9", FailureKind.CRASH, "SIGKILL from outside"),
    ("crash=15", FailureKind.INTERRUPTED, "SIGTERM"),
    ("crash=2", FailureKind.INTERRUPTED, "SIGINT"),
    ("decode", FailureKind.DECODE_ERROR, "failed to decode prompt batch, res = -3"),
    ("hang", FailureKind.HANG, "nothing was seen of the run of tg4"),
    ("deaf", FailureKind.HANG, "nothing was seen of the run of tg4"),
    ("stop", FailureKind.HANG, "nothing was seen of the run of tg4"),
    ("unplugged", FailureKind.HANG, "nothing was seen of the run of tg4"),
    ("spin", FailureKind.TIMEOUT, "nothing was seen of the run of tg4"),
    ("flood", FailureKind.TIMEOUT, "nothing was seen of the run of tg4"),
    ("chatter", FailureKind.TIMEOUT, "nothing was seen of the run of tg4"),
    ("absurd", FailureKind.IMPLAUSIBLE, "was a failure ignored?"),
    ("claims", FailureKind.IMPLAUSIBLE, "its samples add up to 2000.0 s"),
    ("few", FailureKind.BAD_OUTPUT, "1 samples where 2 were asked for"),
    ("wrong-threads", FailureKind.BAD_OUTPUT, "a record of n_threads 8 where 7 was asked for"),
    ("wrong-test", FailureKind.BAD_OUTPUT, "a record of pp1+tg4 where tg4 was asked for"),
    ("garbage", FailureKind.BAD_OUTPUT, "a record of n_threads 3 where 7 was asked for"),
    ("missing", FailureKind.BAD_OUTPUT, "a record of n_threads 3 where 7 was asked for"),
    ("bad-json", FailureKind.BAD_OUTPUT, "not JSON"),
    ("half", FailureKind.BAD_OUTPUT, "it ended with 2 of 4 records"),
    ("half=1", FailureKind.CRASH, "exit code 1"),
    ("half=-9", FailureKind.CRASH, "SIGKILL from outside"),
]


@pytest.mark.parametrize(("fault", "kind", "said"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_a_fault_is_named_and_costs_only_its_own_trial(
    fake: Make, fault: str, kind: FailureKind, said: str
) -> None:
    results = outcomes(fake(f"{fault}@{BAD}").run(of_threads(1, 2, BAD, 3), repetitions=2))
    (message,) = [outcome.message for _, outcome in results if isinstance(outcome, Failure)]
    assert (kinds(results), said if said in message else message) == (
        {1: "measured", 2: "measured", BAD: kind, 3: "measured"},
        said,
    )


@pytest.mark.parametrize(
    "fault", ["", "loud", "orphan", "lingers", "exit=1", "exit=-11", "extra", "no-progress"]
)
def test_what_happens_beside_the_records_costs_none(fake: Make, fault: str) -> None:
    results = outcomes(fake(fault).run(of_threads(1, 2, 3), repetitions=2))
    assert kinds(results) == dict.fromkeys((1, 2, 3), "measured")


def test_what_leaves_the_group_holds_nobody_up(fake: Make, token: str) -> None:
    begin = time.monotonic()
    results = outcomes(fake("daemon").run(of_threads(1), repetitions=1))
    lasted = time.monotonic() - begin
    for pid in marked(token):
        os.kill(pid, signal.SIGKILL)
    assert (kinds(results), lasted < 2.5) == ({1: "measured"}, True)


def test_a_program_that_never_says_anything_fails_all_at_once(fake: Make) -> None:
    bench = fake("silence")
    bench.patience.first_load_s = 1.0
    begin = time.monotonic()
    results = outcomes(bench.run(of_threads(1, 2, 3), repetitions=1))
    assert (kinds(results), time.monotonic() - begin < 4) == (
        dict.fromkeys((1, 2, 3), FailureKind.HANG),
        True,
    )


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("dies-first", FailureKind.CRASH), ("doubled", FailureKind.BAD_OUTPUT)],
)
def test_a_program_that_starts_no_test_fails_all(fake: Make, fault: str, kind: FailureKind) -> None:
    results = outcomes(fake(fault).run(of_threads(1, 2, 3), repetitions=1))
    assert kinds(results) == dict.fromkeys((1, 2, 3), kind)


def test_a_bad_word_in_a_list_is_blamed_on_the_trial_that_has_it(fake: Make) -> None:
    """llama-bench refuses the whole command line, before the first test."""
    types = ("f16", "q8_0", "q9_9", "q4_0")
    trials = [Trial(Params(n_threads=1, type_k=kind), PP) for kind in types]
    results = outcomes(fake().run(trials, repetitions=1))
    failed = [(t.params.type_k, o.kind) for t, o in results if isinstance(o, Failure)]
    assert (len(results), failed) == (4, [("q9_9", FailureKind.BAD_ARGUMENTS)])


def test_a_model_that_cannot_be_read_is_tried_once_for_all(
    fake: Make, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, log = fake(), tmp_path / "log"
    bench.model = tmp_path / "truncated.gguf"
    bench.model.write_bytes(tiny.read_bytes()[:1_000_000])
    monkeypatch.setenv("LCM_FAKE_LOG", str(log))
    results = outcomes(bench.run(of_threads(1, 2, 3), repetitions=1))
    # The second start is the one that asks why.
    assert (kinds(results), log.read_text(encoding="utf-8").count("start")) == (
        dict.fromkeys((1, 2, 3), FailureKind.MODEL_UNREADABLE),
        2,
    )


def test_what_the_program_has_no_word_for_is_not_measured_without_it(fake: Make) -> None:
    bench = fake()
    older = bench.capabilities.options.keys() - {"-nopo", "--no-op-offload", "-d"}
    options = {flag: bench.capabilities.choices(flag) for flag in older}
    bench.capabilities = Capabilities(options=options, version="")
    trials = [
        Trial(Params(n_threads=1, no_op_offload=True), TG),
        Trial(Params(n_threads=2), replace(TG, n_depth=16)),
        Trial(Params(n_threads=3), TG),
    ]
    results = outcomes(bench.run(trials, repetitions=1))
    assert kinds(results) == {1: FailureKind.UNSUPPORTED, 2: FailureKind.UNSUPPORTED, 3: "measured"}


def test_a_program_without_streamed_records_is_refused(fake: Make) -> None:
    bench = fake()
    with pytest.raises(LlamaCppUnusable, match="jsonl"):
        replace(bench, capabilities=Capabilities(options={"-m": ()}, version=""))


def test_a_program_that_cannot_be_executed_is_an_error(fake: Make, tmp_path: Path) -> None:
    bench, broken = fake(), tmp_path / "llama-bench"
    broken.write_text("no program")
    broken.chmod(0o755)
    bench.program = Program(name="llama-bench", command=(str(broken),), found_by="tests")
    with pytest.raises(LlamaCppUnusable, match="cannot be executed"):
        outcomes(bench.run(of_threads(1)))


def test_each_record_is_told_with_its_circumstances(fake: Make) -> None:
    bench, states = fake(), itertools.count()
    bench.observe = lambda: {"n": float(next(states))}
    os.environ["GGML_TEST_ONLY"] = "1"
    try:
        results = outcomes(bench.run(of_threads(1, 2), repetitions=3))
    finally:
        del os.environ["GGML_TEST_ONLY"]
    first, second = (o for _, o in results if isinstance(o, Measurement))
    # It is looked at when the program starts, and then at each warm-up and each record: what the
    # machine did while the model was loaded is no circumstance of a test.
    assert (first.run.before, first.run.after, second.run.before, second.run.after) == (
        {"n": 1.0}, {"n": 2.0}, {"n": 3.0}, {"n": 4.0},
    )  # fmt: skip
    assert first.run.removed_environment == {"GGML_TEST_ONLY": "1"}
    assert first.run.started_at < first.run.ended_at <= second.run.started_at + 0.05
    assert first.run.load_s is not None
    assert 0 < first.run.load_s < 4
    assert [len(m.samples_ns) for m in (first, second)] == [3, 3]


def test_every_phase_and_repetition_is_told_as_it_begins(fake: Make) -> None:
    trials = of_threads(1, test=replace(TG, n_depth=16))
    with fake().run(trials, repetitions=2) as run:
        told = [(e.phase, e.repetition) for e in run if isinstance(e, Progress)]
    assert told == [
        (Phase.LOAD, 0), (Phase.WARMUP, 0), (Phase.DEPTH, 0), (Phase.RUN, 1),
        (Phase.DEPTH, 0), (Phase.RUN, 2),
    ]  # fmt: skip


def test_a_run_that_is_stopped_still_tells_what_was_finished(fake: Make, token: str) -> None:
    finished = []
    with fake("hang@7").run(of_threads(1, 2, BAD), repetitions=1) as run:
        next(run)
        time.sleep(0.6)  # Meanwhile two records are in the pipe.
        run.stop()
        stopped = left_behind(token)
        finished = [e.trial.params.n_threads for e in run if isinstance(e, Result)]
    assert (stopped, finished) == ([], [1, 2])


def test_a_run_that_is_left_early_leaves_nothing(fake: Make, token: str) -> None:
    with fake("hang@7").run(of_threads(1, 2, BAD), repetitions=1) as run:
        next(run)
        time.sleep(0.6)
    rescued = [result.trial.params.n_threads for result in run.rescued]
    assert (left_behind(token), rescued) == ([], [1, 2])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_caller_leaves_nothing(
    fake: Make, token: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        fail_at_first_result(fake("hang@7").run(of_threads(1, BAD), repetitions=1), error)
    assert left_behind(token) == []


def fail_at_first_result(run: Run, error: type[BaseException]) -> None:
    with run:
        for event in run:
            if isinstance(event, Result):
                raise error


def test_a_second_interrupt_kills_at_once(fake: Make, token: str) -> None:
    """The program ignores the polite signals; whoever presses Ctrl-C twice does not wait for it."""
    run = fake(f"deaf@{BAD}").run(of_threads(BAD), repetitions=1)
    list(itertools.takewhile(lambda e: getattr(e, "phase", None) is not Phase.RUN, run))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            run.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (left_behind(token), time.monotonic() - begin < 1.5) == ([], True)


@pytest.fixture
def real(llama_cpp_dir: Path) -> Program:
    command = (str(llama_cpp_dir / "llama-bench"),)
    return Program(name="llama-bench", command=command, found_by="tests")


def limited(program: Program, kib: int) -> Program:
    """Give a program the address space of so many KiB."""
    return under(program, f"ulimit -v {kib}")


def under(program: Program, limit: str) -> Program:
    launch = ("/bin/sh", "-c", f'{limit}; exec "$@"', "sh")
    return replace(program, command=(*launch, *program.command))


def real_kinds(results: Sequence[tuple[Trial, Outcome]]) -> list[str]:
    return [o.kind if isinstance(o, Failure) else "measured" for _, o in results]


@pytest.mark.llama_cpp
def test_real_quantized_v_without_flash_attention(real: Program, tiny: Path) -> None:
    trials = [
        Trial(Params(n_threads=1, flash_attn=False, type_v=kind), PP)
        for kind in ("f16", "q8_0", "bf16")
    ]
    results = outcomes(bench_of(real, tiny).run(trials, repetitions=1))
    assert real_kinds(results) == ["measured", FailureKind.UNSUPPORTED, "measured"]


@pytest.mark.llama_cpp
def test_real_model_loses_only_the_trial_that_fails(real: Program, gemma: Path) -> None:
    """All that is known of a number is kept with it, beside a neighbour that ends the process."""
    bad = Params(n_threads=2, flash_attn=False, type_v="q8_0")
    good = [Params(n_threads=n, flash_attn=True, type_v="q8_0") for n in (1, 2)]
    trials = [Trial(params, test) for params in (good[0], bad, good[1]) for test in (PP, TG)]
    with bench_of(real, gemma).run(trials, repetitions=3) as run:
        events = list(run)
    results = [event.outcome for event in events if isinstance(event, Result)]
    kept = [outcome for outcome in results if isinstance(outcome, Measurement)]
    assert sorted((str(m.test), m.params.n_threads) for m in kept) == [
        ("pp16", 1),
        ("pp16", 2),
        ("tg4", 1),
        ("tg4", 2),
    ]
    assert {o.kind for o in results if isinstance(o, Failure)} == {FailureKind.UNSUPPORTED}
    assert all(len(m.samples_ns) == 3 and min(m.samples_ns) > 0 for m in kept)
    assert all(m.build_commit and m.run.load_s and str(gemma) in m.run.argv for m in kept)
    assert all(m.run.ended_at > m.run.started_at > 0 for m in kept)
    seen = {event.repetition for event in events if isinstance(event, Progress)}
    assert {1, 2, 3} <= seen


@pytest.mark.llama_cpp
def test_real_on_a_full_disk(real: Program, tiny: Path) -> None:
    """No byte can be written to a file, and none is needed."""
    full = under(real, "ulimit -f 0")
    assert real_kinds(outcomes(bench_of(full, tiny).run(of_threads(1, test=PP)))) == ["measured"]


@pytest.mark.llama_cpp
def test_real_no_threads(real: Program, tiny: Path) -> None:
    trials = of_threads(1, 0, 1, test=PP)
    results = outcomes(bench_of(real, tiny).run(trials, repetitions=1))
    assert real_kinds(results) == ["measured", FailureKind.BAD_ARGUMENTS, "measured"]


@pytest.mark.llama_cpp
def test_real_truncated_model(real: Program, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "truncated.gguf"
    path.write_bytes(tiny.read_bytes()[:1_000_000])
    results = outcomes(bench_of(real, path).run(of_threads(1, 1, test=PP), repetitions=1))
    said = [o.message for _, o in results if isinstance(o, Failure)]
    assert (real_kinds(results), ["corrupted" in message for message in said]) == (
        [FailureKind.MODEL_UNREADABLE] * 2,
        [True] * 2,
    )


@pytest.mark.llama_cpp
def test_real_context_too_large_for_the_memory(real: Program, tiny: Path) -> None:
    tests = [PP, BenchTest(n_prompt=16, n_depth=400_000), TG]
    trials = [Trial(Params(n_threads=1), test) for test in tests]
    results = outcomes(bench_of(limited(real, 2_000_000), tiny).run(trials, repetitions=1))
    named = {str(t.test): o.kind if isinstance(o, Failure) else "measured" for t, o in results}
    assert named == {"pp16": "measured", "pp16 @ d400000": FailureKind.OOM, "tg4": "measured"}


@pytest.mark.llama_cpp
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGKILL, FailureKind.CRASH),
        (signal.SIGTERM, FailureKind.INTERRUPTED),
        (signal.SIGSTOP, FailureKind.HANG),
    ],
)
def test_real_signalled_from_outside(
    real: Program, tiny: Path, token: str, number: signal.Signals, kind: FailureKind
) -> None:
    long = BenchTest(n_gen=80)
    trials = [Trial(Params(n_threads=1), test) for test in (PP, long)]
    trials.append(Trial(Params(n_threads=1, n_ubatch=64), PP))
    results = []
    with bench_of(real, tiny).run(trials, repetitions=3) as run:
        for event in run:
            if isinstance(event, Result):
                results.append((event.trial, event.outcome))
            elif event.trial.test == long and event.repetition == 1:
                for pid in marked(token):
                    os.kill(pid, number)
    assert real_kinds(results) == ["measured", kind, "measured"]


@pytest.mark.llama_cpp
def test_real_device_server_killed_meanwhile(
    real: Program, tiny: Path, llama_cpp_dir: Path
) -> None:
    trials = [Trial(Params(n_threads=1, n_gpu_layers=99), t) for t in (PP, BenchTest(n_gen=400))]
    results = []
    with (
        rpc_server(llama_cpp_dir / "ggml-rpc-server") as endpoint,
        bench_of(real, tiny, "-rpc", endpoint).run(trials, repetitions=5) as run,
    ):
        for event in run:
            if isinstance(event, Result):
                results.append((event.trial, event.outcome))
            elif event.trial.test.n_gen and event.repetition == 1:
                for pid in servers(endpoint):
                    os.kill(pid, signal.SIGKILL)
    (message,) = [o.message for _, o in results if isinstance(o, Failure)]
    assert real_kinds(results) == ["measured", FailureKind.CRASH]
    # It notices in reading; or dies of SIGPIPE in sending, without a word, and is asked again.
    reasons = ("Remote RPC server crashed", f"Failed to connect to {endpoint}")
    assert any(reason in message for reason in reasons), message


def servers(endpoint: str) -> Iterator[int]:
    port = endpoint.rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"ggml-rpc-server" in words[0] and port.encode() in words:
            yield int(folder.name)


def address_space_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmSize:"))
    return int(line.split()[1])


@pytest.mark.llama_cpp
def test_real_memory_of_a_device_ends_at_a_number_of_layers(
    real: Program, tiny: Path, llama_cpp_dir: Path, tmp_path: Path
) -> None:
    program = llama_cpp_dir / "ggml-rpc-server"
    with rpc_server(program) as endpoint:
        idle_kib = address_space_kib(*servers(endpoint))
    server = tmp_path / "ggml-rpc-server"
    server.write_text(
        f'#!/bin/sh\nulimit -v {idle_kib + 12_000}\nexec {program} "$@"\n', encoding="utf-8"
    )
    server.chmod(0o755)
    trials = [Trial(Params(n_threads=1, n_gpu_layers=layers), PP) for layers in (0, 1, 99)]
    with rpc_server(server) as endpoint:
        results = outcomes(bench_of(real, tiny, "-rpc", endpoint).run(trials, repetitions=1))
    assert real_kinds(results) == ["measured", "measured", FailureKind.OOM]
