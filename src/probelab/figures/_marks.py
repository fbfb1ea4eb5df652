"""Rows as lines, bands, marks and rules. Each knows its coordinates: its `meta`, which `save` writes into the CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures._axis import Axis
from probelab.figures._style import INK, tint

Coords = Mapping[str, Any]
Dates = tuple[np.ndarray, np.ndarray, np.ndarray]


def line(x: Any, y: Any, ink: str, role: str, coords: Coords, **style: Any) -> go.Scatter:
    """A curve: thin and pale for a seed, thick for a median."""
    look = dict(seed=dict(width=1, color=tint(ink, 0.5)), median=dict(width=3, color=ink))
    name = " ".join(str(v) for v in coords.values())
    style = {"name": name, "line": look.get(role, dict(width=1.2, color=ink)), "showlegend": False, **style}
    return go.Scatter(
        x=x, y=y, mode="lines", meta={"role": role, **coords}, hovertemplate="%{x:,.5~g}: %{y:.4~f}", **style
    )


def median(rows: pd.DataFrame, axis: Axis, ink: str, coords: Coords, **style: Any) -> list[go.Scatter]:
    """The band and the median that rows of `curves.over_seeds` hold: lo, hi and value."""
    x, lo, hi = axis.place(rows[axis.counts]), rows["lo"].to_numpy(float), rows["hi"].to_numpy(float)
    held = np.isfinite(lo) & np.isfinite(hi)
    around = dict(x=np.r_[x[held], x[held][::-1]], y=np.r_[hi[held], lo[held][::-1]], meta={"role": "band"})
    look = dict(
        mode="lines", line_width=0, fill="toself", fillcolor=tint(ink, 0.18), hoverinfo="skip", showlegend=False
    )
    middle = line(x, rows["value"], ink, "median", {"interval": "y", **coords}, customdata=np.c_[lo, hi], **style)
    middle.hovertemplate = "%{x:,.5~g}: %{y:.4~f} [%{customdata[0]:.4~f}, %{customdata[1]:.4~f}]"
    return [go.Scatter(around, **look, legendgroup=style.get("legendgroup")), middle]


def mark(dates: Dates, y: Any, fill: str, ink: str, role: str, coords: Coords, **style: Any) -> go.Scatter:
    """Dated events (date, lo, hi) with their horizontal intervals, those that are known."""
    x, lo, hi = (np.asarray(v, float) for v in dates)
    known = np.isfinite(lo) & np.isfinite(hi)
    ends = dict(array=np.where(known, hi - x, 0), arrayminus=np.where(known, x - lo, 0))
    look = dict(color=fill, size=7, symbol=style.pop("symbol", "circle"), line=dict(color=ink, width=1.5))
    hover = "%{x:,.5~g} [%{customdata[0]:,.5~g}, %{customdata[1]:,.5~g}]"
    style = {"mode": "markers", "marker": look, "hovertemplate": hover, **style}
    if known.any():
        style["error_x"] = dict(ends, color=ink, thickness=1.5, width=4)
    return go.Scatter(x=x, y=y, customdata=np.c_[lo, hi], meta={"role": role, "interval": "x", **coords}, **style)


def cross(x: Any, y: Any, ink: str, coords: Coords, **style: Any) -> go.Scatter:
    """The end of what never switched: a censored observation."""
    nothing = np.full(len(x), np.nan)
    hover = "never switched until %{x:,.5~g}"
    return mark((x, nothing, nothing), y, ink, ink, "never", coords, symbol="x-thin", hovertemplate=hover, **style)


def rule(
    figure: go.Figure,
    levels: Mapping[str, float],
    axis: Axis,
    span: tuple[float, float],
    pixels: int,
    panel: str = "",
    inks: Mapping[str, str] | None = None,
    label: bool = True,
) -> None:
    """Draw chance and oracle lines, each labelled at its right end; labels that would touch are spread upwards."""
    line_of_text = 15 * (span[1] - span[0]) / pixels
    height = -np.inf
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        ink = (inks or {}).get(name, INK)
        look = dict(line=dict(dash="3px,3px", width=1.2, color=ink), xaxis=f"x{panel}", yaxis=f"y{panel}")
        figure.add_trace(line([axis.left, axis.last], [level] * 2, ink, "line", {"strategy": name}, **look))
        if not label:
            continue
        height = max(level, height + line_of_text)
        place = dict(x=1, y=height, xref=f"x{panel} domain", yref=f"y{panel}", xanchor="left", xshift=4)
        figure.add_annotation(place, text=name, showarrow=False, font=dict(size=12, color=ink))
