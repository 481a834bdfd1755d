"""A real server has the last word on a gain: in which turns it is asked, and what agrees."""

from collections.abc import Callable, Sequence
from typing import get_args

import pytest

from autotune.llama_cpp.records import FailureKind
from autotune.llama_cpp.serving import NotServed, Served
from autotune.params import Params
from autotune.stats import Comparison
from autotune.tuning.confirm import Agreement, Confirmation, Confirmer, judged, reserve_s

DEFAULTS, WINNER = Params(n_parallel=4), Params(n_parallel=8)
# 1.25 times as fast, from 1.20 to 1.30.
SEEN = Comparison(ratio=1.25, low=1.20, high=1.30, confidence=0.99, pairs=4, chance=0.001)


@pytest.mark.parametrize(
    ("served_s", "agreement"),
    [
        (80, "confirmed"),  # 1.25
        (91, "confirmed"),  # 1.099, and 1.20 / 1.1 is 1.091
        (71, "confirmed"),  # 1.408, and 1.30 * 1.1 is 1.43
        (95, "of another size"),
        (60, "of another size"),
        (100, "contradicted"),
        (130, "contradicted"),
    ],
)
def test_the_servers_ratio_is_held_against_the_interval(
    served_s: float, agreement: Agreement
) -> None:
    assert judged([100], [served_s], SEEN).agreement == agreement


def test_only_a_gain_that_the_server_shows_is_supported() -> None:
    each = [Confirmation(baseline_s=(), candidate_s=(), agreement=a) for a in get_args(Agreement)]
    assert [one.agreement for one in each if one.supports] == ["confirmed", "of another size"]


def test_of_several_pairs_the_middle_one_counts() -> None:
    assert judged([100, 100, 100], [80, 50, 90], SEEN).ratio == pytest.approx(1.25)


def test_a_failure_is_no_ratio() -> None:
    seen = judged([100], [], SEEN, "llama-server with the winner: oom, no room")
    assert (seen.agreement, seen.ratio) == ("failed", None)


class Servers:
    """Answers from a script, and notes who was asked."""

    def __init__(self, script: Sequence[float | FailureKind]) -> None:
        self._script = list(script)
        self.asked: list[Params] = []
        self.elapsed_s = 0.0
        self.share = 0.0

    def __call__(
        self, params: Params, *, share: float, limit_s: float, enough: Callable[[], bool]
    ) -> Served | NotServed:
        del limit_s, enough
        self.share = share
        self.asked.append(params)
        answer = self._script[(len(self.asked) - 1) % len(self._script)]
        if isinstance(answer, FailureKind):
            return NotServed(kind=answer, message="it has ended")
        self.elapsed_s += answer
        return Served(seconds=answer, prompt_ms=(), generation_ms=())

    def confirm(
        self,
        candidate: Params | None = WINNER,
        *,
        budget_s: float = 1e9,
        load_s: float = 0.0,
        interrupted: bool = False,
    ) -> Confirmation | None:
        confirmer = Confirmer(
            self, left_s=lambda: budget_s - self.elapsed_s, enough=lambda: interrupted
        )
        return confirmer.confirm(DEFAULTS, candidate, seen=SEEN, request_s=10, load_s=load_s)


def test_both_are_asked_in_turns_the_other_way_round_each_time() -> None:
    servers = Servers([10, 8, 8, 10, 10, 8])
    seen = servers.confirm()
    assert servers.asked == [DEFAULTS, WINNER, WINNER, DEFAULTS, DEFAULTS, WINNER]
    assert seen == Confirmation(
        baseline_s=(10, 10, 10), candidate_s=(8, 8, 8), agreement="confirmed"
    )


def test_both_are_asked_once_however_little_time_there_is() -> None:
    servers = Servers([10, 8])
    servers.confirm(budget_s=0)
    assert servers.asked == [DEFAULTS, WINNER]


def test_no_pair_is_begun_that_would_end_too_late() -> None:
    servers = Servers([10, 8, 8, 10])
    servers.confirm(budget_s=40)
    assert len(servers.asked) == 4


def test_where_nothing_is_better_the_defaults_are_asked_once() -> None:
    servers = Servers([10])
    seen = servers.confirm(None)
    assert (servers.asked, seen and seen.agreement) == ([DEFAULTS], "not compared")


@pytest.mark.parametrize(
    ("script", "whose"),
    [([FailureKind.OOM], "llama.cpp's defaults"), ([10, FailureKind.OOM], "the winner")],
)
def test_who_failed_is_named(script: list[float | FailureKind], whose: str) -> None:
    seen = Servers(script).confirm()
    assert seen is not None
    assert seen.failure == f"llama-server with {whose}: oom, it has ended"


def test_who_is_interrupted_knows_nothing() -> None:
    assert Servers([10]).confirm(interrupted=True) is None


def test_a_quarter_of_the_budget_is_the_most_that_is_kept() -> None:
    assert reserve_s(request_s=100, load_s=10, budget_s=60) == 15


def test_time_is_kept_for_a_server_of_each_side() -> None:
    assert reserve_s(request_s=10, load_s=1, budget_s=1e6) == 2 * (2 + 2 + 14)


@pytest.mark.parametrize(
    ("budget_s", "share"),
    [(1e9, 1), (32, 1), (18, 0.5), (0, 0.05)],  # Of 10 s each, 1.4 times that and 2 s to start.
)
def test_requests_are_shortened_to_what_both_sides_have_time_for(
    budget_s: float, share: float
) -> None:
    servers = Servers([1, 1])
    seen = servers.confirm(budget_s=budget_s)
    assert servers.share == pytest.approx(share)
    assert seen is not None
    assert seen.share == servers.share


def test_loading_the_model_for_both_sides_is_no_time_for_requests() -> None:
    servers = Servers([1, 1])
    servers.confirm(budget_s=58, load_s=10)
    assert servers.share == pytest.approx(0.5)  # Of 29 s each, 22 s to start and half of 14 s.
