"""JSON that every program reads, of whatever a file's name or another's file holds."""

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import json_text

_NAMES = st.binary().filter(lambda name: b"\0" not in name).map(os.fsdecode)


@given(_NAMES)
def test_a_name_of_any_bytes_is_strict_json_and_read_back(name: str) -> None:
    text = json_text.dumps({name: [name]})

    json.loads(text)[next(iter(json.loads(text)))][0].encode()
    assert json_text.loads(text) == {name: [name]}


@given(st.binary())
def test_the_bytes_are_restored_as_the_document_says(data: bytes) -> None:
    name = data.replace(b"\0", b"")

    text: str = json.loads(json_text.dumps(os.fsdecode(name)))

    restored = re.sub(rb"\0([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode())
    assert restored == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\udcffb", '"a\\u0000ffb"'),
        ("\\udcff", '"\\\\udcff"'),
        ("\\\udcff", '"\\\\\\u0000ff"'),
        ("\U0001f600", '"\\ud83d\\ude00"'),
        ("\ud83d", '"\\ufffd"'),
        ("a\udc41", '"a\\ufffd"'),
    ],
)
def test_half_a_character_is_written_as_what_it_is(value: str, text: str) -> None:
    assert json_text.dumps(value) == text


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e400",
        "9" * 301,
        "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65,
        "[" * 100_000,
        b"\xff",
        b'"\xed\xa0\x80"',
        "",
    ],
    ids=lambda text: repr(text[:8]),
)
def test_what_could_not_be_written_again_is_not_read(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json_text.loads(text)


def test_what_is_flat_may_be_long() -> None:
    assert len(json_text.loads("[" + "[]," * 1000 + "0]")) == 1001


def test_what_an_older_lcm_wrote_is_read_as_it_was() -> None:
    assert json_text.loads('"a\\udcff"') == "a\udcff"


def test_a_number_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_text.dumps(float("inf"))
