"""The memory table: what `footprint` counts beside what the real llama.cpp prints, cell by cell.

`tests/e2e/test_memory.py` asserts every cell; `benchmarks/memory.py` prints the largest errors.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from fakes.oracle import fit_print, rpc_server
from fakes.zoo import ZOO, Spec

from autotune.model import Model, analyze_model
from autotune.model.footprint import Place, footprint
from autotune.params import ALL_LAYERS, Params

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

MEBI = 2**20

# Of the compute buffer, as the issue of this table asks for.
LOWEST, HIGHEST = 0.98, 1.15

# Those whose compute buffer is held to that; of the others only weights and context are exact.
ESTIMATED = (
    "llama3-8b",
    "llama3-70b",
    "qwen3-4b",
    "qwen3-32b",
    "qwen3moe-30b-a3b",
    "gemma2-9b",
    "gemma3-270m",
    "gemma3-27b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "deepseek-v2-lite-legacy",
    "qwen3-next-80b-a3b",
    "phi3-mini",
    "mamba-2.8b",
    "llama4-scout",
)
OTHERS = tuple(name for name in ZOO if name not in ESTIMATED)

# With everything on two devices llama.cpp works on several ubatches at once, and for these the
# estimate is below the bounds: by 0.5 %, 0.1 %, and 35 %.
NOT_ON_TWO_DEVICES = frozenset({"deepseek-v2-lite-legacy", "llama4-scout", "mamba-2.8b"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration; `estimates` says whether its compute buffer is held to the bounds."""

    params: Params
    n_devices: int = 0
    estimates: bool = True


class Cell(NamedTuple):
    """One number of the table: a part of what one place holds, printed and counted."""

    model: str
    place: str
    part: str
    printed_mib: int
    counted_bytes: int
    case: Case

    @property
    def fits(self) -> bool:
        """Tell whether the two agree: the printed number is a size rounded down to whole MiB."""
        if self.part != "compute":
            return self.counted_bytes // MEBI == self.printed_mib
        lowest, highest = LOWEST * self.printed_mib, HIGHEST * (self.printed_mib + 1)
        return not self.case.estimates or lowest <= self.counted_bytes / MEBI <= highest

    @property
    def error(self) -> float:
        """Give how far the count lies outside of what was printed, as a part of that."""
        counted = self.counted_bytes / MEBI
        if counted < self.printed_mib:
            return counted / self.printed_mib - 1
        return max(counted / (self.printed_mib + 1) - 1, 0.0)


# --- which configurations ------------------------------------------------------------------------


def cases(name: str) -> Iterator[Case]:
    """Give the configurations for a model of the zoo."""
    spec = ZOO[name]()
    if name in ESTIMATED:
        yield from _estimated(spec)
    yield from _counted(spec)
    estimates = name in ESTIMATED and name not in NOT_ON_TWO_DEVICES
    for params in _on_two_devices(spec):
        yield Case(params=params, n_devices=2, estimates=estimates)


def _estimated(spec: Spec) -> Iterator[Case]:
    longest = min(131072, spec.n_ctx_train)
    for n_ctx, cache_type, n_ubatch in product(
        sorted({4096, 32768, longest}), ("f16", "q8_0", "q4_0"), (128, 512, 1024, 2048)
    ):
        yield Case(params=_params(n_ctx=n_ctx, n_ubatch=n_ubatch, cache_type=cache_type))
    layers = sorted({0, 1, spec.n_layer // 2, spec.n_layer - 1, spec.n_layer, ALL_LAYERS})
    experts = (None, 3, spec.n_layer // 2) if spec.n_expert else (None,)
    for n_gpu_layers, n_cpu_moe, (n_ctx, n_ubatch) in product(
        layers, experts, ((4096, 512), (32768, 512), (32768, 2048))
    ):
        params = _params(
            n_ctx=n_ctx, n_ubatch=n_ubatch, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe
        )
        yield Case(params=params, n_devices=1)


def _counted(spec: Spec) -> Iterator[Case]:
    """Give configurations of which only weights and context are known exactly."""
    half = spec.n_layer // 2
    experts = half if spec.n_expert else None
    one_place = (
        _params(n_ctx=5000, n_ubatch=128),
        _params(n_ctx=32768, n_parallel=4),
        _params(n_ctx=16384, flash_attn=False),
        _params(n_ctx=16384, type_k="q8_0", flash_attn=False)
        if not _is_latent(spec)
        else _params(n_ctx=16384, cache_type="bf16"),
        _params(n_ctx=8192, cache_type="q8_0"),
    )
    one_device = (
        _params(n_ctx=8192, n_gpu_layers=1),
        _params(n_ctx=32768, n_gpu_layers=half, n_cpu_moe=experts, no_kv_offload=True),
        _params(n_ctx=8192, n_gpu_layers=ALL_LAYERS, n_cpu_moe=experts, n_parallel=2),
    )
    for n_devices, group in enumerate((one_place, one_device)):
        for params in group:
            yield Case(params=params, n_devices=n_devices, estimates=False)


def _on_two_devices(spec: Spec) -> Iterator[Params]:
    for n_gpu_layers, split in product(
        (1, spec.n_layer // 2, ALL_LAYERS), ((1.0, 1.0), (3.0, 1.0))
    ):
        yield _params(n_ctx=32768, n_gpu_layers=n_gpu_layers, tensor_split=split)


def _is_latent(spec: Spec) -> bool:
    return f"{spec.arch}.attention.key_length_mla" in spec.metadata


def _params(
    *,
    n_ctx: int,
    n_ubatch: int = 512,
    cache_type: str = "f16",
    type_k: str | None = None,
    flash_attn: bool = True,
    n_parallel: int = 1,
    n_gpu_layers: int | None = None,
    n_cpu_moe: int | None = None,
    tensor_split: tuple[float, ...] | None = None,
    no_kv_offload: bool | None = None,
) -> Params:
    return Params(
        n_ctx=n_ctx,
        n_ubatch=n_ubatch,
        type_k=type_k or cache_type,
        type_v=cache_type,
        flash_attn=flash_attn,
        n_parallel=n_parallel,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
        tensor_split=tensor_split,
        no_kv_offload=no_kv_offload,
    )


def arguments(params: Params) -> list[str]:
    """Say the same to llama.cpp."""
    split = params.tensor_split and ",".join(map(str, params.tensor_split))
    values = {
        "-c": params.n_ctx,
        "-ub": params.n_ubatch,
        "-ctk": params.type_k,
        "-ctv": params.type_v,
        "-fa": "off" if params.flash_attn is False else "on",
        "-np": params.n_parallel or 1,
        "-ngl": params.n_gpu_layers,
        "-ncmoe": params.n_cpu_moe,
        "-ts": split,
    }
    flags = ["-nkvo"] if params.no_kv_offload else []
    return flags + [word for flag, value in values.items() if value for word in (flag, str(value))]


# --- the two sides -------------------------------------------------------------------------------


class Oracle:
    """The real llama.cpp, with two devices: RPC servers on loopback."""

    def __init__(self, folder: Path, endpoints: Sequence[str]) -> None:
        self._program = folder / "llama-fit-params"
        self._endpoints = endpoints

    def cells(self, name: str, file: Path, configurations: Iterable[Case]) -> list[Cell]:
        """Compare all configurations of one model, two at a time."""
        model = analyze_model(file)
        with ThreadPoolExecutor(2) as pool:
            compared = pool.map(lambda case: self._compare(name, model, case), configurations)
            return [cell for cells in compared for cell in cells]

    def _compare(self, name: str, model: Model, case: Case) -> list[Cell]:
        devices = ["--rpc", ",".join(self._endpoints[: case.n_devices])] if case.n_devices else []
        layers = [] if case.params.n_gpu_layers else ["-ngl", "0"]
        words = [*arguments(case.params), *layers, *devices]
        printed = fit_print(self._program, model.path, *words)
        counted = _places(model, case)
        if not printed.keys() <= counted.keys():
            raise ValueError(f"llama.cpp has other places than {sorted(counted)}: {printed}")
        return [
            Cell(name, place, part, mib, n_bytes, case)
            for place, numbers in printed.items()
            for part, mib, n_bytes in zip(
                ("weights", "context", "compute"), numbers, counted[place], strict=True
            )
        ]


def _places(model: Model, case: Case) -> Mapping[str, tuple[int, int, int]]:
    # llama-fit-params measures the largest graph, that of a whole ubatch of outputs, as bench does.
    needed = footprint(model, case.params, program="bench", gpus=(1.0,) * case.n_devices)

    def parts(place: Place) -> tuple[int, int, int]:
        context = place.kv_cache_bytes + place.recurrent_bytes
        return place.weights_bytes, context, place.compute_bytes

    devices = {f"RPC{n}": parts(gpu) for n, gpu in enumerate(needed.gpus)}
    return {"Host": parts(needed.host), **devices}


@contextmanager
def oracle(folder: Path) -> Iterator[Oracle]:
    """Run the servers that are devices for as long as the oracle is asked."""
    program = folder / "ggml-rpc-server"
    with rpc_server(program) as first, rpc_server(program) as second:
        yield Oracle(folder, (first, second))


# --- what comes out ------------------------------------------------------------------------------

HEADER = (
    f"{'model':<26}{'calls':>6}{'weights':>9}{'context':>9}{'compute':>18}\n"
    f"{'':<26}{'':>6}{'MiB off':>9}{'MiB off':>9}{'lowest':>9}{'highest':>9}"
)


def summary(name: str, cells: Sequence[Cell]) -> str:
    """Give a model's line of the table: the largest errors of each part."""
    off = {
        part: max(
            abs(cell.counted_bytes // MEBI - cell.printed_mib)
            for cell in cells
            if cell.part == part
        )
        for part in ("weights", "context")
    }
    compute = [cell.error for cell in cells if cell.part == "compute" and cell.case.estimates]
    lowest, highest = (f"{min(compute):+.1%}", f"{max(compute):+.1%}") if compute else ("-", "-")
    calls = len({cell.case for cell in cells})
    return f"{name:<26}{calls:>6}{off['weights']:>9}{off['context']:>9}{lowest:>9}{highest:>9}"


def misfits(cells: Iterable[Cell]) -> list[str]:
    """Say which cells do not fit, in a form that can be asked of llama.cpp again."""
    return [
        f"{cell.place} {cell.part}: {cell.counted_bytes / MEBI:.1f} MiB counted, "
        f"{cell.printed_mib} printed; {cell.case.n_devices} devices, "
        f"{' '.join(arguments(cell.case.params))}"
        for cell in cells
        if not cell.fits
    ]
