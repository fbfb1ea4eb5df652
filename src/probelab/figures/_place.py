"""Labels of points that touch neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDES = {  # Plotly's name -> where the middle of a label lies, in half widths and half heights of it
    "middle right": (1, 0),
    "top right": (0.8, 1),
    "bottom right": (0.8, -1),
    "middle left": (-1, 0),
    "top left": (-0.8, 1),
    "bottom left": (-0.8, -1),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
WIDE, HIGH, AWAY = 7.5, 15, 9  # pixels: a letter, a line, and from a point to its label


def sides(points: np.ndarray, labels: Sequence[str], taken: np.ndarray) -> list[str]:
    """The side of its point (pixels, `[n 2]`) on which each label is free, or "" where there is none.

    `taken` (`[m 2]`) are the points that no label may cover.
    """
    boxes: list[np.ndarray] = []  # x0 y0 x1 y1 of the labels so far
    found = []
    for point, label in zip(points, labels, strict=True):
        half = np.array([WIDE * len(label), HIGH]) / 2
        for side, towards in SIDES.items():
            middle = point + np.array(towards) * half + np.sign(towards) * AWAY
            box = np.r_[middle - half, middle + half]
            hit = ((taken > box[:2] - 2) & (taken < box[2:] + 2)).all(axis=1).any()
            if not hit and not any((box[:2] < b[2:]).all() and (b[:2] < box[2:]).all() for b in boxes):
                boxes.append(box)
                found.append(side)
                break
        else:
            found.append("")
    return found
