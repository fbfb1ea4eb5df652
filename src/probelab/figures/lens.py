"""What a model would answer after each of its blocks, over training: a curve for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import curves, levels, reach, select, where
from synthetic_tasks.task import choose

PANEL, GAP = 320, 44  # pixels of height: a panel, between panels
# Light to dark, from the embedding to the model itself (Plasma without its palest end).
DEPTHS = ("#FDB42F", "#F99342", "#ED7953", "#DB5C68", "#C5407E", "#A72197", "#7E03A8", "#4C02A1", "#0D0887")
UNITS = {"loss": "loss, nats per scored token", "kl": "KL(model || lens), nats", "accuracy": "accuracy"}


def lens(
    rows: pd.DataFrame,
    metric: str = "loss",
    *,
    x: str = "step",
    by: str = "arm",
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw the rows of the measure lens: logit lens full, tuned lens dotted (where there are rows of it).

    rows    metrics "lens_<metric>" and perhaps "tuned_<metric>", layer, value, lo, hi; one value for each (by, metric,
            layer, x): one run, the medians that `curves.over_seeds` gives, or every seed with by="seed"
    metric  loss, kl or accuracy
    by      a panel for each value of this column
    lines   chance and oracles: label -> level, or rows with `strategy` and a constant value

    All panels have the same axes. The tuned lens of the last layer is the model too, and is not drawn again.
    """
    choose("metric of a lens", metric, UNITS)
    table = select(rows, None, "metric", "layer", "lo", "hi", x, by)
    plain, last = select(table, f"lens_{metric}"), int(table["layer"].max())
    tuned = where(table, "metric", f"tuned_{metric}")
    table = pd.concat([plain, tuned.loc[tuned["layer"] < last]])
    axis, panels, rules = Axis.of(table, x, log_x), list(table[by].unique()), levels(lines)
    inks = {layer: DEPTHS[round(layer * (len(DEPTHS) - 1) / max(last, 1))] for layer in range(last + 1)}
    names = {layer: f"after layer {layer - 1}" for layer in inks} | {0: "embedding", last: "the model"}
    right, inner = style.room(rules), PANEL * len(panels) + GAP * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=GAP / inner if len(panels) > 1 else 0,
        subplot_titles=[str(key) if by == "arm" else f"{by} {key}" for key in panels] if len(panels) > 1 else None,
    )
    keys = [(name, dict(color=inks[layer], width=2.5)) for layer, name in names.items()]
    if len(tuned):
        keys += [("tuned lens", dict(color=style.INK, width=2, dash="dot"))]
    note = f"the stream read out after each block; bands: {style.rate(table)} intervals"
    note += "; dashed: chance and ideal observers" if rules else ""
    height = style.legend_lines([name for name, _ in keys], right)
    lift = 24 if len(panels) > 1 else 0
    style.dress(figure, title or "Logit lens over training", note, inner, legend=height, lift=lift, right=right)
    figure.update_layout(meta={"zero": axis.zero, "x_unit": x})
    for name, look in keys:
        figure.add_trace(marks.line([None], [None], style.INK, "key", {}, name=name, line=look, showlegend=True))
    for coords, curve in curves(table, [by, "metric", "layer"], x):
        ink = inks[coords["layer"]]
        look = dict(color=ink, width=2.5, dash="dot" if coords["metric"].startswith("tuned") else "solid")
        coords = {"role": "lens", **coords, "layer": int(coords["layer"])}
        traces = marks.median(curve, axis, ink, coords, name=names[coords["layer"]], line=look)
        figure.add_traces(traces, rows=panels.index(coords[by]) + 1, cols=1)
    span = reach([table["value"], table["lo"], table["hi"], list(rules.values())])
    for number in range(1, len(panels) + 1):
        place: dict[str, Any] = dict(row=number, col=1)
        figure.update_xaxes(axis.layout(), **place)
        figure.update_yaxes(range=span, title_text=y_title or UNITS[metric], **place)
        if number < len(panels):
            figure.update_xaxes(title_text="", **place)
        panel = "" if number == 1 else str(number)
        marks.rule(figure, rules, axis, span, PANEL, panel)
        axis.mark_break(figure, panel)
    return figure
