"""Machines with llama-bench on them, in virtual time: a stand-in for `autotune.llama_cpp.Bench`.

A run costs what it would cost: the real `grids.split` decides how often the model is loaded, and
the real `footprint` what fits on the GPU. Virtual time passes only as events are read, so whoever
stops early saves the rest. `SimulatedMachine` knows the truth too, which no real machine tells.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import TypedDict, Unpack

from fakes.simulated_hosts import card, dense_8b, dense_30b, hardware, moe_30b
from fakes.simulated_run import CONTEXT_S, EPOCH, Problem, SimulatedRun
from fakes.surfaces import (
    CORES,
    LOGICAL,
    CpuSurface,
    FlatSurface,
    Setup,
    Surface,
    dice,
    moe_surface,
    partial_surface,
)
from fakes.weather import VirtualClock, Weather

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.llama_cpp.grids import Trial
from autotune.llama_cpp.records import FailureKind, State, Test
from autotune.model import Model
from autotune.model.footprint import footprint
from autotune.params import (
    ALL_LAYERS,
    DEFAULT_CACHE_TYPE,
    DEFAULT_N_BATCH,
    DEFAULT_N_UBATCH,
    Params,
    Program,
)

__all__ = [
    "CONTEXT_S", "DRIVER_BYTES", "EPOCH", "MACHINES", "Options", "SimulatedMachine",
    "SimulatedRun", "VirtualClock", "Weather", "cpu16", "flat", "moe", "partial_offload",
]  # fmt: skip

DRIVER_BYTES = 300 << 20  # What the driver takes of a card for a process.
_OTHER_CACHE_SHARE = 0.6
_CACHE_SHARES = {"f32": 2.0, "f16": 1.0, "bf16": 1.0, "q8_0": 0.53, "q4_0": 0.28}


class Disturbed(TypedDict, total=False):
    """How much a machine is disturbed (see `Weather`)."""

    noise: float
    drift: float
    bursts: float
    outliers: float


class Options(Disturbed, total=False):
    """... which trials end llama-bench, and whether the cores have a second hardware thread.

    Without it, llama.cpp's default fills all CPUs, and a neighbour does its worst.
    """

    smt: bool
    crash: Callable[[Params, Test], bool]


def _never(_params: Params, _test: Test) -> bool:
    return False


class SimulatedMachine:
    """One machine and one model, asked as a `Bench` is, which also tells the truth."""

    def __init__(
        self,
        kind: str,
        seed: int,
        surface: Surface,
        model: Model,
        gpus: tuple[Gpu, ...] = (),
        *,
        load_s: float,
        crash: Callable[[Params, Test], bool] = _never,
        smt: bool = True,
        **disturbed: Unpack[Disturbed],
    ) -> None:
        self._crash = crash
        self.kind = kind
        self.clock = VirtualClock()
        n_cpus = LOGICAL if smt else CORES
        self.weather = Weather(dice(kind, seed).getrandbits(32), n_cpus=n_cpus, **disturbed)
        self.surface = surface
        self.model = model
        self.hardware = hardware(gpus, smt=smt)
        self.memory_truth = dice("memory", kind, seed).uniform(0.98, 1.02)
        self.load_s = load_s
        self.n_loads = 0
        self.own_s = 0.0  # CPU seconds of llama-bench.
        self.visits: Counter[Trial] = Counter()
        self.loads: Counter[Params] = Counter()
        self._seconds: dict[Trial, float] = {}
        self._gpu_bytes: dict[tuple[Params, Program], tuple[int, int]] = {}

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
        return {"at_s": now, "busy_s": self.own_s + foreign_s, "own_s": self.own_s}

    # --- the truth -------------------------------------------------------------------------------

    @property
    def defaults(self) -> Params:
        """What llama.cpp takes where nothing is said; it puts all layers on a GPU."""
        return Params(
            n_threads=CORES,
            n_batch=DEFAULT_N_BATCH,
            n_ubatch=DEFAULT_N_UBATCH,
            flash_attn="auto",
        )

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

    def fits(self, params: Params, n_ctx: int, program: Program = "bench") -> bool:
        """Whether the GPU really has the memory for that many tokens."""
        return all(
            self._needed(params, n_ctx, program)[0] <= gpu.free_bytes - DRIVER_BYTES
            for gpu in self.hardware.gpus
        )

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
        that must agree. Cache types that cost quality are not considered.
        """
        n_ctx = n_ctx or n_prompt + n_gen + n_depth

        def allowed(params: Params) -> bool:
            return self.fits(params, n_ctx, program) and (feasible is None or feasible(params))

        def request_s(params: Params) -> float:
            return self.request_seconds(params, n_prompt, n_gen, n_depth)

        # Threads do not depend on the rest: where a GPU computes the prompts, any number will do.
        start = self._with_best_threads(Params(n_gpu_layers=0), n_prompt, n_gen, n_depth)
        found = [
            placed for shared in self._shared(start) for placed in self._placed(shared, allowed)
        ]
        if not found:
            raise ValueError("nothing is feasible")
        best = min(found, key=request_s)
        best = self._with_best_threads(best, n_prompt, n_gen, n_depth)
        return best, request_s(best)

    def _shared(self, start: Params) -> Iterator[Params]:
        """All settings but threads and placement."""
        has_gpu = bool(self.hardware.gpus)
        for ubatch, flash, mapped, repack, kv_off, op_off in product(
            (32, 64, 128, 256, 512, 1024, 2048, 4096),
            (True, False),
            (True, False),
            (True,) if has_gpu else (True, False),
            (False, True) if has_gpu else (False,),
            (False, True) if has_gpu else (False,),
        ):
            yield replace(
                start,
                n_batch=max(DEFAULT_N_BATCH, ubatch),
                n_ubatch=ubatch,
                flash_attn=flash,
                load_mode=None if mapped else "none",
                repack=None if repack else False,
                no_kv_offload=kv_off or None,
                no_op_offload=op_off or None,
                n_gpu_layers=None,
            )

    def _placed(self, shared: Params, allowed: Callable[[Params], bool]) -> Iterator[Params]:
        """The most that is allowed on the GPU, which is always the fastest."""
        if not self.hardware.gpus:
            yield from [shared] if allowed(shared) else []
            return
        n_layers, n_all = len(self.model.layers), self.model.n_offloadable
        moe = self.model.is_moe
        places = [  # From the most on.
            replace(shared, n_gpu_layers=ALL_LAYERS, n_cpu_moe=n or None)
            for n in range(n_layers + 1 if moe else 1)
        ] + [
            replace(shared, n_gpu_layers=n, n_cpu_moe=n_layers if moe else None)
            for n in range(n_all - 1, -1, -1)
        ]
        yield from islice(filter(allowed, places), 1)

    def _with_best_threads(self, params: Params, n_prompt: int, n_gen: int, depth: int) -> Params:
        def best(test: Test) -> int:
            def rank(threads: int) -> tuple[float, int]:
                return (
                    round(self.seconds(replace(params, n_threads=threads), test), 9),
                    abs(threads - CORES),
                )

            return min(range(1, self.weather.n_cpus + 1), key=rank)

        for_prompts = best(Test(n_prompt=n_prompt, n_depth=depth)) if n_prompt else None
        for_tokens = best(Test(n_gen=n_gen, n_depth=depth)) if n_gen else CORES
        return replace(params, n_threads=for_tokens, n_threads_batch=for_prompts)

    # --- what a run asks -------------------------------------------------------------------------

    def threads(self, params: Params) -> int:
        return CORES if params.n_threads is None else params.n_threads

    def problem_of(self, params: Params, test: Test) -> Problem | None:
        """Why this trial will not be measured."""
        if self._crash(params, test):
            message = "ended by itself, with SIGABRT: GGML_ASSERT(simulated) failed"
            return Problem(kind=FailureKind.CRASH, message=message, exit_code=-6)
        if min(self.threads(params), *_batches(params)) < 1:
            message = "GGML_ASSERT(cplan->n_threads > 0) failed"
            return Problem(kind=FailureKind.BAD_ARGUMENTS, message=message, exit_code=-6)
        try:
            needed, of_weights = self._needed(params, test.n_tokens + test.n_depth, "bench")
        except ConfigError as error:
            return Problem(kind=FailureKind.UNSUPPORTED, message=str(error), exit_code=1)
        for gpu in self.hardware.gpus:
            left = gpu.free_bytes - DRIVER_BYTES
            if needed > left:
                mib = needed / (1 << 20)
                return Problem(
                    kind=FailureKind.OOM,
                    message=f"cudaMalloc failed: out of memory, of {mib:.2f} MiB on device 0",
                    exit_code=1,
                    of_model=of_weights > left,
                )
        return None

    def load(self, model_params: Params) -> tuple[float, float]:
        """Load the model: the seconds, and the factor that this process has on all it measures."""
        nth = self.loads[model_params]
        self.loads[model_params] += 1
        self.n_loads += 1
        jitter = dice("load_s", self.weather.seed, model_params, nth).gauss()
        return self.load_s * (1 + self.weather.noise * jitter), self.weather.of_load(
            model_params, nth
        )

    def work(self, seconds: float, threads: int) -> float:
        """Let llama-bench compute, and give how long it took."""
        took = self.weather.work(self.clock, seconds, threads)
        self.own_s += took * min(threads, self.weather.n_cpus)
        return took

    def _computed(self, params: Params, test: Test) -> float:
        batch, ubatch = _batches(params)
        seconds = 0.0
        if test.n_prompt:
            setup = self._setup(params, min(ubatch, batch, test.n_prompt))
            middle = test.n_depth + test.n_prompt / 2
            seconds += self.surface.prompt_s(setup, test.n_prompt, middle)
        if test.n_gen:
            depth = test.n_depth + test.n_prompt
            seconds += test.n_gen * self.surface.token_s(self._setup(params, ubatch), depth)
        return seconds

    def _setup(self, params: Params, ubatch: int) -> Setup:
        n_layers, n_all = len(self.model.layers), self.model.n_offloadable
        n_gpu = min(_gpu_layers(params, n_all), n_all) if self.hardware.gpus else 0
        cpu_blocks = min(n_all - n_gpu, n_layers)
        kinds = (params.type_k or DEFAULT_CACHE_TYPE, params.type_v or DEFAULT_CACHE_TYPE)
        return Setup(
            threads=self.threads(params),
            ubatch=ubatch,
            flash=params.flash_attn is not False,
            cpu_blocks=cpu_blocks,
            cpu_experts=max(cpu_blocks, min(params.n_cpu_moe or 0, n_layers)),
            output_on_cpu=not n_gpu,
            kv_offload=not params.no_kv_offload,
            op_offload=not params.no_op_offload,
            repack=params.repack is not False,
            mapped=params.load_mode not in {"none", "dio", "mlock"},
            kv_share=sum(_CACHE_SHARES.get(kind, _OTHER_CACHE_SHARE) for kind in kinds) / 2,
        )

    def _needed(self, params: Params, n_ctx: int, program: Program) -> tuple[int, int]:
        """The bytes that the GPU must really have: in all, and for the weights alone."""
        key = replace(
            params, n_ctx=n_ctx, n_threads=None, n_threads_batch=None, load_mode=None, repack=None
        )
        cached = self._gpu_bytes.get((key, program))
        if cached is None:
            gpus = () if params.devices == ("none",) else self.hardware.gpus
            free = [float(gpu.free_bytes) for gpu in gpus]
            places = footprint(self.model, key, program=program, gpus=free).gpus
            cached = (
                int(self.memory_truth * sum(place.total_bytes for place in places)),
                int(self.memory_truth * sum(place.weights_bytes for place in places)),
            )
            self._gpu_bytes[key, program] = cached
        return cached


def _batches(params: Params) -> tuple[int, int]:
    return (
        DEFAULT_N_BATCH if params.n_batch is None else params.n_batch,
        DEFAULT_N_UBATCH if params.n_ubatch is None else params.n_ubatch,
    )


def _gpu_layers(params: Params, n_all: int) -> int:
    if params.devices == ("none",):
        return 0
    asked = params.n_gpu_layers
    return n_all if asked is None or asked < 0 else asked


# --- the machines --------------------------------------------------------------------------------


def cpu16(seed: int = 0, **options: Unpack[Options]) -> SimulatedMachine:
    """A: 16 cores, no GPU, and a dense model of 8B."""
    return SimulatedMachine("cpu16", seed, CpuSurface(seed), dense_8b(), load_s=12, **options)


def flat(seed: int = 0, **options: Unpack[Options]) -> SimulatedMachine:
    """As A, but no setting makes a difference."""
    return SimulatedMachine("flat", seed, FlatSurface(), dense_8b(), load_s=12, **options)


def partial_offload(seed: int = 0, **options: Unpack[Options]) -> SimulatedMachine:
    """B: a card of 24 GB, and a dense model of 40 layers and 33 GB."""
    surface = partial_surface(seed)
    gpus = (card(24),)
    return SimulatedMachine("partial", seed, surface, dense_30b(), gpus, load_s=30, **options)


def moe(seed: int = 0, **options: Unpack[Options]) -> SimulatedMachine:
    """C: a card of 16 GB, and a mixture of 128 experts in 48 layers and 18.5 GB."""
    surface = moe_surface(seed)
    return SimulatedMachine("moe", seed, surface, moe_30b(), (card(16),), load_s=25, **options)


MACHINES: Mapping[str, Callable[..., SimulatedMachine]] = {
    "A": cpu16,
    "B": partial_offload,
    "C": moe,
    "flat": flat,
}
