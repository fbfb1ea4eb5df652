"""Contour lines over a heat map of dials, straight from middle to middle of its cells, and the levels they run at."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from probelab.figures import _style as style
from probelab.figures._axis import panel

LINES = style.COLOURS[1]  # told from every blue of the cells
MOST = 6  # levels
Point = tuple[float, float]


def line(figure: go.Figure, heights: np.ndarray, told: str, label: str, number: int) -> None:
    """The line of 0 of `heights` `[y x]` in a panel, named `told at label`; its label covers no number of a cell."""
    on = dict(xref=f"x{panel(number)}", yref=f"y{panel(number)}")
    pieces = segments(heights)
    for (x0, y0), (x1, y1) in pieces:
        place = dict(x0=x0, y0=y0, x1=x1, y1=y1, name=f"{told} at {label}")
        figure.add_shape(place, **on, type="line", line=dict(color=LINES, width=2.5))
    if pieces:
        along = np.linspace(0, 1, 9)[:, None]
        points = np.concatenate([(1 - along) * np.array(a) + along * np.array(b) for a, b in pieces])
        free = np.abs(points - points.round() - [0, 0.1]) * [1, 1.2]  # of the numbers, a little above the middles
        x, y = points[free.max(axis=1).argmax()].tolist()
        box = dict(bgcolor="white", bordercolor=LINES, borderpad=1, font=dict(size=11, color=LINES))
        figure.add_annotation(x=x, y=y, text=f"<b>{label}</b>", showarrow=False, **box, **on)


def segments(z: np.ndarray) -> list[tuple[Point, Point]]:
    """Where heights `[y x]` are zero, piece by piece between the middles of four cells, of which three are known."""
    found = []
    for i, j in np.ndindex(max(z.shape[0] - 1, 0), max(z.shape[1] - 1, 0)):
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


def round_steps(onset: np.ndarray) -> list[float]:
    """Round numbers between the first and the last onset."""
    known = onset[np.isfinite(onset) & (onset > 0)]
    if not len(known):
        return []
    decades = range(int(np.floor(np.log10(known.min()))), int(np.ceil(np.log10(known.max()))) + 1)
    found: list[float] = []
    for multiples in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples if known.min() < m * 10.0**d < known.max()]
        if len(found) <= MOST:
            break
    return found


def round_values(values: np.ndarray, most: int = 4) -> list[float]:
    """Multiples of a round number between the least and the greatest value."""
    known = values[np.isfinite(values)]
    if len(known) < 2 or np.ptp(known) == 0:
        return []
    rough = np.ptp(known) / most
    power = 10.0 ** np.floor(np.log10(rough))
    stride = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    found = stride * np.arange(np.ceil(known.min() / stride), np.floor(known.max() / stride) + 1)
    return [float(f"{v:.12g}") for v in found if known.min() < v < known.max()]
