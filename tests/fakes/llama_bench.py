#!/usr/bin/env -S python3 -S -E
"""A llama-bench that measures nothing: today's options, output and failures, in milliseconds.

`tests/contract` holds it to what the real one does. Its model is any GGUF file; its tests take as
long as LCM_FAKE_MS says (two numbers: for a load, for a repetition).

LCM_FAKE makes it misbehave: `KIND[=VALUE][@THREADS]`, several separated by commas; with `@THREADS`
only in tests of that many threads. The kinds are the methods of `Misbehaviour`. LCM_FAKE_LOG names
a file that gets a line for each start and each load, which the real one shows to nobody.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parent.parent / "fixtures" / "llama_bench" / "0.3.36-2026-10"
KV_BYTES_PER_TOKEN = 6 * 1024  # Of the tiny model of the tests.

INTEGERS = {"-p", "-n", "-d", "-b", "-ub", "-t", "-ngl", "-ncmoe", "-mg", "--poll"}
SWITCHES = {"-nkvo", "-embd", "-nopo", "--no-host", "--repack", "--cpu-strict"}
CACHE_TYPES = "f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl".split()
CHOICES = {
    "-ctk": CACHE_TYPES,
    "-ctv": CACHE_TYPES,
    "-sm": ["none", "layer", "row", "tensor"],
    "-lm": ["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"],
    "-lzm": ["on", "auto", "off"],
}
FLASH = {"on": 1, "enabled": 1, "true": 1, "1": 1, "off": 0, "disabled": 0, "false": 0, "0": 0}
FLASH |= {"auto": -1, "-1": -1}
# Each list of values, outermost loop first, with its default and its field in the record.
MODEL_AXES: dict[str, tuple[Any, str]] = {
    "-ngl": (-1, "n_gpu_layers"),
    "-ncmoe": (0, "n_cpu_moe"),
    "-sm": ("layer", "split_mode"),
    "-lm": ("auto", "load_mode"),
    "-lzm": ("auto", "lazy_mode"),
    "-mg": (0, "main_gpu"),
    "-dev": ("auto", "devices"),
    "-ts": ("0", "tensor_split"),
    "-ot": ("none", "tensor_buft_overrides"),
    "--no-host": (False, "no_host"),
    "--repack": (True, "repack"),
}
CONTEXT_AXES: dict[str, tuple[Any, str]] = {
    "-embd": (False, "embeddings"),
    "-nopo": (False, "no_op_offload"),
    "-b": (2048, "n_batch"),
    "-ub": (512, "n_ubatch"),
    "-ctk": ("f16", "type_k"),
    "-ctv": ("f16", "type_v"),
    "-nkvo": (False, "no_kv_offload"),
    "-fa": (-1, "flash_attn"),
    "-t": (2, "n_threads"),
    "-C": ("0x0", "cpu_mask"),
    "--cpu-strict": (False, "cpu_strict"),
    "-d": (0, "n_depth"),
    "--poll": (50, "poll"),
}
ALIASES = {
    "--repetitions": "-r", "--output": "-o", "--output-err": "-oe", "--verbose": "-v",
    "--model": "-m", "--n-prompt": "-p", "--n-gen": "-n", "--n-depth": "-d",
    "--batch-size": "-b", "--ubatch-size": "-ub", "--cache-type-k": "-ctk",
    "--cache-type-v": "-ctv", "--threads": "-t", "--cpu-mask": "-C", "--n-gpu-layers": "-ngl",
    "--n-cpu-moe": "-ncmoe", "--split-mode": "-sm", "--main-gpu": "-mg",
    "--no-kv-offload": "-nkvo", "--flash-attn": "-fa", "--device": "-dev", "--load-mode": "-lm",
    "--lazy-mode": "-lzm", "--embeddings": "-embd", "--tensor-split": "-ts",
    "--override-tensor": "-ot", "--no-op-offload": "-nopo", "--rpc": "-rpc",
}  # fmt: skip


class Options(NamedTuple):
    """The command line."""

    model: str
    lists: dict[str, list[Any]]
    pairs: list[tuple[int, int]]
    repetitions: int
    output: str
    verbose: bool
    progress: bool
    warmup: bool


class Test(NamedTuple):
    """One of the tests to run, as its record will name it."""

    settings: dict[str, Any]
    n_prompt: int
    n_gen: int

    @property
    def n_depth(self) -> int:
        return int(self.settings["n_depth"])

    @property
    def model_settings(self) -> list[Any]:
        return [self.settings[name] for _, name in MODEL_AXES.values()]


def say(text: str) -> None:
    """Print to stderr, which is not buffered."""
    os.write(2, f"{text}\n".encode())


def usage() -> str:
    text = (RECORDED / "help.txt").read_text(encoding="utf-8")
    if "no-progress" in FAULTS:
        text = "".join(line for line in text.splitlines(True) if "--progress" not in line)  # noqa: FBT003
    return text


def refuse(flag: str) -> NoReturn:
    say(f"error: invalid parameter for argument: {flag}")
    sys.stdout.write(usage())
    sys.exit(1)


def integers(flag: str, text: str) -> list[int]:
    """Read a list; a part may be a range FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR."""
    values: list[int] = []
    for part in text.split(","):
        try:
            if "-" not in part[1:]:
                values.append(int(part))
                continue
            first, _, rest = part.partition("-")
            sign = next((sign for sign in "+*" if sign in rest), "+")
            last, _, step = rest.partition(sign)
            value = int(first)
            while value <= int(last):
                values.append(value)
                value = value + int(step or 1) if sign == "+" else value * int(step)
        except ValueError:
            say("error: invalid range format")
            refuse(flag)
    return values


def listed(flag: str, text: str) -> list[Any]:
    if flag in INTEGERS:
        return list(integers(flag, text))
    values = text.split(",")
    if flag in SWITCHES:
        if not set(values) <= {"0", "1"}:
            refuse(flag)
        return [value == "1" for value in values]
    if flag == "-fa":
        return [FLASH[value] if value in FLASH else refuse(flag) for value in values]
    if not set(values) <= set(CHOICES.get(flag, values)):
        refuse(flag)
    if flag == "-dev":
        for value in values:
            if value not in {"auto", "none"}:
                say(f"error: invalid device: {value}")
                refuse(flag)
    return values


def parse(argv: list[str]) -> Options:
    values: dict[str, Any] = {"-m": "models/7B/ggml-model-q4_0.gguf", "-r": 5, "-o": "md"}
    lists: dict[str, list[Any]] = {}
    pairs: list[tuple[int, int]] = []
    words = iter(argv)
    for word in words:
        flag = ALIASES.get(word.replace("_", "-"), word.replace("_", "-"))
        if flag in {"-v", "--no-warmup"} or (flag == "--progress" and "no-progress" not in FAULTS):
            values[flag] = True
            continue
        known = {"-m", "-r", "-o", "-pg", "-rpc", "-p", "-n", *MODEL_AXES, *CONTEXT_AXES}
        text = next(words, None) if flag in known else None
        if text is None:
            refuse(word)
        if flag == "-pg":
            n_prompt, n_gen = integers(word, text)
            pairs.append((n_prompt, n_gen))
        elif flag == "-r":
            (values[flag],) = integers(word, text)
        elif flag == "-mg":
            lists[flag] = listed(flag, text)  # Alone of all it forgets what was there before.
        elif flag in {"-m", "-o", "-rpc"}:
            values[flag] = text
        else:
            lists[flag] = lists.get(flag, []) + listed(flag, text)
    return Options(
        model=values["-m"],
        lists=lists,
        pairs=pairs,
        repetitions=values["-r"],
        output=values["-o"],
        verbose="-v" in values,
        progress="--progress" in values,
        warmup="--no-warmup" not in values,
    )


def expand(options: Options) -> list[Test]:
    axes = MODEL_AXES | CONTEXT_AXES
    values = [options.lists.get(flag, [default]) for flag, (default, _) in axes.items()]
    prompts = [(n, 0) for n in options.lists.get("-p", [512]) if n]
    generations = [(0, n) for n in options.lists.get("-n", [128]) if n]
    return [
        Test(dict(zip([name for _, name in axes.values()], point, strict=True)), n_prompt, n_gen)
        for point in itertools.product(*values)
        for n_prompt, n_gen in [*prompts, *generations, *options.pairs]
    ]


def why_not_loaded(path: str) -> str | None:
    """What the real one says with `-v` of a file that it cannot load."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return f"gguf_init_from_file: failed to open GGUF file '{path}' (No such file or directory)"
    except OSError:
        return "gguf_init_from_reader: failed to read magic"
    if data[:4] != b"GGUF":
        shown = "".join(chr(c) if 32 <= c < 127 else "?" for c in data[:4])
        problem = f"invalid magic characters: '{shown}', expected 'GGUF'"
        return f"gguf_init_from_reader: {problem if data else 'failed to read magic'}"
    if last_tensor_offset(data) >= len(data):
        return (
            "llama_model_load: error loading model: tensor 'token_embd.weight' data is not within "
            "the file bounds, model is corrupted or incomplete"
        )
    return None


def last_tensor_offset(data: bytes) -> int:
    """Where the last tensor begins, or more than the file's length where even that is cut off."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at = 24

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return int(value)

    def skip(kind: int) -> None:
        nonlocal at
        if kind == 8:
            length = number("<Q")
            at += length
        elif kind == 9:
            of, count = number("<I"), number("<Q")
            if of in sizes:
                at += sizes[of] * count
            else:
                for _ in range(count):
                    skip(of)
        else:
            at += sizes[kind]

    try:
        n_tensors, n_pairs = struct.unpack_from("<QQ", data, 8)
        for _ in range(n_pairs):
            skip(8)
            skip(number("<I"))
        last = 0
        for _ in range(n_tensors):
            skip(8)
            rank = number("<I")
            at += 8 * rank + 4
            last = max(last, number("<Q"))
    except (struct.error, KeyError):
        return len(data)
    return at + last


# What never ends: asleep, at work, or with words.
ENDLESS: dict[str, Callable[[], object]] = {
    "hang": lambda: time.sleep(3600),
    "deaf": lambda: time.sleep(3600),
    "spin": lambda: None,
    "flood": lambda: os.write(1, b"x" * 65536),
    "chatter": lambda: os.write(2, b"a line that says nothing\n" * 2048),
}


class Misbehaviour:
    """What can be asked for in LCM_FAKE, by where it happens. Each may end the process."""

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, tuple[str, str]] = {}
        for word in filter(None, text.split(",")):
            kind, _, threads = word.partition("@")
            kind, _, value = kind.partition("=")
            self.kinds[kind] = value, threads

    def __contains__(self, kind: str) -> bool:
        return kind in self.kinds

    def asked(self, kind: str, test: Test) -> str | None:
        """Give its value where it is asked for in this test."""
        value, threads = self.kinds.get(kind, ("", "none"))
        here = threads in {"", str(test.settings["n_threads"])}
        return value if here else None

    def before_anything(self) -> None:
        if "silence" in self:
            time.sleep(3600)
        if "deaf" in self:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        if "dies-first" in self:
            sys.exit(127)
        if "loud" in self:
            for n in range(10_000):
                say(f"a line of stderr, number {n}".ljust(1023, "."))

    def in_context(self, test: Test, options: Options) -> None:
        """Fail where the real one makes the context."""
        long = test.n_prompt > 16 and self.asked("long-oom", test) is not None
        if long or self.asked("oom", test) is not None:
            if options.verbose:
                say("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB on device 0: "
                    "cudaMalloc failed: out of memory")  # fmt: skip
            no_context(options)
        if self.asked("cuda", test) is not None:
            if options.verbose:
                say("CUDA error: out of memory")
            say("/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:96: CUDA error")
            end_by(signal.SIGABRT)

    def while_running(self, test: Test) -> None:
        """Fail in the first repetition."""
        if (number := self.asked("crash", test)) is not None:
            end_by(int(number))
        if self.asked("decode", test) is not None:
            say("test_prompt: failed to decode prompt batch, res = -3")
            sys.exit(1)
        if self.asked("stop", test) is not None:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.asked("unplugged", test) is not None:
            os.close(1)
            os.close(2)
            time.sleep(3600)
        for kind, step in ENDLESS.items():
            while self.asked(kind, test) is not None:
                step()

    def falsify(self, record: dict[str, Any], test: Test) -> None:
        """Tell something else than what was measured."""
        for kind, ns in (("absurd", 800), ("claims", 10**12)):
            if self.asked(kind, test) is not None:
                record["samples_ns"] = [ns for _ in record["samples_ns"]]
        if self.asked("few", test) is not None:
            record["samples_ns"].pop()
        for kind, name in (("wrong-threads", "n_threads"), ("wrong-test", "n_prompt")):
            if self.asked(kind, test) is not None:
                record[name] += 1

    def printed(self, record: dict[str, Any], test: Test) -> list[str]:
        """Give the lines to print for a record."""
        self.falsify(record, test)
        line = json.dumps(record)
        if self.asked("garbage", test) is not None:
            return ["\x00\xff not a record", "}{"]
        if self.asked("bad-json", test) is not None:
            return [line.replace(":", ";")]
        if self.asked("missing", test) is not None:
            return []
        if (code := self.asked("half", test)) is not None:
            os.write(1, line[: len(line) // 2].encode())
            if int(code or 0) < 0:
                end_by(-int(code))
            sys.exit(int(code or 0))
        return [line]

    def at_the_end(self) -> None:
        if "orphan" in self:  # It holds both pipes open, and stays in the group.
            subprocess.Popen(["/bin/sleep", "3600"])
        if "daemon" in self:  # It leaves the group.
            subprocess.Popen(["/bin/sleep", "3"], start_new_session=True)
        if "extra" in self:
            sys.stdout.write('{"n_prompt": 16, "n_gen": 0, "samples_ns": [1]}\n')
            sys.stdout.flush()
        if "lingers" in self:
            time.sleep(3600)
        if "exit" in self:
            sys.exit(int(self.kinds["exit"][0]))


def end_by(number: int) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(60)
    sys.exit(99)


def no_context(options: Options) -> NoReturn:
    say(f"llama_bench: error: failed to create context with model '{options.model}'")
    sys.exit(1)


def log(what: str) -> None:
    if path := os.environ.get("LCM_FAKE_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{what} {os.getpid()}\n")


def load(options: Options) -> None:
    problem = why_not_loaded(options.model)
    if problem:
        if options.verbose:
            say(problem)
            say("llama_model_load_from_file_impl: failed to load model")
        say(f"llama_bench: error: failed to load model '{options.model}'")
        sys.exit(1)
    log("load")
    time.sleep(LOAD_S)


def make_context(test: Test, options: Options) -> None:
    settings = test.settings
    if settings["n_batch"] < 1:
        abort("src/llama-context.cpp:2273", "n_outputs_max <= cparams.n_outputs_max")
    if settings["type_v"] not in {"f16", "bf16"} and settings["flash_attn"] == 0:
        if options.verbose:
            say("llama_init_from_model: quantized V cache requires flash_attn to be enabled")
        no_context(options)
    needed = (test.n_prompt + test.n_gen + test.n_depth) * KV_BYTES_PER_TOKEN
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and needed > limit:
        if options.verbose:
            say(f"alloc_tensor_range: failed to allocate CPU buffer of size {needed}")
        no_context(options)
    FAULTS.in_context(test, options)


def abort(place: str, condition: str) -> NoReturn:
    say(f"/llama.cpp/{place}: GGML_ASSERT({condition}) failed")
    end_by(signal.SIGABRT)


def run_test(test: Test, options: Options, where: str, filled: set[tuple[Any, ...]]) -> list[int]:
    """Run the repetitions and give how long each took."""

    def progress(what: str) -> None:
        if options.progress:
            say(f"llama-bench: benchmark {where}: {what}")

    parts = [part for part in (("prompt", test.n_prompt), ("generation", test.n_gen)) if part[1]]
    if options.warmup:
        for name, count in parts:
            progress(f"warmup {name} run")
            compute(test, count if name == "prompt" else 1)
    samples = []
    for n in range(options.repetitions):
        repetition = f"run {n + 1}/{options.repetitions}"
        if test.n_depth:
            key = (test.n_depth, test.settings["type_k"], test.settings["type_v"])
            progress(f"depth {repetition}{' (cached)' if key in filled else ''}")
            compute(test, 0 if key in filled else test.n_depth)
            filled.add(key)
        start = time.perf_counter_ns()
        for name, count in parts:
            progress(f"{name} {repetition}")
            compute(test, count)
        if n == 0:
            FAULTS.while_running(test)
        samples.append(max(time.perf_counter_ns() - start, 10_000 * (test.n_prompt + test.n_gen)))
    return samples


def compute(test: Test, n_tokens: int) -> None:
    if test.settings["n_threads"] < 1:
        abort("ggml/src/ggml-cpu/ggml-cpu.c:3395", "cplan->n_threads > 0")
    if n_tokens:
        slower = float(FAULTS.asked("slow", test) or 1)
        time.sleep(slower * STEP_S * (1 + n_tokens // 100))


def record_of(test: Test, options: Options, samples: list[int]) -> dict[str, Any]:
    """Fill in a record of the real one, whose fields it thereby has, in their order."""
    recorded = (RECORDED / "records.jsonl").read_text(encoding="utf-8").splitlines()[0]
    record: dict[str, Any] = json.loads(recorded) | test.settings
    record["no_op_offload"] = int(record["no_op_offload"])
    rates = [1e9 * (test.n_prompt + test.n_gen) / ns for ns in samples]
    mean = sum(samples) // max(len(samples), 1)
    return record | {
        "model_filename": options.model,
        "tensor_split": "/".join(f"{float(x):.2f}" for x in record["tensor_split"].split("/")),
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "avg_ns": mean,
        "stddev_ns": int(
            (sum((ns - mean) ** 2 for ns in samples) / max(len(samples) - 1, 1)) ** 0.5
        ),
        "avg_ts": round(sum(rates) / max(len(rates), 1), 6),
        "stddev_ts": 0.0,
        "samples_ns": samples,
        "samples_ts": [float(f"{rate:.6g}") for rate in rates],
    }


def main(argv: list[str]) -> None:
    log("start")
    FAULTS.before_anything()
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(usage())
        return
    if "--version" in argv:
        say((RECORDED / "version.txt").read_text(encoding="utf-8").rstrip())
        return
    if "--list-devices" in argv:
        sys.stdout.write((RECORDED / "list_devices.txt").read_text(encoding="utf-8"))
        return
    options = parse(argv)
    tests = expand(options)
    loaded: list[Any] | None = None
    filled: set[tuple[Any, ...]] = set()
    for n, test in enumerate(tests, 1):
        total = len(tests) * (2 if "doubled" in FAULTS else 1)
        if options.progress:
            say(f"llama-bench: benchmark {n}/{total}: starting")
        if loaded != test.model_settings:
            load(options)
            loaded = test.model_settings
            filled.clear()
        make_context(test, options)
        samples = run_test(test, options, f"{n}/{total}", filled)
        for line in FAULTS.printed(record_of(test, options, samples), test):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        log("record")
    FAULTS.at_the_end()


FAULTS = Misbehaviour(os.environ.get("LCM_FAKE", ""))
LOAD_S, STEP_S = (float(ms) / 1000 for ms in os.environ.get("LCM_FAKE_MS", "3 1").split())

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # A program in C prints no traceback.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    main(sys.argv[1:])
