#!/usr/bin/env -S python3 -S -E
"""A llama-server that computes nothing: its flags, /health and /completion, in milliseconds.

`tests/e2e/test_serving.py` holds it to what the real one does. Like `fakes.llama_batched_bench` it
takes LCM_FAKE_MS for a load and for a step of all slots. LCM_FAKE_SERVER makes it misbehave:

    dies-first      it ends before it is healthy
    dies-asked      it ends when it is asked
    never-healthy   it loads for ever
    never-answers   it answers no request
    miscounts       it generates a token less
    refuses         it answers 400
    babbles         its answer is no JSON
    deaf            no signal but SIGKILL ends it
    contradicts     the more slots, the slower it is
"""

import itertools
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from fakes.common_help import COMMON_HELP

HELP = (
    COMMON_HELP
    + """\
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
--repack, -nr, --no-repack              whether to enable weight repacking (default: enabled)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
-np,   --parallel N                     number of server slots (default: -1, -1 = auto)
-cram, --cache-ram N                    set the maximum cache size in MiB
-m,    --model FNAME                    model path to load
--host HOST                             ip address to listen
--port PORT                             port to listen (default: 8080)
"""
)
FAULT = os.environ.get("LCM_FAKE_SERVER", "")
LOAD_S, STEP_S = (float(ms) / 1000 for ms in os.environ.get("LCM_FAKE_MS", "3 1").split())


class Handler(BaseHTTPRequestHandler):
    healthy_at = 0.0
    n_slots = 4
    slots = threading.Semaphore(4)

    def do_GET(self) -> None:
        loading = time.monotonic() < self.healthy_at or FAULT == "never-healthy"
        self._say(503 if loading else 200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if FAULT == "dies-asked":
            os._exit(9)
        if FAULT == "never-answers":
            time.sleep(3600)
        if FAULT == "refuses":
            self._say(400, {"error": {"message": "the request exceeds the context"}})
            return
        n_prompt, n_gen = len(body["prompt"]), body["n_predict"]
        with self.slots:
            for n in (n_prompt, n_gen):
                time.sleep(step_s(n, self.n_slots))
        timings = {
            "prompt_n": n_prompt,
            "prompt_ms": 1e3 * step_s(n_prompt, self.n_slots),
            "predicted_n": n_gen - (FAULT == "miscounts"),
            "predicted_ms": 1e3 * step_s(n_gen, self.n_slots),
        }
        self._say(200, {"content": "", "timings": timings})

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        text = b"what?" if FAULT == "babbles" and status == 200 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def step_s(n_tokens: int, slots: int) -> float:
    """Seconds of one wave, as llama-batched-bench's fake has them."""
    if FAULT == "contradicts":
        return STEP_S / 30 * slots * slots * (1 + n_tokens / 100)
    return STEP_S * (1 + slots * n_tokens / 100)


def main(argv: list[str]) -> None:
    if "--help" in argv or "--version" in argv:
        sys.stdout.write(HELP if "--help" in argv else "version: 0.5.0-fake (build 1)\n")
        return
    if FAULT == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if FAULT == "dies-first":
        os.write(2, b"0.00.1 E alloc_tensor_range: failed to allocate CPU buffer of size 1\n")
        sys.exit(1)
    given = dict(itertools.pairwise(argv))
    Handler.n_slots = int(given.get("--parallel", "4"))
    Handler.slots = threading.Semaphore(Handler.n_slots)
    Handler.healthy_at = time.monotonic() + LOAD_S
    ThreadingHTTPServer.request_queue_size = 5  # Short: who finds it full comes again later.
    server = ThreadingHTTPServer(("127.0.0.1", int(given["--port"])), Handler)
    server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # A program in C prints no traceback.
    main(sys.argv[1:])
