"""A number of every seed against a dial: samples to solve by k, accuracy by samples or price, errors by condition."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._beyond import medians as placed
from probelab.figures._beyond import seeds
from probelab.figures._dial import Dial, decades, loggable, numeric
from probelab.figures._tables import curves, levels, reach, select, where
from synthetic_tasks.task import choose

INNER, BESIDE = 400, 10  # pixels: height between the margins; at most from a median to the dots of its seeds
SHAPES = ("circle", "square", "diamond", "pentagon", "star")  # of medians
ROLES: dict[
    str, tuple[str, int, float, list[str], str]
] = {  # shape, size, width of its line, what it holds, what it says behind x
    "seed": ("circle", 6, 0, ["x", "seed"], ", seed %{customdata[1]}: %{y:,.6~g}"),
    "begun": ("triangle-down-open", 7, 1.5, ["x", "seed"], ", seed %{customdata[1]}: by %{y:,.6~g}, or before"),
    "never": ("triangle-up-open", 7, 1.5, ["x", "seed"], ", seed %{customdata[1]}: not by %{y:,.6~g}%{hovertext}"),
    "median": ("", 10, 0, ["x", "y_lo", "y_hi"], ": %{y:,.6~g} [%{customdata[1]:,.6~g}, %{customdata[2]:,.6~g}]"),
    "later": ("triangle-up-open", 12, 2, ["x", "y_lo", "y_hi"], ": later than %{y:,.6~g}"),
    "level": ("line-ew", 14, 2, ["x"], ": %{y:,.6~g}"),
}
OUTSIDE = {"begun": "there from the beginning", "never": "not by the end"}
STROKES = (style.INK, style.PALE, style.GREY)


def against(
    table: pd.DataFrame,
    *,
    x: str,
    metric: str | None = None,
    by: str = "arm",
    medians: pd.DataFrame | None = None,
    lines: Mapping[str, float] | pd.DataFrame | None = None,
    strokes: Mapping[str, Mapping[Any, float]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
) -> go.Figure:
    """Draw each seed as a dot and the median over seeds as a mark with its interval, a colour for each value of `by`.

    table    seed, value, x and `by`; one value for each (by, x, seed). Where it has a column `last`, a seed without a
             value was not there by then: an open triangle, and how many. `status` and `since` as `curves.onset` gives
    x        a column: of numbers (the medians of a series are joined) or of names (they are not)
    medians  what `curves.over_seeds` or `curves.across` gives, one row for each (by, x): value, lo, hi, and `last` if
             the table has it: a median or an end of an interval that lies beyond it is an open triangle there
    lines    chance and oracles: label -> level
    strokes  levels that depend on x: label -> {x: level}; a short line across all series there

    `value`, `lo`, `hi`, `since` and `last` have one unit. Series that share an x stand side by side, dots to the left
    of their median; `plotted` has x as it is. Errors: several values for one (by, x, seed); no rows; what a logarithm
    cannot show; a stroke at no such x.
    """
    rows = _read(table, metric, x, by)
    needs = ["lo", "hi", *(["last"] if "last" in rows else [])]
    middle = rows.iloc[:0].assign(lo=0.0, hi=0.0) if medians is None else _read(medians, metric, x, by, *needs)
    curves(rows, [by, x], "seed")  # one value a seed, and one median a place, or an error that says what to choose
    curves(middle.assign(seed="all"), [by, x], "seed")
    rules, names = levels(lines), list(dict.fromkeys([*rows[by], *middle[by]]))
    right, places = style.room(map(style.wrapped, rules)), pd.concat([rows["x"], middle["x"]])
    if log_x:
        loggable("log_x", x, places)
    shared = rows.drop_duplicates([by, x])["x"].duplicated().any()
    dial = Dial.of(places, log_x, 900 - style.LEFT - right, len(names) if shared else 1)
    dots, middle, rungs = seeds(rows, by), placed(middle), _rungs(strokes or {}, places, x)
    level = pd.Series(rules, dtype=float)
    heights = pd.concat([dots["y"], *(middle[end] for end in ("y", "y_lo", "top")), rungs["y"], level]).dropna()
    if log_y:
        loggable("log_y", metric or "value", heights)
    span = reach([np.log10(heights) if log_y else heights], above=0.1 if "last" in rows else 0.06)

    shown, y_shown = x_title or style.called(x.split(".")[-1]), y_title or style.called(metric or "value")
    apart = dial.step * shared * (np.arange(len(names)) - (len(names) - 1) / 2)
    inks, wide = style.inks(names), 0.86 / dial.pixel if dial.names else np.ptp(apart) + 30
    below, above, keys = [], [], []
    for name, aside, shape in zip(names, apart, cycle(SHAPES), strict=False):
        own, held, look = where(dots, by, name), where(middle, by, name), (inks[name], shape, shown)
        beside = min(dial.step / 2, BESIDE) if len(held) else 0.0
        aside += beside / 2 if dial.names else 0.0  # a name has the series around it, a number its medians
        joined = _joined(held, dial, aside, {by: name}, inks[name])
        below += _traces(own, dial, aside - beside, {by: name}, *look)
        above += [*joined, *_traces(held, dial, aside, {by: name}, *look)]
        keys.append(_key(str(name), own.dropna(subset="y"), inks[name], shape if len(held) else "circle", bool(joined)))
    for (name, own), ink in zip(rungs.groupby("strategy", sort=False), cycle(STROKES), strict=False):
        for trace in _traces(own, dial, 0.0, {"strategy": name}, ink, "", shown):
            below.append(trace.update(marker_size=wide / 1.4))  # its line is 1.4 sizes long
        mark = dict(symbol="line-ew", size=14, line=dict(color=ink, width=2))
        keys.append(marks.key(str(name), mode="markers", marker=mark, legendgroup=str(name)))
    outside = {kind: int((dots["role"] == kind).sum()) for kind in OUTSIDE}
    for kind, many in outside.items():
        if many:
            mark = dict(symbol=ROLES[kind][0], size=8, color=style.INK, line_width=1.5)
            keys.append(marks.key(f"{OUTSIDE[kind]} ({many} of {dots['y'].count()})", mode="markers", marker=mark))

    note = "dots: every seed" + (f"; marks: their median with its {style.rate(middle)} interval" if len(middle) else "")
    note += "; open triangles: beyond the record, and how many seeds" if any(outside.values()) else ""
    heading = title or f"{y_shown.split(',')[0]} against {shown.split(',')[0]}"
    ticks, height = dial.layout(), style.legend_lines([str(key.name) for key in keys], right)
    deep = style.BELOW + 16 * max((text.count("<br>") for text in ticks.get("ticktext", [])), default=0)
    style.dress(figure := go.Figure(), heading, note, INNER, legend=height, right=right, below=deep)
    figure.update_layout(meta={"metric": metric, "x_dial": x})
    dash = dict(line=dict(dash="3px,3px", width=1.2, color=style.INK))
    lined = [marks.line(dial.ends, [y] * 2, style.INK, "line", {"strategy": name}, **dash) for name, y in rules.items()]
    figure.add_traces([*keys, *lined, *below, *above])
    named = {style.wrapped(name): (np.log10(y) if log_y else y, style.INK) for name, y in rules.items()}
    marks.labels(figure, named, span, INNER)
    figure.update_xaxes(ticks, title_text=shown + " (log scale)" * log_x)
    figure.update_yaxes(decades(span) if log_y else dict(range=span), title_text=y_shown + " (log scale)" * log_y)
    return figure


def _read(table: pd.DataFrame, metric: str | None, x: str, by: str, *columns: str) -> pd.DataFrame:
    """The rows that have a value of x, which the column x then holds: a number, or a name."""
    rows = select(table, metric, x, by, *columns).dropna(subset=[x])
    if not len(rows):
        raise ValueError(f"no row has a value of {x}: there is nothing to draw against it")
    return rows.assign(x=rows[x].astype(float if numeric(rows[x]) else str))


def _rungs(strokes: Mapping[str, Mapping[Any, float]], places: pd.Series, x: str) -> pd.DataFrame:
    """A row for each level of each stroke."""
    said = "{:.12g}".format if numeric(places) else str
    known = {said(place): place for place in places.unique()}
    found = [(str(name), known[choose(x, said(at), known)], y) for name, of in strokes.items() for at, y in of.items()]
    return pd.DataFrame(found, columns=["strategy", "x", "y"]).astype({"y": float}).assign(role="level")


def _key(name: str, dots: pd.DataFrame, ink: str, shape: str, joined: bool) -> go.Scatter:
    """The entry of a series in the legend."""
    n, look = dots["seed"].nunique(), dict(mode="lines+markers" if joined else "markers", line_color=ink)
    said = f"{name} ({n} seed{'s' * (n != 1)})".strip()
    return marks.key(said, legendgroup=name, marker=dict(symbol=shape, size=9, color=ink), **look)


def _joined(rows: pd.DataFrame, dial: Dial, aside: float, coords: dict[str, Any], ink: str) -> list[go.Scatter]:
    """The line through the medians of a series, broken where one lies beyond the record; names are not joined."""
    if dial.names or len(rows) < 2:
        return []
    rows = rows.sort_values("x")
    known = rows["y"].where(rows["role"] == "median")
    look = dict(line=dict(color=ink, width=1.5), legendgroup=str(next(iter(coords.values()))))
    line = marks.line(dial.place(rows["x"], aside), known, ink, "key", {}, **look)
    return [line.update(hoverinfo="skip", hovertemplate=None)]


def _traces(
    points: pd.DataFrame, dial: Dial, aside: float, coords: dict[str, Any], ink: str, shape: str, shown: str
) -> list[go.Scatter]:
    """The marks of a series, so many pixels aside: a trace for each role, and for each name of x."""
    found, name = [], str(next(iter(coords.values())))
    for (role, *at), part in points.groupby(["role", *(["x"] if dial.names else [])], sort=False):
        symbol, size, width, held, says = ROLES[str(role)]
        colour = style.tint(ink, 0.45) if role == "seed" else ink
        common = dict(x=dial.place(part["x"], aside), name=name, legendgroup=name, showlegend=False, cliponaxis=False)
        look: dict[str, Any] = dict(mode="markers")
        if role in OUTSIDE:
            font, side = dict(size=11, color=ink), "bottom center" if role == "begun" else "top center"
            look = dict(mode="markers+text", textposition=side, textfont=font, text=part["text"], hovertext=part["of"])
        if "top" in part:
            up, down = (np.abs(part[end].to_numpy() - part["y"].to_numpy()) for end in ("top", "y_lo"))
            known = np.isfinite(up) & np.isfinite(down)
            bars = dict(array=np.where(known, up, 0), arrayminus=np.where(known, down, 0), color=ink)
            look["error_y"] = dict(bars, thickness=1.5, width=4, visible=bool((up + down)[known].any()))
        if "top" in part and part["beyond"].any():
            arrow = dict(symbol="triangle-up-open", size=9, color=ink, line_width=1.5)
            high = part["top"].where(part["beyond"])
            beyond = dict(y=high, mode="markers", marker=arrow, meta={"role": "key"}, hoverinfo="skip")
            found.append(go.Scatter(common, **beyond))
        numbers = part.assign(x=0.0) if at else part  # a name is no number, but a coordinate
        trace = go.Scatter(
            common,
            y=part["y"],
            customdata=numbers[held].to_numpy(float),
            meta={"role": role, "columns": held, **coords, **dict(zip(["x"], at, strict=False))},
            marker=dict(symbol=symbol or shape, size=size, color=colour, line=dict(color=ink, width=width)),
            hovertemplate=f"{shown} {at[0] if at else '%{customdata[0]:,.6~g}'}{says}",
            **look,
        )
        found.append(trace)
    return found
