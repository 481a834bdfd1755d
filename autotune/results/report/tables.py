"""The data of the charts as tables, for those who do not see them and those who want numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.params import Params
from autotune.results.effects import Effect
from autotune.results.report import series
from autotune.results.report.facts import PARTS, Table, per_joule, rate
from autotune.words import clock_time, described, digits, parameter, ratios, shown

# Under a chart; all the rest is in the study's own files.
MOST_ROWS = 300


def of_progress(seen: series.Progress, baseline: Params) -> Table:
    """Every trial."""
    rows = tuple(_trial(step, baseline) for step in seen.steps)
    columns = ("Trial", "Time", "For", "Configuration", "pp", "tg", "Request", "Outcome")
    return Table(columns=columns, rows=rows, alignment=">><<>>><")


def _trial(step: series.Step, baseline: Params) -> tuple[str, ...]:
    one, trial = step.visited, step.visited.trial
    rates = (one.measured(part) for part in PARTS)
    return (
        str(trial.number),
        clock_time(trial.elapsed_s),
        f"{trial.kind}: {trial.source}",
        described(trial.params, baseline),
        *(rate(m.median_ts) if m else "" for m in rates),
        f"{digits(trial.seconds)} s" if trial.seconds else "",
        trial.disturbed if step.outcome == "disturbed" else step.outcome,
    )


def of_effects(found: Sequence[Effect]) -> Table:
    """Every value with its ratio and interval."""
    columns = ("Parameter", "Default", "Value", "Test", "Ratio", "95 % CI", "Pairs", "How sure")
    return Table(columns=columns, rows=tuple(map(_effect, found)), alignment="<><<>>><")


def _effect(effect: Effect) -> tuple[str, ...]:
    seen = effect.seen
    ratio, low, high = ratios(seen.ratio, seen.low, seen.high)
    sure = "faster" if seen.shown_better else "slower" if seen.shown_worse else "not shown"
    return (
        parameter(effect.parameter),
        shown(effect.parameter, effect.default),
        shown(effect.parameter, effect.value),
        effect.test,
        f"{ratio}x",
        f"{low} to {high}",
        str(seen.pairs),
        f"{sure}, tried once" if seen.pairs == 1 else sure,
    )


def of_speeds(found: Sequence[series.Speed], baseline: Params) -> Table:
    """Every configuration with both its speeds, those on the front first."""
    ranked = sorted(found, key=lambda s: (not s.on_front, -s.pp))
    rows = tuple(
        (described(s.params, baseline), rate(s.pp), rate(s.tg), "yes" if s.on_front else "")
        for s in ranked
    )
    columns = ("Configuration", *PARTS.values(), "On the front")
    return Table(columns=columns, rows=rows, alignment="<>><")


def of_economies(found: Sequence[series.Economy], baseline: Params) -> Table:
    """Every configuration with what it makes of a joule, the best at answers first."""
    ranked = sorted(found, key=lambda one: (-(one.tg or 0), -(one.pp or 0)))
    rows = tuple(
        (
            described(one.params, baseline),
            *(per_joule(known) if known else "" for known in (one.pp, one.tg)),
            *(f"{digits(watts)} W" if watts else "" for watts in (one.pp_watts, one.tg_watts)),
        )
        for one in ranked
    )
    columns = ("Configuration", *PARTS.values(), *(f"{name}, power" for name in PARTS.values()))
    return Table(columns=columns, rows=rows, alignment="<>>>>")


def of_samples(by_part: Mapping[str, Sequence[series.Sample]]) -> Table:
    """Every test of the verification with all its repetitions."""
    names = {"baseline": "defaults", "candidate": "candidate"}
    rows = tuple(
        (
            PARTS[part],
            str(s.order),
            s.source,
            names[s.side],
            ", ".join(map(digits, s.samples_ts)) + " t/s",
            s.disturbed,
        )
        for part, found in by_part.items()
        for s in found
    )
    columns = ("Part", "Test", "Round", "Side", "Samples", "Disturbed by")
    return Table(columns=columns, rows=rows, alignment="<><<><")


def of_night(again: Sequence[series.Again], weather: Sequence[series.Weather]) -> Table:
    """What the machine was like at each trial, and how fast what was measured again."""
    drift = {(a.trial, a.part): a for a in again}
    parts = [part for part in PARTS if any(a.part == part for a in again)]
    measured_again = {a.trial: "defaults" if a.is_baseline else "anchor" for a in again}
    sensors = tuple(dict.fromkeys(name for w in weather for name in w.temperatures_c))
    rows = tuple(
        (
            clock_time(w.at_s),
            measured_again.get(w.trial, ""),
            *(f"{drift[w.trial, p].ratio:.3f}" if (w.trial, p) in drift else "" for p in parts),
            "" if w.foreign_cpus is None else f"{w.foreign_cpus:.2f}",
            *(f"{w.temperatures_c[s]:.0f} °C" if s in w.temperatures_c else "" for s in sensors),
            f"{w.clock_mhz:.0f} MHz" if w.clock_mhz else "",
            w.disturbed,
        )
        for w in weather
        if w.is_known or w.trial in measured_again
    )
    speeds = tuple(f"{PARTS[part]}, median = 1" for part in parts)
    load = "Other programs, CPUs"
    columns = ("Time", "Measured again", *speeds, load, *sensors, "CPU clock", "Disturbed by")
    return Table(columns=columns, rows=rows, alignment="><" + ">" * (len(columns) - 3) + "<")


def cut(table: Table) -> tuple[Table, int]:
    """A table that is too long keeps rows from beginning to end, evenly; and how many it lost."""
    n = len(table.rows)
    if n <= MOST_ROWS:
        return table, 0
    rows = tuple(table.rows[k * n // MOST_ROWS] for k in range(MOST_ROWS))
    return replace(table, rows=rows), n - MOST_ROWS
