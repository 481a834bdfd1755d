"""Whatever the system and llama.cpp say of devices, each is counted once and none is lost."""

from dataclasses import replace

from fakes.hosts import GIB, card, host
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import json_text
from autotune.hardware import Gpu
from autotune.hardware.listed import with_listed
from autotune.hardware.rocm_smi import parse_amd_smi, parse_rocm_smi
from autotune.llama_cpp.devices import Device

law = settings(deadline=None, derandomize=True)

_BACKENDS = ["CUDA", "ROCm", "Vulkan", "SYCL", "MTL", "RPC", "BLAS", "GPUOpenCL"]
_NAMES = st.sampled_from(
    [
        "NVIDIA GeForce RTX 4090",
        "NVIDIA GeForce RTX 3060",
        "AMD Radeon RX 7900 XTX",
        "AMD Radeon RX 7900 XTX (RADV NAVI31)",
        "AMD GPU 164E",
        "Intel(R) Arc(TM) A770 Graphics",
        "Intel GPU 56A0",
        "Apple M4",
        "llvmpipe (LLVM 15.0.6, 256 bits)",
        "127.0.0.1:50052",
        "",
    ]
)


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    total = draw(st.sampled_from([0, 8, 12, 24]))
    backend = draw(st.sampled_from(["CUDA", "ROCm", "Vulkan", "Metal"]))
    gpu = card(draw(st.integers(0, total)), total, integrated=draw(st.booleans()), backend=backend)
    return replace(gpu, name=draw(_NAMES), index=draw(st.integers(0, 3)), sources=("sysfs",))


@st.composite
def lists(draw: st.DrawFn) -> list[Device]:
    """Give devices whose names differ, as llama.cpp's do."""
    names = st.tuples(st.sampled_from(_BACKENDS), st.integers(0, 3))
    return [
        Device(
            name=f"{backend}{index}",
            description=draw(_NAMES),
            total_mib=(total := draw(st.sampled_from([0, 8, 12, 24])) * 1024),
            free_mib=draw(st.integers(0, 2 * total)),
            shares_memory=draw(st.none() | st.booleans()),
        )
        for backend, index in draw(st.lists(names, unique=True, max_size=6))
    ]


@law
@given(system=st.lists(gpus(), max_size=4), idle=st.lists(gpus(), max_size=2), listed=lists())
def test_every_gpu_is_used_once_or_idle(
    system: list[Gpu], idle: list[Gpu], listed: list[Device]
) -> None:
    machine = replace(host(system), idle_gpus=tuple(idle))

    there = with_listed(machine, listed, asked="llama-server")

    names = [gpu.device for gpu in there.gpus]
    assert names == [one.name for one in listed if one.name in names]
    assert len(set(names)) == len(names)
    known = [gpu for gpu in there.gpus if gpu.sources != ("llama.cpp",)]
    assert len(known) + len(there.idle_gpus) == len(system) + len(idle)


@law
@given(system=st.lists(gpus(), max_size=4), listed=lists())
def test_nothing_has_more_free_than_there_is(system: list[Gpu], listed: list[Device]) -> None:
    there = with_listed(host(system, available_gib=20), listed, asked="llama-server")

    assert all(0 <= gpu.free_bytes <= gpu.total_bytes for gpu in there.gpus)
    assert all(gpu.free_bytes <= 20 * GIB for gpu in there.gpus if gpu.integrated)


@law
@given(listed=lists())
def test_the_first_device_of_llama_cpp_is_always_there(listed: list[Device]) -> None:
    with_memory = [one.name for one in listed if one.total_mib]
    there = with_listed(host(), listed, asked="llama-server")

    assert [gpu.device for gpu in there.gpus][:1] == with_memory[:1]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("gpu_data", "gpu", "mem_usage", "total_vram", "used_vram", "value", "asic"),
                    *("card0", "system", "VRAM Total Memory (B)", "Card Series", "market_name"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@law
@given(answer=_JSON, other=_JSON)
def test_no_answer_of_amds_tools_is_a_card_without_memory(answer: object, other: object) -> None:
    text, metric = json_text.dumps(answer), json_text.dumps(other)

    cards = [*parse_rocm_smi(text), *parse_amd_smi(text, metric)]

    assert all(card.vram_total > 0 and card.vram_used >= 0 and card.name for card in cards)
