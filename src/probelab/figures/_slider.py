"""A slider over checkpoints, for figures that show one step at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SLIDER = 90  # pixels of height


def slider(steps: Sequence[int]) -> dict:
    """One stop a frame, named by its step; it opens at the last."""
    at_once = dict(mode="immediate", frame=dict(duration=0, redraw=True), transition=dict(duration=0))
    stops = [dict(method="animate", label=str(step), args=[[str(step)], at_once]) for step in steps]
    label = dict(prefix="step ", font=dict(size=15), xanchor="left")
    return dict(active=len(steps) - 1, steps=stops, currentvalue=label, pad=dict(t=64), x=0, len=1)


def evenly(n: int, most: int) -> np.ndarray:
    """Which of `n` checkpoints are drawn, if `most` may be: the first, the last, and some between."""
    return np.unique(np.linspace(n - 1, 0, min(n, most)).round().astype(int))
