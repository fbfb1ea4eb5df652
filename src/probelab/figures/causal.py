"""What each component does to the answer over training, and since when: causal curves with marks of their onsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis, panel
from probelab.figures._tables import components, curves, levels, matching, reach, select, told, where

ALONE, STACKED = 400, 220  # pixels of height of a panel
LAYERS = (
    "band",
    "seed",
    "component",
    "key",
    "never",
    "undated",
    "onset",
)  # from below; what has no name lies lower still
OTHERS = dict(color=style.PALE, width=1)
NOTE = dict(text="no effect", x=0.08, xanchor="left", yanchor="top", font=dict(size=11, color=style.GREY))
DASHES = ("solid", "dash", "dot")  # of components beyond the colours
Curves = list[tuple[dict[str, Any], pd.DataFrame]]


def causal(
    table: pd.DataFrame,
    *,
    metric: str = "effect",
    x: str = "step",
    by: str = "component",
    panels: str = "arm",
    onsets: pd.DataFrame | None = None,
    band: pd.DataFrame | None = None,
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    most: int = 6,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw `metric` against `x` (step, sequences or tokens), a curve for each component, with a mark at its onset.

    table   rows of `patching`, or of another measure that intervenes: step (and x), metric, value, and lo, hi if there
            are any; one value for each (panels, by, seed, x)
    by      the column that names components. "component", if it is no column: layer, head, role, ... (and site, target,
            where they differ), as L1H0
    panels  a panel for each value of this column: arm, seed, ...
    onsets  rows of `curves.across` or `curves.onset`: value, lo, hi (steps), last. One for each (panels, by) is marked
            on the thick curve, those of several seeds on the curves of the seeds. Crosses: none by the last step, or a
            change without a date
    band    medians over seeds, with lo and hi: what `curves.over_seeds` gives. A table of one seed, or of medians,
            needs none: its curves have their own intervals. Those of less than half of the seeds are left out
    lines   label -> level, or rows with `strategy` and a constant value; one at 0 is always there
    most    so many components have a colour, a name and a mark: those that reach furthest from 0. The others are thin
            and grey

    All panels have the same axes. Errors: two values at one place; onsets of no curve that is drawn.
    """
    table = select(table, metric, x, panels, "step")
    columns, keys = told(table, by), [panels, by]
    table = components(table, by, columns)
    seeds, middle = table, table.iloc[:0]
    if band is not None:
        middle = _enough(components(select(band, metric, x, panels, "lo", "hi"), by, columns))
    elif not table.duplicated([*keys, x]).any():
        seeds, middle = middle, table
    middle = middle.assign(**{end: np.nan for end in ("lo", "hi") if end not in middle})
    main = middle if len(middle) else seeds
    looks, names = _looks(main, by, most), list(main[panels].unique())
    if len(middle):
        seeds = seeds.loc[seeds[by].isin(list(looks)) & seeds[panels].isin(names)]
    thin, thick = curves(seeds, list(dict.fromkeys([*keys, "seed"])), x), curves(middle, keys, x)
    axis, rules = Axis.of(table, x, log_x), levels(lines)
    traces = [(coords, trace) for coords, curve in thin for trace in _seed(coords, curve, axis, looks, by)]
    traces += [(coords, trace) for coords, curve in thick for trace in _component(coords, curve, axis, looks, by)]
    legend = []
    if onsets is not None:
        dated = components(select(onsets, metric, panels, "lo", "hi", "last"), by, columns)
        several = dated.groupby(keys)["seed"].nunique().max() > 1
        traces += _dates(dated, thin if several else thick, axis, looks, by)
        legend += marks.onset_keys([trace for _, trace in traces], style.rate(dated))
    if others := main[by].nunique() - len(looks):
        legend.append(marks.key(f"{others} other{'s' * (others > 1)}", mode="lines", line=OTHERS))
    figure, inner, lift = style.stacked(names, panels, pixels := ALONE if len(names) == 1 else STACKED)
    right = style.room([*map(style.wrapped, looks), *rules])
    height = style.legend_lines([str(key.name) for key in legend], right) if legend else 0
    title = title or f"{metric.replace('_', ' ').capitalize()} of each component over training"
    style.dress(figure, title, _note(seeds, middle), inner, legend=height, lift=lift, right=right)
    figure.update_layout(meta={"zero": axis.zero, "metric": metric, "x_unit": x})
    for coords, trace in sorted(traces, key=lambda one: (one[0][by] in looks, LAYERS.index(marks.role(one[1])))):
        figure.add_trace(trace, row=names.index(coords[panels]) + 1, col=1)
    figure.add_traces(legend)
    named = middle.loc[middle[by].isin(list(looks))]
    span = reach([seeds["value"], middle["value"], named["lo"], named["hi"], [0.0, *rules.values()]])
    for number, name in enumerate(names):
        marks.rule(figure, rules, axis, span, pixels, panel(number), label=False)
        ends = {rule: (level, style.INK) for rule, level in rules.items()}
        ends |= _ends(where(main, panels, name).sort_values(x), looks, by)
        marks.labels(figure, ends, span, pixels, panel(number))
    figure.add_hline(0, line=dict(color=style.INK, width=0.7), layer="below", annotation=NOTE)
    figure.update_yaxes(range=span, title_text=y_title or style.called(metric))
    axis.under(figure, len(names))
    return figure


def _enough(medians: pd.DataFrame) -> pd.DataFrame:
    """Medians of less than half of the seeds are unknown: a recovery is one only where clean and corrupt differ."""
    if "n" not in medians:
        return medians
    enough = 2 * medians["n"] >= medians["n"].max()
    return medians.assign(**{c: medians[c].where(enough) for c in ("value", "lo", "hi", "level") if c in medians})


def _looks(rows: pd.DataFrame, by: str, most: int) -> dict[str, dict[str, Any]]:
    """The lines of the components that reach furthest from 0, in the order of the rows."""
    far = rows["value"].abs().groupby(rows[by], sort=False).max()
    named = [name for name in far.index if name in far.nlargest(most).index]
    return {
        name: dict(color=ink, width=2.5, dash=DASHES[i // len(style.COLOURS) % len(DASHES)])
        for i, (name, ink) in enumerate(style.inks(named).items())
    }


def _seed(coords: dict, curve: pd.DataFrame, axis: Axis, looks: dict, by: str) -> list[go.Scatter]:
    ink = looks.get(coords[by], OTHERS)["color"]
    return [marks.line(axis.place(curve[axis.counts]), curve["value"], ink, "seed", coords)]


def _component(coords: dict, curve: pd.DataFrame, axis: Axis, looks: dict, by: str) -> list[go.Scatter]:
    """The curve of a component, with a band if it has a name."""
    look = looks.get(coords[by], OTHERS)
    traces = marks.median(curve, axis, look["color"], {"role": "component", **coords}, line=look)
    return traces if coords[by] in looks else traces[1:]


def _dates(dated: pd.DataFrame, on: Curves, axis: Axis, looks: dict, by: str) -> list[tuple[dict, go.Scatter]]:
    """Marks on the curves of named components."""
    found = [(coords, curve, matching(dated, coords)) for coords, curve in on]
    if len(dated) and not any(len(rows) for *_, rows in found):
        raise ValueError(f"onsets: {len(dated)} rows, and none is of a curve that is drawn (the medians are band)")
    return [
        (coords, trace)
        for coords, curve, rows in found
        if coords[by] in looks
        for trace in marks.onsets(rows, curve, axis, looks[coords[by]]["color"], coords)
    ]


def _note(seeds: pd.DataFrame, middle: pd.DataFrame) -> str:
    """What is thin, and what is thick."""
    if not len(middle):
        return "every seed"
    return (
        f"thin: every seed; thick: their median, with its {style.rate(middle)} interval"
        if len(seeds)
        else f"bands: {style.rate(middle)} intervals"
    )


def _ends(rows: pd.DataFrame, looks: dict, by: str) -> dict[str, tuple[float, str]]:
    """Where the curve of each named component ends, for its label."""
    last = rows.dropna(subset="value").drop_duplicates([by, "seed"], keep="last").groupby(by)["value"].median()
    return {style.wrapped(name): (float(last[name]), look["color"]) for name, look in looks.items() if name in last}
