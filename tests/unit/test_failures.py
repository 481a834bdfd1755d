"""Failures are named from what llama-bench really said: the recorded calls, and reported ones."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from autotune.llama_cpp.failures import KILLED_FOR_MEMORY, classify, full_place, is_silent
from autotune.llama_cpp.records import Failure, FailureKind, RunFacts
from autotune.llama_cpp.records import Test as BenchTest
from autotune.params import Params

BUILDS = Path(__file__).parent.parent / "fixtures" / "llama_bench"

# Until 2025-05 it crashed over a word where a number is due, and said nothing.
KINDS = {
    "unknown_flag": FailureKind.BAD_ARGUMENTS,
    "value_not_a_number": FailureKind.BAD_ARGUMENTS,
    "unknown_cache_type": FailureKind.BAD_ARGUMENTS,
    "missing_model": FailureKind.MODEL_UNREADABLE,
    "truncated_model": FailureKind.MODEL_UNREADABLE,
    "threads_0": FailureKind.BAD_ARGUMENTS,
    "threads_0_with_backtrace": FailureKind.BAD_ARGUMENTS,
    "quantized_v_without_flash_attn_verbose": FailureKind.UNSUPPORTED,
    "context_too_large": FailureKind.OOM,
    "mmap_0": FailureKind.BAD_ARGUMENTS,
    "load_mode_none": FailureKind.BAD_ARGUMENTS,
}


def recorded() -> list[Any]:
    found = []
    for file in sorted(BUILDS.glob("*/errors.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            call = json.loads(line)
            # Builds before jsonl are never driven.
            if call["returncode"] and call["case"] in KINDS and "jsonl" in call["argv"]:
                found.append(pytest.param(call, id=f"{file.parent.name}-{call['case']}"))
    return found


@pytest.mark.parametrize("call", recorded())
def test_a_recorded_failure_is_named(call: dict[str, Any]) -> None:
    kind = classify(call["returncode"], call["stderr"].splitlines()).kind
    said_nothing = call["case"] == "value_not_a_number" and not call["stderr"]
    assert kind == (FailureKind.CRASH if said_nothing else KINDS[call["case"]])


def test_failures_of_many_builds_are_recorded() -> None:
    assert len(recorded()) >= 50


CUDA_ABORT = "/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:96: CUDA error"
NO_COMPUTE_BUFFERS = (
    "llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers"
)
NO_CONTEXT = "main: error: failed to create context with model 'm.gguf'"


@pytest.mark.parametrize(
    ("code", "stderr", "kind"),
    [
        (1, ["error: invalid device: CUDA7", "error: invalid parameter for argument: -dev"],
         FailureKind.UNSUPPORTED),
        (1, ["main: error: failed to load model 'm.gguf'"], FailureKind.MODEL_UNREADABLE),
        (1, ["llama_bench: error: failed to load model 'm.gguf'"], FailureKind.MODEL_UNREADABLE),
        (1, ["llama_model_load: error loading model: unable to allocate CUDA0 buffer",
             "llama_bench: error: failed to load model 'm.gguf'"], FailureKind.OOM),
        (1, ["llama_model_load: error loading model: unknown model architecture: 'x'",
             "llama_bench: error: failed to load model 'm.gguf'"], FailureKind.UNSUPPORTED),
        (1, [NO_CONTEXT], FailureKind.OOM),
        (1, ["llama_init_from_model: quantized V cache requires flash_attn to be enabled",
             NO_CONTEXT], FailureKind.UNSUPPORTED),
        (1, [NO_COMPUTE_BUFFERS, NO_CONTEXT], FailureKind.OOM),
        (1, ["ggml_cuda_host_malloc: failed to allocate 512 MiB of pinned memory: out of memory",
             "llama_init_from_model: V cache quantization requires flash_attn", NO_CONTEXT],
         FailureKind.UNSUPPORTED),
        (1, ["test_prompt: failed to decode prompt batch, res = -3"], FailureKind.DECODE_ERROR),
        (1, ["error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
             "test_gen: failed to decode generation batch, res = -3"], FailureKind.OOM),
        (1, ["failed to parse cpu-mask: 0xz"], FailureKind.BAD_ARGUMENTS),
        (1, ["failed to set process priority"], FailureKind.BAD_ARGUMENTS),
        (127, ["llama-bench: error while loading shared libraries: libggml.so.0"],
         FailureKind.CRASH),
        (1, [], FailureKind.CRASH),
        (-6, ["CUDA error: out of memory", CUDA_ABORT], FailureKind.OOM),
        (-6, [CUDA_ABORT], FailureKind.CRASH),
        (-6, ["terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'"],
         FailureKind.OOM),
        (-6, ["terminate called after throwing an instance of 'std::bad_alloc'"], FailureKind.OOM),
        (-signal.SIGKILL, [], FailureKind.CRASH),
        (-signal.SIGINT, [], FailureKind.INTERRUPTED),
        (-signal.SIGTERM, ["out of memory"], FailureKind.INTERRUPTED),
    ],
    ids=range(22),
)  # fmt: skip
def test_a_reported_failure_is_named(code: int, stderr: list[str], kind: FailureKind) -> None:
    assert classify(code, stderr).kind == kind


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-signal.SIGILL, "SIGILL: it executed an instruction that this processor does not have"),
        (-signal.SIGSEGV, "ended by SIGSEGV"),
        (-signal.SIGKILL, "SIGKILL from outside"),
        (-signal.SIGABRT, "SIGABRT: Remote RPC server crashed"),
        (-64, "signal 64" if not hasattr(signal, "SIGRTMAX") else "SIGRTMAX"),
    ],
)
def test_a_signal_is_named(code: int, said: str) -> None:
    line = "/llama.cpp/ggml/src/ggml-rpc/ggml-rpc.cpp:566: Remote RPC server crashed"
    assert said in classify(code, [line]).message


def test_the_kernel_s_kill_for_memory_is_no_crash() -> None:
    assert classify(-signal.SIGKILL, [], killed_for_memory=True).kind == FailureKind.OOM


def test_only_a_model_that_did_not_load_fails_for_every_context() -> None:
    lines = ["llama_bench: error: failed to load model 'm.gguf'", NO_CONTEXT]
    assert [classify(1, [line]).of_model for line in lines] == [True, False]


@pytest.mark.parametrize(
    ("code", "stderr", "silent"),
    [
        (1, [NO_CONTEXT], True),
        (1, ["llama_bench: error: failed to load model 'm.gguf'"], True),
        (1, [], True),
        (-6, [CUDA_ABORT], True),
        (-11, [], True),
        (-6, ["/a/b.c:3395: GGML_ASSERT(cplan->n_threads > 0) failed"], False),
        (1, ["error: invalid parameter for argument: -x"], False),
        (1, ["x: out of memory", NO_CONTEXT], False),
        (-signal.SIGKILL, [], False),
        (-signal.SIGTERM, [], False),
        (-signal.SIGILL, [], False),
    ],
    ids=range(11),
)
def test_it_is_asked_again_where_only_it_could_tell_more(
    code: int,
    stderr: list[str],
    silent: bool,  # noqa: FBT001
) -> None:
    assert is_silent(code, stderr) == silent


def test_devices_that_cannot_split_rows_do_not_support_it() -> None:
    said = [
        "llama_model_load: error loading model: device RPC0 does not support split buffers",
        "llama_bench: error: failed to load model 'm.gguf'",
    ]

    assert classify(1, said).kind is FailureKind.UNSUPPORTED


# --- whose memory was full -----------------------------------------------------------------------

_FACTS = RunFacts(
    argv=(), removed_environment={}, started_at=0, ended_at=0, load_s=None, before={}, after={}
)


def out_of_memory(message: str, *stderr: str) -> Failure:
    return Failure(
        kind=FailureKind.OOM,
        message=message,
        params=Params(),
        test=BenchTest(n_gen=1),
        exit_code=1,
        stderr_tail=stderr,
        run=_FACTS,
    )


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (
            ["error loading model: unable to allocate RPC0[10.0.0.2:50052] buffer"],
            "RPC0[10.0.0.2:50052]",
        ),
        (
            ["ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 318767104"],
            "CUDA1",
        ),
        (
            [
                NO_COMPUTE_BUFFERS,
                "alloc_buffer: allocating 304.00 MiB on device 1: cudaMalloc failed: out of memory",
            ],
            "CUDA1",
        ),
        (["llama_model_load: error loading model: unable to allocate CPU_REPACK buffer"], "CPU"),
        ([KILLED_FOR_MEMORY], "CPU"),
        ([NO_COMPUTE_BUFFERS, "load_tensors: layer  24 assigned to device RPC1"], None),
    ],
    ids=["server", "card", "CUDA's own words", "host", "killed", "untold"],
)
def test_whose_memory_was_full_is_read_from_what_was_said(
    lines: list[str], place: str | None
) -> None:
    assert full_place(out_of_memory(*lines)) == place
