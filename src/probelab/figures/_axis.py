"""The horizontal axis of training: steps, sequences or tokens, with a place for step 0 on a logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from synthetic_tasks.task import choose

UNITS = {"step": "optimiser step", "sequences": "training sequences", "tokens": "training tokens"}


@dataclass(frozen=True)
class Axis:
    """What it counts, its first positive and its last value, and where a logarithm puts 0: before the first, broken."""

    counts: str
    log: bool
    first: float
    last: float
    zero: float | None

    @classmethod
    def of(cls, table: pd.DataFrame, counts: str, log: bool) -> Axis:
        """The axis on which all rows of a table lie."""
        choose("horizontal axis", counts, list(UNITS))
        values = np.unique(table[counts].to_numpy(float))
        positive = values[values > 0]
        if not len(positive):
            return cls(counts, False, 0.0, 1.0, None)
        first, last = float(positive[0]), float(positive[-1])
        gap = max((last / first) ** 0.07, 1.3)
        return cls(counts, log, first, last, first / gap if log and values[0] == 0 else None)

    @property
    def left(self) -> float:
        """Where the axis starts."""
        return (self.zero or self.first) if self.log else 0.0

    def place(self, values: Any) -> np.ndarray:
        """Where values lie: at themselves, but what a logarithm cannot show lies at the left end."""
        values = np.asarray(values, float)
        return np.where(values <= 0, self.left, values) if self.log else values

    def middle(self, a: Any, b: Any) -> Any:
        """Half way between two places, to the eye."""
        return np.sqrt(a * b) if self.log else (a + b) / 2

    def convert(self, steps: Any, rows: pd.DataFrame) -> np.ndarray:
        """Optimiser steps in what this axis counts, read off rows that hold both."""
        steps = np.asarray(steps, float)
        if self.counts == "step":
            return steps
        known = rows.drop_duplicates("step").sort_values("step")
        return np.interp(steps, known["step"].to_numpy(float), known[self.counts].to_numpy(float))

    def dates(self, onsets: pd.DataFrame, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where onset rows lie: date, lo, hi; an end of an interval that lies outside the axis is cut there."""
        date, lo, hi = (self.convert(onsets[k], rows) for k in ("value", "lo", "hi"))
        return date, np.clip(lo, self.left, self.last), np.clip(hi, self.left, self.last)

    def layout(self, narrow: bool = False) -> dict[str, Any]:
        """Range, ticks and title; a narrow axis has room for powers of ten alone."""
        if not self.log:
            return dict(range=[-0.02 * self.last, 1.02 * self.last], title_text=UNITS[self.counts])
        pad = 0.015 * np.log10(self.last / self.left)
        decades = range(int(np.floor(np.log10(self.left))), int(np.ceil(np.log10(self.last))) + 1)
        fine, *coarser = (
            [m * 10.0**d for d in decades for m in which if self.first <= m * 10.0**d <= self.last]
            for which in (range(1, 10), (1,), (1, 2, 5), (1, 2, 3, 5, 7))
        )
        coarser = coarser if self.last / self.first > (30 if narrow else 300) else coarser[1:]
        ticks = next((some for some in coarser if len(some) > 2 - narrow), even(self.first, self.last))
        zero = [self.zero] if self.zero else []
        return dict(
            type="log",
            range=[np.log10(self.left) - pad, np.log10(self.last) + pad],
            tickvals=zero + ticks,
            ticktext=["0" for _ in zero] + [short(v) for v in ticks],
            minor=dict(tickvals=fine, ticks="outside", ticklen=2),
            title_text=f"{UNITS[self.counts]} (log scale{'; 0 before the break' if zero else ''})",
        )

    def under(self, figure: go.Figure, down: int, across: int = 1) -> None:
        """Lie under so many panels; those at the bottom have its title."""
        for number in range(down * across):
            row, column = number // across + 1, number % across + 1
            title = {} if row == down else {"title_text": ""}
            figure.update_xaxes({**self.layout(narrow=across > 1), **title}, row=row, col=column)
            self.mark_break(figure, panel(number))

    def mark_break(self, figure: go.Figure, panel: str = "") -> None:
        """Two strokes on the axis line between 0 and the first step."""
        if self.zero:
            place = dict(x=np.log10(self.middle(self.zero, self.first)), y=0, xref=f"x{panel}", yref=f"y{panel} domain")
            figure.add_annotation(
                place, text="//", showarrow=False, bgcolor="white", borderpad=0, font_size=11, yanchor="middle"
            )


def even(first: float, last: float) -> list[float]:
    """Three to seven round numbers between two ends, evenly spaced: the labels of a short axis."""
    unit = 10.0 ** np.floor(np.log10((last - first) / 3)) if last > first else 1.0
    step = max(m * unit for m in (1, 2, 5) if m == 1 or m * unit * 3 <= last - first)
    return list(np.arange(np.ceil(first / step), np.floor(last / step) + 1) * step)


def panel(number: int) -> str:
    """What Plotly calls the axes of a panel, counted from 0."""
    return str(number + 1) if number else ""


def short(count: float) -> str:
    """2000 -> "2k"."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:g}{letter}"
    return f"{count:g}"
