"""The lanes of a race: each arm's median on top, its seeds below it, and behind them what was published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _marks as marks
from probelab.figures import _style as style

SLOT, AIR = 9, 10  # pixels of height: a seed, and what parts two arms
GREY = "#777777"
ENDS: dict[str, Any] = dict(showlegend=False, cliponaxis=False)
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
    ink = GREY if role == "published" else ink
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
        found += _median(one, slot[0] + high / slots / 2, ink, coords)
    seeds = seeds.loc[seeds["status"] != "too few"].sort_values(["value", "last"])
    for y, (_, one) in zip(slot[2 if len(middle) else 0 :], seeds.iterrows(), strict=False):
        role = {"switched": "onset", "begun": "begun"}.get(one["status"], "never")
        x = one[{"onset": "value", "begun": "since", "never": "last"}[role]]
        ends = (one["lo"], one["hi"]) if role == "onset" else (np.nan, np.nan)
        trace = _mark(x, ends, y, role, ink, {**coords, "seed": one["seed"]})
        found.append(trace.update(hovertemplate=f"seed {one['seed']}: {one['status']}, %{{x:,.5~g}}"))
    return found


def _mark(x: float, ends: tuple[float, float], y: float, role: str, ink: str, coords: dict) -> go.Scatter:
    lo, hi = ends
    date = np.array([x], float), np.array([lo], float), np.array([hi], float)
    trace = marks.mark(date, [y], ink, ink, role, coords, marker=symbol(role, ink), name=role, **ENDS)
    return trace.update(error_x_thickness=1)


def _median(one: pd.Series, y: float, ink: str, coords: dict) -> list[go.Scatter]:
    """A median with its interval; an arrow at the end of the record for what lies beyond it."""
    value, lo, hi, last = (float(one[k]) for k in ("value", "lo", "hi", "last"))
    role = "median" if np.isfinite(value) else "later"
    trace = _mark(value if np.isfinite(value) else last, (lo, min(hi, last)), y, role, ink, coords)
    trace.update(customdata=[[lo, hi]], error_x=dict(thickness=3, width=5, visible=lo < last))
    if role == "later" or np.isfinite(hi):
        return [trace]
    look = dict(mode="markers", marker=symbol("later", ink), meta={"role": "key"}, hoverinfo="skip", **ENDS)
    return [trace, go.Scatter(x=[last], y=[y], **look)]


def keys(roles: set[str], rate: str) -> list[go.Scatter]:
    """An entry of the legend for each kind of mark that is drawn."""
    names = {
        "median": f"median over seeds ({rate})",
        "later": "median later than the last step",
        "onset": "onset of a seed (95 %)",
        "never": "seed that never switched",
        "begun": "seed under way at the first step",
        "published": "published",
    }
    look = dict(x=[None], y=[None], mode="markers", meta={"role": "key"})
    return [
        go.Scatter(name=name, marker=symbol(role, style.INK), **look) for role, name in names.items() if role in roles
    ]


def label(arm: Any, seeds: pd.DataFrame, ink: str) -> str:
    """An arm, and how many of its seeds switched; those that cannot be judged are none of them."""
    status = seeds["status"]
    judged, done = int((status != "too few").sum()), int(status.isin(["switched", "begun"]).sum())
    left = len(status) - judged
    count = f"{done} of {judged} switched" + (f", {left} unjudged" if left else "") if len(status) else "no runs"
    return f"<b style='color:{ink}'>{arm}</b><br>{count}"
