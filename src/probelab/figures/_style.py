"""The look of every figure: colours, names of metrics, fonts and margins."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe & Ito (2008): told apart with every common form of colour blindness. The second row is the same, for strategies.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
STRATEGIES = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#5B5B5B")
# Light to dark, from the first layer to the last (Plasma without its palest end).
DEPTHS = ("#FDB42F", "#F99342", "#ED7953", "#DB5C68", "#C5407E", "#A72197", "#7E03A8", "#4C02A1", "#0D0887")
LIGHT_TO_DARK = [[0, "#F6F8FA"], [0.25, "#CFE1F2"], [0.5, "#78B0D9"], [0.75, "#2B74B4"], [1, "#08306B"]]
BELOW_AND_ABOVE = [[0, "#B35806"], [0.25, "#FDB863"], [0.5, "#F6F6F6"], [0.75, "#9EA6D3"], [1, "#3B3187"]]
INK = "#222222"
NAMES = {
    "loss": "loss, nats per scored token",
    "kl": "KL(strategy || model), nats",
    "kl_truth": "KL(truth || model), nats",
    "icl": "late minus early loss, nats",
    "copy": "loss at second minus first occurrence, nats",
    "entropy": "attention entropy, nats",
    "effect": "change of the metric",
    "recovery": "share of the gap recovered",
    "log_loss": "log loss, nats",
    "v_information": "V-information, nats",
    "compression": "compression (MDL)",
    "interchange": "rise of the loss, nats",
    "interchange_excess": "loss above control, nats",
}
GREY, PALE = "#777777", "#9A9A9A"  # what stands behind, and what has no name
LEFT, BELOW, TITLE, LEGEND = 76, 60, 64, 24  # pixels: margins, the title with its note, a line of the legend
ENTRY = 45  # pixels of an entry of a legend, beside its name
LETTERS = {3.6: " .,:;|'![]/Iijlft", 4.4: "()-r", 6.5: "cksvxyzJ", 9.4: "wABCDEFGHKLNOPQRSTUVXYZ", 11.6: "mMW%"}
PIXELS = {letter: pixels for pixels, letters in LETTERS.items() for letter in letters}  # of Arial at 13 pixels


def inks(names: Iterable, palette: tuple[str, ...] = COLOURS) -> dict:
    """A colour for each name, in order, round and round."""
    return {name: palette[i % len(palette)] for i, name in enumerate(names)}


def depths(last: int) -> dict[int, str]:
    """A colour for each layer from 0 to the last."""
    return {layer: DEPTHS[round(layer * (len(DEPTHS) - 1) / max(last, 1))] for layer in range(last + 1)}


def tint(colour: str, alpha: float) -> str:
    """A colour with some transparency."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def called(metric: str) -> str:
    """A metric with its unit, as an axis title."""
    return NAMES.get(metric, metric.replace("_", " "))


def bar(title: str) -> dict:
    """A colour bar."""
    return dict(title=dict(text=title, side="right", font_size=13), thickness=12, outlinewidth=0, len=1, y=0.5)


def colours(values: np.ndarray, title: str, low: float | None = None, high: float | None = None) -> dict:
    """A colour axis: values that go below zero get two colours, values between 0 and 1 the whole of that range.

    Palest is zero, or `low`; `low` and `high` are ends that were chosen. Values may all be missing.
    """
    drawn = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    least, most = float(drawn.min()), float(drawn.max())
    if low is None and least < 0:
        most = max(-least, most) if high is None else high
        return dict(colorscale=BELOW_AND_ABOVE, cmin=-most, cmax=most, colorbar=bar(title))
    top = 1 if 0.2 < most <= 1 else most or 1
    ends = dict(cmin=0 if low is None else low, cmax=top if high is None else high)
    return dict(colorscale=LIGHT_TO_DARK, **ends, colorbar=bar(title))


def rate(table: pd.DataFrame) -> str:
    """The rate at which the intervals of a table hold, as its `level` says: with few seeds, it is below 95 %.

    A level of 0 is that of one seed or none, which have no interval.
    """
    known = [level for level in table["level"] if level > 0] if "level" in table else []
    level = min(known, default=0.95)
    return f"{100 * level:.0f} %"


def legend_lines(names: Iterable[str], right: int = 24, left: int = LEFT) -> int:
    """How many lines a legend with these entries takes: one, or as many as columns as wide as the widest make."""
    widths = [ENTRY + width(name) for name in names]
    room = 900 - left - right
    return 1 if sum(widths) <= room or not widths else -(-len(widths) // max(int(room / max(widths)), 1))


def width(text: str) -> float:
    """About as many pixels as a line of text takes; digits and most letters are of one width."""
    return sum(PIXELS.get(letter, 7.3) for letter in text)


def room(labels: Iterable[str]) -> int:
    """The right margin, in pixels, that labels of lines need."""
    return max([24, *(int(16 + 7.2 * len(line)) for label in labels for line in label.split("<br>"))])


def widest(text: str) -> float:
    """The `width` of the longest line of a text with tags."""
    return max(width(re.sub("<[^>]*>", "", line)) for line in text.split("<br>"))


def wrapped(text: str, letters: int = 22) -> str:
    """A name in lines of so many letters."""
    return "<br>".join(textwrap.wrap(text, letters)) or " "


def shown(by: str, value: Any) -> str:
    """A value of a column in words: an arm or a role by its name, a number with its column."""
    return str(value) if isinstance(value, str) else f"{by.split('.')[-1]} {value}"


def stacked(panels: Sequence, by: str, pixels: int, gap: int = 44) -> tuple[go.Figure, int, int]:
    """Panels one above the other, as `shown` where there are several; pixels between the margins, and of a title."""
    inner, several = pixels * len(panels) + gap * (len(panels) - 1), len(panels) > 1
    titles = [shown(by, key) for key in panels] if several else None
    spacing = gap / inner if several else 0
    figure = make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=titles)
    return figure, inner, 24 if several else 0


def dress(
    figure: go.Figure,
    title: str,
    note: str,
    inner: int,
    *,
    legend: int = 1,
    lift: int = 0,
    right: int = 24,
    below: int = BELOW,
) -> None:
    """Titles, fonts, white paper, thin axes.

    `inner` is the height of what lies between the margins, `legend` counts the lines of the legend above it, `lift` is
    the height of what stands between the two, `right` and `below` are margins; pixels, but for `legend`.
    """
    top = TITLE + LEGEND * legend + lift
    text = f"<b>{title}</b><br><span style='font-size:13px;color:#555555'>{note}</span>"
    figure.update_layout(
        template="none",
        width=900,
        height=inner + top + below,
        margin=dict(l=LEFT, r=right, t=top, b=below),
        font=dict(family="Helvetica, Arial, sans-serif", size=13, color=INK),
        title=dict(text=text, font_size=17),
        title_x=0,
        title_xanchor="left",
        title_y=1,
        title_yanchor="top",
        title_pad=dict(l=16, t=26),
        legend=dict(orientation="h", x=0, y=1 + lift / inner, xanchor="left", yanchor="bottom", tracegroupgap=0),
        hovermode="closest",
    )
    axes = dict(showline=True, linecolor=INK, linewidth=1, ticks="outside", ticklen=4, zeroline=False, showgrid=False)
    figure.update_xaxes(axes, title_font_size=13, title_standoff=10)
    figure.update_yaxes(axes, title_font_size=13, title_standoff=8)
    figure.for_each_annotation(lambda note: note.update(font_size=13))  # the titles of panels
