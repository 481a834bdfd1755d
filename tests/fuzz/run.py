"""Fuzz with atheris: `python tests/fuzz/run.py TARGET|all --seconds N [--corpus FOLDER]`.

What is found stays in `FOLDER/TARGET`; what breaks is written there as `crash-...`. Copy that file
to `crashes/TARGET/` under a name that says what it was: `test_fuzz.py` replays all of them.
"""

from __future__ import annotations

import argparse
import importlib
import random
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE.parents[1])]

import atheris  # noqa: E402

TARGETS = ("gguf", "bench", "toml", "study")
_MOST_BYTES = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, help="a folder; one of its own if none is named")
    options = parser.parse_args()
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="lcm-corpus-"))
    if options.target != "all":
        fuzz(options.target, options.seconds, corpus / options.target)
    failed = [name for name in TARGETS if _apart(name, options.seconds, corpus)]
    if failed:
        sys.stderr.write(f"broken: {', '.join(failed)}; the inputs are in {corpus}\n")
    return len(failed)


def _apart(name: str, seconds: int, corpus: Path) -> int:
    """Run one target in a process of its own: libFuzzer ends the one that it runs in."""
    command = [sys.executable, __file__, name, "--seconds", str(seconds), "--corpus", str(corpus)]
    return subprocess.run(command, check=False).returncode


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one target, and leave the process."""
    with atheris.instrument_imports(include=["autotune"]):
        target = importlib.import_module(f"fuzz.{name}_target")
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)

    def custom_mutator(data: bytes, most: int, seed: int) -> bytes:
        """Half of what is tried is broken as the deterministic tests break it."""
        chance = random.Random(seed)  # noqa: S311 - broken files, not secrets
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return bytes(target.broken(chance, [data or b" ", *target.seeds()])[:most])

    arguments = [
        sys.argv[0],
        str(folder),
        f"-max_total_time={seconds}",
        f"-max_len={_MOST_BYTES}",
        f"-artifact_prefix={folder}/",
        "-rss_limit_mb=1024",
        "-timeout=20",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, target.one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
