"""What is minimised: the seconds or joules of one request, out of llama-bench's separate tests.

    seconds = n_prompt / pp + n_gen / tg        at the depth of the workload

and joules alike, with tokens per joule in the place of tokens per second. Either is the cost of a
request: what compares configurations asks for that, what plans the time asks for seconds.

Of several requests at once it is the seconds until all of them are answered, with the rates of all
slots together, which llama-batched-bench measures.

The two parts are timed by tests of their own, and their parameters separate in part: the best `-t`
of the tg tests is `--threads`, that of the pp tests `--threads-batch`; a batch moves pp only. So a
part that was measured once serves every configuration that does not change it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autotune.hardware.energy import Metered
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.program_run import Progress
from autotune.llama_cpp.records import Measurement, Test
from autotune.params import Params
from autotune.tuning.workload import Workload
from autotune.words import Quality, quality

Part = Literal["pp", "tg"]
Quantity = Literal["seconds", "joules"]

# A test long enough that a clock and a scheduler are small beside it, and no longer than needed.
TARGET_TEST_S = 1.5
# Prompts are tested by at least this many tokens, so that ubatches can be told apart, and by at
# most this many: more of them take as long for each token.
LEAST_PROMPT, MOST_PROMPT = 256, 2048
LEAST_GENERATED, MOST_GENERATED = 8, 64

# What a GPU does once (capturing graphs, raising its clock) is little beside this.
_WARM_NS = 1e9

# Of requests at once, generation is timed after the prompts, as it is served. So these are as long
# as in the request where that takes no longer than this, for all of them together.
TARGET_PROMPTS_S = 4.0
LEAST_PROMPT_OF_SEVERAL = 32

# Which parameters of llama-server are none of llama-bench's tests, whose context is their own.
_NOT_MEASURED = ("n_ctx", "n_parallel", "kv_unified", "cache_ram", "n_threads_batch")
_NOT_MEASURED_OF_SEVERAL = ("n_ctx", "cache_ram")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One request, and the tests that stand for its parts."""

    n_prompt: int  # Tokens of the request.
    n_gen: int
    tests: tuple[tuple[Part, Test], ...]  # Those that count, in llama-bench's order.
    first_counts: bool = True  # False on a GPU, where the first repetition captures graphs.
    minimises: Quantity = "seconds"
    metered_s: float = 0.0  # Of a shorter test the meter says nothing.
    repetitions: int = 1  # At least, of each test.
    n_parallel: int = 1  # Requests at once.

    @property
    def quality(self) -> Quality:
        """The words for a gain."""
        return quality("efficiency" if self.minimises == "joules" else "")

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for part, _ in self.tests)

    def test(self, part: Part) -> Test:
        """The test that stands for a part."""
        return dict(self.tests)[part]

    def tokens(self, part: Part) -> int:
        """Tokens of a request that are the part's; of all of them, where there are several."""
        return self.n_parallel * (self.n_prompt if part == "pp" else self.n_gen)

    def trial(self, params: Params, part: Part) -> Trial:
        """What is asked for one part: llama-bench has one `-t`, which is that part's."""
        if self.n_parallel > 1:  # Both parts are of one run, which has both.
            asked = replace(params, **dict.fromkeys(_NOT_MEASURED_OF_SEVERAL))
            return Trial(asked, self.test(part))
        threads = params.n_threads_batch if part == "pp" else params.n_threads
        bare = replace(params, **dict.fromkeys(_NOT_MEASURED))
        return Trial(replace(bare, n_threads=threads or params.n_threads), self.test(part))

    def key(self, params: Params, part: Part) -> Params:
        """What of a configuration moves the part; equal keys are equally fast.

        A token is generated in a batch of its own: no batch size reaches it.
        """
        asked = self.trial(params, part).params
        if self.n_parallel > 1:
            others = "n_threads" if part == "pp" else "n_threads_batch"
            asked = replace(asked, n_threads_batch=asked.n_threads_batch or asked.n_threads)
            asked = replace(asked, **{others: None})
        return replace(asked, n_batch=None, n_ubatch=None) if part == "tg" else asked

    def part_seconds(self, part: Part, samples_ns: Sequence[int]) -> float:
        """Seconds that the part takes of a request, from the repetitions of its test."""
        warm = samples_ns[1:] if self.wants_warm(samples_ns) else ()
        per_token_ns = statistics.median(warm or samples_ns) / self.test(part).n_tokens
        return per_token_ns * self.tokens(part) / 1e9

    def part_joules(self, part: Part, measured: Measurement) -> float | None:
        """Joules that the part takes of a request; None where they were not told.

        Their mean and not their median: a counter that lags behind gives one repetition what it
        has left out of another.
        """
        warm = measured.samples_j[1:] if self.wants_warm(measured.samples_ns) else ()
        known = warm or measured.samples_j
        per_token = sum(known) / len(known) / self.test(part).n_tokens if known else 0.0
        return per_token * self.tokens(part) or None

    def part_cost(self, part: Part, measured: Measurement) -> float | None:
        """What is minimised of the part; None where that was not told."""
        if self.minimises == "joules":
            return self.part_joules(part, measured)
        return self.part_seconds(part, measured.samples_ns)

    def cost_between(self, part: Part, before: Progress, now: Progress) -> float | None:
        """What is minimised of the part, by one repetition alone; None: that cannot be told."""
        if self.minimises == "seconds":
            return self.part_seconds(part, [max(int((now.at - before.at) * 1e9), 1)])
        if before.joules is None or now.joules is None or now.at - before.at < self.metered_s:
            return None
        per_token = (now.joules - before.joules) / self.test(part).n_tokens
        return per_token * self.tokens(part) or None

    def cost(self, *, seconds: float | None, joules: float | None) -> float | None:
        """The one of the two that is minimised."""
        return joules if self.minimises == "joules" else seconds

    def wants_warm(self, samples_ns: Sequence[int]) -> bool:
        """The first repetition of such a test does not count, if there are others."""
        return not self.first_counts and min(samples_ns) < _WARM_NS

    def longest_test(self) -> int:
        """Tokens of the context that llama-bench makes, its depth included."""
        return max(test.n_tokens + test.n_depth for _, test in self.tests)

    def rate(self, part: Part, cost: float) -> float:
        """Tokens per second or joule, from those of a request's part."""
        return self.tokens(part) / cost


# So often a test is repeated at most, to be long enough for a meter.
_MOST_REPETITIONS = 64


def objective_of(
    workload: Workload,
    *,
    pp_rate: float,
    tg_rate: float,
    on_gpu: bool,
    metered: Metered | None = None,
) -> Objective:
    """Choose tests that are as short as the noise allows on a machine of about this speed.

    Args:
        workload: the request.
        pp_rate: tokens per second of a prompt, roughly.
        tg_rate: tokens per second of generation, roughly.
        on_gpu: some of the model is on a GPU.
        metered: what counts joules.
    """
    if workload.n_parallel > 1:
        return _objective_of_several(workload, pp_rate, tg_rate, on_gpu=on_gpu)
    n_prompt = min(max(_power_of_two(pp_rate * TARGET_TEST_S), LEAST_PROMPT), MOST_PROMPT)
    if on_gpu:  # A prompt that is shorter than a ubatch cannot show it, and there they are long.
        n_prompt = MOST_PROMPT
    n_gen = min(max(_power_of_two(tg_rate * TARGET_TEST_S), LEAST_GENERATED), MOST_GENERATED)
    tests: dict[Part, Test] = {
        "pp": Test(n_prompt=min(n_prompt, workload.n_prompt), n_depth=workload.n_depth),
        "tg": Test(n_gen=min(n_gen, workload.n_gen), n_depth=workload.n_depth),
    }
    return _of_tests(
        workload,
        tests,
        on_gpu=on_gpu,
        metered_s=metered.least_s if metered else 0.0,
        repetitions=_repetitions(workload, tests, metered, pp_rate, tg_rate),
    )


def _repetitions(
    workload: Workload,
    tests: Mapping[Part, Test],
    metered: Metered | None,
    pp_rate: float,
    tg_rate: float,
) -> int:
    """So many that the shortest test is long enough, where joules are compared."""
    if metered is None or workload.objective != "efficiency":
        return 1
    shortest_s = min(tests["pp"].n_prompt / pp_rate, tests["tg"].n_gen / tg_rate)
    return min(max(math.ceil(metered.wanted_s / shortest_s), 1), _MOST_REPETITIONS)


def _objective_of_several(
    workload: Workload, pp_rate: float, tg_rate: float, *, on_gpu: bool
) -> Objective:
    """Tests of as many sequences as there are requests; the rates are those of one."""
    several = workload.n_parallel
    n_prompt = max(_power_of_two(pp_rate * TARGET_PROMPTS_S / several), LEAST_PROMPT_OF_SEVERAL)
    n_prompt = min(n_prompt, workload.n_prompt)
    # A step for all takes something between one token of one sequence and one of each.
    n_gen = _power_of_two(tg_rate * TARGET_TEST_S / several**0.5)
    n_gen = min(max(n_gen, LEAST_GENERATED), MOST_GENERATED, workload.n_gen)
    tests: dict[Part, Test] = {
        "pp": Test(n_prompt=n_prompt, n_parallel=several),
        "tg": Test(n_gen=n_gen, n_depth=n_prompt, n_parallel=several),
    }
    return _of_tests(workload, tests, on_gpu=on_gpu)


def _of_tests(
    workload: Workload,
    tests: Mapping[Part, Test],
    *,
    on_gpu: bool,
    metered_s: float = 0.0,
    repetitions: int = 1,
) -> Objective:
    counted = _COUNTED.get(workload.objective, (workload.objective,))
    return Objective(
        n_prompt=workload.n_prompt,
        n_gen=workload.n_gen,
        tests=tuple((part, test) for part, test in tests.items() if part in counted),
        first_counts=not on_gpu,
        minimises="joules" if workload.objective == "efficiency" else "seconds",
        metered_s=metered_s,
        repetitions=repetitions,
        n_parallel=workload.n_parallel,
    )


# Which parts count; the other objectives are a part of their own.
_COUNTED = {"request": ("pp", "tg"), "efficiency": ("pp", "tg")}


def _power_of_two(number: float) -> int:
    return 1 << max(int(number), 1).bit_length() - 1
