"""Which arm switches first: the onset of every seed, and of the median over seeds, on one axis of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._lanes import AIR, NAMES, SLOT, axis_of, keys, label, lane, named
from probelab.figures._tables import curves, levels, reach, select, where

CURVES, GAP, LEAST = 280, 26, 44  # pixels of height: the curves, the gap below them, an arm with its label


def race(
    onsets: pd.DataFrame,
    *,
    metric: str | None = None,
    by: str = "arm",
    medians: pd.DataFrame | None = None,
    order: Sequence[str] | None = None,
    published: Mapping[str, float] | None = None,
    table: pd.DataFrame | None = None,
    band: pd.DataFrame | None = None,
    lines: Mapping[str, float] | None = None,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw a line for each value of `by`, the earliest median on top, and on it the onset of each seed.

    onsets     what `curves.onset` gives, one row for each (by, seed): value, lo, hi, status, since, last
    medians    what `curves.across` gives, one row for each `by`: value, lo, hi, last
    order      the arms from top to bottom, instead; those without rows are named, too
    published  arm -> the step at which a paper has it
    table      curves above, on the same axis: rows of one metric, with `band` (what `curves.over_seeds` gives) and
               `lines` (chance and oracles: label -> level)

    A seed that never switched is an open arrow where it ended, and still one of those that are counted ("4 of 6").
    """
    onsets = select(onsets, metric, by, "seed", "status", "lo", "hi", "last")
    middle = onsets.iloc[:0] if medians is None else select(medians, metric, by, "lo", "hi", "last")
    curves(onsets, [by], "seed")  # one date a seed, and one median an arm, or an error that says what to choose
    curves(middle.assign(seed="all"), [by], "seed")
    arms = _order(onsets, middle, by) if order is None else list(order)
    dated = {arm: where(onsets, by, arm) for arm in arms}
    published = {arm: step for arm, step in (published or {}).items() if arm in arms}
    axis, inks = axis_of(onsets, middle, list(published.values()), table), style.inks(arms)
    rules = levels(lines)
    slots = max([1, *map(len, dated.values())]) + (2 if len(middle) else 0)
    heights = [] if table is None else [CURVES]
    heights.append(max(slots * SLOT + AIR, LEAST) * len(arms))
    inner, rows = sum(heights) + GAP * (len(heights) - 1), len(heights)
    figure = make_subplots(rows, 1, row_heights=heights, shared_xaxes=True, vertical_spacing=GAP / inner)
    traces = [
        trace
        for at, (arm, seeds) in enumerate(dated.items())
        for trace in lane(at, {by: arm}, seeds, where(middle, by, arm), inks[arm], published.get(arm), slots)
    ]
    entries = keys({"median": f"median over seeds ({style.rate(middle)})", **NAMES}, traces)
    left, right = int(30 + 7 * max([20, *(len(str(arm)) for arm in arms)])), style.room(rules)
    note = "" if table is None else "above: every seed" + ("" if band is None else f", median, {style.rate(band)} band")
    note += ("; below: " if note else "") + "when each seed switched" + (", and their median" if len(middle) else "")
    legend = style.legend_lines([str(entry.name) for entry in entries], right, left)
    style.dress(figure, title or "The race to the phase change", note, inner, legend=legend, right=right)
    figure.update_layout(margin_l=left, meta={"zero": axis.zero, "metric": metric, "x_unit": "step"})
    figure.add_traces([*entries, *traces], rows=rows, cols=1)
    panel = "" if rows == 1 else "2"
    figure.update_xaxes(axis.layout(), row=rows)
    named(figure, [label(arm, seeds, inks[arm]) for arm, seeds in dated.items()], panel)
    if table is not None:
        figure.update_xaxes({**axis.layout(), "title_text": ""}, row=1)
        _above(figure, table, band, by, axis, inks, rules, y_title)
    axis.mark_break(figure, panel)
    return figure


def _order(onsets: pd.DataFrame, middle: pd.DataFrame, by: str) -> list:
    """The arms by their median; those that have none come last, in the order of the rows."""
    known = middle.dropna(subset="value").set_index(by)["value"]
    return sorted(onsets[by].unique(), key=lambda arm: float(known.get(arm, np.inf)))


def _above(
    figure: go.Figure,
    table: pd.DataFrame,
    band: pd.DataFrame | None,
    by: str,
    axis: Axis,
    inks: dict,
    rules: dict[str, float],
    y_title: str,
) -> None:
    """The curves of every arm, in the colours of the arms."""
    table = select(table, None, by, "step")
    thick = None if band is None else select(band, None, by, "step", "lo", "hi")
    for coords, curve in curves(table, [by, "seed"], "step"):
        ink = inks.get(coords[by], style.GREY)
        figure.add_trace(marks.line(axis.place(curve["step"]), curve["value"], ink, "seed", coords), row=1, col=1)
    for coords, curve in [] if thick is None else curves(thick, [by], "step"):
        figure.add_traces(marks.median(curve, axis, inks.get(coords[by], style.GREY), coords), rows=1, cols=1)
    ends = [] if thick is None else [thick["lo"], thick["hi"]]
    span = reach([table["value"], list(rules.values()), *ends])
    marks.rule(figure, rules, axis, span, CURVES)
    metric = table["metric"].iloc[0] if "metric" in table and len(table) else "value"
    figure.update_yaxes(range=span, title_text=y_title or style.called(metric), row=1)
