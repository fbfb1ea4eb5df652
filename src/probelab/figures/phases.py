"""Which simple strategy a model is nearest to over training: distances above, seed by seed below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import curves, levels, reach, select, where

CURVES, GAP, SEED = 300, 30, 22  # pixels of height: the distances, the gap below them, a seed's line


def phases(
    rows: pd.DataFrame,
    *,
    metric: str = "kl",
    x: str = "step",
    by: str = "arm",
    band: pd.DataFrame | None = None,
    switches: pd.DataFrame | None = None,
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    log_x: bool = True,
    title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw the distance to each strategy, a panel for each value of `by`, and below it a line for each seed.

    rows      strategy, seed, step (and x), metric, value; one value for each (by, strategy, seed, x)
    band      the same without seed, with lo and hi: what `curves.over_seeds` gives; the panel takes the colour of the
              strategy that is nearest to the median
    switches  onset rows with `strategy` and `direction`: a distance that rises leaves its strategy, one that falls
              reaches it; what never switched is crossed at its end
    lines     label -> level, or rows with `strategy` and a constant value

    The phase is whichever distance is lowest at a checkpoint (Edelman et al. 2024); phases meet half way between two.
    """
    rows = select(rows, metric, x, by, "strategy", "step").dropna(subset="strategy")
    axis, rules, inks = Axis.of(rows, x, log_x), levels(lines), style.inks(rows["strategy"].unique(), style.STRATEGIES)
    arms, seeds = list(rows[by].unique()), sorted(rows["seed"].unique(), reverse=True)
    thick = (
        rows.iloc[:0] if band is None else select(band, metric, x, by, "strategy", "lo", "hi").dropna(subset="strategy")
    )
    span = reach([rows["value"], list(rules.values()), *(thick[c] for c in ("lo", "hi") if len(thick))], above=0.12)
    strip = SEED * len(seeds)
    inner = CURVES + GAP + strip
    figure = make_subplots(
        rows=2,
        cols=len(arms),
        row_heights=[CURVES, strip],
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=GAP / inner,
        horizontal_spacing=0.04,
        column_titles=[str(arm) for arm in arms] if len(arms) > 1 else None,
    )
    note = "thin: every seed; thick: their median with its 95 % band; " if len(thick) else "every seed; "
    note += "below: the nearest strategy" + (", with dated switches (95 %)" if switches is not None else "")
    look: dict[str, Any] = dict(legend=1 if switches is None else 2, lift=24 if len(arms) > 1 else 0)
    style.dress(
        figure, title or "Distance to each strategy over training", note, inner, **look, right=style.room(rules)
    )
    figure.update_layout(meta={"zero": axis.zero, "metric": metric, "x_unit": x})
    for name, ink in inks.items():  # one entry in the legend, whatever was drawn
        key = dict(name=f"distance to {name}", line=dict(color=ink, width=3), showlegend=True)
        figure.add_trace(marks.line([None], [None], ink, "key", {}, **key), row=1, col=1)
    named: set[str] = set()  # switches that the legend has
    for column, arm in enumerate(arms, 1):
        here, middle = where(rows, by, arm), where(thick, by, arm)
        above: dict[str, Any] = dict(row=1, col=column)
        below: dict[str, Any] = dict(row=2, col=column)
        panel = "" if column == 1 else str(column)
        for coords, curve in curves(here, [by, "strategy", "seed"], x):
            ink = inks[coords["strategy"]]
            figure.add_trace(marks.line(axis.place(curve[x]), curve["value"], ink, "seed", coords), **above)
        for coords, curve in curves(middle, [by, "strategy"], x) if len(middle) else []:
            ink = inks.get(coords["strategy"], style.INK)
            figure.add_traces(marks.median(curve, axis, ink, coords), rows=1, cols=column)
        if len(middle):
            _shade(figure, _nearest(middle, [], x, list(inks)), axis, inks, panel)
        if column == len(arms):
            marks.rule(figure, rules, axis, span, CURVES, panel)
        nearest = _nearest(here, ["seed"], x, list(inks)).unstack("seed").reindex(columns=seeds)
        figure.add_trace(_strip(nearest, axis, inks, {by: arm}), **below)
        if switches is not None:
            dated = select(switches, metric, by, "seed", "strategy", "direction", "status", "last")
            for trace in _switches(where(dated, by, arm), here, axis, inks, {by: arm}):
                name = str(trace["name"])
                figure.add_trace(trace.update(showlegend=name not in named), **below)
                named.add(name)
        figure.update_xaxes({**axis.layout(), "title_text": ""}, **above)
        figure.update_xaxes(axis.layout(), **below)
        axis.mark_break(figure, str(column + len(arms)))
    figure.update_yaxes(range=span, row=1)
    figure.update_yaxes(title_text=y_title or style.called(metric), row=1, col=1)
    labels = dict(type="category", categoryorder="array", categoryarray=[_seed(s) for s in seeds])
    figure.update_yaxes(labels, range=[-0.5, len(seeds) - 0.5], ticks="", showline=False, ticklabelstandoff=4, row=2)
    return figure


def _seed(seed: Any) -> str:
    return f"seed {seed}"


def _nearest(rows: pd.DataFrame, keys: list[str], x: str, names: list[str]) -> pd.Series:
    """The strategy at the smallest distance, by its place among the names, for each (keys, x) that has all of them."""
    wide = rows.pivot(index=[*keys, x], columns="strategy", values="value").reindex(columns=names).dropna()
    return pd.Series(wide.to_numpy().argmin(axis=1), wide.index).sort_index()


def _strip(nearest: pd.DataFrame, axis: Axis, inks: dict[str, str], coords: dict) -> go.Heatmap:
    """A line for each seed, coloured by what it is nearest to."""
    n, names = len(inks), list(inks)
    scale = [[(i + side) / n, style.tint(ink, 0.5)] for i, ink in enumerate(inks.values()) for side in (0, 1)]
    z = nearest.T.to_numpy(float)
    text = [[names[int(v)] if np.isfinite(v) else "" for v in line] for line in z]
    cells = dict(x=axis.place(nearest.index), y=[_seed(s) for s in nearest.columns], z=z, text=text)
    look = dict(colorscale=scale, zmin=-0.5, zmax=n - 0.5, showscale=False, ygap=6)
    hover = "%{y}, %{x:,}: nearest to %{text}<extra></extra>"
    return go.Heatmap(cells, **look, meta={"role": "nearest", **coords}, hovertemplate=hover)


def _shade(figure: go.Figure, nearest: pd.Series, axis: Axis, inks: dict[str, str], panel: str) -> None:
    """Tint the panel by what the median is nearest to, and name each phase at the top."""
    at, which = axis.place(nearest.index), nearest.to_numpy()
    new = np.flatnonzero(np.diff(which)) + 1
    edges = [at[0], *axis.middle(at[new - 1], at[new]), at[-1]]
    on = dict(xref=f"x{panel}", yref=f"y{panel} domain")
    for x0, x1, phase in zip(edges[:-1], edges[1:], which[[0, *new]], strict=True):
        name, ink = list(inks.items())[phase]
        area = dict(x0=x0, x1=x1, y0=0, y1=1, line_width=0, fillcolor=style.tint(ink, 0.08), layer="below")
        figure.add_shape(area, type="rect", **on)
        centre = axis.middle(x0, x1)
        label = dict(x=np.log10(centre) if axis.log else centre, y=1, yanchor="top", text=f"<b>{name}</b>")
        figure.add_annotation(label, showarrow=False, font=dict(size=12, color=ink), **on)


def _switches(
    dated: pd.DataFrame, table: pd.DataFrame, axis: Axis, inks: dict[str, str], coords: dict
) -> list[go.Scatter]:
    """Circles where a strategy is left, diamonds where one is reached, crosses at the end of what never switched."""
    looks = {"rise": ("leaves", "circle"), "fall": ("reaches", "diamond")}
    switched, key = where(dated, "status", "switched"), ["strategy", "seed"]
    never = (
        dated.drop_duplicates(key)
        .set_index(key)
        .drop(index=switched.set_index(key).index, errors="ignore")
        .reset_index()
    )
    traces = []
    for _, rows in switched.groupby(["strategy", "direction"], sort=False):
        strategy, direction = rows["strategy"].iloc[0], rows["direction"].iloc[0]
        verb, symbol = looks[direction]
        place, fill = {**coords, "strategy": strategy, "direction": direction}, inks.get(strategy, style.INK)
        look = dict(symbol=symbol, name=f"{verb} {strategy}")
        seeds = [_seed(s) for s in rows["seed"]]
        traces.append(marks.mark(axis.dates(rows, table), seeds, fill, style.INK, "switch", place, **look))
    for strategy, rows in never.groupby("strategy", sort=False):
        last, seeds = axis.convert(rows["last"], table), [_seed(s) for s in rows["seed"]]
        look = dict(name=f"never switched (distance to {strategy})")
        traces.append(marks.cross(last, seeds, style.INK, {**coords, "strategy": strategy}, **look))
    return traces
