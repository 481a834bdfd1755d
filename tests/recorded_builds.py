"""The recorded builds of llama.cpp (tests/fixtures/llama_bench), as tests read them."""

from functools import cache
from pathlib import Path

from autotune.llama_cpp.capabilities import Capabilities, parse_help

FOLDER = Path(__file__).parent / "fixtures" / "llama_bench"
BUILDS = sorted(folder.name for folder in FOLDER.iterdir() if (folder / "help.txt").exists())


@cache
def capabilities_of(build: str, help_file: str = "help.txt") -> Capabilities:
    """What a recorded build said that it can."""
    text = (FOLDER / build / help_file).read_text(encoding="utf-8")
    return Capabilities(options=parse_help(text), version="")
