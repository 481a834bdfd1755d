"""A study as it is kept, made by hand: one evening on an eight-core machine with a small card.

It has a bit of everything: seeds, races, a ladder that runs out of memory, a disturbed visit that
was measured again, a part that was dropped, an anchor, an interruption, rounds of verification.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes.evening import (
    BASELINE,
    BUILD,
    LAYERS,
    REQUEST,
    ROUNDS,
    SEED,
    TESTS,
    THREADS,
    WINNER,
    Evening,
)
from fakes.kept_places import HARDWARE, MEMORY, MODEL

from autotune.cli.answer import EvidenceSection, SamplesSection, SideSection
from autotune.llama_cpp.records import Measurement, Outcome
from autotune.params import Params, params_to_json
from autotune.results.journal import Entry, Evidence, Journal, Record, Trial
from autotune.results.profile import Profile, save
from autotune.results.stored import Stored, read_study
from autotune.results.studies import Folder
from autotune.stats import Comparison, compare


def entries_of(evening: Evening) -> list[Entry]:
    """The whole evening, in the order of the journal."""
    evening.begin(resumed=False)
    evening.measure("baseline", "llama.cpp's defaults", BASELINE)
    evening.measure("seed", "quick recommendation", SEED)
    evening.lead(SEED)
    for threads in (4, 6, 12):
        evening.measure("race", "n_threads", replace(SEED, n_threads=threads), "tg")
    evening.lead(THREADS)
    evening.measure("ladder", "n_gpu_layers", replace(THREADS, n_gpu_layers=33), oom=True)
    evening.measure("ladder", "n_gpu_layers", LAYERS)
    evening.lead(LAYERS)
    evening.measure("toggle", "flash_attn", WINNER, disturbed="other programs used 1.6 CPUs")
    evening.begin(resumed=True)
    evening.measure("toggle", "flash_attn", WINNER)
    evening.lead(WINNER)
    evening.complete_grid(replace(WINNER, n_ubatch=1024), "tg")
    evening.measure("race", "n_ubatch", replace(WINNER, n_ubatch=1024), "pp")
    evening.measure("tail", "TPE", replace(WINNER, n_ubatch=256, n_threads=5), "pp tg", comes="pp")
    evening.measure("anchor", "the incumbent again", WINNER)
    evening.measure("whole", "candidate", WINNER)
    for number in range(1, ROUNDS + 1):
        pair = (BASELINE, WINNER) if number % 2 else (WINNER, BASELINE)
        for params in pair:
            evening.measure("verify", f"round {number}", params)
    evening.entries.append(Evidence(evidence=dict(_evidence(evening).items())))
    return evening.entries


def keep(path: Path, evening: Evening | None = None) -> Folder:
    """Write the study into a folder, which is made."""
    evening = evening or Evening()
    path.mkdir(parents=True)
    entries = entries_of(evening)
    seen = _comparison(evening)
    folder = Folder(
        path=path,
        model=evening.model,
        workload="chat",
        started="2026-11-30T20:00:00Z",
        state="finished",
        machine="AMD Ryzen 7 5800H, 8 cores; NVIDIA GeForce RTX 3060 Laptop GPU",
        build=BUILD,
        verdict="better",
        ratio=seen.ratio,
        low=seen.low,
        high=seen.high,
    )
    folder.write()
    folder.environment.write_text(json.dumps(_environment(evening)), encoding="utf-8")
    with Journal(folder.journal) as journal:
        for entry in entries:
            journal.append(entry)
    save(folder.profile, _profile(folder))
    return folder


def kept_study(path: Path, evening: Evening | None = None) -> Stored:
    """The study, read back from a folder that it was written into."""
    return read_study(keep(path, evening))


def _profile(folder: Folder) -> Profile:
    return Profile(
        params=WINNER,
        date="2026-11-30T20:10:00Z",
        build=folder.build,
        model=folder.model,
        machine="5eed" * 6,
        verdict="better",
        ratio=folder.ratio,
        low=folder.low,
        high=folder.high,
        workload="chat",
        study=str(folder.path),
    )


def _verified(evening: Evening, params: Params) -> list[Trial]:
    trials = (entry for entry in evening.entries if isinstance(entry, Trial))
    return [trial for trial in trials if trial.kind == "verify" and trial.params == params]


def _came(evening: Evening, trial: Trial) -> dict[str, Outcome]:
    records = (entry for entry in evening.entries if isinstance(entry, Record))
    return {r.part: r.outcome for r in records if r.trial == trial.number and r.part}


def _seconds(evening: Evening, trial: Trial) -> float:
    return sum(
        REQUEST[part] / outcome.median_ts
        for part, outcome in _came(evening, trial).items()
        if isinstance(outcome, Measurement)
    )


def _comparison(evening: Evening) -> Comparison:
    pairs = zip(_verified(evening, BASELINE), _verified(evening, WINNER), strict=True)
    return compare([math.log(_seconds(evening, b) / _seconds(evening, w)) for b, w in pairs])


def _evidence(evening: Evening) -> EvidenceSection:
    seen = _comparison(evening)
    return {
        "verdict": "better",
        "workload": {
            "name": "chat",
            "n_prompt": 512,
            "n_gen": 256,
            "n_depth": 0,
            "n_parallel": 1,
            "objective": "efficiency" if evening.objective == "efficiency" else "request",
        },
        "baseline": _side(evening, BASELINE),
        "candidate": _side(evening, WINNER),
        "winner": True,
        "ratio": seen.ratio,
        "low": seen.low,
        "high": seen.high,
        "confidence": seen.confidence,
        "pairs": seen.pairs,
        "chance": seen.chance,
        "rule": "log ratios of interleaved rounds",
        "complete": True,
        "trials": evening.number,
        "failures": {"oom": 1},
        "elapsed_s": round(evening.elapsed_s, 1),
        "waited_s": 12.0,
        "disturbed_rounds": 0,
        "study": "/data/studies/Llama-3.1-8B-Instruct-chat-20261130-200000",
        "served": None,
    }


def _side(evening: Evening, params: Params) -> SideSection:
    return {
        "params": params_to_json(params),
        "pp_tokens_per_s": evening.rate(params, "pp"),
        "tg_tokens_per_s": evening.rate(params, "tg"),
        "request_s": evening.request_s(params),
        "pp_tokens_per_joule": evening.per_joule(params, "pp"),
        "tg_tokens_per_joule": evening.per_joule(params, "tg"),
        "request_j": evening.request_j(params),
        "memory": MEMORY,
        "samples": [
            _sample(trial, outcome)
            for trial in _verified(evening, params)
            for outcome in _came(evening, trial).values()
            if isinstance(outcome, Measurement)
        ],
    }


def _sample(trial: Trial, measured: Measurement) -> SamplesSection:
    return {
        "round": trial.source,
        "test": str(measured.test),
        "samples_ns": list(measured.samples_ns),
        "samples_j": list(measured.samples_j),
        "disturbed": trial.disturbed,
    }


def _environment(evening: Evening) -> dict[str, Any]:
    return {
        "lcm": "0.5.0",
        "python": "3.12.4",
        "operating_system": "Linux-6.8.0-x86_64-with-glibc2.39",
        "kernel": "6.8.0",
        "host": "desk",
        "hardware": HARDWARE,
        "model": {
            **MODEL,
            "name": evening.model,
            "files": [
                {
                    "path": MODEL["path"],
                    "size_bytes": MODEL["size_bytes"],
                    "modified": "2026-10-01T08:00:00Z",
                }
            ],
        },
        "llama_cpp": {
            "program": evening.program,
            "version": BUILD,
            "build": "5eed5eed",
            "backends": "CUDA" if evening.gpu else "CPU",
            "arguments": [],
        },
        "variables": {"LLAMA_ARG_THREADS": "3"},
        "request": {
            "name": "chat",
            "n_prompt": 512,
            "n_gen": 256,
            "n_depth": 0,
            "objective": evening.objective,
            "tests": {part: str(test) for part, test in TESTS.items()},
        },
        "energy": {
            "of": ["CPU package 0", "GPU 0"] if evening.watts else [],
            "gap": "" if evening.watts else "neither RAPL nor a GPU shows a counter",
            "remedy": "" if evening.watts else "measure on the machine itself",
        },
        "n_ctx": 4096,
        "seed": 0,
        "budget_s": 900.0,
        "space": {
            "parameters": {
                "n_threads": [4, 5, 6, 7, 8, 12],
                "n_threads_batch": [8],
                "n_gpu_layers": [28, 29, 30, 33],
                "n_ubatch": [256, 512, 1024],
                "flash_attn": ["auto", True, False],
            },
            "fixed": params_to_json(BASELINE),
        },
    }
