"""Read the imports of a tree of Python files and say which break the plan of docs/design.md.

Works on text, `{"autotune/model/gguf.py": "import struct"}`, so that it can be shown a bad tree.
Imports inside functions and under TYPE_CHECKING count: they are knowledge all the same.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple, TypeAlias

Sources: TypeAlias = Mapping[str, str]

PACKAGE = "autotune"

_BASE = frozenset({"params", "errors", "files", "json_text", "shell"})
_KNOWLEDGE = _BASE | {"recommend", "llama_cpp", "hardware", "model", "stats", "words"}
# Which rooms a room may know besides itself.
ARROWS = {
    "__main__": frozenset({"cli"}),
    "cli": _KNOWLEDGE | {"tuning", "results"},
    "tuning": _KNOWLEDGE,
    "results": _KNOWLEDGE,
    "recommend": _BASE | {"hardware", "model"},
    "llama_cpp": _BASE,
    "hardware": _BASE,
    "model": _BASE,
    "params": frozenset({"errors"}),
    "stats": frozenset(),
    "words": _BASE,
    "errors": frozenset(),
    "files": frozenset(),
    "json_text": frozenset(),
    "shell": frozenset(),
}

# Where each package from outside may be imported: a file, or a folder with all that it holds.
HOMES = {
    "jinja2": "autotune/results/report/page.py",
    "markupsafe": "autotune/results/report/page.py",
    "matplotlib": "autotune/results/report/charts.py",
    "optuna": "autotune/tuning/study/",
    "pandas": "autotune/results/export.py",
    "psutil": "autotune/hardware/",
    "pynvml": "autotune/hardware/",
    "rich": "autotune/cli/live.py",
    "sqlalchemy": "autotune/tuning/study/",
    "typer": "autotune/cli/",
    "yaml": "autotune/results/apply/yaml_text.py",
}

_CONSOLE = "autotune/cli/console.py"
# The public API names each room's function and imports it when it is first used.
_PUBLIC_API = "autotune/__init__.py"


class Import(NamedTuple):
    """One import: by which file, where in it, of what."""

    path: str
    line: int
    target: str
    for_types_only: bool = False

    @property
    def place(self) -> str:
        """Name the place as an editor opens it."""
        return f"{self.path}:{self.line}"


def wrong_arrows(sources: Sources) -> list[str]:
    """List imports from a room into one that it may not know."""
    return [
        f"{found.place}: {source or 'the public API'} may not know {target}"
        for found in _internal(sources)
        if (source := _room(found.path)) != (target := _room_of_module(found.target)) and target
        if not _may(source, target, for_types_only=found.for_types_only)
    ]


def cycles(sources: Sources) -> list[str]:
    """Describe a cycle between modules, if there is one."""
    graph: dict[str, set[str]] = {_module(path): set() for path in sources}
    for found in _internal(sources):
        if not (found.path == _PUBLIC_API and found.for_types_only):
            graph[_module(found.path)].add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def stray_packages(sources: Sources) -> list[str]:
    """List imports of packages from outside at a place that is not their home."""
    return [
        f"{found.place}: {name} may not be imported here"
        for found in _all_imports(sources)
        if (name := found.target.partition(".")[0]) != PACKAGE
        and name not in sys.stdlib_module_names
        if not _is_home(HOMES.get(name), found.path)
    ]


def stray_prints(sources: Sources) -> list[str]:
    """List calls of `print` outside of the one file that prints."""
    return [
        f"{path}:{call.lineno}: only {_CONSOLE} prints"
        for path, call in _calls(sources)
        if _called_name(call) == "print" and path != _CONSOLE
    ]


def hidden_imports(sources: Sources) -> list[str]:
    """List imports by a computed name, which none of the other checks can follow."""
    return [
        f"{path}:{call.lineno}: import by a computed name"
        for path, call in _calls(sources)
        if _is_dynamic_import(call) and _constant_argument(call) is None and path != _PUBLIC_API
    ]


def _may(source: str, target: str, *, for_types_only: bool) -> bool:
    if not source:
        return for_types_only
    return target in ARROWS.get(source, frozenset())


def _is_home(home: str | None, path: str) -> bool:
    return home is not None and (path.startswith(home) if home.endswith("/") else path == home)


def _module(path: str) -> str:
    """Name the module that a file is: `autotune/model/__init__.py` is `autotune.model`."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room_of_module(module: str) -> str:
    """Name a module's room; the package itself has none."""
    return module.partition(".")[2].partition(".")[0]


def _room(path: str) -> str:
    return _room_of_module(_module(path))


def _internal(sources: Sources) -> Iterator[Import]:
    """Yield the imports of our own modules, each with the module that it really loads."""
    modules = {_module(path) for path in sources}
    for found in _all_imports(sources):
        if found.target.partition(".")[0] == PACKAGE:
            # `from autotune.model import gguf` gets a module, `... import Model` a name in one.
            parent = found.target.rpartition(".")[0]
            is_name = found.target not in modules and parent in modules
            yield found._replace(target=parent if is_name else found.target)


def _all_imports(sources: Sources) -> Iterator[Import]:
    for path, text in sources.items():
        tree = ast.parse(text, path)
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            for target in _targets(node, path):
                line = getattr(node, "lineno", 0)
                yield Import(path, line, target, id(node) in typing_only)


def _targets(node: ast.AST, path: str) -> list[str]:
    """Name what a node imports; for `from a import b` that is `a.b`, be it a module or a name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, path)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and _is_dynamic_import(node):
        name = _constant_argument(node)
        return [name] if name else []
    return []


def _absolute(node: ast.ImportFrom, path: str) -> str:
    """Resolve the dots of a relative import."""
    if not node.level:
        return node.module or ""
    folder = PurePosixPath(path).parts[: -node.level]
    return ".".join([*folder, *([node.module] if node.module else [])])


def _calls(sources: Sources) -> Iterator[tuple[str, ast.Call]]:
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, ast.Call):
                yield path, node


def _called_name(call: ast.Call) -> str:
    """Give the last part of what is called: `import_module` for `importlib.import_module(...)`."""
    return ast.unparse(call.func).rpartition(".")[2]


def _is_dynamic_import(call: ast.Call) -> bool:
    return _called_name(call) in {"import_module", "__import__"}


def _constant_argument(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    value = first.value if isinstance(first, ast.Constant) else None
    return value if isinstance(value, str) else None
