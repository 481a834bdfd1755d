"""Any configuration that llama.cpp could be asked for."""

from typing import Any

from hypothesis import strategies as st

from autotune.params import Params

_CACHE_TYPES = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
_NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.\\", min_size=1, max_size=12)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def params() -> st.SearchStrategy[Params]:
    """Draw each field or leave it unset."""
    count = _maybe(st.integers(1, 1 << 20))
    return st.builds(
        Params,
        n_ctx=count,
        n_batch=count,
        n_ubatch=count,
        n_threads=_maybe(st.integers(1, 512)),
        n_threads_batch=_maybe(st.integers(1, 512)),
        n_gpu_layers=_maybe(st.integers(0, 999)),
        n_cpu_moe=_maybe(st.integers(0, 100)),
        tensor_split=_maybe(
            st.lists(st.integers(0, 99).map(float), min_size=1, max_size=4).map(tuple)
        ),
        split_mode=_maybe(st.sampled_from(["none", "layer", "row"])),
        main_gpu=_maybe(st.integers(0, 3)),
        devices=_maybe(st.just(("none",))),
        tensor_buft_overrides=_maybe(
            st.lists(st.tuples(_NAMES, st.just("CPU")), min_size=1, max_size=3).map(tuple)
        ),
        type_k=_maybe(st.sampled_from(_CACHE_TYPES)),
        type_v=_maybe(st.sampled_from(_CACHE_TYPES)),
        flash_attn=_maybe(st.sampled_from([True, False, "auto"])),
        no_kv_offload=_maybe(st.booleans()),
        no_op_offload=_maybe(st.booleans()),
        repack=_maybe(st.booleans()),
        n_parallel=_maybe(st.integers(1, 64)),
        kv_unified=_maybe(st.just(value=True)),
        load_mode=_maybe(st.sampled_from(["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"])),
        numa=_maybe(st.sampled_from(["distribute", "isolate", "numactl"])),
        cache_ram=_maybe(st.integers(0, 1 << 16)),
    )
