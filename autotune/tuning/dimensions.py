"""What is searched: what this binary can, this machine has, this model is, and nothing idle.

A parameter that cannot move the objective would only add noise that looks like gain: a batch where
only generation counts, layers on a GPU that is not there, experts of a dense model. So each is
searched under its condition, or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.errors import ConfigError
from autotune.hardware import Cpu, Hardware
from autotune.llama_cpp.capabilities import Capabilities
from autotune.llama_cpp.dialect import FLAGS, Target, render
from autotune.llama_cpp.numactl import INTERLEAVED, bound_to
from autotune.model import Model
from autotune.params import DEFAULT_CACHE_TYPE, DEFAULT_N_BATCH, Params
from autotune.tuning.devices import device_dimensions
from autotune.tuning.objective import Objective
from autotune.tuning.space import Dimension, Space, value_in, with_field
from autotune.tuning.workload import Value

# A larger ubatch paid up to 2048 on a GPU that holds all (llama.cpp PR #24546), and up to 4096
# where experts are copied to it; on a CPU those from 64 to 1024 differ by a few percent.
UBATCHES = (64, 128, 256, 512, 1024, 2048, 4096)
# Only llama.cpp's default and one that the largest ubatch fits in: between them nothing moves.
BATCHES = (512, 1024, 2048, 4096)
# What changes nothing but the rounding, beside f16; and the ones that lose quality, when allowed.
LOSSY_TYPES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
# Below this share of the memory, weights that are read and not mapped are no danger.
_UNMAPPED_SHARE = 0.6
# What there is no more of than this machine and this model have.
_BOUNDED = frozenset({"n_threads", "n_threads_batch", "n_gpu_layers", "n_cpu_moe", "main_gpu"})
# Whose values are complete: neither what llama.cpp takes by itself nor a rule adds to them.
_COMPLETE = frozenset(
    {
        *("n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu", "tensor_split"),
        *("load_mode", "numa", "cache_type"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user fixes, narrows and allows."""

    parameters: Mapping[str, tuple[Value, ...]]
    lossy_types: tuple[str, ...] = ()


def make_space(
    *,
    hardware: Hardware,
    model: Model,
    capabilities: Capabilities,
    objective: Objective,
    defaults: Params,
    seed: Params,
    wishes: Wishes,
    bindings: Sequence[str] = (),
) -> Space:
    """The parameters that can move the objective here.

    Args:
        hardware: with the devices that the binary can use, and no others.
        model: what is loaded.
        capabilities: of the program that measures.
        objective: which parts of a request count.
        defaults: what llama.cpp takes by itself, every field set.
        seed: the quick recommendation, whose values are among those tried.
        wishes: of the user.
        bindings: what numactl can bind to here (`numactl.working`).

    Raises:
        ConfigError: a wish names what cannot be searched here.
    """
    every = {
        **_threads(hardware.cpu, objective, defaults),
        **_batches(hardware, objective),
        **_placement(hardware, model),
        **device_dimensions(
            hardware.gpus,
            model,
            capabilities=capabilities,
            defaults=defaults,
            seed=seed,
            wished=wishes.parameters,
        ),
        **_switches(hardware, model, defaults),
        **_numa(hardware, model, bindings),
        "cache_type": (DEFAULT_CACHE_TYPE, *wishes.lossy_types),
        **_serving(objective),
    }
    target: Target = "batched-bench" if objective.n_parallel > 1 else "bench"
    every = {name: _with_own(name, values, defaults, seed) for name, values in every.items()}
    possible = {
        name: tuple(v for v in values if _sayable(name, v, capabilities, target))
        for name, values in every.items()
    }
    chosen = {name: values for name, values in possible.items() if values}
    chosen = {**chosen, **_wished(wishes, possible, capabilities, target)}
    chosen = {**chosen, **_matching_batches(chosen, wishes)}
    dimensions = tuple(Dimension(name=name, values=values) for name, values in chosen.items())
    whole = Space(
        dimensions=dimensions,
        fixed=defaults,
        all_layers=model.n_offloadable,
        n_devices=len(hardware.gpus),
        cores={bound_to(node.number): node.cores for node in hardware.nodes},
    )
    # Every dimension is said, at the default where that may be.
    fixed = whole.with_point(
        defaults,
        {
            d.name: value if (value := whole.point(defaults)[d.name]) in d.values else d.values[0]
            for d in dimensions
        },
    )
    return replace(
        whole,
        dimensions=tuple(d for d in dimensions if len(d.values) > 1),
        fixed=fixed,
        pinned=tuple(d for d in dimensions if len(d.values) == 1 and d.name in wishes.parameters),
    )


def _threads(cpu: Cpu, objective: Objective, defaults: Params) -> dict[str, tuple[Value, ...]]:
    most = max(cpu.max_threads, defaults.n_threads or 1)
    names = {"tg": "n_threads", "pp": "n_threads_batch"}
    return {names[part]: tuple(range(1, most + 1)) for part in reversed(objective.parts)}


def _batches(hardware: Hardware, objective: Objective) -> dict[str, tuple[Value, ...]]:
    """A test cannot show a ubatch beyond its own prompt, and generation uses none."""
    if "pp" not in objective.parts:
        return {}
    longest = objective.test("pp").n_tokens
    ubatches = tuple(n for n in UBATCHES if n <= longest and (n >= 256 or not hardware.gpus))  # noqa: PLR2004
    several = len(hardware.gpus) > 1  # They work on different batches of a prompt at once.
    batches = (
        BATCHES if several else tuple(n for n in BATCHES if n <= max(longest, DEFAULT_N_BATCH))
    )
    return {"n_ubatch": ubatches, "n_batch": batches}


def _serving(objective: Objective) -> dict[str, tuple[Value, ...]]:
    """Slots that all requests fill again and again, without a rest."""
    several = objective.n_parallel
    if several == 1:
        return {}
    even = tuple(n for n in range(1, several + 1) if several % n == 0)
    return {"n_parallel": even, "kv_unified": (True, False)}


def _placement(hardware: Hardware, model: Model) -> dict[str, tuple[Value, ...]]:
    if not hardware.gpus:
        return {}
    dimensions: dict[str, tuple[Value, ...]] = {
        "n_gpu_layers": tuple(range(model.n_offloadable + 1))
    }
    if model.is_moe:
        dimensions["n_cpu_moe"] = tuple(range(len(model.layers) + 1))
    return dimensions


def _switches(hardware: Hardware, model: Model, defaults: Params) -> dict[str, tuple[Value, ...]]:
    dimensions: dict[str, tuple[Value, ...]] = {"flash_attn": ("auto", False, True)}
    weights = model.weight_bytes
    if weights < _UNMAPPED_SHARE * hardware.memory.usable_total_bytes:
        dimensions["load_mode"] = ("auto", "none")
    all_on_gpu = bool(hardware.gpus) and (
        (defaults.n_gpu_layers or 0) >= model.n_offloadable and not defaults.n_cpu_moe
    )
    # Weights on the host are what this is about; where they cannot be repacked, nothing is open.
    if not all_on_gpu and defaults.repack is not False:
        dimensions["repack"] = (True, False)
    if hardware.gpus:
        dimensions["no_kv_offload"] = (False, True)
        if not all_on_gpu:
            dimensions["no_op_offload"] = (False, True)
    return dimensions


def _numa(
    hardware: Hardware, model: Model, bindings: Sequence[str]
) -> dict[str, tuple[Value, ...]]:
    """llama.cpp's own modes, and bound by numactl: a node alone only where it holds the weights."""
    if hardware.cpu.numa_nodes < 2:  # noqa: PLR2004 - one node is no choice
        return {}
    small = {
        bound_to(node.number) for node in hardware.nodes if node.free_bytes < model.weight_bytes
    }
    return {"numa": ("off", "distribute", "isolate", *(b for b in bindings if b not in small))}


def _sayable(name: str, value: Value, capabilities: Capabilities, target: Target) -> bool:
    """The program that measures can be told so."""
    return not render(with_field(Params(), name, value), target, capabilities).unsupported


def _with_own(
    name: str, values: tuple[Value, ...], defaults: Params, seed: Params
) -> tuple[Value, ...]:
    """With what llama.cpp takes by itself, and what the rules say, in their places."""
    if not values or name in _COMPLETE:
        return values
    own = [value_in(params, name) for params in (defaults, seed)]
    new = [value for value in dict.fromkeys(own) if value not in values]
    if not new:
        return values
    merged = (*values, *new)
    return tuple(sorted(merged)) if all(type(v) is int for v in merged) else merged


def _wished(
    wishes: Wishes,
    possible: Mapping[str, Sequence[Value]],
    capabilities: Capabilities,
    target: Target,
) -> dict[str, tuple[Value, ...]]:
    chosen: dict[str, tuple[Value, ...]] = {}
    for name, values in wishes.parameters.items():
        if name not in possible:
            searched = ", ".join(possible)
            raise ConfigError(
                f"--param {name} moves nothing here: it is not in the search space",
                hint=f"on this machine, with this model and objective these are: {searched}",
            )
        for value in values:
            if not _sayable(name, value, capabilities, target):
                flag = FLAGS.get(name, (name,))[target != "bench"]
                raise ConfigError(
                    f"--param {name}={value}: this llama-{target} has no {flag} {value}",
                    hint="see `lcm doctor` for what it can",
                )
            if name == "numa" and _is_binding(value) and value not in possible[name]:
                raise ConfigError(
                    f"--param numa={value}: nothing can be bound so here, or the model does not "
                    "fit there",
                    hint="numactl must be installed and allowed to; see `numactl --hardware`",
                )
            limit = max((v for v in possible[name] if type(v) is int), default=None)
            if name in _BOUNDED and type(value) is int and not 0 <= value <= (limit or value):
                raise ConfigError(
                    f"--param {name}={value} is beyond what is there: at most {limit}",
                    hint="see `lcm doctor` and `lcm inspect`",
                )
        chosen[name] = tuple(dict.fromkeys(values))
    return chosen


def _is_binding(value: Value) -> bool:
    return value == INTERLEAVED or str(value).startswith("node")


def _matching_batches(
    chosen: Mapping[str, tuple[Value, ...]], wishes: Wishes
) -> dict[str, tuple[Value, ...]]:
    """Every ubatch has a batch that it fits in, and every batch a ubatch that fits in it."""
    if "n_batch" not in chosen or "n_ubatch" not in chosen:
        return {}
    batches, ubatches = (tuple(map(int, chosen[name])) for name in ("n_batch", "n_ubatch"))
    if "n_batch" not in wishes.parameters:
        batches = tuple(sorted({*batches, max(ubatches)}))
    if "n_ubatch" not in wishes.parameters:
        ubatches = tuple(n for n in ubatches if n <= max(batches)) or (max(batches),)
        if min(ubatches) > min(batches):
            ubatches = (min(batches), *ubatches)
    elif max(ubatches) > max(batches):
        raise ConfigError(
            f"--param n_ubatch={max(ubatches)} is more than n_batch={max(batches)}",
            hint="a batch is computed in ubatches: give an n_batch that is as large",
        )
    return {"n_batch": tuple(n for n in batches if n >= min(ubatches)), "n_ubatch": ubatches}
