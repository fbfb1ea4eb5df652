"""Attention patterns of every head, with a slider over checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _style as style
from probelab.figures._slider import SLIDER, evenly, slider
from synthetic_tasks.task import require

GAP = 34  # pixels of height between layers


def pattern(
    weights: np.ndarray,
    steps: Sequence[int],
    *,
    tokens: Sequence[Any] | None = None,
    title: str = "",
    decimals: int = 3,
    most: int = 20,
) -> go.Figure:
    """Draw attention weights, float `[step layer head q k]`, a panel for each head; opens at the last step.

    `tokens` labels the positions. Weights are rounded to so many decimals, and those of keys after the query are left
    out where all of them are zero. Of more than `most` checkpoints, so many are drawn, evenly spaced in their list.
    """
    weights = np.round(np.asarray(weights, float), decimals)
    require(weights.ndim == 5, "shape of weights", weights.shape, "five axes, [step layer head q k]")
    n, layers, heads, queries, keys = weights.shape
    labels = [str(t) for t in (range(keys) if tokens is None else tokens)]
    require(len(steps) == n, "number of steps", len(steps), f"one for each of the {n} patterns in weights")
    require(queries == keys, "shape of weights", weights.shape, "as many queries as keys")
    require(len(labels) == keys, "number of tokens", len(labels), f"one for each of the {keys} positions")
    drawn = evenly(n, most)
    weights, steps = weights[drawn], [steps[k] for k in drawn]
    panels = [_cells(one.reshape(-1, queries, keys), causal=not np.triu(weights, 1).any()) for one in weights]
    side = min((900 - style.LEFT - 90) // heads, 400)
    inner = layers * side + GAP * (layers - 1)
    figure = make_subplots(
        rows=layers,
        cols=heads,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=GAP / inner if layers > 1 else 0,
        subplot_titles=[f"L{layer}H{head}" for layer in range(layers) for head in range(heads)],
    )
    note = "from each query (downwards) to the keys (to the right); panels: layer and head"
    style.dress(
        figure, title or "Attention over training", note, inner, legend=0, lift=24, right=90, below=style.BELOW + SLIDER
    )
    hover = "query %{y} to key %{x}: %{z}<extra></extra>"
    for i, z in enumerate(panels[-1]):
        layer, head = divmod(i, heads)
        meta = {"role": "pattern", "layer": layer, "head": head}
        trace = go.Heatmap(z=z, coloraxis="coloraxis", meta=meta, hovertemplate=hover)
        figure.add_trace(trace, row=layer + 1, col=head + 1)
    which = list(range(layers * heads))
    figure.frames = [
        go.Frame(name=str(step), data=[dict(type="heatmap", z=z) for z in zs], traces=which)
        for step, zs in zip(steps, panels, strict=True)
    ]
    figure.update_xaxes(_ticks(labels, side // 26))  # two digits and a gap take 26 pixels, a line of text 18
    figure.update_yaxes(_ticks(labels, side // 18), range=[queries - 0.5, -0.5])
    figure.update_xaxes(title_text="key", row=layers)
    figure.update_yaxes(title_text="query", col=1)
    colours = dict(colorscale=style.LIGHT_TO_DARK, cmin=0, cmax=1, colorbar=style.bar("attention"))
    figure.update_layout(sliders=[slider(steps)], coloraxis=colours)
    return figure


def _cells(heads: np.ndarray, causal: bool) -> list[list[list[float]]]:
    """Weights as nested lists; a causal query's list ends at itself, which halves the file."""
    return [[row[: q + 1 if causal else None].tolist() for q, row in enumerate(head)] for head in heads]


def _ticks(labels: list[str], most: int) -> dict[str, Any]:
    """At most so many evenly spaced labels of an axis."""
    every = -(-len(labels) // most)
    return dict(
        tickvals=list(range(0, len(labels), every)), ticktext=labels[::every], tickangle=0, showline=False, ticks=""
    )
