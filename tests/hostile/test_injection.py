"""A GGUF's words stay words: in a page, in a table, in Markdown, in every tool's format."""

from __future__ import annotations

import configparser
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from fakes.gguf_writer import write_gguf
from fakes.small import SMALL
from hostile.names import no_control_characters, words_in_sh

from autotune.results.table import lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hostile.said import Lcm

    Say = Callable[..., str]

_STUDIES = Path(__file__).parents[1] / "fixtures" / "studies"
_WORDS = {
    "escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n\x00\u202e",
    "html": "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}{% raw %}&#60;",
    "style": "</style></title></textarea>--><svg onload=alert(1)><a href='javascript:alert(1)'>",
    "formula": '=HYPERLINK("http://x","y")',
    "math": "$\\frac{a}{b$ ${HOME} $(id) `id`",
    "yaml": "a: b\n- !!python/object/apply:os.system [id]\n#: |\n\t{",
    "unit": "x\n[Service]\nExecStartPre=/bin/sh -c id\n; y\\",
    "modelfile": 'x"""\nFROM evil\nPARAMETER stop x\nRUN id',
    "markdown": "![x](http://x) <!-- [a](javascript:b) @all #1 | `a` ``` \n# Title\n| a |",
}
_EVERY = pytest.mark.parametrize("words", _WORDS.values(), ids=_WORDS)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "studies" / "kept"
    shutil.copytree(_STUDIES / "format-2", folder)
    return folder


def everywhere(value: Any, words: str) -> Any:  # noqa: ANN401 - JSON
    """Put the words into each text that a model, a machine or a program may have chosen."""
    chosen = {
        "model",
        "machine",
        "build",
        "name",
        "cpu_name",
        "host",
        "program",
        "version",
        "kernel",
    }
    chosen |= {"source", "disturbed", "cpu_info", "gpu_info", "model_type", "backends", "message"}
    chosen |= {"driver", "description", "workload", "operating_system", "lcm", "python", "rule"}
    if isinstance(value, dict):
        return {
            key: words if key in chosen and isinstance(inner, str) else everywhere(inner, words)
            for key, inner in value.items()
        }
    return [everywhere(inner, words) for inner in value] if isinstance(value, list) else value


def filled(study: Path, words: str) -> None:
    for name in ("study.json", "environment.json", "profile.json"):
        kept = everywhere(json.loads((study / name).read_text()), words)
        (study / name).write_text(json.dumps(kept))
    journal = (study / "journal.jsonl").read_text().splitlines()
    kept_lines = [json.dumps(everywhere(json.loads(line), words)) for line in journal]
    (study / "journal.jsonl").write_text("\n".join(kept_lines) + "\n")


@pytest.fixture
def said(lcm: Lcm) -> Say:
    """Give what a command prints that comes to its end."""

    def say(*arguments: str) -> str:
        done = lcm("results", *arguments)
        assert done.code == 0, done.err
        assert no_control_characters(done.err)
        return done.out.decode()

    return say


# --- the model itself ----------------------------------------------------------------------------


@_EVERY
def test_no_word_of_a_model_commands_the_terminal(words: str, tmp_path: Path, lcm: Lcm) -> None:
    small = SMALL["qwen"]()
    metadata = dict(small.metadata) | {
        "general.name": words,
        "general.description": words,
        "general.author": words,
        "tokenizer.ggml.tokens": [words, words],
        "tokenizer.chat_template": words,
        words: words,
    }
    path = tmp_path / "m.gguf"
    write_gguf(path, metadata=metadata, tensors=small.tensors)

    for command in (["inspect"], ["run", "--optimize", "--model"]):
        done = lcm(*command, str(path))
        assert (done.code, no_control_characters(done.out + done.err)) == (0, True)


def test_an_unknown_architecture_is_named_without_commanding_the_terminal(
    tmp_path: Path, lcm: Lcm
) -> None:
    small = SMALL["qwen"]()
    metadata = {
        key.replace("qwen2.", "\x1b[2J."): value for key, value in small.metadata.items()
    } | {"general.architecture": "\x1b[2J"}
    write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=small.tensors)

    done = lcm("inspect", str(tmp_path / "m.gguf"))

    assert no_control_characters(done.out + done.err)
    assert done.out + done.err != b""


# --- a page --------------------------------------------------------------------------------------


class _Elements(HTMLParser):
    """Every element and attribute that a browser would make."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.made: list[tuple[str, Mapping[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.made.append((tag, dict(attrs)))


@_EVERY
def test_no_word_becomes_an_element_of_the_page(words: str, study: Path, said: Say) -> None:
    said("report", "kept")
    honest = _Elements((study / "report.html").read_text())

    filled(study, words)
    said("report", "kept")
    text = (study / "report.html").read_text()
    found = _Elements(text)

    # What was disturbed is listed.
    assert {tag for tag, _ in found.made} <= {tag for tag, _ in honest.made} | {"ul", "li"}
    assert sum(tag == "script" for tag, _ in found.made) == 1
    attributes = {name for _, attrs in found.made for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    links = [value or "" for _, attrs in found.made for name, value in attrs.items()
             if name in {"href", "src", "action"}]  # fmt: skip
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert no_control_characters(text.encode())


# --- tables --------------------------------------------------------------------------------------

_FULL_WIDTH = ("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x")
_FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", *_FULL_WIDTH)


@pytest.mark.parametrize("formula", _FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(formula: str, study: Path, said: Say) -> None:
    filled(study, formula)

    said("export", "-o", str(study / "out.csv"))
    with (study / "out.csv").open(encoding="utf-8", newline="") as file:
        (cell,) = {row["model"] for row in csv.DictReader(file)}

    assert cell == f"'{formula}"


@pytest.mark.parametrize("value", [-1, -0.5, 1e-9, 0, None, True])
def test_a_number_is_no_formula(value: float | None) -> None:
    assert "'" not in lines([[value]])


@pytest.mark.parametrize("text", ["a=1", "1-2", "", "b7-x", "/models/-m"])
def test_a_text_that_is_none_stays_as_it_is(text: str) -> None:
    assert lines([[text]]) == f'"{text}"\n'


def test_names_of_fields_are_no_formulas_and_end_no_cell(study: Path, said: Say) -> None:
    journal = study / "journal.jsonl"
    journal.write_text(
        journal.read_text().replace('"cpu_info":', '"=1+1\\",\\"\\n=2": 1, "cpu_info":')
    )

    head = next(csv.reader(io.StringIO(said("export"), newline="")))

    assert '\'=1+1","\n=2' in head


# --- Markdown ------------------------------------------------------------------------------------


@_EVERY
def test_no_word_is_markup_in_markdown(words: str, study: Path, said: Say) -> None:
    honest = said("report", "--format", "markdown")
    filled(study, words)

    text = said("report", "--format", "markdown")

    assert no_control_characters(text.encode())
    # Without what stands in code, and without what is escaped, there is no mark that was not there.
    assert set(re.findall(r"[<>\[\]!#@]", _bare(text))) <= set(
        re.findall(r"[<>\[\]!#@]", _bare(honest))
    )


def _bare(text: str) -> str:
    without_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
    return re.sub(r"\\.", "", without_code)


# --- other tools ---------------------------------------------------------------------------------


@_EVERY
def test_no_word_is_a_line_of_its_own_in_a_tools_text(words: str, study: Path, said: Say) -> None:
    honest = {tool: said("apply", "kept", "--for", tool) for tool in _TOOLS}
    filled(study, words)

    for tool, before in honest.items():
        text = said("apply", "kept", "--for", tool)
        assert no_control_characters(text.encode())
        assert _settings(text) == _settings(before)


_TOOLS = ("sh", "env", "llama-server-ini", "ollama", "systemd", "docker-compose")


def _settings(text: str) -> list[str]:
    """The lines that are no comment."""
    return [line for line in text.splitlines() if line and line[0] not in "#;"]


@_EVERY
def test_yaml_is_read_back_as_what_was_meant(words: str, study: Path, said: Say) -> None:
    filled(study, words)

    entries = yaml.safe_load(said("apply", "kept", "--for", "llama-swap"))["models"]
    service = yaml.safe_load(said("apply", "kept", "--for", "docker-compose"))["services"]

    assert list(entries) == ["tiny-for-fixture"]
    assert set(entries["tiny-for-fixture"]) <= {"name", "cmd"}
    assert list(service) == ["llama-server"]


def test_flags_in_a_profile_are_refused(study: Path, lcm: Lcm) -> None:
    profile = json.loads((study / "profile.json").read_text())
    for params in ({"type_k": "--rpc"}, {"devices": ["--model-url=http://x"]}, {"argv": ["id"]}):
        changed = {**profile, "params": {**profile["params"], **params}}
        (study / "profile.json").write_text(json.dumps(changed))

        done = lcm("results", "apply", "kept", "--for", "sh")

        assert (done.code, done.out) == (2, b"")


def test_a_study_that_names_a_program_and_arguments_has_them_run_by_nobody(
    study: Path, said: Say
) -> None:
    """What an environment says was started is shown, and what is applied is this machine's own."""
    kept = json.loads((study / "environment.json").read_text())
    kept["llama_cpp"] |= {"program": "/bin/touch", "arguments": ["-o", "pwned", "--rpc", "x"]}
    (study / "environment.json").write_text(json.dumps(kept))

    text = said("apply", "kept", "--for", "sh")

    words = words_in_sh("\n".join(_settings(text)).encode())
    assert words[0] == b"llama-server"
    assert not {b"--rpc", b"-o", b"pwned"} & {*words}


def test_an_ini_has_one_section(study: Path, said: Say) -> None:
    filled(study, "x]\n[other]\nmodel = evil")
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)

    text = said("apply", "kept", "--for", "llama-server-ini")
    parser.read_string("[top]\n" + text)

    assert parser.sections() == ["top", "tiny-for-fixture"]
