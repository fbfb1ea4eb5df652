"""A score of every attention head over training, as a heat map."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import curves, select, where

GAP, HEAD = 40, 24  # pixels of height: between panels, a head's line


def heads(
    rows: pd.DataFrame,
    metric: str,
    *,
    x: str = "step",
    by: str = "arm",
    onsets: pd.DataFrame | None = None,
    log_x: bool = True,
    title: str = "",
    z_title: str = "",
) -> go.Figure:
    """Draw a head score: heads (layer, head) downwards, training to the right, a panel for each value of `by`.

    rows    layer, head, step (and x), metric, value; one value for each (by, layer, head, x): the medians that
            `curves.over_seeds` gives, or every seed with by="seed"
    onsets  onset rows with layer and head, drawn on the head's line with their intervals
    """
    rows = _named(select(rows, metric, x, by, "layer", "head"))
    axis, panels = Axis.of(rows, x, log_x), list(rows[by].unique())
    curves(rows, [by, "layer", "head"], x)  # one value a cell, or an error that says what to choose
    tables = {key: _table(where(rows, by, key), x) for key in panels}
    heights = [HEAD * len(table) for table in tables.values()]
    inner = sum(heights) + GAP * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=heights,
        shared_xaxes=True,
        vertical_spacing=GAP / inner if len(panels) > 1 else 0,
        subplot_titles=[str(key) if by == "arm" else f"{by} {key}" for key in panels] if len(panels) > 1 else None,
    )
    note, lift = "rows: layer and head", 24 if len(panels) > 1 else 0
    style.dress(
        figure,
        title or f"{style.called(metric).split(',')[0]} of every head over training",
        note,
        inner,
        legend=onsets is not None,
        lift=lift,
    )
    figure.update_layout(coloraxis=style.colours(rows["value"].to_numpy(float), z_title or style.called(metric)))
    figure.update_layout(meta={"zero": axis.zero, "metric": metric, "x_unit": x})
    hover = "head %{y}, %{x:,}: %{z:.3~f}<extra></extra>"
    for number, (key, table) in enumerate(tables.items(), 1):
        place: dict[str, Any] = dict(row=number, col=1)
        cells = dict(x=axis.place(table.columns), y=list(table.index), z=table.to_numpy(float), coloraxis="coloraxis")
        figure.add_trace(
            go.Heatmap(cells, ygap=2, name=str(key), meta={"role": "score", by: key}, hovertemplate=hover), **place
        )
        if onsets is not None:
            dated = _named(select(onsets, metric, by, "layer", "head", "status"))
            dated = where(where(dated, by, key), "status", "switched")
            dates, look = axis.dates(dated, where(rows, by, key)), dict(name="onset (95 %)", showlegend=number == 1)
            trace = marks.mark(dates, dated["name"], "white", style.COLOURS[1], "onset", {by: key}, **look)
            figure.add_trace(trace, **place)
        figure.update_yaxes(type="category", title_text="head", ticks="", showline=False, ticklabelstandoff=4, **place)
        figure.update_xaxes(axis.layout(), **place)
        if number < len(panels):
            figure.update_xaxes(title_text="", **place)
        axis.mark_break(figure, "" if number == 1 else str(number))
    return figure


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of single heads, with the head's name."""
    rows = rows.dropna(subset=["layer", "head"])
    return rows.assign(
        name=[f"L{int(layer)}H{int(head)}" for layer, head in zip(rows["layer"], rows["head"], strict=True)]
    )


def _table(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Heads (the first at the top, which a heat map draws last) by checkpoints."""
    names = rows.drop_duplicates("name").sort_values(["layer", "head"], ascending=False)["name"]
    return rows.pivot(index="name", columns=x, values="value").reindex(names)
