"""What is said while tuning, and of what came of it."""

import datetime as dt
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from fakes.simulator import SimulatedMachine, VirtualClock, cpu16, flat, moe
from fakes.tuned import CHAT, LONG_PROMPT, Simulated, plan_for, session_on
from rich.console import Console, RenderableType

from autotune.cli import console, live
from autotune.cli.progress import Progress
from autotune.cli.summary import summary
from autotune.llama_cpp.patience import Phase
from autotune.llama_cpp.records import Failure, FailureKind, Measurement, RunFacts
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import ALL_LAYERS, Params
from autotune.stats import Comparison
from autotune.tuning import events
from autotune.tuning.lab import Limits
from autotune.tuning.objective import Objective, Part
from autotune.tuning.session import Tuned
from autotune.tuning.verify import Verification
from autotune.tuning.visits import Kind, Reading, Visit
from autotune.tuning.workload import Workload
from autotune.words import described

BOTH: tuple[Part, ...] = ("pp", "tg")
OBJECTIVE = Objective(
    n_prompt=512,
    n_gen=256,
    tests=(("pp", BenchTest(n_prompt=256)), ("tg", BenchTest(n_gen=16))),
)
PROMPTS = replace(OBJECTIVE, tests=OBJECTIVE.tests[:1])
DEFAULTS = Params(
    n_batch=2048, n_ubatch=512, n_threads=16, n_threads_batch=16, flash_attn="auto", type_k="f16"
)
FASTER = replace(DEFAULTS, n_threads=8, n_ubatch=1024, flash_attn=False)
RUN = RunFacts(argv=("llama-bench",), removed_environment={}, started_at=0, ended_at=1, load_s=1)


def measurement(part: Part, rate: float, params: Params = DEFAULTS) -> Measurement:
    test = OBJECTIVE.test(part)
    return Measurement(
        params=params,
        test=test,
        samples_ns=(int(1e9 * test.n_tokens / rate),),
        build_commit="",
        build_number=0,
        run=RUN,
        record={},
    )


def failure(kind: FailureKind, message: str) -> Failure:
    test = OBJECTIVE.test("pp")
    return Failure(
        kind=kind,
        message=message,
        params=DEFAULTS,
        test=test,
        exit_code=1,
        stderr_tail=(),
        run=RUN,
    )


def reading(
    params: Params = FASTER,
    *,
    kind: Kind = Kind.TAIL,
    source: str = "proposal",
    parts: tuple[Part, ...] = BOTH,
    rates: dict[Part, float] | None = None,
    failed: Failure | None = None,
    disturbed: str = "",
    elapsed_s: float = 60,
) -> Reading:
    outcomes: dict[Part, Any] = {p: measurement(p, r, params) for p, r in (rates or {}).items()}
    if failed:
        outcomes["pp"] = failed
    visit = Visit(kind=kind, source=source, params=params, parts=parts)
    return Reading(
        visit=visit, outcomes=outcomes, disturbed=disturbed, elapsed_s=elapsed_s, number=0
    )


def measured(
    of: Reading, seconds: float | None = None, *, replayed: bool = False
) -> events.Measured:
    return events.Measured(reading=of, seconds=seconds, replayed=replayed)


def measuring(params: Params = FASTER, phase: Phase = Phase.RUN) -> events.Measuring:
    visit = Visit(kind=Kind.TAIL, source="proposal", params=params, parts=BOTH)
    return events.Measuring(visit=visit, part="tg", phase=phase, repetition=2)


def stage(
    name: str = "threads", elapsed_s: float = 50, budget_s: float | None = 600
) -> events.Stage:
    return events.Stage(name=name, elapsed_s=elapsed_s, budget_s=budget_s)


def waiting(for_s: float = 0, why: str = "other programs used 1.3 CPUs") -> events.Waiting:
    return events.Waiting(why=why, for_s=for_s, at_most_s=60)


def compared(ratio: float, low: float, high: float, pairs: int = 4) -> Comparison:
    return Comparison(ratio=ratio, low=low, high=high, pairs=pairs, confidence=0.95, chance=0.05)


BASELINE = measured(
    reading(
        DEFAULTS,
        kind=Kind.BASELINE,
        source="llama.cpp's defaults",
        rates={"pp": 128, "tg": 12.8},
        elapsed_s=20,
    ),
    24.0,
)
NEW_BEST = events.NewIncumbent(params=FASTER, seconds=19.2, baseline_s=24.0, elapsed_s=60.0)


@dataclass
class Session:
    """A session that has just measured the defaults."""

    progress: Progress
    clock: VirtualClock = field(default_factory=VirtualClock)


def progress_by(
    clock: VirtualClock, objective: Objective = OBJECTIVE, limits: Limits | None = None
) -> Progress:
    """Give the state of a session that begins at half past seven."""

    def now() -> dt.datetime:
        return dt.datetime(2026, 10, 1, 7, 30, tzinfo=dt.UTC) + dt.timedelta(seconds=clock.now())

    return Progress(objective, limits or Limits(budget_s=600), clock=clock.now, now=now)


def begun(
    objective: Objective = OBJECTIVE,
    budget_s: float | None = 600,
    *then: events.Event,
    trials: int | None = None,
) -> Session:
    clock = VirtualClock()
    limits = Limits(budget_s=budget_s, trials=trials)
    session = Session(progress_by(clock, objective, limits), clock)
    for event in (stage("baseline", 0, budget_s), BASELINE, *then):
        session.progress.take(event)
    return session


# --- lines of the log ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (stage("threads", 50), "0:50  racing threads and batches; at most 10 min left, by 07:40"),
        (stage("no such stage", 3725), "1:02:05  no such stage; ending"),
        (measuring(), None),
        (
            measured(reading(rates={"pp": 1234, "tg": 16}), 16.4151),
            ("1:00  proposal: threads 8, ubatch 1024, fa off; pp 1230 t/s, tg 16.0 t/s; "
            "request 16.4 s"),
        ),
        (
            measured(reading(kind=Kind.RACE, source="n_threads", parts=("tg",), rates={"tg": 16})),
            "1:00  race: threads 8, ubatch 1024, fa off; tg 16.0 t/s",
        ),
        (
            measured(
                reading(
                    replace(FASTER, n_threads=16),
                    kind=Kind.RACE,
                    source="n_threads",
                    parts=("tg",),
                    rates={"tg": 16},
                )
            ),
            "1:00  race: ubatch 1024, fa off, threads 16; tg 16.0 t/s",
        ),
        (
            measured(reading(rates={"tg": 1.6}), None),
            "1:00  proposal: threads 8, ubatch 1024, fa off; tg 1.60 t/s; ended early, it had lost",
        ),
        (
            measured(
                reading(DEFAULTS, kind=Kind.ANCHOR, source="drift", disturbed="it was hot"), 20
            ),
            ("1:00  check for drift: llama.cpp's defaults; ended early, it had lost; "
            "disturbed: it was hot"),
        ),
        (
            measured(reading(failed=failure(FailureKind.OOM, "cudaMalloc failed"))),
            "1:00  proposal: threads 8, ubatch 1024, fa off; out of memory: cudaMalloc failed",
        ),
        (
            measured(reading(failed=failure(FailureKind.BAD_OUTPUT, "x" * 101))),
            ("1:00  proposal: threads 8, ubatch 1024, fa off; "
            f"bad output: {'x' * 97}..."),
        ),
        (
            NEW_BEST,
            "0:20  new best: threads 8, ubatch 1024, fa off; request 19.2 s, 1.25x, unverified",
        ),
        (
            waiting(),
            "0:20  waiting at most 60 s: other programs used 1.3 CPUs",
        ),
        (
            events.Verifying(rounds=1, comparison=None),
            "0:20  verification, round 1 of 16: nothing to compare yet",
        ),
        (
            events.Verifying(rounds=3, comparison=compared(1.19, 1.132, 1.25)),
            "0:20  verification, round 3 of 16: 1.19x (95 % interval 1.13 to 1.25, 4 pairs)",
        ),
        (
            events.Verifying(rounds=1, comparison=compared(1.019, 1.0004, 1.038, pairs=1)),
            (
                "0:20  verification, round 1 of 16: 1.0190x "
                "(95 % interval 1.0004 to 1.0380, 1 pair)"
            ),
        ),
    ],
)  # fmt: skip
def test_a_line_says_what_has_happened(event: events.Event, line: str | None) -> None:
    assert begun().progress.take(event) == line


def test_the_defaults_are_told_without_repeating_themselves() -> None:
    line = progress_by(VirtualClock()).take(BASELINE)

    assert line == "0:20  llama.cpp's defaults; pp 128 t/s, tg 12.8 t/s; request 24.0 s"


def test_a_wait_is_told_when_it_begins_and_when_it_is_over() -> None:
    session = begun()
    lines = []
    for event in (waiting(), waiting(1), waiting(2), measuring(), measuring()):
        lines.append(session.progress.take(event))
        session.clock.sleep(1)

    assert lines == [
        "0:20  waiting at most 60 s: other programs used 1.3 CPUs",
        None,
        None,
        "0:23  waited 3 s",
        None,
    ]


def test_a_wait_that_a_stage_ends_is_told_with_it() -> None:
    session = begun(OBJECTIVE, 600, waiting())
    session.clock.sleep(2)

    line = session.progress.take(stage("verification", 22))

    assert line == (
        "0:22  waited 2 s; verifying the best against the defaults; at most 10 min left, by 07:40"
    )


def test_what_a_resumed_study_knows_is_told_in_one_line() -> None:
    progress = progress_by(VirtualClock())
    of_before: list[events.Event] = [
        stage("baseline", 0),
        replace(BASELINE, replayed=True),
        stage("seeds", 20),
        measured(reading(rates={"pp": 160, "tg": 16}), 19.2, replayed=True),
        NEW_BEST,
        stage("threads", 60),
    ]

    lines = [progress.take(event) for event in (*of_before, measuring(), measuring())]

    assert [line for line in lines if line] == [
        "0:00  measuring llama.cpp's defaults; at most 10 min left, by 07:40",
        (
            "1:00  resumed, 2 trials known: racing threads and batches; "
            "best so far: request 19.2 s, 1.25x as fast; at most 9 min left, by 07:39"
        ),
    ]


def test_a_failure_message_commands_no_terminal() -> None:
    nasty = failure(FailureKind.CRASH, "\x1b[2Jgone\n[red]x")

    line = begun().progress.take(measured(reading(source="\x1b]0;t\x07", failed=nasty)))

    assert line is not None
    assert line.isprintable()
    assert line.endswith(r"crash: \x1b[2Jgone\n[red]x")


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "llama.cpp's defaults"),
        ({"n_threads": 8, "n_threads_batch": 12}, "threads 8, threads-batch 12"),
        ({"n_batch": 4096, "n_ubatch": 4096, "n_threads": 4}, "threads 4, batch 4096, ubatch 4096"),
        ({"flash_attn": True}, "fa on"),
        ({"n_gpu_layers": 0}, "gpu-layers 0"),
        ({"n_gpu_layers": ALL_LAYERS}, "llama.cpp's defaults"),
        ({"no_kv_offload": True, "no_op_offload": True}, "kv-offload off, op-offload off"),
        ({"no_kv_offload": False, "repack": True, "load_mode": "auto"}, "llama.cpp's defaults"),
        ({"repack": False, "load_mode": "none", "numa": "isolate"},
         "repack off, load-mode none, numa isolate"),
        ({"type_k": "q8_0", "type_v": "q8_0"}, "cache q8_0"),
        ({"type_v": "q8_0"}, "cache-v q8_0"),
        ({"tensor_split": (3.0, 1.0)}, "tensor-split 3/1"),
        ({"tensor_buft_overrides": (("exps", "CPU"),)}, "tensor-buft-overrides exps=CPU"),
        ({"n_threads": None}, "threads default"),
        ({"devices": ("\x1b[1m",)}, r"devices \x1b[1m"),
    ],
)  # fmt: skip
def test_a_configuration_is_what_it_has_other_than_the_defaults(
    changed: dict[str, Any], words: str
) -> None:
    assert described(replace(DEFAULTS, **changed), DEFAULTS) == words


def test_all_layers_are_called_so() -> None:
    some = replace(DEFAULTS, n_gpu_layers=20)

    assert described(replace(some, n_gpu_layers=ALL_LAYERS), some) == "gpu-layers all"


# --- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget_s", "passed_s", "eta"),
    [
        (None, 1e6, "until stopped (Ctrl-C)"),
        (600, 0, "at most 10 min left, by 07:40"),
        (600, 241, "at most 6 min left, by 07:40"),
        (600, 520, "at most 60 s left"),
        (600, 580, "ending"),
        (28_800, 0, "at most 8 h 0 min left, by 15:30"),
        (86_400, 0, "at most 24 h 0 min left, by Fri 07:30"),
    ],
)
def test_the_time_left_of_a_budget_is_a_limit_and_no_promise(
    budget_s: float | None, passed_s: float, eta: str
) -> None:
    session = begun(OBJECTIVE, budget_s)

    session.clock.sleep(passed_s)

    assert session.progress.eta == eta


@pytest.mark.parametrize("budget_s", [None, 600])
def test_the_time_left_when_hurried_is_what_was_given(budget_s: float | None) -> None:
    session = begun(OBJECTIVE, budget_s)

    session.progress.hurry(30)
    session.clock.sleep(10)

    assert session.progress.eta == "stopping, at most 20 s left"


def test_a_resumed_study_ends_when_the_search_says() -> None:
    session = begun(OBJECTIVE, 600, stage("threads", 3000, budget_s=3600))

    assert session.progress.eta == "at most 10 min left, by 07:40"


def test_a_number_of_trials_is_told_by_what_they_have_cost() -> None:
    race = reading(kind=Kind.RACE, source="n_threads", parts=("tg",), rates={"tg": 16})
    races = [measured(replace(race, elapsed_s=60 + s)) for s in (2, 4, 6)]
    seed = measured(reading(kind=Kind.SEED, elapsed_s=60), 20)

    session = begun(OBJECTIVE, None, seed, *races, trials=15)

    # A race costs 2 s, the seed 40: ten trials more, and up to 16 rounds of two.
    assert session.progress.eta == "about 20 s to 28 min left, by 07:58"


def test_the_state_is_shown_in_a_few_rows() -> None:
    crash = measured(reading(failed=failure(FailureKind.CRASH, "SIGABRT")))
    oom = measured(reading(failed=failure(FailureKind.OOM, "cudaMalloc")))
    # Two rounds in 20 s; of 16 at most, the others take as long each.
    begins, last = stage("verification", 90), measured(reading(kind=Kind.VERIFY, elapsed_s=110))
    rounds = events.Verifying(rounds=2, comparison=compared(1.19, 1.13, 1.25))

    session = begun(OBJECTIVE, 600, NEW_BEST, oom, crash, oom, begins, last, measuring(), rounds)

    assert session.progress.rows() == [
        ("stage", "verifying the best against the defaults"),
        ("progress", " 44 % of the longest time"),
        ("time", "1:50, 5 trials, about 3 min left at most, by 07:33"),
        ("now", "tg16, repetition 2: threads 8, ubatch 1024, fa off"),
        ("defaults", "request 24.0 s; pp 128 t/s, tg 12.8 t/s"),
        ("best", "request 19.2 s, 1.25x as fast, by what the search saw"),
        ("", "threads 8, ubatch 1024, fa off"),
        ("verifying", "round 2 of 16: 1.19x (95 % interval 1.13 to 1.25, 4 pairs)"),
        ("failures", "2 x out of memory, 1 x crash"),
    ]


@pytest.mark.parametrize(
    ("phase", "word"),
    [
        (Phase.LOAD, "loading"),
        (Phase.WARMUP, "warming up"),
        (Phase.DEPTH, "filling the cache"),
        (Phase.RUN, "repetition 2"),
    ],
)
def test_the_phase_of_a_test_is_shown(phase: Phase, word: str) -> None:
    rows = dict(begun(OBJECTIVE, 600, measuring(DEFAULTS, phase)).progress.rows())

    assert rows["now"] == f"tg16, {word}: llama.cpp's defaults"


def test_a_wait_is_shown_instead_of_what_was_measured() -> None:
    session = begun(OBJECTIVE, 600, measuring(), waiting())
    session.clock.sleep(12)

    rows = dict(session.progress.rows())

    assert rows["waiting"] == "12 s of 60 s: other programs used 1.3 CPUs"
    assert "now" not in rows


def test_a_gain_that_is_unverified_says_so() -> None:
    rows = dict(begun(OBJECTIVE, 600, NEW_BEST).progress.rows())

    assert rows["best"] == "request 19.2 s, 1.25x as fast, not verified yet"


def test_a_best_that_is_measured_again_is_shown_as_it_is_known_now() -> None:
    again = measured(reading(rates={"pp": 150, "tg": 15}), 20.0)

    rows = dict(begun(OBJECTIVE, 600, NEW_BEST, again).progress.rows())

    assert rows["best"] == "request 20.0 s, 1.20x as fast, not verified yet"


def test_a_prompt_is_no_request() -> None:
    session = begun(PROMPTS, 600)

    line = session.progress.take(measured(reading(parts=("pp",), rates={"pp": 160}), 3.2))

    assert line == "1:00  proposal: threads 8, ubatch 1024, fa off; pp 160 t/s; prompt 3.20 s"


# --- the end -------------------------------------------------------------------------------------


def rounds(ratio: float) -> tuple[Reading, ...]:
    """Two rounds without noise, and one that was disturbed."""
    base: dict[Part, float] = {"pp": 128, "tg": 12.8}
    fast: dict[Part, float] = {"pp": 128 * ratio, "tg": 12.8 * ratio}
    clean = [reading(DEFAULTS, rates=base), reading(FASTER, rates=fast)] * 2
    slow: dict[Part, float] = {"pp": 1, "tg": 1}
    return (*clean, reading(FASTER, rates=slow, disturbed="other programs used 2.0 CPUs"))


def took(pp: float, tg: float) -> dict[Part, float]:
    """The seconds of a request's parts at these rates, in tokens per second."""
    return {"pp": OBJECTIVE.n_prompt / pp, "tg": OBJECTIVE.n_gen / tg}


def tuned(
    verdict: Any = "better",  # noqa: ANN401 - one of the literals
    comparison: Comparison | None = None,
    **other: Any,  # noqa: ANN401 - any field
) -> Tuned:
    verification = Verification(
        verdict=verdict,
        candidate=FASTER,
        comparison=comparison,
        readings=rounds(comparison.ratio) if comparison else (),
    )
    values = {
        "verification": verification,
        "baseline": DEFAULTS,
        "shipped": FASTER if verdict == "better" else DEFAULTS,
        "incumbent": FASTER,
        "part_seconds": {DEFAULTS: took(128, 12.8), FASTER: took(152.4, 15.24)},
        "n_trials": 41,
        "failures": {},
        "elapsed_s": 576.0,
        "waited_s": 0.0,
        "hurried": False,
    }
    return Tuned(**{**values, **other})


def test_a_winner_is_shown_beside_the_defaults() -> None:
    text = summary(tuned("better", compared(1.19, 1.13, 1.25)), OBJECTIVE)

    assert text.splitlines() == [
        "configuration         pp t/s  tg t/s  request s",
        "llama.cpp's defaults     128    12.8       24.0",
        "winner                   152    15.2       20.2",
        "winner: threads 8, ubatch 1024, fa off",
        (
            "Better: a request takes 20.2 s instead of 24.0 s, 1.19x as fast "
            "(95 % interval 1.13 to 1.25, 4 pairs)."
        ),
        "41 trials in 9:36.",
    ]


NONE = Verification(verdict="not shown", candidate=None, comparison=None, readings=())


@pytest.mark.parametrize(
    ("of", "verdict"),
    [
        (
            tuned("not shown", compared(1.01, 0.98, 1.04)),
            (
                "Not shown: the best candidate is 1.01x as fast "
                "(95 % interval 0.98 to 1.04, 4 pairs); keep llama.cpp's defaults."
            ),
        ),
        (
            tuned("not shown", compared(1.19, 1.05, 1.33, pairs=1)),
            (
                "Not shown: the best candidate is 1.19x as fast "
                "(95 % interval 1.05 to 1.33, 1 pair); one pair decides nothing; "
                "keep llama.cpp's defaults."
            ),
        ),
        (
            tuned("worse", compared(0.9, 0.85, 0.95)),
            (
                "Worse: the best candidate is 0.90x as fast (95 % interval 0.85 to 0.95, 4 pairs); "
                "keep llama.cpp's defaults."
            ),
        ),
        (
            tuned("not shown", verification=NONE),
            "Not shown: the verification came to no comparison; keep llama.cpp's defaults.",
        ),
        (
            tuned("not shown", verification=NONE, incumbent=DEFAULTS),
            "Not shown: nothing looked faster than llama.cpp's defaults; keep them.",
        ),
        (
            tuned("not shown", shipped=FASTER),
            (
                "Not verified: a request takes 20.2 s instead of 24.0 s by what the search saw, "
                "which flatters what it chose."
            ),
        ),
    ],
)
def test_the_verdict_is_one_sentence(of: Tuned, verdict: str) -> None:
    assert summary(of, OBJECTIVE).splitlines()[-2] == verdict


@pytest.mark.parametrize("verdict", ["not shown", "worse"])
def test_only_a_winner_is_called_one(verdict: str) -> None:
    assert "winner" not in summary(tuned(verdict, compared(1.01, 0.98, 1.04)), OBJECTIVE)


def test_without_a_candidate_the_defaults_stand_alone() -> None:
    alone = tuned("not shown", verification=NONE, incumbent=DEFAULTS)

    assert summary(alone, OBJECTIVE).splitlines()[:2] == [
        "configuration         pp t/s  tg t/s  request s",
        "llama.cpp's defaults     128    12.8       24.0",
    ]


def test_what_was_not_measured_is_no_number() -> None:
    unknown = tuned("not shown", verification=NONE, part_seconds={DEFAULTS: took(130, 13)})

    assert summary(unknown, OBJECTIVE).splitlines()[1:3] == [
        "llama.cpp's defaults     130    13.0       23.6",
        "best candidate             -       -          -",
    ]


def test_only_what_counts_is_in_the_table() -> None:
    prompts = {DEFAULTS: {"pp": 4.0}, FASTER: {"pp": 3.2}}
    text = summary(tuned("better", compared(1.25, 1.2, 1.3), part_seconds=prompts), PROMPTS)

    assert text.splitlines()[:3] == [
        "configuration         pp t/s  prompt s",
        "llama.cpp's defaults     128      4.00",
        "winner                   160      3.20",
    ]


def test_how_it_went_is_told_at_the_end() -> None:
    failures = {FailureKind.OOM: 3, FailureKind.BAD_OUTPUT: 1}
    hard = tuned("better", compared(1.2, 1.1, 1.3), hurried=True, waited_s=41.0, failures=failures)

    assert summary(hard, OBJECTIVE).splitlines()[-1] == (
        "41 trials in 9:36; cut short; 41 s waited for a busy machine; "
        "failed: 3 x out of memory, 1 x bad output."
    )


# --- whole sessions ------------------------------------------------------------------------------


@dataclass
class Watched:
    """A session, and what was said of it."""

    simulated: Simulated
    lines: list[str]
    drawn: list[str]


def _drawn(progress: Progress, width: int = 80) -> str:
    terminal = Console(record=True, width=width, file=io.StringIO())
    terminal.print(live.drawn(progress))
    return terminal.export_text()


_MACHINES: dict[str, tuple[Callable[[], SimulatedMachine], Workload]] = {
    "a winner": (lambda: cpu16(3), CHAT),
    "none, and a neighbour": (lambda: flat(2, bursts=0.1, smt=False), CHAT),
    "crashes": (lambda: moe(4, crash=lambda p, _: p.flash_attn is False), LONG_PROMPT),
}


@cache
def watched(name: str) -> Watched:
    make, workload = _MACHINES[name]
    machine = make()
    plan = plan_for(machine, workload, Limits(budget_s=600))
    progress = progress_by(machine.clock, plan.objective, plan.limits)
    lines: list[str] = []
    drawn: list[str] = []

    def tell(event: events.Event) -> None:
        line = progress.take(event)
        lines.extend([line] if line else [])
        drawn.append(_drawn(progress))

    session = session_on(machine, plan, tell=tell)
    return Watched(Simulated(machine, session, session.run(), workload), lines, drawn)


@pytest.mark.parametrize("name", _MACHINES)
def test_the_view_fits_a_terminal_at_every_moment(name: str) -> None:
    screens = [screen.splitlines() for screen in watched(name).drawn]

    assert max(len(screen) for screen in screens) <= 10
    assert max(len(line) for screen in screens for line in screen) <= 80


@pytest.mark.parametrize("name", _MACHINES)
def test_a_session_is_told_in_plain_lines_and_in_order(name: str) -> None:
    lines = watched(name).lines

    times = [tuple(map(int, line.split()[0].split(":"))) for line in lines]
    assert all(line.isprintable() for line in lines)
    assert all(before <= after for before, after in pairwise(times))


@pytest.mark.parametrize("name", _MACHINES)
def test_the_seconds_of_the_summary_agree_with_its_ratio(name: str) -> None:
    of = watched(name).simulated
    text = summary(of.tuned, of.session.plan.objective)

    table = [line.split() for line in text.splitlines()[1:3]]
    comparison = of.tuned.verification.comparison
    assert comparison is not None
    assert float(table[0][-1]) / float(table[1][-1]) == pytest.approx(comparison.ratio, rel=0.02)


def test_a_session_with_crashes_counts_them() -> None:
    of = watched("crashes")

    n_crashes = of.simulated.tuned.failures[FailureKind.CRASH]
    assert f" {n_crashes} x crash" in of.drawn[-1]


# --- where it is shown ---------------------------------------------------------------------------


def test_without_a_terminal_each_line_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    session = begun()

    with live.watch(session.progress, stderr_is_terminal=False) as tell:
        tell(stage())
        tell(measuring())
        tell(measured(reading(rates={"pp": 160, "tg": 16}), 19.2))

    assert capsys.readouterr() == (
        "",
        (
            "lcm: 0:50  racing threads and batches; at most 10 min left, by 07:40\n"
            "lcm: 1:00  proposal: threads 8, ubatch 1024, fa off; pp 160 t/s, tg 16.0 t/s; "
            "request 19.2 s\n"
        ),
    )


# --- for programs --------------------------------------------------------------------------------


def _json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    def never(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    lines = capsys.readouterr().err.splitlines()
    return [json.loads(line, parse_constant=never) for line in lines]


def _told_programs(capsys: pytest.CaptureFixture[str], *told: events.Event) -> list[dict[str, Any]]:
    with (
        console.speaking(console.Voice.PROGRAMS),
        live.watch(begun().progress, stderr_is_terminal=True) as tell,
    ):
        for event in told:
            tell(event)
    return _json_lines(capsys)


def test_programs_are_told_each_event_with_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    trial = measured(reading(rates={"pp": 160, "tg": 16}), 19.2)

    lines = _told_programs(capsys, stage(), trial, NEW_BEST, waiting(3))

    assert [line["event"] for line in lines] == ["stage", "trial", "incumbent", "waiting"]
    assert lines[0] == {
        "event": "stage",
        "elapsed_s": 50.0,
        "eta_s": 550.0,
        "eta_is_limit": True,
        "fraction": 50 / 600,
        "stage": "threads",
        "trials": 1,
        "ratio": None,
        "low": None,
        "high": None,
    }
    assert lines[1]["pp_tokens_per_s"] == pytest.approx(160)
    assert lines[1]["request_s"] == 19.2
    assert lines[1]["failure"] is None
    assert lines[2]["params"]["n_threads"] == 8
    assert lines[3]["ratio"] == 1.25


def test_programs_are_told_the_interval_once_there_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = events.Verifying(rounds=3, comparison=compared(1.19, 1.13, 1.25))
    nothing = events.Verifying(rounds=1, comparison=None)

    first, last = _told_programs(capsys, nothing, seen)

    assert [first[key] for key in ("round", "pairs", "ratio", "low")] == [1, 0, None, None]
    assert [last[key] for key in ("round", "pairs", "ratio", "low")] == [3, 4, 1.19, 1.13]


def test_programs_are_told_what_a_trial_failed_at(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = failure(FailureKind.CRASH, '\x1b[2Jgone\n"x"\udc80')

    (line,) = _told_programs(capsys, measured(reading(failed=nasty)))

    assert line["failure"] == {"kind": "crash", "message": '\x1b[2Jgone\n"x"\x0080'}


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = replace(NEW_BEST, seconds=float("inf"), baseline_s=float("nan"))

    (line,) = _told_programs(capsys, unknown)

    assert [line[key] for key in ("request_s", "baseline_request_s", "ratio")] == [None] * 3


def test_what_is_said_to_programs_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with console.speaking(console.Voice.PROGRAMS):
        console.note("begun")
        console.warning("it is hot")
        console.lines("a table\nfor people")
        console.error("it broke", "mend it", ["here"], exit_code=3)

    assert _json_lines(capsys) == [
        {"event": "note", "message": "begun"},
        {"event": "warning", "message": "it is hot"},
        {
            "event": "error",
            "message": "it broke",
            "details": ["here"],
            "hint": "mend it",
            "exit_code": 3,
        },
    ]


def test_quiet_says_only_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        console.speaking(console.Voice.NOBODY),
        live.watch(begun().progress, stderr_is_terminal=True) as tell,
    ):
        tell(NEW_BEST)
        console.note("begun")
        console.lines("a table")
        console.warning("it is hot")
        console.error("it broke", "", exit_code=3)

    assert capsys.readouterr() == ("", "lcm: warning: it is hot\nlcm: error: it broke\n")


# --- on a terminal -------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # What rich takes a terminal for.


def _shown(capsys: pytest.CaptureFixture[str], *told: events.Event) -> str:
    with live.watch(begun().progress, stderr_is_terminal=True) as tell:
        for event in told:
            tell(event)
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_only_what_matters_stays(capsys: pytest.CaptureFixture[str]) -> None:
    trial = measured(reading(source="seen", rates={"pp": 160, "tg": 16}), 19.2)
    crash = measured(reading(failed=failure(FailureKind.CRASH, "SIGABRT")))

    shown = _shown(capsys, stage(), trial, NEW_BEST, crash)

    told = [line for line in shown.splitlines() if "0:" in line or "1:" in line]
    assert "seen: threads 8" not in shown
    assert any("new best: threads 8" in line for line in told)
    assert any("crash: SIGABRT" in line for line in told)


@pytest.mark.usefixtures("terminal")
def test_what_stands_below_a_line_is_as_new_as_the_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live.watch(begun().progress, stderr_is_terminal=True) as tell:
        tell(measuring())
        tell(stage("threads"))
        shown = capsys.readouterr().err

    assert shown.count("racing threads and batches") == 2


@pytest.mark.usefixtures("terminal")
def test_markup_in_a_message_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    crash = measured(reading(failed=failure(FailureKind.CRASH, "[bold]x[/bold] \x1b[2J")))

    shown = _shown(capsys, crash)

    assert "[bold]x[/bold]" in shown
    assert "\x1b[2J" not in shown


@pytest.mark.usefixtures("terminal")
def test_no_color_means_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = _shown(capsys, NEW_BEST)
    monkeypatch.setenv("NO_COLOR", "1")

    assert ("\x1b[32m" in coloured, "\x1b[32m" in _shown(capsys, NEW_BEST)) == (True, False)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert _shown(capsys, stage()) == (
        "lcm: 0:50  racing threads and batches; at most 10 min left, by 07:40\n"
    )


@pytest.mark.usefixtures("terminal")
def test_the_view_is_drawn_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_at: list[float] = []
    draw = live.drawn

    def noted(progress: Progress) -> RenderableType:
        drawn_at.append(time.monotonic())
        return draw(progress)

    monkeypatch.setattr(live, "drawn", noted)
    with live.watch(begun().progress, stderr_is_terminal=True) as tell:
        while len(drawn_at) < 3:
            tell(measuring())

    assert all(after - before > 0.24 for before, after in pairwise(drawn_at))


@pytest.mark.usefixtures("terminal")
def test_what_came_too_soon_to_be_drawn_is_drawn_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_LEAST_S", 0.01)

    with live.watch(begun().progress, stderr_is_terminal=True) as tell:
        tell(measuring(phase=Phase.LOAD))
        tell(measuring(phase=Phase.RUN))
        shown = ""
        ends = time.monotonic() + 10
        while "repetition 2" not in shown and time.monotonic() < ends:
            time.sleep(0.01)
            shown += capsys.readouterr().err

    assert "repetition 2" in shown
