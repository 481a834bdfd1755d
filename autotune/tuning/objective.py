"""What is minimised: the seconds of one request, out of llama-bench's separate tests.

    seconds = n_prompt / pp + n_gen / tg        at the depth of the workload

The two parts are timed by tests of their own, and their parameters separate in part: the best `-t`
of the tg tests is `--threads`, that of the pp tests `--threads-batch`; a batch moves pp only. So a
part that was measured once serves every configuration that does not change it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Test
from autotune.params import Params
from autotune.tuning.workload import Workload

Part = Literal["pp", "tg"]

# A test long enough that a clock and a scheduler are small beside it, and no longer than needed.
TARGET_TEST_S = 1.5
# Prompts are tested by at least this many tokens, so that ubatches can be told apart, and by at
# most this many: more of them take as long for each token.
LEAST_PROMPT, MOST_PROMPT = 256, 2048
LEAST_GENERATED, MOST_GENERATED = 8, 64

# What a GPU does once (capturing graphs, raising its clock) is little beside this.
_WARM_NS = 1e9

# Which parameters of llama-server are none of llama-bench's tests, whose context is their own.
_NOT_MEASURED = ("n_ctx", "n_parallel", "kv_unified", "cache_ram", "n_threads_batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One request, and the tests that stand for its parts."""

    n_prompt: int  # Tokens of the request.
    n_gen: int
    tests: tuple[tuple[Part, Test], ...]  # Those that count, in llama-bench's order.
    first_counts: bool = True  # False on a GPU, where the first repetition captures graphs.

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for part, _ in self.tests)

    def test(self, part: Part) -> Test:
        """The test that stands for a part."""
        return dict(self.tests)[part]

    def tokens(self, part: Part) -> int:
        """Tokens of a request that are the part's."""
        return self.n_prompt if part == "pp" else self.n_gen

    def trial(self, params: Params, part: Part) -> Trial:
        """What llama-bench is asked for one part: it has one `-t`, which is that part's."""
        threads = params.n_threads_batch if part == "pp" else params.n_threads
        bare = replace(params, **dict.fromkeys(_NOT_MEASURED))
        return Trial(replace(bare, n_threads=threads or params.n_threads), self.test(part))

    def key(self, params: Params, part: Part) -> Params:
        """What of a configuration moves the part; equal keys are equally fast.

        A token is generated in a batch of its own: no batch size reaches it.
        """
        asked = self.trial(params, part).params
        return replace(asked, n_batch=None, n_ubatch=None) if part == "tg" else asked

    def part_seconds(self, part: Part, samples_ns: Sequence[int]) -> float:
        """Seconds that the part takes of a request, from the repetitions of its test."""
        warm = samples_ns[1:] if self.wants_warm(samples_ns) else ()
        per_token_ns = statistics.median(warm or samples_ns) / self.test(part).n_tokens
        return per_token_ns * self.tokens(part) / 1e9

    def wants_warm(self, samples_ns: Sequence[int]) -> bool:
        """The first repetition of such a test does not count, if there are others."""
        return not self.first_counts and min(samples_ns) < _WARM_NS

    def longest_test(self) -> int:
        """Tokens of the context that llama-bench makes, its depth included."""
        return max(test.n_tokens + test.n_depth for _, test in self.tests)

    def rate(self, part: Part, seconds: float) -> float:
        """Tokens per second, from the seconds of a request's part."""
        return self.tokens(part) / seconds


def objective_of(workload: Workload, *, pp_rate: float, tg_rate: float, on_gpu: bool) -> Objective:
    """Choose tests that are as short as the noise allows on a machine of about this speed.

    Args:
        workload: the request.
        pp_rate: tokens per second of a prompt, roughly.
        tg_rate: tokens per second of generation, roughly.
        on_gpu: some of the model is on a GPU.
    """
    n_prompt = min(max(_power_of_two(pp_rate * TARGET_TEST_S), LEAST_PROMPT), MOST_PROMPT)
    if on_gpu:  # A prompt that is shorter than a ubatch cannot show it, and there they are long.
        n_prompt = MOST_PROMPT
    n_gen = min(max(_power_of_two(tg_rate * TARGET_TEST_S), LEAST_GENERATED), MOST_GENERATED)
    tests: dict[Part, Test] = {
        "pp": Test(n_prompt=min(n_prompt, workload.n_prompt), n_depth=workload.n_depth),
        "tg": Test(n_gen=min(n_gen, workload.n_gen), n_depth=workload.n_depth),
    }
    counted = {"request": ("pp", "tg")}.get(workload.objective, (workload.objective,))
    return Objective(
        n_prompt=workload.n_prompt,
        n_gen=workload.n_gen,
        tests=tuple((part, test) for part, test in tests.items() if part in counted),
        first_counts=not on_gpu,
    )


def _power_of_two(number: float) -> int:
    return 1 << max(int(number), 1).bit_length() - 1
