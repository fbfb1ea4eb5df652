"""A value over two dials as a heat map, with the steps of an onset as contour lines over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probelab.figures import _style as style
from probelab.figures._axis import short
from probelab.figures._tables import curves, select
from probelab.rows import pick

LINES = style.COLOURS[1]  # of the contour: told from every blue of the cells
Point = tuple[float, float]
CELL = (44, 72)  # pixels: the least and the greatest height of a cell


def phase_diagram(
    table: pd.DataFrame,
    metric: str | None,
    x: str,
    y: str,
    *,
    facets: Mapping[str, Mapping[str, Any]] | None = None,
    contour: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    levels: Sequence[float] | None = None,
    zmin: float | None = None,
    zmax: float | None = None,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
    z_title: str = "",
) -> go.Figure:
    """Draw `metric` over two dials, the columns `x` and `y`; a cell holds the median of its seeds, and says it.

    table    one value for each (x, y, run or seed): the rows of one step and split; or one for each (x, y)
    facets   panel -> coordinates of its rows: {"ICL": {"split": "icl"}, "IWL": {"split": "iwl", "metric": "accuracy"}}
    contour  onsets: x, y, value (steps; NaN: there was none): what `curves.across` gives; or such a table by panel
    levels   the steps at which contour lines run
    """
    shared = {} if metric is None else {"metric": metric}
    panels = {name: _cells(table, {**shared, **of}, x, y) for name, of in (facets or {"": {}}).items()}
    grids = {name: _grid(rows, table, x, y) for name, rows in panels.items()}
    values = np.concatenate([middle.to_numpy(float).ravel() for middle, _ in grids.values()])
    down, across = next(iter(grids.values()))[0].shape
    wide = (900 - style.LEFT - 90) / len(panels) / across
    inner = int(min(max(wide, CELL[0]), CELL[1]) * down)
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(panels))
    note = f"median over seeds{'; –: no run' if np.isnan(values).any() else ''}"
    note += "; lines: the step of the onset; never: there was none" if contour is not None else ""
    z_title = z_title or style.called(metric or "value")
    heading = title or f"{z_title.split(',')[0]} over two dials"
    style.dress(figure, heading, note, inner, legend=0, lift=24 if facets else 0, right=90)
    colours = style.colours(values, z_title, zmin, zmax)
    figure.update_layout(coloraxis=colours, meta={"metric": metric, "x_dial": x, "y_dial": y})
    for column, (name, (middle, seeds)) in enumerate(grids.items(), 1):
        steps = contour.get(name) if isinstance(contour, Mapping) else contour
        onset = None if steps is None else _grid(_cells(steps, {}, x, y), table, x, y)[0]
        meta = {"panel": name} if facets else {}
        traces = [_map(middle, seeds, onset, meta), _words(middle, onset, colours, wide)]
        figure.add_traces(traces, rows=1, cols=column)
        if onset is not None:
            for level in _levels(onset) if levels is None else levels:
                _line(figure, onset, level, "" if column == 1 else str(column))
    dials = dict(type="category", showline=False, ticks="")
    figure.update_xaxes(dials, title_text=x_title or x, tickangle=0 if wide > 34 else -60)
    figure.update_yaxes(dials, ticklabelstandoff=4)
    figure.update_yaxes(title_text=y_title or y, col=1)
    return figure


def _cells(table: pd.DataFrame, of: dict[str, Any], x: str, y: str) -> pd.DataFrame:
    """The rows of a panel; a run that has two values in a cell raises."""
    rows = select(pick(table, **of), None, x, y).dropna(subset=[x, y])
    curves(rows, [x, y], "run" if "run" in rows else "seed")
    return rows


def _grid(rows: pd.DataFrame, table: pd.DataFrame, x: str, y: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Medians, and how many values each is of, for every value that the dials have in a table."""
    across, down = (sorted(table[dial].dropna().unique()) for dial in (x, y))
    cells = rows.groupby([y, x])["value"].agg(["median", "count"]).astype(float)
    parts = [cells[k].unstack(x).reindex(index=down, columns=across) for k in ("median", "count")]
    names = [[_label(dial) for dial in dials] for dials in (down, across)]
    middle, seeds = (pd.DataFrame(part.to_numpy(float), names[0], names[1]) for part in parts)
    return middle, seeds.fillna(0)


def _label(dial: Any) -> str:
    """A dial's value as a category: 1024, 0.5, zipf."""
    return f"{dial:.12g}" if isinstance(dial, (int, float, np.number)) else str(dial)


def _map(middle: pd.DataFrame, seeds: pd.DataFrame, onset: pd.DataFrame | None, meta: dict) -> go.Heatmap:
    """The cells; each knows how many seeds it is the median of, and the step of its onset."""
    held = {"n": seeds} if onset is None else {"n": seeds, "onset": onset}
    cells = dict(x=middle.columns, y=middle.index, z=middle.to_numpy(float), xgap=2, ygap=2, coloraxis="coloraxis")
    hover = "%{x}, %{y}: %{z:.4~f} (%{customdata[0]} seeds)<extra></extra>"
    known = np.stack([part.to_numpy(float) for part in held.values()], axis=-1)
    meta = {"role": "value", "columns": list(held), **meta}
    return go.Heatmap(cells, customdata=known, meta=meta, hovertemplate=hover, name="median")


def _words(middle: pd.DataFrame, onset: pd.DataFrame | None, colours: dict, wide: float) -> go.Scatter:
    """The number in each cell, and whether its onset never came; a dash where there is no run."""
    z = middle.to_numpy(float).ravel()
    form = "{:.2f}" if np.abs(z[np.isfinite(z)]).max(initial=0) < 10 else "{:.3g}"
    never = np.zeros(len(z), bool) if onset is None else onset.isna().to_numpy().ravel()
    said = [(form.format(v) if wide > 26 else "") + ("<br>never" if n else "") for v, n in zip(z, never, strict=True)]
    text = [word if np.isfinite(v) else "–" for word, v in zip(said, z, strict=True)]
    height = (z - colours["cmin"]) / ((colours["cmax"] - colours["cmin"]) or 1)
    dark = height > 0.62 if colours["colorscale"] is style.LIGHT_TO_DARK else np.abs(height - 0.5) > 0.36
    font = dict(size=13 if wide > 44 else 10, color=np.where(dark, "white", style.INK))
    x, y = (labels.ravel() for labels in np.meshgrid(middle.columns, middle.index))
    raised = np.isfinite(z) & ~never & (onset is not None)  # lines and their labels run through the middles
    look = dict(mode="text", textfont=font, hoverinfo="skip", showlegend=False, meta={"role": "key"})
    return go.Scatter(x=x, y=y, text=text, textposition=np.where(raised, "top center", "middle center"), **look)


def _line(figure: go.Figure, onset: pd.DataFrame, level: float, panel: str) -> None:
    """The contour line of a level, straight from cell to cell in log step; its label covers no number."""
    on, label = dict(xref=f"x{panel}", yref=f"y{panel}"), short(level)
    pieces = _segments(np.log10(onset.to_numpy(float) / level))
    for (x0, y0), (x1, y1) in pieces:
        place = dict(x0=x0, y0=y0, x1=x1, y1=y1, name=f"onset at {label}")
        figure.add_shape(place, **on, type="line", line=dict(color=LINES, width=2.5))
    if pieces:
        along = np.linspace(0, 1, 9)[:, None]
        points = np.concatenate([(1 - along) * np.array(a) + along * np.array(b) for a, b in pieces])
        free = np.abs(points - points.round() - [0, 0.1]) * [1, 1.2]  # of the numbers, a little above the middles
        x, y = points[free.max(axis=1).argmax()].tolist()
        box = dict(bgcolor="white", bordercolor=LINES, borderpad=1, font=dict(size=11, color=LINES))
        figure.add_annotation(x=x, y=y, text=f"<b>{label}</b>", showarrow=False, **box, **on)


def _segments(z: np.ndarray) -> list[tuple[Point, Point]]:
    """Where heights `[y x]` are zero, piece by piece between the middles of four cells, of which three are known."""
    found = []
    for i, j in np.ndindex(z.shape[0] - 1, z.shape[1] - 1):
        corners = [(i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j)]
        ends: list[Point] = []
        for here, there in zip(corners, [*corners[1:], corners[0]], strict=True):
            a, b = z[here], z[there]
            if np.isfinite(a) and np.isfinite(b) and (a < 0) != (b < 0):
                part = a / (a - b)
                y, x = (float(p + part * (q - p)) for p, q in zip(here, there, strict=True))
                ends.append((x, y))
        found += [(ends[k], ends[k + 1]) for k in range(0, len(ends) - 1, 2)]
    return found


def _levels(onset: pd.DataFrame) -> list[float]:
    """Round numbers between the first and the last onset: at most six."""
    known = onset.to_numpy(float)
    known = known[np.isfinite(known)]
    if not len(known):
        return []
    decades = range(int(np.floor(np.log10(known.min()))), int(np.ceil(np.log10(known.max()))) + 1)
    found: list[float] = []
    for multiples in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples if known.min() < m * 10.0**d < known.max()]
        if len(found) <= 6:
            break
    return found
