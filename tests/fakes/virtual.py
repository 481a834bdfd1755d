"""What every machine in virtual time has in common: a stand-in for `autotune.llama_cpp.Bench`.

A run costs what it would cost: the real `grids.split` decides how often the model is loaded, and
virtual time passes only as events are read, so whoever stops early saves the rest. How fast it is,
and what fails, a machine knows: by a model of it (`simulator`) or from a recording (`replay`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from fakes.simulated_run import Problem, SimulatedRun
from fakes.weather import VirtualClock

from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import Test

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fakes.weather import Weather

    from autotune.hardware import Hardware
    from autotune.llama_cpp.records import State
    from autotune.model import Model
    from autotune.params import Params, Program


class VirtualMachine(ABC):
    """One machine and one model, asked as a `Bench` is, which also tells the truth."""

    def __init__(self, kind: str, hardware: Hardware, model: Model, weather: Weather) -> None:
        self.kind = kind
        self.hardware = hardware
        self.model = model
        self.weather = weather
        self.clock = VirtualClock()
        self.n_loads = 0
        self.own_s = 0.0  # CPU seconds of llama-bench.
        self.watts: Callable[[int], float] | None = None  # By threads; None: nothing counts.
        self.joules = 0.0
        # Seconds, up to a moment, in which its GPU was held back by its limit of power.
        self.capped_s: Callable[[float], float] | None = None
        self.visits: Counter[Trial] = Counter()
        self.loads: Counter[Params] = Counter()
        self._seconds: dict[Trial, float] = {}

    # --- as a bench ------------------------------------------------------------------------------

    def run(self, trials: Sequence[Trial], *, repetitions: int = 5) -> SimulatedRun:
        """Measure every trial once."""
        if repetitions < 1:
            raise ValueError("a measurement takes at least one repetition")
        return SimulatedRun(self, trials, repetitions)

    def observe(self) -> State:
        """CPU seconds of everybody and of llama-bench, since the machine was made."""
        now = self.clock.now()
        foreign_s = self.weather.neighbour.busy_s(now)
        state = {"at_s": now, "busy_s": self.own_s + foreign_s, "own_s": self.own_s}
        return state | ({"gpu0_power_capped_s": self.capped_s(now)} if self.capped_s else {})

    def meter(self) -> float | None:
        """Joules since it was made, as its counters have them."""
        return self.joules if self.watts else None

    # --- the truth -------------------------------------------------------------------------------

    def seconds(self, params: Params, test: Test) -> float:
        """How long one repetition takes when nothing disturbs it, whether or not it fits."""
        trial = Trial(params, test)
        if trial not in self._seconds:
            self._seconds[trial] = self._computed(params, test)
        return self._seconds[trial]

    def request_seconds(self, params: Params, n_prompt: int, n_gen: int, n_depth: int = 0) -> float:
        """The time of one request: its prompt and its answer, each with its own threads."""
        seconds = 0.0
        if n_prompt:
            threads = params.n_threads_batch or params.n_threads
            test = Test(n_prompt=n_prompt, n_depth=n_depth)
            seconds += self.seconds(replace(params, n_threads=threads), test)
        if n_gen:
            seconds += self.seconds(params, Test(n_gen=n_gen, n_depth=n_depth))
        return seconds

    def request_joules(self, params: Params, n_prompt: int, n_gen: int) -> float:
        """The joules of one request, likewise."""
        assert self.watts
        batch = params.n_threads_batch or params.n_threads
        of_prompt = replace(params, n_threads=batch)
        prompt_s = self.seconds(of_prompt, Test(n_prompt=n_prompt))
        answer_s = self.seconds(params, Test(n_gen=n_gen))
        return prompt_s * self.watts(self.threads(of_prompt)) + answer_s * self.watts(
            self.threads(params)
        )

    @abstractmethod
    def optimum(
        self,
        n_prompt: int,
        n_gen: int,
        n_depth: int = 0,
        *,
        n_ctx: int | None = None,
        program: Program = "bench",
        feasible: Callable[[Params], bool] | None = None,
    ) -> tuple[Params, float]:
        """The best of all reasonable configurations for a request, and its seconds.

        It fits with `n_ctx` tokens, by default those of the request, and where `feasible` is given
        that must agree. Cache types that cost quality are not considered, unless they are asked of.
        """

    @abstractmethod
    def _computed(self, params: Params, test: Test) -> float: ...

    # --- what a run asks -------------------------------------------------------------------------

    @abstractmethod
    def threads(self, params: Params) -> int:
        """How many threads a test has."""

    @abstractmethod
    def problem_of(self, params: Params, test: Test) -> Problem | None:
        """Why this trial will not be measured."""

    def load(self, model_params: Params) -> tuple[float, float]:
        """Load the model: the seconds, and the factor that this process has on all it measures."""
        nth = self.loads[model_params]
        self.loads[model_params] += 1
        self.n_loads += 1
        return self._load_s(model_params, nth), self.weather.of_load(model_params, nth)

    @abstractmethod
    def _load_s(self, model_params: Params, nth: int) -> float:
        """Seconds of the nth load of the model with these parameters."""

    def work(self, seconds: float, threads: int) -> float:
        """Let llama-bench compute, and give how long it took."""
        took = self.weather.work(self.clock, seconds, threads)
        self.own_s += took * min(threads, self.weather.n_cpus)
        if self.watts:
            self.joules += took * self.watts(threads)
        return took
