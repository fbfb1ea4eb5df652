"""Rows as lines, bands, marks and rules. Each knows its coordinates: its `meta`, which `save` writes into the CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures._axis import Axis
from probelab.figures._style import INK, tint

Coords = Mapping[str, Any]
UNDATED = {"drift": "a drift", "unfinished": "under way"}  # statuses of curves that change all the same
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
    """The band and the median that rows of `curves.over_seeds` hold: lo, hi, value; both part where it is unknown."""
    x, lo, hi = axis.place(rows[axis.counts]), rows["lo"].to_numpy(float), rows["hi"].to_numpy(float)
    around = dict(zip("xy", outline(x, lo, hi), strict=True), meta={"role": "band"})
    look = dict(
        mode="lines", line_width=0, fill="toself", fillcolor=tint(ink, 0.18), hoverinfo="skip", showlegend=False
    )
    middle = line(x, rows["value"], ink, "median", {"interval": "y", **coords}, customdata=np.c_[lo, hi], **style)
    middle.hovertemplate = "%{x:,.5~g}: %{y:.4~f} [%{customdata[0]:.4~f}, %{customdata[1]:.4~f}]"
    known = rows["value"].notna().to_numpy()
    alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]  # a line of one point would not be seen
    if alone.any():
        middle.update(mode="lines+markers", marker=dict(size=np.where(alone, 5, 0), color=ink))
    return [go.Scatter(around, **look, legendgroup=style.get("legendgroup")), middle]


def outline(x: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Around each stretch of known ends, there above and back below; NaN parts the stretches."""
    known = np.flatnonzero(np.isfinite(lo) & np.isfinite(hi))
    stretches = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    there_and_back = [np.r_[x[at], x[at[::-1]], np.nan] for at in stretches]
    above_and_below = [np.r_[hi[at], lo[at[::-1]], np.nan] for at in stretches]
    return np.concatenate(there_and_back)[:-1], np.concatenate(above_and_below)[:-1]


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


def onsets(dated: pd.DataFrame, curve: pd.DataFrame, axis: Axis, ink: str, coords: Coords) -> list[go.Scatter]:
    """Onset rows of a curve as marks on it with their intervals, or a cross where it ended without one.

    Rows of `curves.onset` say their `status`: what changes but has no date (it drifts, or is under way when the record
    ends) has a cross of its own. Those of `curves.across` do not, and have no value where the median is later than the
    record; an interval that goes on beyond it ends in an arrow. What could not be judged, or was under way at the first
    step, has no mark.
    """
    status = dated["status"] if "status" in dated else pd.Series("switched", dated.index)
    there, look = dated["value"].notna() & (status == "switched"), dict(showlegend=False)
    if there.any():
        dates = axis.dates(dated.loc[there], curve)
        end = float(axis.convert(dated.loc[there, "last"].max(), curve))
        dates = dates[0], dates[1], np.minimum(dates[2], end)
        trace = mark(dates, height(curve, axis, dates[0]), "white", ink, "onset", coords, **look)
        beyond = np.isinf(dated.loc[there, "hi"].to_numpy(float))
        trace.update(customdata=np.c_[dates[1], np.where(beyond, np.inf, dates[2])])
        shape = dict(symbol="triangle-right-open", size=9, color=ink, line_width=1.5)
        arrow = dict(mode="markers", marker=shape, meta={"role": "key"}, hoverinfo="skip", cliponaxis=False, **look)
        ends = [go.Scatter(arrow, x=np.full(beyond.sum(), end), y=np.asarray(trace.y)[beyond])]
        return [trace, *(ends if beyond.any() else [])]
    never = dated.loc[~status.isin(["too few", "begun"])].iloc[:1]
    if not len(never):
        return []
    last = axis.convert(never["last"], curve)
    there = status[never.index[0]]
    if there in UNDATED:
        said = dict(symbol="cross-thin", hovertemplate=f"{UNDATED[there]}: no date until %{{x:,.5~g}}")
        nothing = np.full(1, np.nan)
        return [mark((last, nothing, nothing), height(curve, axis, last), ink, ink, "undated", coords, **said, **look)]
    return [cross(last, height(curve, axis, last), ink, coords, **look)]


def onset_keys(traces: Iterable[go.Scatter], rate: str) -> list[go.Scatter]:
    """Entries of the legend for those marks of `onsets` that are among the traces."""
    roles = {role(trace) for trace in traces}
    looks = {
        "onset": (f"onset ({rate})", "circle", "white"),
        "undated": ("changes, no date (drift, or under way at the end)", "cross-thin", INK),
        "never": ("no date by the last step", "x-thin", INK),
    }
    return [
        key(name, mode="markers", marker=dict(symbol=symbol, size=7, color=fill, line=dict(color=INK, width=1.5)))
        for kind, (name, symbol, fill) in looks.items()
        if kind in roles
    ]


def role(trace: go.Scatter) -> str:
    """What a trace is: seed, median, band, onset, key, ..."""
    return str(dict(trace.meta or {})["role"])


def key(name: str, **look: Any) -> go.Scatter:
    """An entry of the legend that is no curve of its own."""
    return go.Scatter(x=[None], y=[None], name=name, meta={"role": "key"}, showlegend=True, **look)


def height(curve: pd.DataFrame, axis: Axis, x: np.ndarray) -> np.ndarray:
    """How high the line of a curve runs at some places of the axis."""
    curve, scale = curve.dropna(subset="value"), np.log if axis.log else np.asarray
    if not len(curve):
        return np.full(len(x), np.nan)
    return np.interp(scale(axis.place(x)), scale(axis.place(curve[axis.counts])), curve["value"].to_numpy(float))


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
    """Draw chance and oracle lines, each labelled at its right end."""
    ends = {name: (level, (inks or {}).get(name, INK)) for name, level in levels.items()}
    for name, (level, ink) in sorted(ends.items(), key=lambda item: item[1][0]):
        look = dict(line=dict(dash="3px,3px", width=1.2, color=ink), xaxis=f"x{panel}", yaxis=f"y{panel}")
        figure.add_trace(line([axis.left, axis.last], [level] * 2, ink, "line", {"strategy": name}, **look))
    if label:
        labels(figure, ends, span, pixels, panel)


def labels(
    figure: go.Figure, ends: Mapping[str, tuple[float, str]], span: tuple[float, float], pixels: int, panel: str = ""
) -> None:
    """Name what ends at the right edge, name -> level and ink; labels that would touch are spread."""
    line_of_text = 15 * (span[1] - span[0]) / pixels
    named = sorted((item for item in ends.items() if np.isfinite(item[1][0])), key=lambda item: item[1][0])
    tall = [line_of_text * (1 + name.count("<br>")) for name, _ in named]
    heights, floor, ceiling = [], -np.inf, span[1] + line_of_text / 2
    for (_, (level, _)), high in zip(named, tall, strict=True):
        heights.append(max(level, floor + high / 2))
        floor = heights[-1] + high / 2
    for k in reversed(range(len(named))):
        heights[k] = min(heights[k], ceiling - tall[k] / 2)
        ceiling = heights[k] - tall[k] / 2
    for (name, (_, ink)), y in zip(named, heights, strict=True):
        place = dict(x=1, y=y, xref=f"x{panel} domain", yref=f"y{panel}", xanchor="left", xshift=4, align="left")
        figure.add_annotation(place, text=name, showarrow=False, font=dict(size=12, color=ink))
