"""One configuration in the words of each recorded build."""

import pytest
from recorded_builds import BUILDS, capabilities_of

from autotune.llama_cpp.capabilities import Capabilities, parse_help
from autotune.llama_cpp.dialect import Target, render
from autotune.params import LoadMode, Params


@pytest.mark.parametrize("build", [build for build in BUILDS if build != "0.2.56-2024-03"])
def test_flash_attention_is_a_number_to_every_llama_bench(build: str) -> None:
    """`-fa on` silently means off before b9437; 0 and 1 mean the same in all of them."""
    capabilities = capabilities_of(build)
    on, off = (render(Params(flash_attn=x), "bench", capabilities) for x in (True, False))
    assert (on.arguments, off.arguments) == (("-fa", "1"), ("-fa", "0"))


def test_a_build_without_flash_attention_reports_it() -> None:
    rendered = render(Params(flash_attn=True), "bench", capabilities_of("0.2.56-2024-03"))
    assert rendered.arguments == ()
    assert rendered.unsupported == ("flash_attn=True: llama-bench has no -fa",)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        ("0.3.0-2024-09", ("-mmp", "0")),
        ("0.3.24-2026-06", ("-mmp", "0")),
        ("b10262-2026-08", ("-lm", "none")),
        ("0.3.36-2026-10", ("-lm", "none")),
    ],
)
def test_reading_without_a_map_is_said_as_the_build_knows_it(
    build: str, arguments: tuple[str, ...]
) -> None:
    rendered = render(Params(load_mode="none"), "bench", capabilities_of(build))
    assert (rendered.arguments, rendered.unsupported) == (arguments, ())


@pytest.mark.parametrize("mode", ["mlock", "mmap+mlock", "dio"])
def test_an_old_llama_bench_cannot_lock_and_says_so(mode: LoadMode) -> None:
    rendered = render(
        Params(load_mode=mode),
        "bench",
        capabilities_of("0.3.9-2025-05"),
    )
    assert rendered.arguments == ()
    assert rendered.unsupported == (f"load_mode={mode}: llama-bench has no -lm {mode}",)


OLD_SERVER = Capabilities(
    options=parse_help(
        "  -m, --model FNAME   path\n  --mlock   lock\n  --no-mmap   do not map\n"
        "  -fa, --flash-attn   enable\n  -t, --threads N   n\n"
    ),
    version="",
)


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("mmap", ()),
        ("none", ("--no-mmap",)),
        ("mmap+mlock", ("--mlock",)),
        ("mlock", ("--no-mmap", "--mlock")),
    ],
)
def test_locking_was_two_switches(mode: LoadMode, arguments: tuple[str, ...]) -> None:
    rendered = render(
        Params(load_mode=mode),
        "server",
        OLD_SERVER,
    )
    assert (rendered.arguments, rendered.unsupported) == (arguments, ())


@pytest.mark.parametrize(
    ("value", "arguments"), [(True, ("--flash-attn",)), (False, ())], ids=["on", "off"]
)
def test_flash_attention_was_a_switch_of_the_server(
    value: bool,  # noqa: FBT001 - the value that is tried
    arguments: tuple[str, ...],
) -> None:
    assert render(Params(flash_attn=value), "server", OLD_SERVER).arguments == arguments


@pytest.mark.parametrize(
    ("target", "split", "override"),
    [("bench", "3/1", "a=CPU;b=CPU"), ("server", "3,1", "a=CPU,b=CPU")],
)
def test_lists_are_separated_as_each_program_reads_them(
    target: Target, split: str, override: str
) -> None:
    params = Params(tensor_split=(3.0, 1.0), tensor_buft_overrides=(("a", "CPU"), ("b", "CPU")))
    assert render(params, target).arguments[1::2] == (split, override)


def test_a_mode_that_a_build_does_not_have_is_reported() -> None:
    rendered = render(Params(split_mode="tensor"), "bench", capabilities_of("0.3.16-2025-08"))

    assert rendered.unsupported == ("split_mode=tensor: llama-bench has no -sm tensor",)


def test_what_an_old_build_cannot_be_told_is_reported_and_the_rest_is_said() -> None:
    params = Params(n_threads=4, n_cpu_moe=3, no_op_offload=True, repack=False)
    rendered = render(params, "bench", capabilities_of("0.3.7-2025-01"))
    assert rendered.arguments == ("-t", "4")
    assert rendered.unsupported == (
        "n_cpu_moe=3: llama-bench has no -ncmoe",
        "no_op_offload=True: llama-bench has no -nopo",
        "repack=False: llama-bench has no --repack",
    )
