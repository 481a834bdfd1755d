"""On a GPU: each ubatch with the placement that fits beside it, and what a line promises beyond."""

from autotune.hardware import Hardware
from autotune.params import Params
from autotune.recommend.placement import taken
from autotune.recommend.spread import kind_of
from autotune.tuning.contest import GAIN_THAT_COUNTS, Contest
from autotune.tuning.devices import towards_each
from autotune.tuning.frontier import Frontier
from autotune.tuning.space import value_in
from autotune.tuning.visits import Kind
from autotune.tuning.workload import Value

# Ubatches in the order in which they are worth trying on a GPU, the default of 512 being measured
# already; the outermost only where the one before them was the best.
_LADDER = ((2048, None), (4096, 2048), (1024, None), (256, 512))
# Of devices that may be slower than the CPU beside them.
_DOUBTFUL = ("RPC", "Vulkan", "SYCL", "OpenCL")


class Ladder:
    """What goes on the GPU."""

    def __init__(self, contest: Contest, hardware: Hardware) -> None:
        self._contest = contest
        self._known = contest.known
        self._memory = contest.memory
        self._space = contest.space
        self._hardware = hardware

    def climb(self) -> None:
        """Each ubatch with the placement that fits beside it."""
        if self._space.has("n_batch"):  # The rule's small batch is not what a ladder stands on.
            n_batch = value_in(self._contest.baseline, "n_batch")
            based = self._space.with_value(self._contest.incumbent, "n_batch", n_batch)
        else:
            based = self._contest.incumbent
        self._approach(self._all_on_gpu(based), "layers")
        rungs = self._space.values_of("n_ubatch") or (self._contest.incumbent.n_ubatch or 512,)
        for n_ubatch, on_condition_of in _LADDER:
            best = self._contest.incumbent.n_ubatch
            if n_ubatch in rungs and (on_condition_of is None or best == on_condition_of):
                rung = self._space.with_value(self._all_on_gpu(based), "n_ubatch", n_ubatch)
                self._approach(rung, f"n_ubatch={n_ubatch}")
        self._spread_over_devices()
        if self._is_doubtful:
            self._try_fewer_layers()

    def _all_on_gpu(self, params: Params) -> Params:
        """As much on the GPU as the space has; what fits of it is for the memory to say."""
        space = self._space
        if space.has("n_cpu_moe"):
            params = space.with_value(params, "n_cpu_moe", min(space.values_of("n_cpu_moe")))
        if space.has("n_gpu_layers"):
            params = space.with_value(params, "n_gpu_layers", max(space.values_of("n_gpu_layers")))
        return params

    def _approach(self, asked: Params, source: str) -> None:
        """As much of it as fits, from the safe side.

        That is all at once, as long as memory holds what it says. Where something has failed, it is
        half of the way from what has worked to what has not, and then half of what is left.
        """
        while (tried := self._memory.fitted(asked)) is not None and self._contest.is_new(tried):
            self._contest.visit(Kind.LADDER, source, [tried])
            self._contest.consider(tried)

    @property
    def _is_doubtful(self) -> bool:
        """Some device may be slower than the CPU beside it."""
        return any(gpu.backend in _DOUBTFUL or gpu.integrated for gpu in self._hardware.gpus)

    def _spread_over_devices(self) -> None:
        """How the layers are split, which devices have them, and how these share the work."""
        # Those that are used where nothing else is wanted: a split is of them all.
        gpus = [self._hardware.gpus[n] for n in taken(self._space.fixed, self._hardware.gpus)]
        own = self._contest.incumbent.tensor_split
        own = own or tuple(float(gpu.free_bytes) for gpu in gpus)
        towards = towards_each(self._space.values_of("tensor_split"), own)
        # Of cards that are alike, one stands for the others.
        unlike = {kind_of(gpu): splits for gpu, splits in zip(gpus, towards, strict=False)}
        for splits in unlike.values():
            before = self._contest.incumbent
            spread = (self._spread("tensor_split", split) for split in splits)
            fullest = next((one for one in spread if one is not None), None)
            if fullest is not None:
                self._approach(fullest, "tensor_split")
            if self._contest.incumbent != before:
                break  # What fills another device takes from this one, which has just gained.
        for name in ("devices", "split_mode", "main_gpu"):
            for value in self._space.values_of(name):
                spread_so = self._spread(name, value)
                if spread_so is not None:
                    self._approach(spread_so, f"{name}={value}")

    def _spread(self, name: str, value: Value) -> Params | None:
        """All of the model, spread in another way; None where less of it would be on devices.

        What leaves more to a CPU that is surely slower has lost before it is measured.
        """
        other = self._space.with_value(self._contest.incumbent, name, value)
        asked = self._all_on_gpu(other)
        most, on_host = self._memory.hoped_for(asked), self._memory.layers_on_host
        if most is None:
            return None
        enough = on_host(most) <= on_host(self._contest.incumbent)
        return asked if enough or self._is_doubtful else None

    def _try_fewer_layers(self) -> None:
        """A device that is slower than the CPU is best left alone, or given a part."""
        values = self._space.values_of("n_gpu_layers")
        if not values:
            return
        steps = sorted({values[0], values[len(values) // 2]}, key=int)
        for n_layers in steps:
            fewer = self._space.with_value(self._contest.incumbent, "n_gpu_layers", n_layers)
            self._approach(fewer, "fewer layers")

    def follow_frontier(self) -> None:
        """Try the best prediction, learn from it, and again, while it promises 1 %."""
        for _ in range(4):
            frontier = Frontier(self._known, self._memory, self._space)
            promised = frontier.best_promise(self._options(), self._contest.incumbent)
            if (
                promised is None
                or promised.gain < GAIN_THAT_COUNTS
                or not self._contest.is_new(promised.params)
            ):
                return
            self._contest.visit(Kind.FRONTIER, f"promises {promised.gain:.0%}", [promised.params])
            self._contest.consider(promised.params)

    def _options(self) -> list[Params]:
        """Every combination of what changes memory, each with the placement that fits."""
        space, combined = self._space, [self._all_on_gpu(self._contest.incumbent)]
        for name in ("n_ubatch", "no_kv_offload", "cache_type"):
            values = space.values_of(name)
            if values:
                combined = [space.with_value(p, name, v) for p in combined for v in values]
        fitted = [self._memory.fitted(p) for p in combined]
        return list(dict.fromkeys(p for p in fitted if p is not None))
