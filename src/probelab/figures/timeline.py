"""Decodable, and used? The onsets of several kinds side by side, a lane for each component, target or seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _lanes as lanes
from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._tables import components, curves, matching, select, several, told

SLOT, LINE, AIR = 18, 18, 12  # pixels of height: a kind, a line of a label, what parts two lanes
SHAPES = ("circle", "diamond", "square", "triangle-up", "star")
TICK = dict(symbol="line-ns", size=11, opacity=0.7)
GAP = ("lo", "hi", "level", "p", "first", "second")


def timeline(
    onsets: pd.DataFrame,
    kinds: Mapping[str, Mapping[str, Any]] | str = "metric",
    *,
    by: str = "component",
    medians: pd.DataFrame | None = None,
    gaps: pd.DataFrame | None = None,
    order: Sequence[str] | None = None,
    title: str = "",
) -> go.Figure:
    """Draw a lane for each value of `by`, in it the onset of each kind, and a bar from the first of them to the last.

    onsets   rows of `curves.onset`: value, lo, hi, status, since, last; one for each (by, kind, seed)
    kinds    name -> coordinates of its rows: {"decodable": {"metric": "accuracy"}, "used": {"metric": "erasure"}}; or a
             column, whose values are the kinds
    by       the column of the lanes: target, seed, ... "component", if it is no column: layer, head, role, ... as L1H0
    medians  rows of `curves.across`, one for each (by, kind): value, lo, hi, last. For lanes of several seeds
    gaps     rows of `curves.order`, written beside their lanes: value (decades), lo, hi, level, p, first, second
    order    the lanes from top to bottom; as it is, by the date of the first kind, then of the next

    What never switched is an open arrow at its last step. A bar that ends there is paler: the gap is at least so long.
    Errors: two onsets of a kind and seed in a lane; several seeds in a lane, and no medians.
    """
    columns = told(onsets, by)
    seeds = components(several(select(onsets, None, "status", "lo", "hi", "last"), kinds, "kind"), by, columns)
    middle = seeds.iloc[:0]
    if medians is not None:
        middle = components(several(select(medians, None, "lo", "hi", "last"), kinds, "kind"), by, columns)
    main = seeds if medians is None else middle
    for table, keys in ((seeds, list(dict.fromkeys([by, "seed"]))), (main, [by])):
        curves(table, keys, "kind")  # one date a seed and one mark a lane, or an error that says what to choose
    names = list(seeds["kind"].unique()) if isinstance(kinds, str) else [str(name) for name in kinds]
    looks = dict(zip(names, map(_look, style.inks(names).values(), cycle(SHAPES)), strict=False))
    rows = _order(main, by, names) if order is None else [str(lane) for lane in order]
    labels = [_label(lane, [matching(seeds, {by: lane, "kind": kind}) for kind in names], looks) for lane in rows]
    lines = max((text.count("<br>") + 1 for text in labels), default=1)
    axis, high = lanes.axis_of(seeds, middle), max(SLOT * len(names), LINE * lines) + AIR
    figure, traces = go.Figure(), []
    for at, lane in enumerate(rows):
        ends = []
        for k, kind in enumerate(names):
            coords, y = {by: lane, "kind": kind}, at + (k - (len(names) - 1) / 2) * SLOT / high
            cell = _cell(matching(seeds, coords), matching(middle, coords), y, looks[kind], coords)
            ends += [(trace, looks[kind]["color"]) for trace in cell[-1:]]
            traces += cell
        _bar(figure, ends)
    beside = {} if gaps is None else _beside(components(select(gaps, None, *GAP), by, columns), by, kinds)
    beside = {lane: text for lane, text in beside.items() if lane in ("", *rows)}
    left = int(36 + max(map(style.widest, labels), default=0))
    right = int(24 + max(map(style.widest, beside.values()), default=0))
    legend = [marks.key(kind, mode="markers", marker=look) for kind, look in looks.items()]
    legend += _keys(traces, bool(len(middle)))
    above = max(style.legend_lines([str(key.name) for key in legend], right, 16), beside.get("", "").count("<br>") + 1)
    note = f"{'median over seeds' if len(middle) else 'onset'} with its {style.rate(main)} interval"
    note += "; bar: from the first to the last, paler: at least so long"
    style.dress(figure, title or f"Onsets: {', '.join(names)}", note, high * len(rows), legend=above, right=right)
    figure.update_layout(margin_l=left, meta={"zero": axis.zero, "x_unit": "step"})
    figure.update_layout(legend_x=-(left - 16) / (900 - left - right))  # the legend has the left margin, too
    figure.add_traces([*legend, *traces])
    figure.update_xaxes(axis.layout())
    lanes.named(figure, labels)
    for lane, text in beside.items():
        place = dict(y=1, yref="y domain", yanchor="bottom") if lane == "" else dict(y=rows.index(lane), yref="y")
        look = dict(x=1, xref="x domain", xanchor="left", xshift=16, align="left", showarrow=False, font_size=12)
        figure.add_annotation(look, text=text, **place)
    return figure


def _order(main: pd.DataFrame, by: str, kinds: Sequence[str]) -> list[str]:
    """The lanes by the date of the first kind, then of the next; those without dates come last."""
    dates = (
        main.pivot(index=by, columns="kind", values="value").reindex(columns=list(kinds)).astype(float).fillna(np.inf)
    )
    return sorted(main[by].unique(), key=lambda lane: tuple(dates.loc[lane]))


def _look(ink: str, shape: str) -> dict[str, Any]:
    """A date; what is none is an open arrow."""
    return dict(symbol=shape, size=12, color=ink, line=dict(color="white", width=1))


def _cell(
    seeds: pd.DataFrame, middle: pd.DataFrame, y: float, look: dict[str, Any], coords: dict[str, Any]
) -> list[go.Scatter]:
    """What a lane has of a kind: ticks, the seeds, and on top, last, their median; or the one seed."""
    ink = look["color"]
    found = [lanes.seed(one, y, ink, coords) for _, one in seeds.iterrows() if one["status"] != "too few"]
    for tick in found if len(middle) else []:
        dated = marks.role(tick) == "onset"
        tick.update(marker=dict(TICK, line_width=1.5) if dated else dict(size=12), error_x_visible=False)
    for _, one in middle.iterrows():
        found += reversed(lanes.median(one, y, ink, coords))
    if found and marks.role(found[-1]) in ("onset", "median"):
        found[-1].update(marker=look, error_x=dict(thickness=2, width=4))
    elif found:
        found[-1].update(marker_size=12)
    return found


def _bar(figure: go.Figure, ends: list[tuple[go.Scatter, str]]) -> None:
    """From the first mark of a lane to the last, in the colour of the first; paler if one of them is no date."""
    if len(ends) < 2:
        return
    known = all(marks.role(mark) in ("onset", "median") for mark, _ in ends)
    points = [(float(np.asarray(mark.x)[0]), float(np.asarray(mark.y)[0]), ink) for mark, ink in ends]
    (first, _, ink), *_, (last, *_) = sorted(points)
    heights = [y for _, y, _ in points]
    area = dict(x0=first, x1=last, y0=min(heights), y1=max(heights), xref="x", yref="y")
    figure.add_shape(area, type="rect", line_width=0, layer="below", fillcolor=style.tint(ink, 0.3 if known else 0.12))


def _keys(traces: Iterable[go.Scatter], several: bool) -> list[go.Scatter]:
    """Entries of the legend for what else is drawn."""
    roles, ink = {marks.role(trace) for trace in traces}, style.INK
    looks = {
        "a seed": ("onset" in roles and several, dict(TICK, line=dict(color=ink, width=1.5))),
        "no date by the last step": (bool(roles & {"never", "later"}), lanes.symbol("later", ink)),
        "under way at the first step": ("begun" in roles, lanes.symbol("begun", ink)),
    }
    return [marks.key(name, mode="markers", marker=look) for name, (drawn, look) in looks.items() if drawn]


def _label(lane: str, seeds: list[pd.DataFrame], looks: Mapping[str, dict[str, Any]]) -> str:
    """A lane, and of how many of its seeds each kind switched, in its colour."""
    name = f"<b>{style.wrapped(lane, 28)}</b>"
    if max(map(len, seeds), default=0) < 2:
        return name
    counts = [
        f"<span style='color:{look['color']}'>{done} of {judged}</span>"
        for look, (done, judged) in zip(looks.values(), (lanes.count(rows["status"]) for rows in seeds), strict=True)
        if judged  # not every kind has a place in every lane
    ]
    return f"{name}<br>switched: {', '.join(counts)}"


def _beside(gaps: pd.DataFrame, by: str, kinds: Mapping[str, Mapping[str, Any]] | str) -> dict[str, str]:
    """The gaps of each lane, and under "" what they are, as a heading."""
    known = {} if isinstance(kinds, str) else {" ".join(map(str, of.values())): name for name, of in kinds.items()}
    ways = [f"{known.get(a, a)} to {known.get(b, b)}" for a, b in zip(gaps["first"], gaps["second"], strict=True)]
    same, found = len(set(ways)) == 1, {}
    for way, (_, gap) in zip(ways, gaps.iterrows(), strict=True):
        found.setdefault(gap[by], []).append(_gap(gap) if same else f"{way}: {_gap(gap)}")
    rate = f" ({style.rate(gaps)})" if (gaps["level"] > 0).any() else ""
    head = f"{style.wrapped(ways[0] if same else 'gap', 30)},<br>decades{rate}" if ways else ""
    return {"": head, **{lane: "<br>".join(lines) for lane, lines in found.items()}}


def _gap(gap: pd.Series) -> str:
    """A gap with its interval, if it has one, and p; infinite where half of the runs never switched to one of them."""
    value, lo, hi = (float(gap[column]) for column in ("value", "lo", "hi"))
    if np.isnan(value):
        return "no pair tells an order"
    p = f"p = {gap['p']:.3f}".replace(" 0.", " .") if gap["p"] >= 0.001 else "p < .001"
    middle = f"{value:+.2f}" if np.isfinite(value) else "beyond the record"
    interval = f" ({lo:+.2f} to {hi:+.2f})" if gap["level"] > 0 else ""
    return f"{middle}{interval}, {p}".replace("-", "−").replace("inf", "∞")
