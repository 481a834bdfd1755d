"""Which trials share a process of llama-batched-bench."""

from collections.abc import Sequence
from dataclasses import replace

from autotune.llama_cpp.batches import Batch, slots, split
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

PP, TG = BenchTest(n_prompt=64, n_parallel=8), BenchTest(n_gen=16, n_depth=64, n_parallel=8)
ONE = Params(n_threads=2, n_parallel=4)


def numbers(batches: Sequence[Batch]) -> list[list[int]]:
    return [[entry.n_slots for entry in batch.entries] for batch in batches]


def test_both_parts_of_a_configuration_are_one_number_of_slots() -> None:
    (batch,) = split([Trial(ONE, TG), Trial(ONE, PP)])
    assert [entry.trials for entry in batch.entries] == [(Trial(ONE, PP), Trial(ONE, TG))]


def test_an_order_that_repeats_is_kept() -> None:
    order = [replace(ONE, n_parallel=n) for n in (1, 8, 8, 1)]
    assert numbers(split([Trial(params, PP) for params in order])) == [[1, 8, 8, 1]]


def test_other_parameters_are_another_process() -> None:
    both = ONE, replace(ONE, n_threads=1)
    assert numbers(split([Trial(params, PP) for params in both])) == [[4], [4]]


def test_prompts_alone_generate_one_token() -> None:
    (batch,) = split([Trial(ONE, PP)])
    assert (batch.n_prompt, batch.n_gen) == (64, 1)


def test_a_generation_follows_the_prompt_that_is_in_the_cache() -> None:
    (batch,) = split([Trial(ONE, TG)])
    assert (batch.n_prompt, batch.n_gen) == (64, 16)


def test_prompts_share_a_process_with_a_generation_after_them() -> None:
    trials = [Trial(replace(ONE, n_parallel=8), PP), Trial(ONE, TG)]
    (batch,) = split(trials)
    assert (batch.trials, batch.n_gen) == (trials, 16)


def test_generations_of_two_lengths_are_two_processes() -> None:
    other = replace(TG, n_gen=8)
    assert [batch.n_gen for batch in split([Trial(ONE, TG), Trial(ONE, other)])] == [16, 8]


def test_requests_that_find_no_slot_wait_for_the_next_wave() -> None:
    (batch,) = split([Trial(replace(ONE, n_parallel=2), PP)])
    assert batch.entries[0].waves == 4


def test_slots_beyond_the_requests_stay_empty() -> None:
    trial = Trial(replace(ONE, n_parallel=16), PP)
    (batch,) = split([trial])
    assert (slots(trial), batch.entries[0].waves) == (8, 1)


def test_the_context_is_that_of_the_most_sequences() -> None:
    (batch,) = split([Trial(replace(ONE, n_parallel=n), TG) for n in (1, 8)])
    assert batch.n_tokens == 8 * (64 + 16)
