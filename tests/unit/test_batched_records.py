"""Lines of llama-batched-bench: what is read, and what is not believed."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from autotune.llama_cpp.batched_records import check_batched, parse_batched
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import BadRecord
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

# As llama.cpp 0.5.0-dev printed it for gemma-3-270m, `-npp 64 -ntg 8 -npl 4`.
PRINTED: Mapping[str, Any] = {
    "n_kv_max": 8192, "n_batch": 2048, "n_ubatch": 512, "flash_attn": -1, "is_pp_shared": 0,
    "n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": 64, "tg": 8, "pl": 4,
    "n_kv": 288, "t_pp": 3.020397, "speed_pp": 84.757072, "t_tg": 6.14186, "speed_tg": 5.210148,
    "t": 9.162257, "speed": 31.433302,
}  # fmt: skip
ASKED = Trial(
    Params(n_threads=2, n_threads_batch=2, n_batch=2048, n_ubatch=512, flash_attn="auto"),
    BenchTest(n_prompt=64, n_gen=8, n_parallel=4),
)


def line(**changed: object) -> str:
    return json.dumps({**PRINTED, **changed})


def test_a_line_is_the_tokens_of_each_sequence_and_the_seconds_of_all() -> None:
    record = parse_batched(line())
    told = record.n_prompt, record.n_gen, record.n_slots, record.prompts_s, record.generation_s
    assert told == (64, 8, 4, 3.020397, 6.14186)


def test_what_was_asked_for_is_accepted() -> None:
    check_batched(parse_batched(line()), ASKED)


@pytest.mark.parametrize(
    "bad",
    [
        line().replace("6.14186", "-nan"),
        line().replace("6.14186", "inf"),
        line(t_pp=0),
        line(t_tg=-1.0),
        line(t_tg="1"),
        line(pl=0),
        line(pp=2**31),
        line(pp=True),
        line(tg=None),
        "[1]",
        "{}",
        line()[:80],
    ],
)
def test_what_cannot_be_is_refused(bad: str) -> None:
    with pytest.raises(BadRecord):
        parse_batched(bad)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pl": 8}, "a record of pp64+tg8 x8 where pp64+tg8 x4 was asked for"),
        ({"tg": 9}, "a record of pp64+tg9 x4 where pp64+tg8 x4 was asked for"),
        ({"n_threads_batch": 1}, "a record of n_threads_batch 1 where 2 was asked for"),
        ({"flash_attn": 0}, "a record of flash_attn 0 where -1 was asked for"),
    ],
)
def test_a_record_of_something_else_is_refused(changed: dict[str, int], why: str) -> None:
    with pytest.raises(BadRecord, match=f"^{why.replace('+', '[+]')}$"):
        check_batched(parse_batched(line(**changed)), ASKED)


def test_what_a_build_does_not_repeat_is_not_held_against_it() -> None:
    short = {key: PRINTED[key] for key in ("pp", "tg", "pl", "t_pp", "t_tg")}
    check_batched(parse_batched(json.dumps(short)), ASKED)
