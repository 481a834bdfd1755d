"""How fast made-up machines really are: seconds of a test as a function of the settings.

Each shape is what llama.cpp shows on machines of its kind; a seed moves the optima and the sizes of
the effects, so that nothing can be tuned to one of them. There is no noise in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from random import Random
from typing import Protocol

CORES = 16  # Of every machine here; each has two hardware threads.
LOGICAL = 2 * CORES
_LEAST_OFFLOADED = 32  # Tokens of a ubatch from which the GPU computes for weights on the host.


def dice(*key: object) -> Random:
    """Give random numbers that depend on `key` alone."""
    return Random(repr(key))  # noqa: S311 - speeds, not secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What of a configuration has to do with speed, with the defaults put in."""

    threads: int
    ubatch: int
    flash: bool
    cpu_blocks: int  # Layers that are on the host as a whole.
    cpu_experts: int  # Layers whose experts are on the host; 0 where there are none.
    output_on_cpu: bool
    kv_offload: bool
    op_offload: bool
    repack: bool
    mapped: bool  # The weights are read through the page cache, as is the default.
    kv_share: float  # Bytes of the cache, as a part of what f16 takes.
    device_blocks: tuple[int, ...] = ()  # Layers by GPU, where there are several.
    in_parts: bool = False  # Each GPU has a part of every layer, instead of whole ones.


class Surface(Protocol):
    """The truth about one machine with one model."""

    def prompt_s(self, setup: Setup, n_tokens: int, depth: float) -> float: ...

    def token_s(self, setup: Setup, depth: float) -> float: ...


@dataclass(frozen=True, slots=True)
class TokenThreads:
    """Time by threads where memory is the limit: full at a few, and then they get in the way."""

    best: int
    at_cores: float  # How much longer with all cores.
    smt: float  # And how much longer yet with the first thread too many.

    def __call__(self, threads: int) -> float:
        if threads <= self.best:
            return float(1 / (1 - 0.9 * (1 - threads / self.best) ** 2))
        if threads <= CORES:
            return 1 + self.at_cores * (threads - self.best) / (CORES - self.best)
        return (1 + self.at_cores) * (1 + self.smt * (0.7 + threads / CORES))


@dataclass(frozen=True, slots=True)
class PromptThreads:
    """Time by threads where arithmetic is the limit: each core counts, its second thread not."""

    best: int

    def __call__(self, threads: int) -> float:
        if threads <= self.best:
            return float((self.best / threads) ** 0.92)
        return 1 + 0.006 * (threads - self.best)


class CpuSurface:
    """A dense model on the processor alone."""

    def __init__(self, seed: int) -> None:
        d = dice("cpu", seed)
        self.tokens = TokenThreads(d.randint(6, 10), d.uniform(0.14, 0.42), d.uniform(0.3, 0.6))
        self.prompts = PromptThreads(d.randint(14, 18))
        self._prompt_s = d.uniform(2.8, 4.3) / 512
        self._token_s = d.uniform(1.7, 2.3) / 32
        self.best_ubatch = d.choice([128, 256, 512, 1024])
        self._ubatch = d.uniform(0.05, 0.08)
        self._flash_prompt, self._flash_token = d.uniform(-0.05, 0.05), d.uniform(-0.03, 0.03)
        self._not_mapped = d.uniform(0, 0.03)

    def prompt_s(self, setup: Setup, n_tokens: int, depth: float) -> float:
        away = log2(setup.ubatch / self.best_ubatch)
        seconds = n_tokens * self._prompt_s * self.prompts(setup.threads)
        seconds *= 1 + self._ubatch * min(away**2 / 4, 1.5)
        seconds *= 1 if setup.flash else 1 + self._flash_prompt
        seconds *= 1 if setup.repack else 1.25
        seconds *= 1 + depth / (20_000 if setup.flash else 13_000)
        return seconds if setup.mapped else seconds / (1 + self._not_mapped)

    def token_s(self, setup: Setup, depth: float) -> float:
        seconds = self._token_s * self.tokens(setup.threads)
        seconds *= 1 if setup.flash else 1 + self._flash_token
        seconds *= 1 + setup.kv_share * depth / (40_000 if setup.flash else 26_000)
        return seconds if setup.mapped else seconds / (1 + self._not_mapped)


class FlatSurface:
    """Nothing makes a difference."""

    def prompt_s(self, _setup: Setup, n_tokens: int, _depth: float) -> float:
        return n_tokens * 4 / 512

    def token_s(self, _setup: Setup, _depth: float) -> float:
        return 2.5 / 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Seconds on a machine with one GPU; those of a layer are of its dense part and its experts."""

    n_blocks: int
    tokens: TokenThreads
    prompts: PromptThreads
    dense_gpu_s: float  # For one token.
    dense_cpu_s: float  # With the best number of threads, as all of the host's.
    expert_gpu_s: float
    expert_cpu_s: float
    output_gpu_s: float
    output_cpu_s: float
    cache_cpu_s: float  # Of attention in a layer whose cache is on the host, beside its depth.
    depth_gpu_s: float  # Of attention in a layer, for each token of depth.
    depth_cpu_s: float
    dense_copy_s: float  # To the GPU, once for each ubatch.
    expert_copy_s: float
    compute_s: float  # For a token of a prompt in all layers, on the GPU, in ubatches without end.
    half_ubatch: int  # The ubatch that the GPU computes at half its speed.
    dense_prompt_s: float  # For a token of a prompt in one layer on the host.
    expert_prompt_s: float
    no_flash_prompt: float  # Factors on time.
    no_flash_token: float
    not_mapped: float
    kv_on_host: float

    def prompt_s(self, setup: Setup, n_tokens: int, depth: float) -> float:
        on_gpu = self.compute_s * (1 + self.half_ubatch / setup.ubatch)
        if setup.op_offload and setup.ubatch >= _LEAST_OFFLOADED:
            copies = setup.cpu_blocks * self.dense_copy_s + setup.cpu_experts * self.expert_copy_s
            seconds = ceil(n_tokens / setup.ubatch) * copies + n_tokens * on_gpu
        else:
            threads = self.prompts(setup.threads)
            on_cpu = setup.cpu_blocks * self.dense_prompt_s
            on_cpu += setup.cpu_experts * self.expert_prompt_s
            left = 1 - max(setup.cpu_blocks, setup.cpu_experts) / self.n_blocks
            seconds = n_tokens * (on_gpu * left + on_cpu * threads)
        seconds *= 1 if setup.flash else self.no_flash_prompt
        seconds *= 1 + depth / (30_000 if setup.flash else 15_000)
        seconds *= 1 if setup.kv_offload else self.kv_on_host
        return seconds if setup.mapped else seconds / self.not_mapped

    def token_s(self, setup: Setup, depth: float) -> float:
        threads = self.tokens(setup.threads)
        gpu_blocks = self.n_blocks - setup.cpu_blocks
        on_gpu = gpu_blocks * self.dense_gpu_s
        on_gpu += (self.n_blocks - setup.cpu_experts) * self.expert_gpu_s
        on_cpu = setup.cpu_blocks * self.dense_cpu_s + setup.cpu_experts * self.expert_cpu_s
        kv_gpu_blocks = gpu_blocks if setup.kv_offload else 0
        kv_cpu_blocks = self.n_blocks - kv_gpu_blocks
        cells = depth * setup.kv_share
        on_gpu += kv_gpu_blocks * cells * self.depth_gpu_s
        on_cpu += kv_cpu_blocks * cells * self.depth_cpu_s
        on_cpu += (gpu_blocks - kv_gpu_blocks) * self.cache_cpu_s
        if setup.output_on_cpu:
            on_cpu += self.output_cpu_s
        else:
            on_gpu += self.output_gpu_s
        return (on_gpu + on_cpu * threads) * (1 if setup.flash else self.no_flash_token)


@dataclass(frozen=True, slots=True)
class UnequalCards:
    """As with one GPU, but some of them are slower than that one.

    A token goes through all layers in turn. Of a prompt, GPUs that hold all layers between them
    work on several ubatches at once: as fast as the slowest of them is done. Where each has a part
    of every layer, all wait for the slowest in every layer, and for each other.
    """

    one: Offload
    slower: tuple[float, ...]  # How many times as long each takes for a layer.
    wait_s: float  # Of each layer, where all have a part of it.

    def prompt_s(self, setup: Setup, n_tokens: int, depth: float) -> float:
        factor, n_waits = self._longer(setup, at_once=not setup.cpu_blocks)
        compute_s = self.one.compute_s * (1 + self.one.half_ubatch / setup.ubatch)
        seconds = self.one.prompt_s(setup, n_tokens, depth) + n_tokens * compute_s * (factor - 1)
        return seconds + ceil(n_tokens / setup.ubatch) * n_waits * self.wait_s

    def token_s(self, setup: Setup, depth: float) -> float:
        factor, n_waits = self._longer(setup, at_once=False)
        more = (factor - 1) * self.one.n_blocks * self.one.dense_gpu_s
        return self.one.token_s(setup, depth) + more + n_waits * self.wait_s

    def _longer(self, setup: Setup, *, at_once: bool) -> tuple[float, int]:
        """How many times as long as on the fastest alone, and how many layers are waited for."""
        n_blocks = self.one.n_blocks
        busy = [n * factor for n, factor in zip(setup.device_blocks, self.slower, strict=True)]
        together = at_once or setup.in_parts
        factor = (max(busy) if together else sum(busy)) + setup.cpu_blocks
        return factor / n_blocks, (n_blocks - setup.cpu_blocks) * setup.in_parts


def partial_surface(seed: int) -> Offload:
    """33 GB of dense model beside a card of 24 GB."""
    d = dice("partial", seed)
    return Offload(
        n_blocks=40,
        tokens=TokenThreads(d.randint(6, 10), d.uniform(0.03, 0.12), d.uniform(0.1, 0.3)),
        prompts=PromptThreads(d.randint(14, 18)),
        dense_gpu_s=d.uniform(0.8e-3, 1.2e-3),
        dense_cpu_s=d.uniform(11e-3, 16e-3),
        expert_gpu_s=0,
        expert_cpu_s=0,
        output_gpu_s=0.4e-3,
        output_cpu_s=5e-3,
        cache_cpu_s=0.5e-3,
        depth_gpu_s=4.5e-9,
        depth_cpu_s=6e-8,
        dense_copy_s=d.uniform(33e-3, 65e-3),
        expert_copy_s=0,
        compute_s=d.uniform(0.9e-3, 1.4e-3),
        half_ubatch=d.randint(40, 100),
        dense_prompt_s=d.uniform(1.3e-3, 2e-3),
        expert_prompt_s=0,
        no_flash_prompt=d.uniform(1.08, 1.2),
        no_flash_token=d.uniform(1.01, 1.04),
        not_mapped=d.uniform(1.05, 1.15),
        kv_on_host=d.uniform(1.1, 1.25),
    )


def moe_surface(seed: int) -> Offload:
    """18 GB of small experts beside a card of 16 GB."""
    d = dice("moe", seed)
    return Offload(
        n_blocks=48,
        tokens=TokenThreads(d.randint(6, 10), d.uniform(0.03, 0.12), d.uniform(0.1, 0.3)),
        prompts=PromptThreads(d.randint(14, 18)),
        dense_gpu_s=0.12e-3,
        dense_cpu_s=d.uniform(2e-3, 3e-3),
        expert_gpu_s=0.08e-3,
        expert_cpu_s=d.uniform(0.9e-3, 1.5e-3),
        output_gpu_s=0.5e-3,
        output_cpu_s=6e-3,
        cache_cpu_s=0.4e-3,
        depth_gpu_s=1.2e-9,
        depth_cpu_s=2e-8,
        dense_copy_s=3e-3,
        expert_copy_s=d.uniform(18e-3, 32e-3),
        compute_s=d.uniform(0.25e-3, 0.4e-3),
        half_ubatch=d.randint(150, 350),
        dense_prompt_s=0.1e-3,
        expert_prompt_s=d.uniform(0.2e-3, 0.35e-3),
        no_flash_prompt=d.uniform(1.05, 1.2),
        no_flash_token=d.uniform(1.0, 1.04),
        not_mapped=d.uniform(1.1, 1.25),
        kv_on_host=d.uniform(1.1, 1.25),
    )
