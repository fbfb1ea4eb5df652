"""What linear probes read off each layer over training, and their controls: accuracy, selectivity, information, MDL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis, panel
from probelab.figures._tables import components, curves, levels, matching, reach, select, told, where
from synthetic_tasks.task import choose

FIRST, NEXT, GAP = 280, 170, 28  # pixels of height: the panel on top, those below it, between two
METRICS: dict[str, dict[str, float]] = {  # a panel each, with the level at which a probe tells nothing
    "accuracy": {},
    "selectivity": {"as the control": 0.0},
    "log_loss": {},
    "v_information": {"nothing": 0.0},
    "compression": {"no shorter": 1.0},
}
BESIDE: dict[str, tuple[str, dict[str, Any]]] = {  # of a metric
    "control": ("control task", dict(dash="7px,3px,2px,3px", width=1.5)),
    "shuffled": ("shuffled labels", dict(dash="solid", width=0.8)),
    "untrained": ("untrained model", dict(dash="9px,5px", width=1.2)),
}


def probes(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] = (),
    x: str = "step",
    by: str = "layer",
    panels: str = "arm",
    onsets: pd.DataFrame | None = None,
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    log_x: bool = True,
    title: str = "",
) -> go.Figure:
    """Draw the rows of the measure `probe`, a panel for each metric, and in it a curve for each value of `by`.

    table    metric, step (and x), value, lo, hi; one value for each (panels, metric, by, x): of one run, or the medians
             that `curves.over_seeds` gives
    metrics  accuracy, selectivity, log_loss, v_information, compression; all there are rows of, if none is named.
             Beside each its rows <metric>_control, _shuffled and _untrained, and beside accuracy those of chance
    by       layer, site, target, ... "component", if it is no column: layer, pos, ... as L1 pos 3
    panels   a column of panels for each value of this column
    onsets   rows of `curves.onset` or `curves.across`, one for each (panels, metric, by), marked on the curves
    lines    levels of accuracy: label -> level, or rows with `strategy` and a constant value

    Errors: two values at one place, as of two positions or targets; a metric without rows.
    """
    table = select(table, None, "metric", "lo", "hi", x, panels)
    there = [metric for metric in METRICS if (table["metric"] == metric).any()]
    shown = [choose("metric of a probe in this table", metric, there) for metric in metrics or there or ["accuracy"]]
    columns = told(table, by)
    drawn = [f"{metric}{suffix}" for metric in shown for suffix in ("", *(f"_{control}" for control in BESIDE))]
    rows = components(table.loc[table["metric"].isin(drawn)], by, columns)
    axis, names, inks = Axis.of(rows, x, log_x), list(rows[panels].unique()), _inks(rows, by)
    dated = rows.iloc[:0]
    if onsets is not None:
        dated = components(select(onsets, None, "metric", panels, "lo", "hi", "last"), by, columns)
        curves(dated, [panels, by], "metric")  # one mark a curve, or an error that says what to choose
    heights = [FIRST, *[NEXT] * (len(shown) - 1)]
    inner, lift = sum(heights) + GAP * (len(shown) - 1), 24 if len(names) > 1 else 0
    figure = make_subplots(
        rows=len(shown),
        cols=len(names),
        row_heights=heights,
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=GAP / inner if len(shown) > 1 else 0,
        horizontal_spacing=0.03,
        column_titles=[style.shown(panels, name) for name in names] if len(names) > 1 else None,
    )
    traces, rules = {}, {}
    for metric, name in product(shown, names):
        here = where(rows, panels, name)
        traces[metric, name] = _traces(here, matching(dated, {panels: name}), metric, axis, inks, panels, by)
        rules[metric, name] = METRICS[metric]
        if metric == "accuracy":
            chance = matching(table, {"metric": "chance", panels: name})
            rules[metric, name] = _chance(chance, by, columns) | levels(lines)
    legend = _keys([trace for some in traces.values() for trace in some], inks, style.rate(dated))
    right = style.room([rule for own in rules.values() for rule in own])
    height = style.legend_lines([str(key.name) for key in legend], right)
    note = f"bands: {style.rate(rows)} intervals"
    style.dress(figure, title or "Linear probes over training", note, inner, legend=height, lift=lift, right=right)
    figure.update_layout(meta={"zero": axis.zero, "x_unit": x})
    figure.add_traces(legend)
    for row, (metric, pixels) in enumerate(zip(shown, heights, strict=True)):
        span = reach(
            [trace.y for name in names for trace in traces[metric, name]]
            + [list(rules[metric, name].values()) for name in names]
        )
        for column, name in enumerate(names):
            figure.add_traces(traces[metric, name], rows=row + 1, cols=column + 1)
            number, last = row * len(names) + column, column + 1 == len(names)
            marks.rule(figure, rules[metric, name], axis, span, pixels, panel(number), label=last)
        figure.update_yaxes(range=span, row=row + 1)
        figure.update_yaxes(title_text=style.called(metric), row=row + 1, col=1)
    axis.under(figure, len(shown), len(names))
    return figure


def _traces(
    rows: pd.DataFrame, dated: pd.DataFrame, metric: str, axis: Axis, inks: dict[str, str], panels: str, by: str
) -> list[go.Scatter]:
    """A metric in a panel: its controls, its curves with their bands, the marks of their onsets."""
    found, keys = [], [panels, "metric", by]
    for control, (_, look) in BESIDE.items():
        for coords, curve in curves(where(rows, "metric", f"{metric}_{control}"), keys, axis.counts):
            line = dict(look, color=inks[coords[by]])
            found.append(
                marks.line(axis.place(curve[axis.counts]), curve["value"], line["color"], control, coords, line=line)
            )
    main = curves(where(rows, "metric", metric), keys, axis.counts)
    for coords, curve in main:
        ink = inks[coords[by]]
        found += marks.median(curve, axis, ink, {"role": "probe", **coords}, line=dict(color=ink, width=2.5))
    for coords, curve in main:
        found += marks.onsets(matching(dated, coords), curve, axis, inks[coords[by]], coords)
    return found


def _keys(traces: list[go.Scatter], inks: dict[str, str], rate: str) -> list[go.Scatter]:
    """The legend: each layer by its colour, each control by its dash, onsets by their marks."""
    found = [marks.key(name, mode="lines", line=dict(color=ink, width=2.5)) for name, ink in inks.items()]
    roles = {marks.role(trace) for trace in traces}
    for control, (name, look) in BESIDE.items():
        if control in roles:
            found.append(marks.key(name, mode="lines", line=dict(look, color=style.GREY)))
    return found + marks.onset_keys(traces, rate)


def _inks(rows: pd.DataFrame, by: str) -> dict[str, str]:
    """Layers from light to dark, anything else by colours."""
    names = sorted(rows[by].unique(), key=lambda name: (len(name), name)) if by == "layer" else list(rows[by].unique())
    layers = dict(zip(names, style.depths(len(names) - 1).values(), strict=True))
    return layers if by == "layer" else style.inks(names)


def _chance(chance: pd.DataFrame, by: str, columns: list[str]) -> dict[str, float]:
    """The level of chance, or one for each value of `by` where they differ."""
    if chance["value"].nunique() <= 1:
        return dict.fromkeys(["chance"] * len(chance), float(chance["value"].max()))
    chance = components(chance, by, columns).drop_duplicates([by, "value"])
    return {f"chance, {name}": value for name, value in zip(chance[by], chance["value"], strict=True)}
