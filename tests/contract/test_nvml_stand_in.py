"""The stand-in for NVML is called as pynvml calls the real library, and knows nothing else."""

import inspect
import re
from pathlib import Path

import pynvml
import pytest
from fakes import nvml

from autotune.hardware import nvidia

DEFINITIONS: dict[str, str] = dict(
    re.findall(r"^nvmlReturn_t (nvml\w+)\(([^)]*)\) \{", nvml.SOURCE.read_text(), re.MULTILINE)
)
USED = sorted(set(re.findall(r"\bnvml[A-Z]\w+", Path(nvidia.__file__).read_text())))


def calls_of(symbol: str) -> list[str]:
    """Find the arguments that pynvml passes where it looks this symbol up."""
    lookup = rf'_nvmlGetFunctionPointer\("{symbol}"\).*?ret = fn\(([^\n]*)\)\n'
    return re.findall(lookup, inspect.getsource(pynvml), re.DOTALL)


def count(arguments: str) -> int:
    """Count arguments at the outer level: `byref(x), c_uint(n)` are two."""
    while "(" in arguments:
        arguments = re.sub(r"\([^()]*\)", "", arguments)
    return len([name for name in arguments.split(",") if name.strip() not in {"", "void"}])


@pytest.mark.parametrize("symbol", DEFINITIONS)
def test_every_function_is_one_that_pynvml_calls_with_as_many_arguments(symbol: str) -> None:
    assert {count(call) for call in calls_of(symbol)} == {count(DEFINITIONS[symbol])}


@pytest.mark.parametrize("function", USED)
def test_every_function_that_detection_asks_is_there(function: str) -> None:
    source = inspect.getsource(getattr(pynvml, function))
    looked_up = re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', source)
    # nvmlInit() looks nothing up itself: it calls nvmlInitWithFlags().
    assert set(looked_up or ["nvmlInitWithFlags"]) & set(DEFINITIONS)


def test_violation_times_have_the_layout_that_pynvml_reads() -> None:
    fields = re.search(r"typedef struct \{([^}]*)\} nvmlViolationTime_t;", nvml.SOURCE.read_text())
    assert fields is not None
    names = [name for name, *_ in pynvml.c_nvmlViolationTime_t._fields_]
    assert re.findall(r"unsigned long long (\w+);", fields[1]) == names


def test_memory_has_the_layout_that_pynvml_reads() -> None:
    fields = re.search(r"typedef struct \{([^}]*)\} nvmlMemory_t;", nvml.SOURCE.read_text())
    assert fields is not None
    names = [name for name, *_ in pynvml.c_nvmlMemory_t._fields_]
    assert re.findall(r"unsigned long long (\w+);", fields[1]) == names
