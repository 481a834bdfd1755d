"""The charts of a report as SVG, in placeholder colours that the page replaces by its own."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from autotune.errors import printable
from autotune.params import Params
from autotune.results.effects import Effect
from autotune.results.report import looks, series, ticks
from autotune.results.report.looks import Look
from autotune.results.report.ticks import Spot, thinned
from autotune.words import clock_time, parameter, shown

_Titles: TypeAlias = Mapping[str, str]

_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}
_GIB = 1 << 30
_LONGEST_NAME = 24
_LEAST_SPAN = 0.04  # Of an axis, of what it shows.

# A font cache that is built, or a folder that cannot be written, is no concern of the user.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


def progress(seen: series.Progress) -> str:
    """Each trial at its time, with the best so far; what has no speed stands at 0."""
    with _drawing(3.7) as figure:
        axes = figure.subplots()
        for outcome, look in looks.OUTCOMES.items():
            steps = [step for step in seen.steps if step.outcome == outcome]
            _points(axes, [(step.at_s, step.ratio or 0.0) for step in steps], look)
        axes.axhline(1, color=looks.BASE, linestyle="--", label="defaults")
        end_s = max((step.at_s for step in seen.steps), default=0.0)
        led = [*seen.best, (end_s, seen.best[-1][1])]
        axes.step(*_xy(led), where="post", color=looks.WIN, linewidth=2, label="best so far")
        axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])
        axes.set_ylabel("speed, defaults = 1")
        _time_axis(axes, end_s)
        _legend(axes, columns=3)
        return _svg(figure)


def effects(found: Sequence[Effect], titles: _Titles) -> str:
    """The ratio and interval of each value, by test."""
    by_test: dict[str, list[Effect]] = {}
    for effect in found:
        by_test.setdefault(effect.test, []).append(effect)
    rows = [len(some) + 1.5 for some in by_test.values()]
    with _drawing(0.28 * sum(rows) + 0.5) as figure:
        panels = figure.subplots(len(rows), squeeze=False, height_ratios=rows, sharex=True)[:, 0]
        for axes, (test, some) in zip(panels, by_test.items(), strict=True):
            _forest(axes, some)
            axes.set_title(titles[test])
        _ratio_axis(panels[-1], [x for e in found for x in (e.seen.low, e.seen.high)])
        panels[-1].set_xlabel("times as fast as with the default")
        return _svg(figure)


def _forest(axes: Axes, found: Sequence[Effect]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color=looks.BASE, linestyle="--")
    for row, effect in enumerate(found):
        seen = effect.seen
        sure = seen.shown_better or seen.shown_worse
        colour = (looks.WIN if seen.shown_better else looks.BAD) if sure else looks.MUTED
        axes.plot([seen.low, seen.high], [row, row], color=colour, linewidth=2 if sure else 1)
        marker = "D" if seen.pairs == 1 else "o"
        axes.plot(seen.ratio, row, **Look("", marker, colour, filled=sure, size=6).style)
    names = (f"{parameter(e.parameter)} {shown(e.parameter, e.value)}" for e in found)
    _rows(axes, [_short(printable(name)) for name in names])


def speeds(found: Sequence[series.Speed], named: Mapping[Params, Look]) -> str:
    """Prompt processing against generation, with the front of what nothing beats at both."""
    with _drawing(4.0) as figure:
        axes = figure.subplots()
        ordinary = [(s.pp, s.tg) for s in found if s.params not in named]
        _points(axes, ordinary, looks.TRIED)
        front = sorted((s.pp, s.tg) for s in found if s.on_front)
        axes.step(*_xy(front), ":", where="pre", color=looks.FOURTH, linewidth=2, label="front")
        for params, look in named.items():
            _points(axes, [(s.pp, s.tg) for s in found if s.params == params], look)
        axes.set_xlabel("prompt processing, t/s")
        axes.set_ylabel("text generation, t/s")
        _not_too_near(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _legend(axes, columns=4)
        return _svg(figure)


def samples(by_part: Mapping[str, Sequence[series.Sample]], titles: _Titles) -> str:
    """Every repetition of both sides, in the order in which they ran."""
    with _drawing(2.3 * len(by_part) + 0.6) as figure:
        panels = figure.subplots(len(by_part), squeeze=False)[:, 0]
        for axes, (part, found) in zip(panels, by_part.items(), strict=True):
            _interleaved(axes, found)
            axes.set_title(titles[part])
            axes.set_ylabel("t/s")
        panels[-1].set_xlabel("test, in the order in which they ran")
        _shared_legend(figure)
        return _svg(figure)


def _interleaved(axes: Axes, found: Sequence[series.Sample]) -> None:
    kinds = {"baseline": looks.DEFAULTS, "candidate": looks.CANDIDATE, "disturbed": looks.DISTURBED}
    for kind, look in kinds.items():
        of_kind = [s for s in found if ("disturbed" if s.disturbed else s.side) == kind]
        _points(axes, [(s.order, ts) for s in of_kind for ts in s.samples_ts], look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _not_too_near(axes)


def night(again: Sequence[series.Again], weather: Sequence[series.Weather], end_s: float) -> str:
    """One panel for each thing that could be seen of the machine, over the time of the study."""
    drawn: dict[str, Callable[[Axes], None]] = {}
    if again:
        drawn["speed when measured again, median = 1"] = lambda axes: _again(axes, again)
    if any(w.foreign_cpus is not None for w in weather):
        drawn["load of other programs, in CPUs"] = lambda axes: _foreign(axes, weather)
    if any(w.temperatures_c for w in weather):
        drawn["temperature, °C"] = lambda axes: _temperatures(axes, weather)
    if any(w.clock_mhz for w in weather):
        drawn["clock of the CPU, MHz"] = lambda axes: _clock(axes, weather)
    with _drawing(1.6 * len(drawn) + 0.8) as figure:
        panels = figure.subplots(len(drawn), squeeze=False, sharex=True)[:, 0]
        for axes, (title, draw) in zip(panels, drawn.items(), strict=True):
            draw(axes)
            axes.set_title(title)
            axes.yaxis.set_major_locator(MaxNLocator(4))
        _time_axis(panels[-1], end_s)
        _shared_legend(figure)
        return _svg(figure)


def _again(axes: Axes, found: Sequence[series.Again]) -> None:
    axes.axhline(1, color=looks.LINE, linewidth=1.5)
    clean = [a for a in found if not a.disturbed]
    _points(axes, [(a.at_s, a.ratio) for a in clean if a.is_baseline], looks.DEFAULTS)
    _points(axes, [(a.at_s, a.ratio) for a in clean if not a.is_baseline], looks.ANCHOR)
    _points(axes, [(a.at_s, a.ratio) for a in found if a.disturbed], looks.DISTURBED)
    _not_too_near(axes)


def _foreign(axes: Axes, weather: Sequence[series.Weather]) -> None:
    for disturbed, look in ((False, Look("", "o", looks.MUTED, size=4)), (True, looks.DISTURBED)):
        seen = [w for w in weather if bool(w.disturbed) == disturbed]
        _points(axes, [(w.at_s, w.foreign_cpus) for w in seen if w.foreign_cpus is not None], look)
    axes.set_ylim(bottom=-0.05 * max(axes.get_ylim()[1], 0.1))


def _temperatures(axes: Axes, weather: Sequence[series.Weather]) -> None:
    names = dict.fromkeys(name for w in weather for name in w.temperatures_c)
    for number, name in enumerate(names):
        seen = [(w.at_s, w.temperatures_c[name]) for w in weather if name in w.temperatures_c]
        colour, dash = looks.DASHES[number % len(looks.DASHES)]
        axes.plot(*_xy(thinned(seen)), color=colour, linestyle=dash)
        axes.annotate(name, seen[-1], (5, -4), textcoords="offset points", color=looks.INK)


def _clock(axes: Axes, weather: Sequence[series.Weather]) -> None:
    seen = [(w.at_s, w.clock_mhz) for w in weather if w.clock_mhz]
    axes.plot(*_xy(thinned(seen)), color=looks.MUTED)


def memory(bars: Mapping[str, Mapping[str, int]]) -> str:
    """The bytes by part of each bar."""
    most = max(sum(sizes.values()) for sizes in bars.values())
    name, unit = ("GiB", _GIB) if most >= _GIB else ("MiB", _GIB >> 10)
    parts = dict.fromkeys(part for sizes in bars.values() for part, size in sizes.items() if size)
    with _drawing(0.45 * len(bars) + 1.2) as figure:
        axes = figure.subplots()
        left = [0.0] * len(bars)
        for part, (colour, hatch) in zip(parts, looks.HATCHES, strict=False):
            sizes = [sizes.get(part, 0) / unit for sizes in bars.values()]
            axes.barh(range(len(bars)), sizes, 0.6, left, color=colour, hatch=hatch, label=part)
            left = [a + b for a, b in zip(left, sizes, strict=True)]
        _rows(axes, list(bars))
        axes.set_xlabel(name)
        _legend(axes, columns=2)
        return _svg(figure)


@contextmanager
def _drawing(height: float) -> Iterator[Figure]:
    """A figure in our style, whatever the user's own matplotlibrc has."""
    with context(["default", dict(looks.STYLE)]), warnings.catch_warnings():
        # Of letters that its font has not: the reader's fonts are what counts.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield Figure(figsize=(looks.WIDTH, height), dpi=72, layout="constrained")


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=_NOTHING)
    return file.getvalue()


def _xy(points: Sequence[Spot]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _points(axes: Axes, points: Sequence[Spot], look: Look) -> None:
    if points:
        axes.plot(*_xy(thinned(points)), **look.style)


def _not_too_near(axes: Axes) -> None:
    """Differences that are smaller than any noise do not fill the chart."""
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        middle, half = sum(limits) / 2, (limits[1] - limits[0]) / 2
        half = max(half, _LEAST_SPAN * abs(middle) / 2)
        set_limits(middle - half, middle + half)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """A row for each name, the first at the top."""
    axes.set_yticks(range(len(names)), names, color=looks.INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _time_axis(axes: Axes, end_s: float) -> None:
    axes.set_xlim(0, 1.02 * end_s or 1.0)
    axes.xaxis.set_major_locator(FixedLocator(ticks.times(end_s)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock_time(seconds)))
    axes.set_xlabel("time into the study")


def _ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    where, ends = ticks.ratios(values)
    axes.set_xlim(*ends)
    axes.xaxis.set_major_locator(FixedLocator(where))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))


def _legend(axes: Axes, *, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns)


def _shared_legend(figure: Figure) -> None:
    """One for all panels, each look once."""
    named = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=3)
