"""What a model would answer after each of its blocks, over training: a curve for each layer."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis, panel
from probelab.figures._style import DEPTHS as DEPTHS
from probelab.figures._tables import curves, levels, reach, select, where
from synthetic_tasks.task import choose

PANEL = 320  # pixels of height
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
    inks = style.depths(last)
    names = {layer: f"after layer {layer - 1}" for layer in inks} | {0: "embedding", last: "the model"}
    right = style.room(rules)
    figure, inner, lift = style.stacked(panels, by, PANEL)
    keys = [(name, dict(color=inks[layer], width=2.5)) for layer, name in names.items()]
    if len(tuned):
        keys += [("tuned lens", dict(color=style.INK, width=2, dash="dot"))]
    note = f"the stream read out after each block; bands: {style.rate(table)} intervals"
    note += "; dashed: chance and ideal observers" if rules else ""
    height = style.legend_lines([name for name, _ in keys], right)
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
    figure.update_yaxes(range=span, title_text=y_title or UNITS[metric])
    for number in range(len(panels)):
        marks.rule(figure, rules, axis, span, PANEL, panel(number))
    axis.under(figure, len(panels))
    return figure
