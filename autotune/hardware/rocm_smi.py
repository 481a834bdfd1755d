"""AMD's own tools, where they are: `amd-smi`, and the older `rocm-smi`.

Neither has a fixed form: keys changed their letters between versions, numbers stand as texts, and
what does not apply is "N/A". What is not understood is left out.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autotune import json_text
from autotune.hardware import tools
from autotune.hardware.root import Root, to_int

_FOLDERS = ("opt/rocm/bin", "usr/bin", "usr/local/bin")
_MIB = 1 << 20
_ROCM_SMI = (
    *("--showproductname", "--showdriverversion"),
    *("--showmeminfo", "vram", "gtt", "--json"),
)
_STATIC = ("static", "--asic", "--driver", "--json")
_METRIC = ("metric", "--mem-usage", "--json")
_MOST_S = 2 * tools.TIMEOUT_S  # For all of them: where a driver hangs, each of them does.


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU as a tool shows it; memory in bytes, 0 and "" where it says nothing."""

    name: str
    vram_total: int
    vram_used: int
    gtt_total: int
    gtt_used: int
    driver: str


def read_cards(root: Root) -> list[Card]:
    """Ask the tools that are here, the newer one first, until one tells of a card."""
    deadline = time.monotonic() + _MOST_S

    def ask(program: str, *arguments: str) -> str | None:
        left_s = min(deadline - time.monotonic(), tools.TIMEOUT_S)
        return tools.ask(root, program, *arguments, timeout_s=left_s)

    for folder in _FOLDERS:
        static, metric = (ask(f"{folder}/amd-smi", *asked) for asked in (_STATIC, _METRIC))
        cards = parse_amd_smi(static, metric)
        cards = cards or parse_rocm_smi(ask(f"{folder}/rocm-smi", *_ROCM_SMI))
        if cards:
            return cards
    return []


def parse_rocm_smi(text: str | None) -> list[Card]:
    """Read the cards in the JSON of `rocm-smi --showmeminfo vram`."""
    answer = _object(text)
    system = {key.lower(): value for key, value in _mapping(answer.get("system")).items()}
    named = ((key, _mapping(value)) for key, value in answer.items() if key.startswith("card"))
    cards = [
        _rocm_card({key.lower(): value for key, value in card.items()}, system)
        for _, card in sorted(named, key=lambda one: (len(one[0]), one[0]))
    ]
    return [card for card in cards if card.vram_total]


def _rocm_card(card: Mapping[str, Any], system: Mapping[str, Any]) -> Card:
    return Card(
        name=_text(card, "card series", "device name") or "AMD GPU",
        vram_total=_number(card.get("vram total memory (b)")),
        vram_used=_number(card.get("vram total used memory (b)")),
        gtt_total=_number(card.get("gtt total memory (b)")),
        gtt_used=_number(card.get("gtt total used memory (b)")),
        driver=_text(system, "driver version"),
    )


def parse_amd_smi(static: str | None, metric: str | None) -> list[Card]:
    """Read the cards in the JSON of `amd-smi static` and `amd-smi metric`, joined by number."""
    known = {_number(card.get("gpu")): card for card in _rows(static)}
    cards = [_amd_card(card, known.get(_number(card.get("gpu")), {})) for card in _rows(metric)]
    return [card for card in cards if card.vram_total]


def _amd_card(metric: Mapping[str, Any], static: Mapping[str, Any]) -> Card:
    usage = _mapping(metric.get("mem_usage"))
    return Card(
        name=_text(_mapping(static.get("asic")), "market_name") or "AMD GPU",
        vram_total=_mebibytes(usage.get("total_vram")),
        vram_used=_mebibytes(usage.get("used_vram")),
        gtt_total=_mebibytes(usage.get("total_gtt")),
        gtt_used=_mebibytes(usage.get("used_gtt")),
        driver=_text(_mapping(static.get("driver")), "version"),
    )


def _rows(text: str | None) -> Iterator[Mapping[str, Any]]:
    """One for each GPU: in a list of their own, and in a key of an object since ROCm 6.4."""
    answer = _value(text)
    rows = answer.get("gpu_data") if isinstance(answer, dict) else answer
    return (row for row in _list(rows) if isinstance(row, dict))


def _mebibytes(value: object) -> int:
    """Read `{"value": 196592, "unit": "MB"}`, or the number alone; its MB are 2^20 bytes."""
    number = _mapping(value).get("value") if isinstance(value, dict) else value
    return _number(number) * _MIB


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return 0
    return max(to_int(str(value)) or 0, 0)


def _text(values: Mapping[str, Any], *keys: str) -> str:
    found = (value for key in keys if isinstance(value := values.get(key), str))
    return next((text for text in found if text and text != "N/A"), "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else ()


def _object(text: str | None) -> Mapping[str, Any]:
    return _mapping(_value(text))


def _value(text: str | None) -> object:
    """Read the JSON in an output; warnings may stand above it, of groups and of versions."""
    text = text or ""
    starts = [at for mark in "{[" if (at := text.find(mark)) >= 0]
    try:
        return json_text.loads(text[min(starts, default=0) :])
    except (ValueError, RecursionError):
        return None
