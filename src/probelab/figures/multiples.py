"""Small multiples: the same few curves over training, a panel for each value of a dial."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import UNITS, Axis
from probelab.figures._tables import curves, levels, reach, select, several, where

PANEL, GAP, TICKS, LINE = 190, 16, 34, 18  # pixels of height: a panel, below it (with ticks), a line of its title


def multiples(
    table: pd.DataFrame,
    series: Mapping[str, Mapping[str, Any]] | str,
    by: str = "arm",
    *,
    metric: str | None = None,
    x: str = "step",
    band: pd.DataFrame | None = None,
    lines: Mapping[str, float] | None = None,
    columns: int = 4,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw some series against `x`, a panel for each value of the column `by`: a dial (in order) or the arm.

    series  name -> coordinates of its rows: {"ICL": {"split": "icl"}, "IWL": {"split": "iwl"}}; or a column, whose
            values are the series
    table   seed, step (and x), value and the coordinates; one value for each (by, series, seed, x)
    band    the same without seed, with lo and hi: what `curves.over_seeds` gives
    lines   chance and oracles: label -> level; the line of a label that is a series has its colour

    All panels have the same axes. A panel without rows of a series leaves it out.
    """
    rows = _named(table, series, metric, x, by, "step")
    thick = None if band is None else _named(band, series, metric, x, by, "lo", "hi")
    axis, inks = Axis.of(rows, x, log_x), style.inks(_names(rows, series))
    chances = {f"chance, {name}": ink for name, ink in inks.items()}
    rules = {f"chance, {name}" if name in inks else name: level for name, level in levels(lines).items()}
    panels = _panels(rows[by])
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    right = style.room(rules)
    wide = (900 - style.LEFT - right) / across
    titles = [_title(by, value, int(wide / 7)) for value in panels]
    lift = LINE * max(text.count("<br>") + 1 for text in titles) + 6
    gap = lift + (TICKS if len(panels) % across else GAP)
    inner = down * PANEL + (down - 1) * gap
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_xaxes=cast(bool, "all"),  # Plotly's types do not know the word
        shared_yaxes=cast(bool, "all"),
        horizontal_spacing=0.025,
        vertical_spacing=gap / inner if down > 1 else 0,
        subplot_titles=titles,
    )
    bands = "" if thick is None else f"{style.rate(thick)} {'interval' if rows['seed'].nunique() == 1 else 'band'}"
    note = "thin: every seed" + (f"; thick: their median with its {bands}" if bands else "")
    note = f"bands: {bands}s" if bands.endswith("interval") else note
    note += "; dashed: chance and ideal observers" if rules else ""
    heading = title or (f"{style.called(metric).split(',')[0]} over training" if metric else "Over training")
    style.dress(figure, heading, note, inner, legend=style.legend_lines(inks, right), lift=lift, right=right)
    figure.update_layout(meta={"zero": axis.zero, "metric": metric, "x_unit": x, "panels": by})
    for name, ink in inks.items():
        look = dict(name=name, line=dict(color=ink, width=1.5 if thick is None else 3), showlegend=True)
        figure.add_trace(marks.line([None], [None], ink, "key", {}, legendgroup=name, **look), row=1, col=1)
    span = reach([rows["value"], list(rules.values()), *([] if thick is None else (thick["lo"], thick["hi"]))])
    for number, value in enumerate(panels):
        place: dict[str, Any] = dict(row=number // across + 1, col=number % across + 1)
        for coords, curve in curves(where(rows, by, value), [by, "series", "seed"], x):
            look = dict(legendgroup=coords["series"])
            trace = marks.line(axis.place(curve[x]), curve["value"], inks[coords["series"]], "seed", coords, **look)
            figure.add_trace(trace, **place)
        for coords, curve in [] if thick is None else curves(where(thick, by, value), [by, "series"], x):
            look = dict(legendgroup=coords["series"])
            traces = marks.median(curve, axis, inks.get(coords["series"], style.INK), coords, **look)
            figure.add_traces(traces, rows=place["row"], cols=place["col"])
        lowest = number + across >= len(panels)
        figure.update_xaxes({**axis.layout(narrow=wide < 400), "title_text": "", "showticklabels": lowest}, **place)
        panel = str(number + 1) if number else ""
        marks.rule(figure, rules, axis, span, PANEL, panel, chances, label=number == across - 1)
        axis.mark_break(figure, panel)
    for number in range(len(panels), down * across):
        figure.update_xaxes(visible=False, row=down, col=number % across + 1)
        figure.update_yaxes(visible=False, row=down, col=number % across + 1)
    figure.update_yaxes(range=span)
    figure.update_yaxes(title_text=y_title or (style.called(metric) if metric else "value"), col=1)
    below = dict(x=0.5, y=0, xref="paper", yref="paper", yanchor="top", yshift=-28, showarrow=False, font_size=13)
    figure.add_annotation(below, text=axis.layout()["title_text"] if log_x else UNITS[x])
    return figure


def _named(
    table: pd.DataFrame, series: Mapping[str, Mapping[str, Any]] | str, metric: str | None, *columns: str
) -> pd.DataFrame:
    """The rows of every series, which the column `series` names; a series that a table has no rows of is left out."""
    return several(select(table, metric, *columns), series)


def _names(rows: pd.DataFrame, series: Mapping[str, Any] | str) -> list[str]:
    return list(rows["series"].unique()) if isinstance(series, str) else [str(name) for name in series]


def _panels(values: pd.Series) -> list:
    """Values of a dial in order, of anything else as they come."""
    found = list(values.dropna().unique())
    return sorted(found) if all(isinstance(v, (int, float, np.number)) for v in found) else found


def _title(by: str, value: Any, letters: int) -> str:
    """`p_bursty = 0.5`, or the name of an arm, in lines that fit a panel."""
    text = str(value) if isinstance(value, str) else f"{by.split('.')[-1]} = {value:g}"
    return "<br>".join(textwrap.wrap(text, letters)) or " "
