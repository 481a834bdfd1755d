"""Tables and lines that fit a terminal, whatever is in them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cli import console
from autotune.cli.layout import columns, wrapped

NUMBERS = [["model", "t/s"], ["gemma", "94.2"], ["x" * 200, "1234.5"]]


def lines(rows: Sequence[Sequence[str]], alignment: str, width: int = 80) -> list[str]:
    return console.table(rows, alignment, width=width).splitlines()


def test_what_fits_is_aligned_and_no_wider_than_it_has_to_be() -> None:
    assert lines([["name", "s"], ["a", "1.5"], ["long", "10"]], "<>") == [
        "name    s",
        "a     1.5",
        "long   10",
    ]


def test_a_text_that_is_too_wide_gives_way_and_a_number_stays_whole() -> None:
    table = lines(NUMBERS, "<>", 40)

    assert max(map(len, table)) == 40
    assert table[2] == f"{'x' * 32}  1234.5"
    assert table[1].endswith("    94.2")


def test_a_text_is_parted_between_its_words() -> None:
    words = ["what it is of", "the second one of them"]

    assert lines([["n", "what"], ["1", words[1]]], "><", 18) == [
        "n  what",
        "1  the second one",
        "   of them",
    ]


def test_of_a_text_without_end_three_lines_are_shown() -> None:
    table = lines(NUMBERS, "<>", 40)

    assert len(table) == 2 + 3
    assert table[-1] == "x" * 29 + "..."


def test_the_widest_text_gives_way_first() -> None:
    table = lines([["study", "model"], ["a" * 12, "b" * 100]], "<<", 40)

    assert table[1] == f"{'a' * 12}  {'b' * 26}"


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    rows = [["日本語モデル", "1"], ["🚀 fast", "22"], ["u\u0308ber", "333"]]

    table = lines(rows, "<>")

    assert {columns(line) for line in table} == {17}
    assert columns(lines([[name * 9, n] for name, n in rows], "<>", 40)[0]) == 40


def test_a_cell_commands_no_terminal() -> None:
    table = lines([["\x1b[2J\nnext", "1"]], "<>")

    assert table == [r"\x1b[2J\nnext  1"]


@given(
    cells=st.lists(st.tuples(st.text(), st.text(max_size=200), st.integers()), min_size=1),
    width=st.integers(min_value=45, max_value=120),
)
def test_no_table_is_wider_than_its_terminal(cells: list[tuple[str, str, int]], width: int) -> None:
    rows = [[a, b, str(n % 10**9)] for a, b, n in cells]

    table = console.table(rows, "<<>", width=width).split("\n")

    assert max(map(columns, table)) <= width
    assert all(line.isprintable() for line in table)


@given(st.text(alphabet=st.sampled_from("ab 語")), st.integers(min_value=2, max_value=30))
def test_parted_lines_fit_and_lose_nothing_but_spaces(text: str, width: int) -> None:
    parts = wrapped(text, width)

    assert max(map(columns, parts)) <= width
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(("variable", "width"), [("60", 60), ("", 80)])
def test_without_a_terminal_a_table_is_for_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, variable: str, width: int
) -> None:
    monkeypatch.setattr("os.get_terminal_size", lambda _: (_ for _ in ()).throw(OSError))
    monkeypatch.setenv("COLUMNS", variable)

    assert max(map(len, console.table(NUMBERS, "<>").splitlines())) == width
