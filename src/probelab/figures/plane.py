"""One metric against another: training as a path through their plane, from the first checkpoint to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import short
from probelab.figures._place import sides
from probelab.figures._tables import curves, reach, select
from probelab.rows import pick

INNER, FAR = 560, 24  # pixels: the height between the margins; what is nearer than this is one place
HELD = ("x_lo", "x_hi", "y_lo", "y_hi")


def plane(
    table: pd.DataFrame,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    *,
    by: str = "arm",
    band: pd.DataFrame | None = None,
    steps: Sequence[int] | None = None,
    x_lines: Mapping[str, float] | None = None,
    y_lines: Mapping[str, float] | None = None,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw the rows with the coordinates `y` against those with `x`, as {"split": "iwl", "metric": "accuracy"}.

    table    seed, step, value and the coordinates; one value for each (by, seed, step) on either axis
    band     the same without seed, with lo and hi: what `curves.over_seeds` gives; the thick path, with an arrow head
    steps    the steps that are marked and labelled (at their nearest checkpoints); as it is, powers of ten
    x_lines, y_lines  chance and oracles on either axis: label -> level

    Marks grow with training. A label that would cover another is left out: the mark says its step under the pointer.
    """
    thin = _paths(table, x, y, [by, "seed"])
    thick = [] if band is None else _paths(band, x, y, [by])
    names, x_lines, y_lines = list(table[by].unique()) if by in table else [""], x_lines or {}, y_lines or {}
    inks = style.inks(names)
    seeds = Counter(coords[by] for coords, _ in thin)
    spans = [
        reach([*(path[k] for _, path in [*thin, *thick]), list(lines.values())])
        for k, lines in (("x", x_lines), ("y", y_lines))
    ]
    shows = x_title or _called(x), y_title or _called(y)
    figure = go.Figure()
    note = f"one point a checkpoint; thin: every seed{'; thick: their median' if thick else ''}; labels: steps"
    right = style.room(y_lines)
    legend = {name: f"{name} ({n} seed{'s' * (n != 1)})".strip() for name in names for n in [seeds[name]]}
    heading = title or "Training as a path through the plane"
    lift = 24 if x_lines else 0
    lines = style.legend_lines(legend.values(), right)
    style.dress(figure, heading, note, INNER, legend=lines, lift=lift, right=right)
    figure.update_layout(meta={"x_shows": shows[0], "y_shows": shows[1]})
    scale = np.array([900 - style.LEFT - right, INNER]) / [high - low for low, high in spans]  # pixels
    for coords, path in thin:
        figure.add_trace(_path(path, inks[coords[by]], "seed", coords, None if thick else scale))
    for coords, path in thick:
        figure.add_trace(_path(path, inks.get(coords[by], style.INK), "median", coords, scale))
    rules = [_filled(np.array([[spans[0][0], v], [spans[0][1], v]]) * scale) for v in y_lines.values()]
    rules += [_filled(np.array([[v, spans[1][0]], [v, spans[1][1]]]) * scale) for v in x_lines.values()]
    for trace in _stops(thick or thin, steps, inks, by, scale, rules):
        figure.add_trace(trace)
    for name, text in legend.items():
        look = dict(name=text, line=dict(color=inks[name], width=3 if thick else 1.5), showlegend=True)
        figure.add_trace(marks.line([None], [None], inks[name], "key", {}, legendgroup=str(name), **look))
    _rules(figure, x_lines, y_lines, spans)
    figure.update_xaxes(range=spans[0], title_text=shows[0])
    figure.update_yaxes(range=spans[1], title_text=shows[1])
    return figure


def _called(coordinates: Mapping[str, Any]) -> str:
    """The name of an axis: its metric, then whatever else was asked for."""
    rest = [str(v) for k, v in coordinates.items() if k != "metric"]
    return ", ".join([style.called(str(coordinates["metric"])), *rest] if "metric" in coordinates else rest)


def _paths(
    table: pd.DataFrame, x: Mapping[str, Any], y: Mapping[str, Any], keys: list[str]
) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The path of each combination of keys: step, x, y and their intervals where both have a row."""
    ends = ["lo", "hi"] if {"lo", "hi"} <= set(table) else []
    both = []
    for side, of in (("x", x), ("y", y)):
        rows = select(pick(table, **of), None, "step", *keys)
        curves(rows, keys, "step")  # one value a checkpoint, or an error that says what to choose
        rows = rows[[*keys, "step", "value", *ends]]
        both.append(rows.rename(columns={"value": side, "lo": f"{side}_lo", "hi": f"{side}_hi"}))
    return curves(both[0].merge(both[1], on=[*keys, "step"]), keys, "step")


def _path(path: pd.DataFrame, ink: str, role: str, coords: dict, scale: np.ndarray | None) -> go.Scatter:
    """A path, with an arrow head at its last point that is known, if a scale says which way that is to the eye."""
    held = ["step", *(HELD if role == "median" and "x_lo" in path else ())]
    look: dict[str, Any] = dict(customdata=path[held].to_numpy(float), legendgroup=str(next(iter(coords.values()))))
    look["name"] = " ".join(str(v) for v in coords.values())
    trace = marks.line(path["x"], path["y"], ink, role, {"columns": held, **coords}, **look)
    trace.hovertemplate = "step %{customdata[0]:,}: %{x:.4~f}, %{y:.4~f}"
    known = np.flatnonzero(path[["x", "y"]].notna().all(axis=1))
    if scale is None or len(known) < 2:
        return trace
    points = path[["x", "y"]].to_numpy(float)[known] * scale
    far = np.flatnonzero(np.hypot(*(points[-1] - points).T) > FAR / 2)
    way = points[-1] - points[far[-1] if len(far) else 0]
    size = np.zeros(len(path))
    size[known[-1]] = 16 if role == "median" else 9
    colour = ink if role == "median" else style.tint(ink, 0.5)
    head = dict(symbol="arrow", size=size, opacity=1, color=colour, line_width=0)
    return trace.update(mode="lines+markers", marker=dict(head, angle=float(np.degrees(np.arctan2(*way)))))


def _stops(
    paths: list[tuple[dict[str, Any], pd.DataFrame]],
    steps: Sequence[int] | None,
    inks: dict,
    by: str,
    scale: np.ndarray,
    rules: list[np.ndarray],
) -> list[go.Scatter]:
    """Marks at some steps of each path, the larger the later, with labels where neither path nor rule runs."""
    stops = [(coords, path.loc[_stopping(path, steps, scale)]) for coords, path in paths]
    points = np.concatenate([np.empty((0, 2)), *(path[["x", "y"]].to_numpy(float) * scale for _, path in stops)])
    labels = [[short(float(f"{step:.2g}")) for step in path["step"]] for _, path in stops]
    ways = np.concatenate([*rules, points, *(_filled(path[["x", "y"]].to_numpy(float) * scale) for _, path in paths)])
    free, found = iter(sides(points, [text for few in labels for text in few], ways)), []
    for (coords, path), texts in zip(stops, labels, strict=True):
        ink, at = inks.get(coords[by], style.INK), [next(free) for _ in texts]
        size = np.interp(np.log1p(path["step"].to_numpy(float)), [0, np.log1p(1e5)], [4, 14])
        text = dict(text=[t if side else "" for t, side in zip(texts, at, strict=True)])
        font = dict(color=ink, shadow="0 0 2px white, 0 0 2px white, 0 0 2px white")
        dot = dict(color="white", size=size, opacity=1, line=dict(color=ink, width=2))
        look = dict(mode="markers+text", marker=dot, textposition=[side or "top center" for side in at], textfont=font)
        look |= dict(cliponaxis=False, hoverinfo="skip", showlegend=False, legendgroup=str(coords[by]))
        found.append(go.Scatter(x=path["x"], y=path["y"], meta={"role": "key"}, **text, **look))
    return found


def _stopping(path: pd.DataFrame, steps: Sequence[int] | None, scale: np.ndarray) -> pd.Index:
    """The rows of a path at the checkpoints nearest to some steps (in log step); of two at one place, the later."""
    known = path.dropna(subset=["x", "y"])
    have = known["step"].to_numpy(float)
    wanted = [s for s in (10.0 ** np.arange(12) if steps is None else steps) if 0 < s <= have.max(initial=0)]
    near = sorted({int(np.abs(np.log((have + 1e-9) / step)).argmin()) for step in wanted})
    points = known[["x", "y"]].to_numpy(float) * scale
    pairs = zip(near, [*near[1:], None], strict=False)
    return known.index[[i for i, j in pairs if j is None or np.hypot(*(points[j] - points[i])) > FAR]]


def _filled(points: np.ndarray) -> np.ndarray:
    """Points along a path, none farther than a few pixels from the next."""
    points = points[np.isfinite(points).all(axis=1)]
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))] if len(points) else np.zeros(0)
    at = np.arange(0, length[-1], 5) if len(points) else length
    return np.stack([np.interp(at, length, k) if len(points) else at for k in points.T], axis=-1)


def _rules(
    figure: go.Figure, x_lines: Mapping[str, float], y_lines: Mapping[str, float], spans: list[tuple[float, float]]
) -> None:
    """Chance and oracle lines of both axes, labelled outside the plane."""
    look = dict(line=dict(dash="3px,3px", width=1.2, color=style.INK))
    for name, level in y_lines.items():
        figure.add_trace(marks.line(spans[0], [level] * 2, style.INK, "line", {"axis": "y", "strategy": name}, **look))
        place = dict(x=1, xref="x domain", y=level, xanchor="left", xshift=4)
        figure.add_annotation(place, text=name, showarrow=False, font_size=12)
    for name, level in x_lines.items():
        figure.add_trace(marks.line([level] * 2, spans[1], style.INK, "line", {"axis": "x", "strategy": name}, **look))
        place = dict(y=1, yref="y domain", x=level, yanchor="bottom", yshift=2)
        figure.add_annotation(place, text=name, showarrow=False, font_size=12)
