"""A study as a page and as Markdown: what it says, in how many digits, and what it escapes."""

import base64
import hashlib
import re
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fakes.evening import BASELINE, SEED, WINNER, Evening
from fakes.kept import kept_study

from autotune.cli.reported import report
from autotune.errors import SurroundingsError
from autotune.results.report import facts, series, tables, ticks
from autotune.results.report.markdown import code, escaped, markdown
from autotune.results.report.page import page
from autotune.results.report.sections import Section, sections
from autotune.results.report.verdict import by_chance, verdict
from autotune.results.stored import Stored, Visited
from autotune.results.studies import Purpose, State
from autotune.shell import quoted
from autotune.stats import LEAST_PAIRS
from autotune.words import ratios

HOSTILE = "<script>alert(1)</script> \"'&|`$(id)` @all #1 \x1b[31m\n\u202e $x$ %s {{7*7}}"


@pytest.fixture
def study(tmp_path: Path) -> Stored:
    return kept_study(tmp_path / "kept")


def saying(study: Stored, **changes: object) -> Stored:
    """The study with another evidence."""
    return replace(study, evidence={**(study.evidence or {}), **changes})


def sentence(study: Stored) -> str:
    said = verdict(study)
    return f"{said.claim}{said.mark} {said.rest}".strip()


# --- the verdict ---------------------------------------------------------------------------------


def test_a_gain_is_said_with_its_interval_and_chance(study: Stored) -> None:
    better = saying(study, ratio=2.104, low=1.9, high=2.3, confidence=0.95, chance=0.0025)

    assert sentence(better) == (
        "2.1x faster than llama.cpp's defaults, 95 % CI 1.9 to 2.3; 1 in 400 by chance."
    )


def test_not_shown_is_an_answer(study: Stored) -> None:
    kept = saying(
        study, verdict="not shown", ratio=1.013, low=0.981, high=1.047, confidence=0.95, chance=0.3
    )

    assert sentence(kept) == (
        "Keep llama.cpp's defaults: nothing was shown to be faster. "
        "The best candidate: 1.01x as fast, 95 % CI 0.98 to 1.05; 1 in 3 by chance."
    )


def test_worse_keeps_the_defaults(study: Stored) -> None:
    worse = saying(study, verdict="worse", ratio=0.8, low=0.7, high=0.9, chance=None)

    assert sentence(worse).startswith("Keep llama.cpp's defaults: the best candidate is slower. ")
    assert "chance" not in sentence(worse)


@pytest.mark.parametrize(("pairs", "said"), [(LEAST_PAIRS - 1, True), (LEAST_PAIRS, False)])
def test_a_single_pair_is_said_to_decide_nothing(study: Stored, pairs: int, *, said: bool) -> None:
    few = saying(study, verdict="not shown", pairs=pairs)

    assert ("one pair decides nothing" in sentence(few)) == said


def test_an_evidence_of_before_chance_was_kept_has_none(study: Stored) -> None:
    old = {key: value for key, value in (study.evidence or {}).items() if key != "chance"}

    assert sentence(replace(study, evidence=old)).endswith("95 % CI 1.23 to 1.30.")


def test_no_candidate_is_an_answer(study: Stored) -> None:
    none = saying(study, verdict="not shown", candidate=None, winner=False, ratio=None)

    assert sentence(none) == "Keep llama.cpp's defaults: nothing looked faster."
    assert facts.sides(none) == facts.Table(
        columns=("", "Defaults"),
        rows=(
            ("Prompt processing", "420 t/s"),
            ("Text generation", "18.0 t/s"),
            ("Whole request", "15.4 s"),
        ),
        alignment="<>",
    )


def test_no_comparison_says_why(study: Stored) -> None:
    busy = saying(study, verdict="not shown", ratio=None, winner=False, disturbed_rounds=3)

    assert "no comparison, because the machine was busy in 3 rounds" in sentence(busy)


def test_what_was_not_verified_says_so(study: Stored) -> None:
    assert sentence(saying(study, verdict="not shown", ratio=None)).startswith("Not verified:")


@pytest.mark.parametrize(
    ("state", "said"), [("running", "Still being measured"), ("interrupted", "Interrupted before")]
)
def test_an_unfinished_study_claims_nothing(study: Stored, state: State, said: str) -> None:
    open_ = replace(study, evidence=None, folder=replace(study.folder, state=state))

    assert sentence(open_).startswith(said)
    assert "looks better than it is" in sentence(open_)
    assert any(state in warning or "not finished" in warning for warning in facts.warnings(open_))
    assert "Nothing was verified" not in page(open_)  # Its rounds are shown all the same.


def test_a_study_of_format_1_has_the_verdict_of_its_profile(study: Stored) -> None:
    old = replace(study, evidence=None, environment={})

    assert sentence(old) == "1.27x faster than llama.cpp's defaults, interval 1.23 to 1.30."
    assert study.profile is not None
    kept = replace(old, profile=replace(study.profile, verdict="not shown", ratio=None))
    assert sentence(kept) == "Keep llama.cpp's defaults: nothing was shown to be faster."


def test_a_part_alone_is_named(study: Stored) -> None:
    workload = {**(study.evidence or {})["workload"], "objective": "pp"}

    assert sentence(saying(study, workload=workload)).startswith("Prompts 1.27x faster")


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((2.1, 1.9, 2.3), ["2.1", "1.9", "2.3"]),
        ((1.0823, 1.0712, 1.0935), ["1.082", "1.071", "1.093"]),
        ((1.0823, 1.05, 1.12), ["1.08", "1.05", "1.12"]),
        ((1.02, 1.004, 1.09), ["1.020", "1.004", "1.090"]),
        ((1.02, 1.0004, 1.04), ["1.0200", "1.0004", "1.0400"]),
        ((1.9, 2.3), ["1.9", "2.3"]),
        ((2.1,), ["2.10"]),
        ((1.0004,), ["1.0004"]),
        ((51.3, 44.0, 58.0), ["51", "44", "58"]),
        ((1.5, 1.5, 1.5), ["1.50", "1.50", "1.50"]),
        ((1.0, 1.0, 1.0), ["1.00", "1.00", "1.00"]),
    ],
)
def test_a_ratio_has_the_digits_that_its_interval_justifies(
    interval: tuple[float, ...], said: list[str]
) -> None:
    assert ratios(*interval) == said


@pytest.mark.parametrize(
    ("chance", "said"),
    [
        (None, ""),
        (1.0, "no more than chance"),
        (0.51, "no more than chance"),
        (0.5, "1 in 2 by chance"),
        (0.03, "1 in 33 by chance"),
        (0.0025, "1 in 400 by chance"),
        (1 / 437, "1 in 430 by chance"),
        (0.001, "1 in 1,000 by chance"),
        (0.0009, "less than 1 in 1,000 by chance"),
        (0.0, "less than 1 in 1,000 by chance"),
    ],
)
def test_a_chance_is_rounded_to_what_is_less_rare(chance: float | None, said: str) -> None:
    assert by_chance(chance) == said


def test_both_sides_stand_beside_each_other(study: Stored) -> None:
    assert facts.sides(study) == facts.Table(
        columns=("", "Defaults", "Winner", "Ratio (95 % CI)"),
        rows=(
            ("Prompt processing", "420 t/s", "531 t/s", "1.27x"),
            ("Text generation", "18.0 t/s", "22.9 t/s", "1.27x"),
            ("Whole request", "15.4 s", "12.1 s", "1.27x (1.23 to 1.30)"),
        ),
        alignment="<>>>",
    )


def test_a_part_that_was_not_changed_or_measured_says_so(study: Stored) -> None:
    evidence = study.evidence or {}
    same = {**evidence["candidate"], "pp_tokens_per_s": evidence["baseline"]["pp_tokens_per_s"]}
    none = {**same, "tg_tokens_per_s": None}

    table = facts.sides(saying(study, candidate=none))

    assert table is not None
    assert table.rows[0][3] == "not changed"
    assert table.rows[1][2:] == ("not measured", "")


# --- the page ------------------------------------------------------------------------------------


@dataclass
class Page(HTMLParser):
    """What a page consists of."""

    text: str
    ids: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        if own := attributes.get("id"):
            self.ids.append(own)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


def test_the_page_has_every_section_and_each_chart_a_name_and_a_table(study: Stored) -> None:
    seen = Page(page(study, command=["llama-server", "-m", "a b.gguf"]))

    charts = seen.all("svg")
    assert len(charts) == 6
    for chart in charts:
        assert chart["role"] == "img"
        assert set(str(chart["aria-labelledby"]).split()) <= set(seen.ids)
    assert len(seen.all("details")) == 6
    assert seen.headings == ["h1", *["h2"] * 11]
    assert len(seen.ids) == len(set(seen.ids))
    assert all(th.get("scope") in {"col", "row"} for th in seen.all("th"))
    assert "llama-server -m 'a b.gguf'" in seen.words


def test_the_page_asks_for_nothing_from_anywhere(study: Stored) -> None:
    text = page(study)

    seen = Page(text)
    assert set(re.findall(r"https?://[^\"\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert [tag for tag, a in seen.tags if "src" in a or tag in {"iframe", "object"}] == []
    assert [a["href"] for a in seen.all("link")] == ["data:,"]
    policy = next(str(a["content"]) for a in seen.all("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_every_colour_of_a_chart_is_the_page_s_own(study: Stored) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", page(study), re.DOTALL))

    assert re.findall(r"#[0-9a-f]{6}", charts) == []
    assert "var(--win)" in charts


def test_the_same_study_gives_the_same_bytes(study: Stored) -> None:
    assert page(study) == page(study)


def test_names_of_any_characters_stay_text(tmp_path: Path) -> None:
    study = kept_study(tmp_path / "kept", Evening(model=HOSTILE, program=HOSTILE))
    study = replace(
        study,
        environment={**study.environment, "host": HOSTILE},
        folder=replace(study.folder, machine=HOSTILE, build=HOSTILE),
    )

    text = page(study, command=["llama-server", "--model", f"/{HOSTILE}.gguf"])

    seen = Page(text)
    assert len(seen.all("script")) == 1
    assert not any(c for c in text if not c.isprintable() and c != "\n")
    assert any("<script>alert(1)</script>" in words for words in seen.words)
    assert "{{7*7}}" in text


def test_a_trial_s_words_stay_text_in_tables_and_charts(study: Stored) -> None:
    odd = replace(WINNER, tensor_buft_overrides=((HOSTILE, "CPU"),))
    trials = [
        replace(v, trial=replace(v.trial, source=HOSTILE, disturbed=HOSTILE if n == 3 else ""))
        for n, v in enumerate(study.visited)
    ]
    last = study.visited[4]
    trials.append(replace(last, trial=replace(last.trial, number=99, params=odd)))

    seen = Page(page(replace(study, visited=tuple(trials))))

    assert len(seen.all("script")) == 1


def test_a_study_without_environment_or_memory_says_what_it_has_not(study: Stored) -> None:
    evidence = study.evidence or {}
    bare = {side: {**evidence[side], "memory": None} for side in ("baseline", "candidate")}

    text = page(replace(saying(study, **bare), environment={}))

    assert "What each side takes was not kept with this study." in text
    assert "AMD Ryzen 7 5800H" in text  # study.json has the machine in words.
    assert "Taken away" not in text


def test_an_empty_study_has_a_page(study: Stored) -> None:
    empty = replace(
        study, evidence=None, records=(), visited=(), incumbents=(), profile=None, environment={}
    )

    assert "Nothing was proven" in page(empty)
    assert "0 trials" in markdown(empty)


def test_a_disturbed_round_is_marked_and_not_hidden(study: Stored) -> None:
    evidence = study.evidence or {}
    tests = [
        {**test, "disturbed": "memory was short" if test["round"] == "round 2" else ""}
        for test in evidence["candidate"]["samples"]
    ]
    candidate = {**evidence["candidate"], "samples": tests}

    text = page(saying(study, candidate=candidate, disturbed_rounds=1))

    assert "20 tests, of which 4 in disturbed rounds" in text  # The clean side does not count.
    assert "1 round of the verification was disturbed" in text
    assert text.count("memory was short") == 4


def test_what_an_earlier_session_verified_is_not_drawn_as_if_it_counted(study: Stored) -> None:
    last = study.visited[-1]
    before = replace(last, trial=replace(last.trial, source="interrupted", number=99))
    resumed = replace(study, visited=(before, *study.visited))

    assert series.samples(resumed, "tg") == series.samples(study, "tg")
    assert len(series.samples(replace(resumed, evidence=None), "tg")) == 11


def test_rounds_of_one_name_are_told_apart(study: Stored) -> None:
    """All of those that a session ran after its interruption are called so."""
    evidence = study.evidence or {}
    sides = {
        side: {
            **evidence[side],
            "samples": [
                {**test, "round": "interrupted", "disturbed": test["round"][6:] * (side == busy)}
                for test in evidence[side]["samples"]
            ],
        }
        for side, busy in (("baseline", ""), ("candidate", "candidate"))
    }
    visited = tuple(replace(v, trial=replace(v.trial, source="interrupted")) for v in study.visited)

    seen = series.samples(saying(replace(study, visited=visited), **sides), "pp")

    assert [s.disturbed for s in seen] == list("1122334455")


def test_the_drift_is_in_a_table_without_any_sensor(study: Stored) -> None:
    blind = [replace(w, foreign_cpus=None, temperatures_c={}) for w in series.weather(study)]
    blind = [replace(w, clock_mhz=None) for w in blind]
    again = series.again(study)

    table = tables.of_night(again, blind)

    names = ("Time", "Measured again", "Prompt processing, median = 1")
    assert table.columns[:4] == (*names, "Text generation, median = 1")
    assert len(table.rows) == len({a.trial for a in again})
    assert {row[1] for row in table.rows} == {"defaults", "anchor"}
    assert [float(row[2]) for row in table.rows] == pytest.approx(
        [a.ratio for a in again if a.part == "pp"], abs=0.001
    )


@pytest.mark.parametrize(
    ("purpose", "next_step"),
    [("tune", "lcm run ... --deep --resume"), ("verify", "verify again with: lcm verify MODEL")],
)
def test_what_was_interrupted_says_what_to_do(
    study: Stored, purpose: Purpose, next_step: str
) -> None:
    folder = replace(study.folder, state="interrupted", purpose=purpose)

    (said,) = [w for w in facts.warnings(replace(study, folder=folder)) if "interrupted" in w]

    assert next_step in said


def test_ten_thousand_trials_fit_in_a_megabyte(study: Stored) -> None:
    many = [_later(one, n) for n in range(450) for one in study.visited]

    text = page(replace(study, visited=tuple(many)))

    assert len(many) > 10_000
    assert len(text.encode()) < 1_000_000
    assert "more rows are left out here" in text


def _later(one: Visited, n: int) -> Visited:
    """The same trial at another time, and a little faster."""
    trial = one.trial
    faster = (trial.seconds or 10) / (1 + 0.0003 * n)
    at_s = trial.elapsed_s + 400 * n
    return replace(one, trial=replace(trial, number=n, seconds=faster, elapsed_s=at_s))


@pytest.mark.parametrize("number", [10, 1_500, 20_000])
def test_points_that_lie_on_each_other_are_drawn_once(number: int) -> None:
    points = [(float(n), (n * 7919) % number / number) for n in range(number)]

    kept = ticks.thinned(points)

    assert len(kept) <= ticks.MOST_POINTS
    assert set(kept) <= set(points)
    assert len(kept) == number or len(kept) > 300


@pytest.mark.parametrize("values", [[1.0], [0.3, 0.5], [0.95, 1.05], [1.0, 1.001], [0.01, 40]])
def test_an_axis_of_ratios_has_1_and_ticks_that_do_not_touch(values: list[float]) -> None:
    where, (low, high) = ticks.ratios(values)

    assert 1 in where
    assert low < min(*values, 1) <= max(*values, 1) < high
    assert len(where) <= 12


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["plain", "a b", "it's", HOSTILE, "\udcff\x01'\\", "é\u202e"])
def test_a_shell_reads_the_command_back(word: str) -> None:
    shown = quoted(["printf", "%s", word])

    read = subprocess.run(["bash", "-c", shown], capture_output=True, check=True)  # noqa: S607
    assert read.stdout.decode(errors="surrogateescape") == word
    assert shown.isprintable()


# --- Markdown ------------------------------------------------------------------------------------


def test_the_short_form_is_short_and_has_what_is_asked_for(study: Stored) -> None:
    said = markdown(study, command=["llama-server", "--threads", "6"])

    assert said.startswith("**1.27x faster than llama.cpp's defaults**, 95 % CI 1.23 to 1.30; ")
    assert "| Whole request | 15.4 s | 12.1 s | 1.27x (1.23 to 1.30) |" in said
    assert "```sh\nllama-server --threads 6\n```" in said
    assert "llama.cpp: `version: 11434 (5eed5ee)`" in said
    assert "Machine: `AMD Ryzen 7 5800H`" in said
    assert "://" not in said
    assert len(said.splitlines()) < 30


def test_names_in_markdown_stand_in_code(tmp_path: Path) -> None:
    study = kept_study(tmp_path / "kept", Evening(model=HOSTILE))

    said = markdown(study, command=["llama-server", "-m", "```<b>", "a\n<b>"])

    line = next(line for line in said.splitlines() if line.startswith("Model "))
    assert line.startswith("Model ``<script>")
    assert "\x1b" not in said
    assert "\u202e" not in said
    typed = "llama-server -m '```<b>' \"$(printf 'a\\012\\074b\\076')\""
    assert f"\n````sh\n{typed}\n````\n" in said


@pytest.mark.parametrize(
    ("text", "span"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("", "`  `"), ("a|b", "`a|b`")],
)
def test_a_code_span_holds_any_text(text: str, span: str) -> None:
    assert code(text) == span


def test_text_in_markdown_is_not_markup() -> None:
    assert escaped("*a* <b> [c](d) @e | `f`") == r"\*a\* \<b\> \[c\]\(d\) \@e \| \`f\`"


# --- the command that writes it ------------------------------------------------------------------


def test_the_page_lies_beside_the_study_and_its_path_is_the_answer(
    study: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    report(study, fmt="html", output=None)

    path = study.folder.path / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "--model /models/Llama-3.1-8B-Instruct-Q4_K_M.gguf" in text


def test_markdown_is_printed_or_written(
    study: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(study, fmt="markdown", output=None)
    printed = capsys.readouterr().out
    report(study, fmt="markdown", output=tmp_path / "short.md")

    assert (tmp_path / "short.md").read_text(encoding="utf-8") == printed
    assert printed.startswith("**1.27x")


def test_a_file_that_cannot_be_written_is_named(study: Stored, tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="nowhere"):
        report(study, fmt="html", output=tmp_path / "nowhere" / "report.html")


# --- Energy


@pytest.fixture
def metered(tmp_path: Path) -> Stored:
    return kept_study(tmp_path / "metered", Evening(watts=60.0, objective="efficiency"))


def section(study: Stored, name: str) -> Section:
    return next(one for one in sections(study) if one.name == name)


def test_a_gain_in_joules_is_said_in_their_words(metered: Stored) -> None:
    assert re.match(r"[\d.]+x more efficient than llama.cpp's defaults, ", sentence(metered))


def test_joules_of_both_sides_stand_beside_each_other(metered: Stored) -> None:
    table = facts.sides(metered)

    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Text generation, by energy"][:2] == ("0.300 t/J", "0.441 t/J")
    assert rows["Energy of it all"][0] == "926 J"
    assert "to" in rows["Energy of it all"][2]  # The interval stands by what was minimised.
    assert "to" not in rows["Whole request"][2]


def test_the_energy_of_each_configuration_is_in_a_table(metered: Stored) -> None:
    energy = section(metered, "energy")

    assert energy.table is not None
    assert energy.table.rows[0][-1] == "44.0 W"  # With four threads.
    assert "CPU package 0, GPU 0" in energy.words[0]


def test_where_nobody_can_tell_joules_the_page_says_why_and_what_to_do(study: Stored) -> None:
    assert section(study, "energy").words == (
        "Not known: neither RAPL nor a GPU shows a counter; measure on the machine itself.",
    )


def test_the_way_of_a_search_for_joules_is_drawn_by_joules(metered: Stored) -> None:
    of_defaults, of_seed = series.progress(metered).steps[:2]
    evening = Evening(watts=60.0)
    expected = evening.request_j(BASELINE) or 0.0, evening.request_j(SEED) or 1.0

    assert [of_defaults.ratio, of_seed.ratio] == pytest.approx([1.0, expected[0] / expected[1]])


def test_a_limit_of_power_that_the_defaults_meet_is_said_once(study: Stored) -> None:
    said = [text for text in facts.warnings(study) if "limit of power" in text]

    n = len(study.visited)
    how = "the defaults too, so this is how it works here."
    assert said == [f"GPU 0 was held back by its limit of power in {n} of {n} trials; {how}"]


# --- a shared study ------------------------------------------------------------------------------

WORKERS = [
    {"host": "node1", "machine": "EPYC, 16 cores", "state": "finished", "verdict": "better",
     "ratio": 1.25, "low": 1.2, "high": 1.3},
    {"host": HOSTILE, "machine": "EPYC, 16 cores", "state": "verifying", "verdict": "",
     "ratio": None, "low": None, "high": None},
]  # fmt: skip


def test_each_machine_of_a_shared_study_says_whether_it_holds_there(study: Stored) -> None:
    shared = saying(
        study, fleet={"study": "lcm-x", "storage": "postgresql://db/x", "workers": WORKERS}
    )

    table = facts.machines(shared)

    assert table is not None
    assert [row[2:] for row in table.rows] == [
        ("better", "1.25x (1.20 to 1.30)"),
        ("verifying", ""),
    ]
    assert "Where it holds" in page(shared)
    assert "<script>alert" not in page(shared)
    assert "| node1 |" in markdown(shared)
    assert "<script>" not in markdown(shared)


def test_a_study_of_one_machine_has_no_table_of_machines(study: Stored) -> None:
    assert facts.machines(study) is None
    assert "Where it holds" not in page(study)
