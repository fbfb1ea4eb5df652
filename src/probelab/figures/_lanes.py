"""Lanes on an axis of training, with dated onsets and what never switched; those of a race have seeds below medians."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style
from probelab.figures._axis import Axis
from probelab.figures._tables import where

SLOT, AIR = 9, 10  # pixels of height: a seed, and what parts two arms
ENDS: dict[str, Any] = dict(showlegend=False, cliponaxis=False)
NAMES = {
    "later": "median later than the last step",
    "onset": "onset of a seed (95 %)",
    "never": "seed without a date by the last step",
    "begun": "seed under way at the first step",
    "published": "published",
}
SHAPES = {  # full where there is a date, open where there is none
    "median": ("diamond", 12),
    "later": ("triangle-right-open", 12),
    "onset": ("circle", 6),
    "never": ("triangle-right-open", 6),
    "begun": ("triangle-left-open", 6),
    "published": ("line-ns", 12),
}


def symbol(role: str, ink: str) -> dict[str, Any]:
    """How a mark looks."""
    shape, size = SHAPES[role]
    ink = style.GREY if role == "published" else ink
    return dict(symbol=shape, size=size, color=ink, line=dict(color=ink, width=0 if role == "onset" else 1.5))


def lane(
    at: int,
    coords: dict[str, Any],
    seeds: pd.DataFrame,
    middle: pd.DataFrame,
    ink: str,
    published: float | None,
    slots: int,
) -> list[go.Scatter]:
    """What one arm has, at the height `at` (lanes count downwards), in so many slots; two of them hold the median."""
    high = 1 - AIR / (slots * SLOT + AIR)
    slot = [at + high * ((j + 0.5) / slots - 0.5) for j in range(slots)]
    found = [] if published is None else [_mark(published, (np.nan, np.nan), at, "published", ink, coords)]
    for tick in found:
        tick.update(marker_size=0.8 * slots * SLOT)
    for _, one in middle.iterrows():
        found += median(one, slot[0] + high / slots / 2, ink, coords)
    seeds = seeds.loc[seeds["status"] != "too few"].sort_values(["value", "last"])
    for y, (_, one) in zip(slot[2 if len(middle) else 0 :], seeds.iterrows(), strict=False):
        found.append(seed(one, y, ink, coords))
    return found


def _mark(x: float, ends: tuple[float, float], y: float, role: str, ink: str, coords: dict) -> go.Scatter:
    lo, hi = ends
    date = np.array([x], float), np.array([lo], float), np.array([hi], float)
    trace = marks.mark(date, [y], ink, ink, role, coords, marker=symbol(role, ink), name=role, **ENDS)
    return trace.update(error_x_thickness=1)


def seed(one: pd.Series, y: float, ink: str, coords: dict) -> go.Scatter:
    """The onset of a seed with its interval; an arrow at the end of the record, or at its beginning, if it has none."""
    role = {"switched": "onset", "begun": "begun"}.get(one["status"], "never")
    x = one[{"onset": "value", "begun": "since", "never": "last"}[role]]
    ends = (one["lo"], one["hi"]) if role == "onset" else (np.nan, np.nan)
    trace = _mark(x, ends, y, role, ink, {**coords, "seed": one["seed"]})
    return trace.update(hovertemplate=f"seed {one['seed']}: {one['status']}, %{{x:,.5~g}}")


def median(one: pd.Series, y: float, ink: str, coords: dict) -> list[go.Scatter]:
    """A median with its interval; an arrow at the end of the record for what lies beyond it."""
    value, lo, hi, last = (float(one[k]) for k in ("value", "lo", "hi", "last"))
    role = "median" if np.isfinite(value) else "later"
    trace = _mark(value if np.isfinite(value) else last, (lo, min(hi, last)), y, role, ink, coords)
    trace.update(customdata=[[lo, hi]], error_x=dict(thickness=3, width=5, visible=lo < last))
    if role == "later" or np.isfinite(hi):
        return [trace]
    look = dict(mode="markers", marker=symbol("later", ink), meta={"role": "key"}, hoverinfo="skip", **ENDS)
    return [trace, go.Scatter(x=[last], y=[y], **look)]


def keys(names: dict[str, str], traces: Iterable[go.Scatter]) -> list[go.Scatter]:
    """An entry of the legend for each kind of mark that is drawn, role -> name."""
    roles = {marks.role(trace) for trace in traces}
    return [
        marks.key(name, mode="markers", marker=symbol(role, style.INK)) for role, name in names.items() if role in roles
    ]


def axis_of(
    onsets: pd.DataFrame, middle: pd.DataFrame, published: Sequence[float] = (), table: pd.DataFrame | None = None
) -> Axis:
    """From the first checkpoint of a table of curves, or else from a little before the first date, to the last."""
    begun = where(onsets, "status", "begun")["since"] if "since" in onsets else []
    dates = [*(onsets[c] for c in ("value", "lo", "last")), *(middle[c] for c in ("lo", "last")), begun]
    steps = np.concatenate([np.asarray(d, float) for d in [*dates, published]])
    steps = steps[np.isfinite(steps)]
    steps = np.r_[steps, 0.8 * steps.min(initial=np.inf)] if table is None else np.r_[steps, table["step"].to_numpy()]
    return Axis.of(pd.DataFrame({"step": np.asarray(steps[np.isfinite(steps)], float)}), "step", log=True)


def named(figure: go.Figure, labels: Sequence[str], panel: str = "") -> None:
    """Lanes with their labels to the left, counted downwards, every second one on pale ground."""
    for at in range(1, len(labels), 2):
        area = dict(x0=0, x1=1, xref=f"x{panel} domain", y0=at - 0.5, y1=at + 0.5, yref=f"y{panel}")
        figure.add_shape(area, type="rect", fillcolor="#F4F5F7", line_width=0, layer="below")
    ticks = dict(tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.5, -0.5], ticks="")
    figure.update_layout({f"yaxis{panel}": dict(ticks, showline=False, ticklabelstandoff=6)})


def label(arm: Any, seeds: pd.DataFrame, ink: str) -> str:
    """An arm, and how many of its seeds switched."""
    done, judged = count(seeds["status"])
    left = len(seeds) - judged
    said = f"{done} of {judged} switched" + (f", {left} unjudged" if left else "") if len(seeds) else "no runs"
    return f"<b style='color:{ink}'>{arm}</b><br>{said}"


def count(status: pd.Series) -> tuple[int, int]:
    """How many switched, of how many that can be judged."""
    return int(status.isin(["switched", "begun"]).sum()), int((status != "too few").sum())
