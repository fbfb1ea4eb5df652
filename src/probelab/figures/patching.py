"""What interventions do, component by position, with a slider over checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probelab.figures import _style as style
from probelab.figures._slider import SLIDER, evenly, slider
from probelab.figures._tables import curves, part, select
from synthetic_tasks.task import choose

LINE = 26  # pixels of height of a component
ACROSS = ("pos", "role", "key", "neuron", "head")


def patching(
    rows: pd.DataFrame,
    metric: str = "effect",
    *,
    across: str | None = None,
    title: str = "",
    z_title: str = "",
    most: int = 20,
) -> go.Figure:
    """Draw the rows of the measure `patching`, components downwards, one checkpoint at a time; it opens at the last.

    rows    layer, step, value, and what parts are told by (head, pos, role, key, neuron); one value a cell and step: of
            one run, or the medians that `curves.over_seeds` gives
    metric  effect, or recovery
    across  what goes to the right; the first of pos, role, key, neuron, head that there is, or else layer
    Of more than `most` checkpoints so many are drawn, evenly spaced in their list. One colour scale serves all.
    """
    rows = select(rows, metric, "layer", "step").dropna(subset=["layer"])
    told = [column for column in ACROSS if column in rows and rows[column].notna().any()] or ["layer"]
    across = told[0] if across is None else choose("column to draw across", across, told)
    down = [column for column in dict.fromkeys(["layer", *reversed(told)]) if column != across]
    curves(rows, [*down, across], "step")  # one value a cell and step, or an error that says what to choose
    rows = rows.sort_values([*down, across])
    named = ["".join(map(part, down, values)) for values in rows[down].itertuples(index=False)]
    rows = rows.assign(component=named if down else "whole site")
    steps = sorted(rows["step"].unique())
    steps = [steps[k] for k in evenly(len(steps), most)]
    names, places = list(dict.fromkeys(rows["component"])), list(dict.fromkeys(rows[across]))
    cells = {
        step: here.pivot(index="component", columns=across, values="value").reindex(index=names[::-1], columns=places)
        for step, here in rows[rows["step"].isin(steps)].groupby("step")
    }
    inner = max(LINE * len(names), 140)
    figure = go.Figure()
    style.dress(
        figure,
        title or f"{metric.capitalize()} of each intervention over training",
        f"rows: {' and '.join(down)}" if down else "",
        inner,
        legend=0,
        right=90,
        below=style.BELOW + SLIDER,
    )
    labels = [str(place) if across in ("role",) else str(int(place)) for place in places]
    hover = f"%{{y}}, {across} %{{x}}: %{{z:.3~f}}<extra></extra>"
    last = cells[steps[-1]]
    trace: dict[str, Any] = dict(x=labels, y=list(last.index), coloraxis="coloraxis", xgap=1, ygap=1)
    figure.add_trace(
        go.Heatmap(trace, z=_numbers(last), meta={"role": metric, "across": across}, hovertemplate=hover, name=metric)
    )
    figure.frames = [
        go.Frame(name=str(step), data=[dict(type="heatmap", z=_numbers(cells[step]))], traces=[0]) for step in steps
    ]
    everything = np.concatenate([table.to_numpy(float).ravel() for table in cells.values()])
    figure.update_layout(coloraxis=style.colours(everything, z_title or style.called(metric)))
    figure.update_layout(sliders=[slider(steps)])
    every = -(-len(labels) // 32)
    figure.update_xaxes(
        title_text={"pos": "position", "key": "key position"}.get(across, across),
        type="category",
        tickvals=labels[::every],
        tickangle=0,
        showline=False,
        ticks="",
    )
    figure.update_yaxes(type="category", title_text="", ticks="", showline=False, ticklabelstandoff=4)
    return figure


def _numbers(table: pd.DataFrame) -> list[list[float]]:
    return np.round(table.to_numpy(float), 4).tolist()
