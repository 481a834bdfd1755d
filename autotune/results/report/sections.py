"""Each chart of the page with what is to be seen in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autotune.params import Params
from autotune.results.effects import Effect, effects
from autotune.results.report import charts, facts, looks, series, tables
from autotune.results.report.facts import Table
from autotune.results.report.looks import Look
from autotune.results.report.svg import inline
from autotune.results.stored import Stored
from autotune.words import clock_time, counted, quality, size

_MOST_EFFECTS = 60  # In the chart; the table has all.

_FLATTERS = (
    "What has no speed, because it failed or had lost and was ended early, stands at 0. The "
    "search's own numbers flatter what it has chosen: the verdict rests on the verification alone."
)
_HOW_SURE = (
    "A filled mark is one whose 95 % interval does not reach 1; of twenty values that change "
    "nothing, one will look like that. A diamond was tried in one pair only."
)
_IN_TURN = (
    "The defaults and the candidate in turn, in reverse every other round, so that what drifts "
    "hits both. The verdict rests on these tests and no others, without those of disturbed rounds."
)
_UNCHANGED = "A part that the candidate does not change is not measured again."
_HOLLOW = "Hollow marks were disturbed: they were measured again, and do not count."


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading of the page."""

    name: str  # Its id.
    title: str
    words: tuple[str, ...]  # Paragraphs.
    chart: str = ""  # An SVG element.
    table: Table | None = None
    left_out: int = 0  # Rows that the table has no room for.


def sections(stored: Stored) -> tuple[Section, ...]:
    """All of them, in the order of the page; those without data say so."""
    baseline = facts.baseline_of(stored)
    of_trials = (
        ()
        if baseline is None
        else (
            _progress(stored, baseline),
            _effects(stored, baseline),
            _speeds(stored, baseline),
            _energy(stored, baseline),
            _samples(stored),
            _night(stored),
        )
    )
    return (*of_trials, _failures(stored), _memory(stored))


def _progress(stored: Stored, baseline: Params) -> Section:
    seen = series.progress(stored)
    says = f"{facts.course(stored)}."
    better = quality(stored.objective).better
    what = "efficiency" if stored.objective == "efficiency" else "speed"
    if len(seen.best) > 1:
        at_s, ratio = seen.best[-1]
        says += (
            f" The best so far was last replaced after {clock_time(at_s)}, at {ratio:.2f} times "
            f"the {what} of the defaults by what the search saw."
        )
    return _charted(
        "progress",
        "Progress",
        words=(f"Every trial, at the time when it ended; higher is {better}. {says}", _FLATTERS),
        says=says,
        drawing=charts.progress(seen),
        table=tables.of_progress(seen, baseline),
    )


def _effects(stored: Stored, baseline: Params) -> Section:
    found = effects(stored.visited, baseline)
    name, title = "effects", "What each parameter does"
    if not found:
        words = "No two undisturbed tests differ in one parameter alone, so nothing can be said."
        return Section(name=name, title=title, words=(words,))
    sure = [e for e in found if e.seen.shown_better or e.seen.shown_worse]
    says = f"{counted(len(found), 'value')}, of which {len(sure)} can be told from the default."
    what = "Pairs of tests that differ in nothing else; right of the dashed line is faster."
    test_titles = {e.test: f"{facts.PARTS[e.part]}, {e.test}" for e in found}
    return _charted(
        name,
        title,
        words=(f"{what} {says}", _HOW_SURE),
        says=says,
        drawing=charts.effects(_farthest(found), test_titles),
        table=tables.of_effects(found),
    )


def _farthest(found: Sequence[Effect]) -> list[Effect]:
    """Those farthest from 1, in the order that they had."""
    ranked = sorted(found, key=lambda effect: -abs(effect.seen.ratio - 1))[:_MOST_EFFECTS]
    return [effect for effect in found if effect in ranked]


def _speeds(stored: Stored, baseline: Params) -> Section:
    found = series.speeds(stored)
    name, title = "speeds", "Prompts against answers"
    if not found:
        words = "No configuration was measured at both parts of a request."
        return Section(name=name, title=title, words=(words,))
    front = sum(speed.on_front for speed in found)
    says = (
        f"{counted(len(found), 'configuration')}. The dotted line is the Pareto front, with "
        f"{front} of them: nothing is faster at prompts without being slower at answers."
    )
    named = {baseline: replace(looks.DEFAULTS, size=9)}
    if candidate := facts.candidate_of(stored):
        label = facts.candidate_name(stored).split()[-1].lower()
        named[candidate] = Look(label, "*", looks.WIN, size=14)
    return _charted(
        name,
        title,
        words=(f"Up and to the right is faster. {says}",),
        says=says,
        drawing=charts.speeds(found, named),
        table=tables.of_speeds(found, baseline),
    )


def _energy(stored: Stored, baseline: Params) -> Section:
    found = series.economies(stored)
    name, title = "energy", "Energy"
    counted_of = facts.joules_of(stored)
    if not found:
        return Section(name=name, title=title, words=(f"Not known: {counted_of.missing}.",))
    table, left_out = tables.cut(tables.of_economies(found, baseline))
    what = (
        f"Tokens per joule of {counted_of.known or 'what counts here'}, by undisturbed tests: what "
        "the machine used while they ran, its idle share included, without loads and warm-ups."
    )
    words = (
        what,
        *facts.joules(stored),
        *([f"Not counted: {counted_of.missing}."] if counted_of.missing else []),
    )
    return Section(name=name, title=title, words=words, table=table, left_out=left_out)


def _samples(stored: Stored) -> Section:
    by_part = {part: found for part in facts.PARTS if (found := series.samples(stored, part))}
    name, title = "verification", "The verification"
    if not by_part:
        words = "Nothing was verified: no two sides were measured in turn."
        return Section(name=name, title=title, words=(words,))
    tests = [sample for found in by_part.values() for sample in found]
    disturbed = sum(bool(sample.disturbed) for sample in tests)
    says = f"{counted(len(tests), 'test')}, of which {disturbed or 'none'} in disturbed rounds."
    return _charted(
        name,
        title,
        words=(f"{_IN_TURN} {says}", _UNCHANGED),
        says=says,
        drawing=charts.samples(by_part, facts.PARTS),
        table=tables.of_samples(by_part),
    )


def _night(stored: Stored) -> Section:
    again, weather = series.again(stored), series.weather(stored)
    name, title = "machine", "The machine along the way"
    seen = [w for w in weather if w.is_known]
    if not again and not seen:
        words = "Nothing is known of it: nothing was measured twice, and no sensor was read."
        return Section(name=name, title=title, words=(words,))
    says = " ".join(_in_words(again, weather))
    end_s = max(one.trial.elapsed_s for one in stored.visited)
    return _charted(
        name,
        title,
        words=(f"A machine that stays the same shows level lines. {says}", _HOLLOW),
        says=says,
        drawing=charts.night(again, seen, end_s),
        table=tables.of_night(again, weather),
    )


def _in_words(again: Sequence[series.Again], weather: Sequence[series.Weather]) -> Iterator[str]:
    quiet = [100 * (a.ratio - 1) for a in again if not a.disturbed]
    if quiet:
        ends = f"{min(quiet):+.1f} % to {max(quiet):+.1f} %"
        yield f"The same configuration measured again came out at {ends} of its median."
    hottest = [max(w.temperatures_c.values()) for w in weather if w.temperatures_c]
    if hottest:
        yield f"The hottest sensor was at {min(hottest):.0f} to {max(hottest):.0f} °C."
    else:
        yield "No temperature could be read."
    busy = [w.foreign_cpus for w in weather if w.foreign_cpus is not None]
    if busy:
        yield f"Other programs used up to {max(busy):.1f} CPUs."


def _failures(stored: Stored) -> Section:
    table = facts.failures(stored)
    words = "A test that fails costs itself alone." if table else "No test failed."
    return Section(name="failures", title="Failures", words=(words,), table=table)


def _memory(stored: Stored) -> Section:
    name, title, table = "memory", "Memory", facts.memory(stored)
    if table is None:
        words = "What each side takes was not kept with this study."
        return Section(name=name, title=title, words=(words,))
    bars = {
        f"{side.lower()}, {place}": {part: at.get(key, 0) for key, part in facts.MEMORY.items()}
        for side, memory in facts.memory_sides(stored).items()
        for place, at in facts.places(memory)
        if any(at.get(key) for key in facts.MEMORY)
    }
    says = "; ".join(f"{bar}: {size(sum(part.values()))}" for bar, part in bars.items()) + "."
    return _charted(
        name,
        title,
        words=(f"What llama.cpp allocates, by place and part; {says}",),
        says=says,
        drawing=charts.memory(bars),
        table=table,
    )


def _charted(
    name: str, title: str, *, words: tuple[str, ...], says: str, drawing: str, table: Table
) -> Section:
    kept, left_out = tables.cut(table)
    chart = inline(drawing, name=f"chart-{name}", title=title, says=says, colours=looks.COLOURS)
    return Section(name=name, title=title, words=words, chart=chart, table=kept, left_out=left_out)
