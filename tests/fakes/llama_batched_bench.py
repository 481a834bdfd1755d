#!/usr/bin/env -S python3 -S -E
"""A llama-batched-bench that measures nothing: its options, records and failures, in milliseconds.

`tests/contract/test_batched_bench_contract.py` holds it to what the real one does. Of the faults of
`fakes.llama_bench` it has those that are not about progress, and `loses=N`: as the real one does
where the CPUs are busy, its first N processes end well without a record.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.append(str(Path(__file__).parent.parent))

from fakes.common_help import COMMON_HELP
from fakes.llama_bench import (
    FAULTS,
    LOAD_S,
    STEP_S,
    Test,
    abort,
    log,
    say,
    why_not_loaded,
)

HELP = (
    COMMON_HELP
    + """\
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
--repack, -nr, --no-repack              whether to enable weight repacking (default: enabled)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
-m,    --model FNAME                    model path to load
-npp n0,n1,...                          number of prompt tokens
-ntg n0,n1,...                          number of text generation tokens
-npl n0,n1,...                          number of parallel prompts
--output-format {md,jsonl}              output format for batched-bench results (default: md)
"""
)
ALONE = {"--kv-unified", "--no-repack", "-v"}
DEFAULTS = {"--threads": "2", "--batch-size": "2048", "--ubatch-size": "512", "-c": "4096"}
FLASH = {"on": 1, "off": 0, "auto": -1}


def parse(argv: list[str]) -> dict[str, str]:
    values, words = dict(DEFAULTS), iter(argv)
    for word in words:
        if word not in HELP.replace(",", " ").split() and word not in ALONE:
            say(f"error: invalid argument: {word}")
            sys.exit(1)
        values[word] = "" if word in ALONE else next(words)
    return values


def no_context(why: str) -> NoReturn:
    say(f"0.00.100.000 E {why}")
    say("llama_batched_bench: error: failed to create the llama_context")
    sys.exit(1)


def has_lost() -> bool:
    """One of the first processes, which a file beside the log counts."""
    most = int(FAULTS.kinds.get("loses", ("0", ""))[0] or 0)
    counter = Path(os.environ.get("LCM_FAKE_LOG", os.devnull) + ".lost")
    lost = len(counter.read_text()) if counter.exists() else 0
    if lost < most:
        counter.write_text("x" * (lost + 1))
    return lost < most


def main(argv: list[str]) -> None:
    log("start")
    FAULTS.before_anything()
    if "--help" in argv or "--version" in argv:
        sys.stdout.write(HELP if "--help" in argv else "version: 0.5.0-fake (build 1)\n")
        return
    given = parse(argv)
    threads = int(given["--threads"])
    test = Test({"n_threads": threads, "n_depth": 0}, int(given["-npp"]), int(given["-ntg"]))
    if why_not_loaded(given["-m"]):
        say("llama_batched_bench: error: unable to load model")
        sys.exit(1)
    log("load")
    time.sleep(LOAD_S)
    flash = FLASH[given.get("--flash-attn", "auto")]
    if flash == 0 and given.get("--cache-type-v", "f16") not in {"f16", "bf16"}:
        no_context("llama_init_from_model: quantized V cache requires flash_attn to be enabled")
    slots = [int(n) for n in given["-npl"].split(",")]
    if FAULTS.asked("oom", test) is not None or ("crowded" in FAULTS and max(slots) > 2):
        no_context("alloc_tensor_range: failed to allocate CPU buffer of size 1000000")
    if threads < 1:
        abort("ggml/src/ggml-cpu/ggml-cpu.c:3395", "cplan->n_threads > 0")
    if has_lost():
        return
    for n in slots:
        measure(given, test, n, flash)
    FAULTS.at_the_end()


def measure(given: dict[str, str], test: Test, slots: int, flash: int) -> None:
    parts = []
    for n_tokens in (test.n_prompt, test.n_gen):
        began = time.perf_counter()
        time.sleep(STEP_S * (1 + slots * n_tokens / 100))
        parts.append(time.perf_counter() - began)
    FAULTS.while_running(test)
    record = {
        "n_kv_max": int(given["-c"]), "n_batch": int(given["--batch-size"]),
        "n_ubatch": int(given["--ubatch-size"]), "flash_attn": flash, "is_pp_shared": 0,
        "n_gpu_layers": int(given.get("--n-gpu-layers", "-1")),
        "n_threads": test.settings["n_threads"],
        "n_threads_batch": int(given.get("--threads-batch", given["--threads"])),
        "pp": test.n_prompt, "tg": test.n_gen, "pl": slots,
        "t_pp": round(parts[0], 6), "t_tg": round(parts[1], 6), "t": round(sum(parts), 6),
    }  # fmt: skip
    if FAULTS.asked("wrong-test", test) is not None:
        record["pl"] += 1
    if FAULTS.asked("wrong-threads", test) is not None:
        record["n_threads"] += 1
    if FAULTS.asked("absurd", test) is not None:
        record["t_pp"] = 1e-9
    line = json.dumps(record)
    if FAULTS.asked("garbage", test) is not None:
        line = "\x00\xff not a record"
    if FAULTS.asked("nan", test) is not None:
        line = line.replace(str(record["t_tg"]), "-nan", 1)
    if FAULTS.asked("half", test) is not None:
        os.write(1, line[: len(line) // 2].encode())
        sys.exit(0)
    if FAULTS.asked("missing", test) is None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    log("record")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # A program in C prints no traceback.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    main(sys.argv[1:])
