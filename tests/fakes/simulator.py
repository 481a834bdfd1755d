"""Made-up machines with llama-bench on them, in virtual time, which know the truth.

How fast they are is a `Surface`; the real `footprint` decides what fits on the GPU.
"""

from collections.abc import Callable, Iterator, Mapping
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
    UnequalCards,
    dice,
    moe_surface,
    partial_surface,
)
from fakes.virtual import VirtualMachine
from fakes.weather import VirtualClock, Weather

from autotune.errors import ConfigError
from autotune.hardware import Gpu
from autotune.llama_cpp.records import FailureKind, Test
from autotune.model import Model
from autotune.model.footprint import place_layers
from autotune.params import (
    ALL_LAYERS,
    DEFAULT_CACHE_TYPE,
    DEFAULT_N_BATCH,
    DEFAULT_N_UBATCH,
    Params,
    Program,
)
from autotune.recommend.placement import footprint_on, taken

__all__ = [
    "CONTEXT_S", "DRIVER_BYTES", "EPOCH", "MACHINES", "Options", "SimulatedMachine",
    "SimulatedRun", "VirtualClock", "Weather", "cpu16", "flat", "moe", "partial_offload",
    "two_cards",
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


class SimulatedMachine(VirtualMachine):
    """One machine and one model, as fast as a surface says."""

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
        n_cpus = LOGICAL if smt else CORES
        weather = Weather(dice(kind, seed).getrandbits(32), n_cpus=n_cpus, **disturbed)
        super().__init__(kind, hardware(gpus, smt=smt), model, weather)
        self._crash = crash
        self.surface = surface
        self.memory_truth = dice("memory", kind, seed).uniform(0.98, 1.02)
        self.load_s = load_s
        self.really: tuple[float, ...] = ()  # Of what each GPU says is free; (): all of it.
        self._gpu_bytes: dict[tuple[Params, Program], list[tuple[int, int]]] = {}

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

    def fits(self, params: Params, n_ctx: int, program: Program = "bench") -> bool:
        """Whether the GPU really has the memory for that many tokens."""
        needed = self._needed(params, n_ctx, program)
        return all(n <= room for (n, _), room in zip(needed, self.room_bytes, strict=True))

    def needed_bytes(self, params: Params, n_ctx: int, program: Program = "bench") -> list[int]:
        """What each GPU must really have for that many tokens."""
        return [n for n, _ in self._needed(params, n_ctx, program)]

    @property
    def room_bytes(self) -> list[float]:
        """What each GPU has for us: less the driver, and less than it says where it lies."""
        shares = self.really or (1.0,) * len(self.hardware.gpus)
        return [
            share * (gpu.free_bytes - DRIVER_BYTES)
            for share, gpu in zip(shares, self.hardware.gpus, strict=True)
        ]

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
        if self._crash(params, test):
            message = "ended by itself, with SIGABRT: GGML_ASSERT(simulated) failed"
            return Problem(kind=FailureKind.CRASH, message=message, exit_code=-6)
        if min(self.threads(params), *_batches(params)) < 1:
            message = "GGML_ASSERT(cplan->n_threads > 0) failed"
            return Problem(kind=FailureKind.BAD_ARGUMENTS, message=message, exit_code=-6)
        try:
            needed = self._needed(params, test.n_tokens + test.n_depth, "bench")
        except ConfigError as error:
            return Problem(kind=FailureKind.UNSUPPORTED, message=str(error), exit_code=1)
        for n, ((n_bytes, of_weights), room) in enumerate(
            zip(needed, self.room_bytes, strict=True)
        ):
            if n_bytes > room:
                mib = n_bytes / (1 << 20)
                return Problem(
                    kind=FailureKind.OOM,
                    message=f"allocating {mib:.2f} MiB on device {n}: cudaMalloc failed: "
                    "out of memory",
                    exit_code=1,
                    of_model=of_weights > room,
                )
        return None

    def _load_s(self, model_params: Params, nth: int) -> float:
        jitter = dice("load_s", self.weather.seed, model_params, nth).gauss()
        return self.load_s * (1 + self.weather.noise * jitter)

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
            device_blocks=self._device_blocks(params),
            in_parts=params.split_mode in {"row", "tensor"},
            kv_share=sum(_CACHE_SHARES.get(kind, _OTHER_CACHE_SHARE) for kind in kinds) / 2,
        )

    def _device_blocks(self, params: Params) -> tuple[int, ...]:
        """The layers that each GPU computes, where there are several."""
        gpus = self.hardware.gpus
        if len(gpus) < 2:
            return ()
        used = taken(params, gpus)
        alone = replace(params, tensor_split=None) if len(used) == 1 else params
        devices = place_layers(self.model, alone, [float(gpus[n].free_bytes) for n in used])
        places = [used[d] for d in devices[:-1] if d is not None]
        return tuple(places.count(n) for n in range(len(gpus)))

    def _needed(self, params: Params, n_ctx: int, program: Program) -> list[tuple[int, int]]:
        """The bytes that each GPU must really have: in all, and for the weights alone."""
        key = replace(
            params, n_ctx=n_ctx, n_threads=None, n_threads_batch=None, load_mode=None, repack=None
        )
        cached = self._gpu_bytes.get((key, program))
        if cached is None:
            places = footprint_on(self.hardware.gpus, self.model, key, program).gpus
            truth = self.memory_truth
            cached = [(int(truth * p.total_bytes), int(truth * p.weights_bytes)) for p in places]
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


def two_cards(seed: int = 0, **options: Unpack[Options]) -> SimulatedMachine:
    """D: the model of B on a card of 16 GB and one of 24 GB, which is the faster one."""
    d = dice("cards", seed)
    surface = UnequalCards(
        partial_surface(seed), slower=(d.uniform(1.5, 3), 1.0), wait_s=d.uniform(0.3e-3, 1.2e-3)
    )
    gpus = (card(16), replace(card(24), index=1))
    return SimulatedMachine("two cards", seed, surface, dense_30b(), gpus, load_s=30, **options)


MACHINES: Mapping[str, Callable[..., SimulatedMachine]] = {
    "A": cpu16,
    "B": partial_offload,
    "C": moe,
    "flat": flat,
}
