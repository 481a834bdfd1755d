"""What the driver relies on in llama-bench, asked of the real one and of the fake alike."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest

from autotune.llama_cpp.capabilities import Capabilities, ask
from autotune.llama_cpp.locate import Program
from autotune.llama_cpp.process import STOP_LADDER

PROGRESS = re.compile(r"^llama-bench: benchmark (\d+)/(\d+): (.*)$")
CONTEXT_FLAGS = ("-t", "-b", "-ub", "-fa", "-ctk", "-ctv", "-d", "-nkvo", "-nopo")


@dataclass(frozen=True)
class Done:
    """What a run printed, and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def tests(self) -> list[tuple[int, int, int, int]]:
        names = ("n_threads", "n_depth", "n_prompt", "n_gen")
        return [tuple(record[name] for name in names) for record in self.records]

    @property
    def progress(self) -> list[str]:
        return [match[3] for line in self.stderr.splitlines() if (match := PROGRESS.match(line))]


def start(bench: Program, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*bench.command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        text=True,
    )


def run(bench: Program, model: Path, *arguments: str | Path) -> Done:
    with start(bench, "-m", model, "-o", "jsonl", *arguments) as process:
        stdout, stderr = process.communicate(timeout=60)
    return Done(process.returncode, stdout, stderr)


def quick(*more: str, r: int = 1) -> list[str]:
    return ["-p", "8", "-n", "0", "-t", "1", "-r", str(r), *more]


def damaged(model: Path, folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.gguf"
    if kind == "truncated":
        path.write_bytes(model.read_bytes()[:1_000_000])
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"no model at all" * 1000)
    return path


class LlamaBenchContract:
    """Subclasses give the fixture `bench`."""

    @pytest.fixture
    def capabilities(self, bench: Program) -> Capabilities:
        return ask(bench)

    @pytest.mark.parametrize("flag", [*CONTEXT_FLAGS, "-m", "-p", "-n", "-pg", "-r", "-o", "-ngl"])
    def test_help_knows_what_the_driver_sends(self, capabilities: Capabilities, flag: str) -> None:
        assert capabilities.has(flag)

    def test_help_says_that_records_stream(self, capabilities: Capabilities) -> None:
        assert capabilities.streams_records

    def test_version_is_printed(self, capabilities: Capabilities) -> None:
        assert capabilities.version.startswith("0.")

    def test_there_is_one_record_for_each_test_in_the_known_order(
        self, bench: Program, tiny: Path
    ) -> None:
        arguments = "-p 8,4 -n 2 -pg 4,1 -d 0,8 -t 1,2 -r 1".split()
        tests = [(8, 0), (4, 0), (0, 2), (4, 1)]
        expected = [(t, d, *test) for t in (1, 2) for d in (0, 8) for test in tests]
        assert run(bench, tiny, *arguments).tests == expected

    @pytest.mark.parametrize(
        ("outer", "inner"),
        [
            (("-nopo", "no_op_offload"), ("-b", "n_batch")),
            (("-b", "n_batch"), ("-ub", "n_ubatch")),
            (("-ub", "n_ubatch"), ("-ctk", "type_k")),
            (("-ctk", "type_k"), ("-ctv", "type_v")),
            (("-ctv", "type_v"), ("-nkvo", "no_kv_offload")),
            (("-nkvo", "no_kv_offload"), ("-fa", "flash_attn")),
            (("-fa", "flash_attn"), ("-t", "n_threads")),
        ],
        ids=lambda pair: pair[0],
    )
    def test_one_list_runs_inside_the_other(
        self, bench: Program, tiny: Path, outer: tuple[str, str], inner: tuple[str, str]
    ) -> None:
        values = {"-b": "64,32", "-ub": "32,16", "-ctk": "f16,bf16", "-ctv": "f16,bf16"}
        lists = {
            flag: values.get(flag, "1,2" if flag == "-t" else "0,1")
            for flag in (outer[0], inner[0])
        }
        arguments = [word for pair in lists.items() for word in pair]
        threads = [] if "-t" in lists else ["-t", "1"]
        done = run(bench, tiny, "-p", "8", "-n", "0", "-r", "1", *threads, *arguments)
        inner_values = [record[inner[1]] for record in done.records]
        assert inner_values == [inner_values[0], inner_values[1]] * 2

    def test_a_value_that_is_listed_twice_is_measured_twice(
        self, bench: Program, tiny: Path
    ) -> None:
        done = run(bench, tiny, *"-p 4 -n 0 -r 1 -t 2,1,1,2".split())
        assert [threads for threads, *_ in done.tests] == [2, 1, 1, 2]

    def test_repetitions_are_the_number_of_samples(self, bench: Program, tiny: Path) -> None:
        (record,) = run(bench, tiny, *quick(r=4)).records
        assert [isinstance(ns, int) and ns > 0 for ns in record["samples_ns"]] == [True] * 4

    def test_a_record_repeats_what_was_asked_for(self, bench: Program, tiny: Path) -> None:
        arguments = "-b 64 -ub 32 -ctk q8_0 -ctv q8_0 -fa 1 -nkvo 1 -nopo 1 -ngl 999".split()
        (record,) = run(bench, tiny, *quick(*arguments)).records
        told = {name: record[name] for name in (
            "n_batch", "n_ubatch", "type_k", "type_v", "flash_attn", "no_kv_offload",
            "no_op_offload", "n_gpu_layers", "n_threads",
        )}  # fmt: skip
        assert told == {
            "n_batch": 64, "n_ubatch": 32, "type_k": "q8_0", "type_v": "q8_0", "flash_attn": 1,
            "no_kv_offload": True, "no_op_offload": 1, "n_gpu_layers": 999, "n_threads": 1,
        }  # fmt: skip

    @pytest.mark.parametrize(("said", "told"), [("0", 0), ("1", 1), ("auto", -1)])
    def test_flash_attention_is_a_number_in_the_record(
        self, bench: Program, tiny: Path, said: str, told: int
    ) -> None:
        (record,) = run(bench, tiny, *quick("-fa", said)).records
        assert record["flash_attn"] == told

    def test_stdout_holds_records_alone(self, bench: Program, tiny: Path) -> None:
        done = run(bench, tiny, *quick("--progress", "-v"))
        assert [sorted(record) for record in done.records] == [sorted(self.fields())]

    def fields(self) -> Sequence[str]:
        return FIELDS

    def test_progress_tells_every_phase_as_it_begins(self, bench: Program, tiny: Path) -> None:
        arguments = "-p 8 -n 2 -pg 4,1 -d 8 -t 1 -r 2 --progress".split()
        both = "depth run {0}/2{1}", "prompt run {0}/2", "generation run {0}/2"
        expected = [
            "starting", "warmup prompt run",
            "depth run 1/2", "prompt run 1/2", "depth run 2/2 (cached)", "prompt run 2/2",
            "starting", "warmup generation run",
            "depth run 1/2 (cached)", "generation run 1/2",
            "depth run 2/2 (cached)", "generation run 2/2",
            "starting", "warmup prompt run", "warmup generation run",
            *[line.format(n, " (cached)") for n in (1, 2) for line in both],
        ]  # fmt: skip
        assert run(bench, tiny, *arguments).progress == expected

    def test_without_warm_up_it_begins_at_once(self, bench: Program, tiny: Path) -> None:
        done = run(bench, tiny, *quick("--progress", "--no-warmup"))
        assert done.progress == ["starting", "prompt run 1/1"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-t", "1,1", "-b", "64,32", "-ub", "32,16", "-fa", "0,1"],
            ["-ctk", "f16,q8_0", "-ctv", "f16,q8_0", "-fa", "1", "-t", "1"],
            ["-nkvo", "0,1", "-nopo", "0,1", "-d", "0,8", "-t", "1"],
        ],
        ids=" ".join,
    )
    def test_no_list_of_context_parameters_loads_the_model_again(
        self, bench: Program, tiny: Path, tmp_path: Path, arguments: list[str]
    ) -> None:
        once = tmp_path / "model.gguf"
        once.symlink_to(tiny)
        process = start(
            bench, "-m", once, "-o", "jsonl", *"-p 8 -n 0 -r 1 --progress".split(), *arguments
        )
        assert process.stderr
        for line in process.stderr:
            if "warmup" in line:  # It is loaded, and cannot be again: there is no such file.
                once.unlink()
                break
        stdout, _ = process.communicate(timeout=60)
        n_tests = prod(len(values.split(",")) for values in arguments[1::2])
        assert (process.returncode, len(stdout.splitlines())) == (0, n_tests)

    def test_another_value_of_a_model_parameter_loads_the_model_again(
        self, bench: Program, tiny: Path, tmp_path: Path
    ) -> None:
        once = tmp_path / "model.gguf"
        once.symlink_to(tiny)
        process = start(
            bench, "-m", once, "-o", "jsonl", *quick("--progress", "-ngl", "0,1", r=200)
        )
        assert process.stderr
        next(line for line in process.stderr if "warmup" in line)
        once.unlink()
        stdout, stderr = process.communicate(timeout=60)
        loaded_again = "failed to load model" in stderr
        assert (process.returncode, len(stdout.splitlines()), loaded_again) == (1, 1, True)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--no-such-flag"], "error: invalid parameter for argument: --no-such-flag"),
            (["-b", "many"], "error: invalid parameter for argument: -b"),
            (["-fa", "maybe"], "error: invalid parameter for argument: -fa"),
            (["-ctv", "q9_9"], "error: invalid parameter for argument: -ctv"),
            (["-nkvo", "on"], "error: invalid parameter for argument: -nkvo"),
            (["-dev", "CUDA7"], "error: invalid device: CUDA7"),
            (["-t"], "error: invalid parameter for argument: -t"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_word_that_it_does_not_know_ends_it_before_any_test(
        self, bench: Program, tiny: Path, arguments: list[str], message: str
    ) -> None:
        done = run(bench, tiny, "-p", "8", "-n", "0", "--progress", *arguments)
        said = message in done.stderr.splitlines()
        assert (done.code, said, done.progress, done.stdout[:6]) == (1, True, [], "usage:")

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("missing", "failed to open GGUF file"),
            ("empty", "failed to read magic"),
            ("garbage", "invalid magic characters"),
            ("truncated", "model is corrupted or incomplete"),
        ],
    )
    def test_a_model_that_it_cannot_read_is_explained_with_v_alone(
        self, bench: Program, tiny: Path, tmp_path: Path, kind: str, reason: str
    ) -> None:
        path = damaged(tiny, tmp_path, kind)
        silent, talkative = run(bench, path, *quick()), run(bench, path, *quick("-v"))
        assert (silent.code, silent.stdout, silent.stderr, reason in talkative.stderr) == (
            1, "", f"llama_bench: error: failed to load model '{path}'\n", True,
        )  # fmt: skip

    def test_a_bad_configuration_ends_the_process_and_keeps_what_was_before(
        self, bench: Program, tiny: Path
    ) -> None:
        done = run(bench, tiny, *quick("-fa", "0", "-ctv", "f16,q8_0,bf16"))
        told = [record["type_v"] for record in done.records]
        message = f"llama_bench: error: failed to create context with model '{tiny}'\n"
        assert (done.code, told, done.stderr) == (1, ["f16"], message)

    def test_quantized_v_without_flash_attention_is_explained_with_v(
        self, bench: Program, tiny: Path
    ) -> None:
        done = run(bench, tiny, *quick("-fa", "0", "-ctv", "q8_0", "-v"))
        assert "quantized V cache requires flash_attn to be enabled" in done.stderr

    def test_no_threads_abort_it(self, bench: Program, tiny: Path) -> None:
        done = run(bench, tiny, "-p", "8", "-n", "0", "-r", "1", "-t", "1,0")
        said = "GGML_ASSERT(cplan->n_threads > 0) failed" in done.stderr
        assert (done.code, len(done.records), said) == (-signal.SIGABRT, 1, True)

    def test_a_batch_of_nothing_aborts_it(self, bench: Program, tiny: Path) -> None:
        done = run(bench, tiny, *quick("-b", "0"))
        assert (done.code, "GGML_ASSERT(" in done.stderr) == (-signal.SIGABRT, True)

    def test_a_context_that_does_not_fit_is_explained_with_v(
        self, bench: Program, tiny: Path
    ) -> None:
        limited = Program(
            name="llama-bench",
            command=("/bin/sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", *bench.command),
            found_by="test",
        )
        arguments = ["-p", "8", "-n", "0", "-r", "1", "-t", "1", "-d", "400000"]
        silent, talkative = run(limited, tiny, *arguments), run(limited, tiny, *arguments, "-v")
        message = f"llama_bench: error: failed to create context with model '{tiny}'\n"
        assert (silent.code, silent.stderr, "failed to allocate" in talkative.stderr) == (
            1, message, True,
        )  # fmt: skip

    def test_nothing_to_test_is_a_success_without_records(self, bench: Program, tiny: Path) -> None:
        done = run(bench, tiny, "-p", "0", "-n", "0")
        assert (done.code, done.stdout) == (0, "")

    @pytest.mark.parametrize("number", [number for number, _ in STOP_LADDER])
    def test_each_signal_of_the_stop_ladder_ends_it_and_leaves_whole_records(
        self, bench: Program, tiny: Path, number: signal.Signals
    ) -> None:
        endless = "-p 4 -n 0 -pg 4,100000 -t 1 -r 1".split()
        process = start(bench, "-m", tiny, "-o", "jsonl", *endless)
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
        whole = [json.loads(line)["n_threads"] for line in (first + rest).splitlines()]
        assert (process.returncode, whole) == (-number, [1])


FIELDS = """
build_commit build_number cpu_info gpu_info backends model_filename model_type model_size
model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers
n_cpu_moe split_mode main_gpu no_kv_offload flash_attn devices tensor_split tensor_buft_overrides
load_mode lazy_mode embeddings no_op_offload no_host repack fit_target fit_min_ctx n_prompt n_gen
n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts
""".split()
