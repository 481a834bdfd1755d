"""What a record must say to be believed: that it is of what was asked for, and no miracle."""

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import ECHOED, BadRecord, Measurement, Record, as_echoed

# A mixture of experts reads this share of its weights for a token at the least (Kimi K2: 3 %).
LEAST_ACTIVE_SHARE = 0.02
# No machine that runs llama.cpp streams its memory faster or computes faster than this: an H200 has
# 4.8 TB/s and 2 PFLOP/s in 8 bits, and eight of them are in one box.
MOST_BYTES_PER_S = 50e12
MOST_FLOP_PER_S = 20e15
# Nor does any take less time than this for one call, or one token of a prompt, of the least model.
LEAST_S_PER_CALL = 5e-6
LEAST_S_PER_PROMPT_TOKEN = 1e-7
# Clocks may be set while it runs, and a line may lie in the pipe for a while.
_CLOCKS_DIFFER_S = 1.0


def check(record: Record, trial: Trial, repetitions: int) -> None:
    """Refuse a record that is not of the trial, or has other than as many samples (BadRecord)."""
    if record.test != trial.test:
        raise BadRecord(f"a record of {record.test} where {trial.test} was asked for")
    if len(record.samples_ns) != repetitions:
        raise BadRecord(f"{len(record.samples_ns)} samples where {repetitions} were asked for")
    for name in ECHOED:
        asked, told = as_echoed(getattr(trial.params, name)), record.settings.get(name)
        if (name, asked) == ("flash_attn", "auto"):
            asked = -1
        if asked is not None and told is not None and asked != told:
            raise BadRecord(f"a record of {name} {told} where {asked} was asked for")


def implausible(
    measurement: Measurement, lasted_s: float, *, active_share: float = LEAST_ACTIVE_SHARE
) -> str | None:
    """Why a number cannot be: builds before b5391 ignore a failed decode, and look very fast."""
    test, fastest_s = measurement.test, min(measurement.samples_ns) / 1e9
    size, n_params = (measurement.record.get(key) for key in ("model_size", "model_n_params"))
    active_bytes = size * active_share if isinstance(size, int) else 0.0
    active_params = n_params * active_share if isinstance(n_params, int) else 0.0
    least = {
        "reading the weights once a token": test.n_gen * active_bytes / MOST_BYTES_PER_S,
        "two operations a weight and token": 2 * test.n_tokens * active_params / MOST_FLOP_PER_S,
        "the calls alone": test.n_gen * LEAST_S_PER_CALL + test.n_prompt * LEAST_S_PER_PROMPT_TOKEN,
    }
    bound = max(least, key=least.__getitem__)
    if fastest_s < least[bound]:
        rate = test.n_tokens / fastest_s
        return f"{rate:.0f} t/s is more than any machine reaches by {bound}: was a failure ignored?"
    claimed_s = sum(measurement.samples_ns) / 1e9
    if claimed_s > 1.05 * lasted_s + _CLOCKS_DIFFER_S:
        return f"its samples add up to {claimed_s:.1f} s, but it ran for {lasted_s:.1f} s"
    return None
