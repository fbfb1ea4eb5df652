"""The horizontal axis of a dial: numbers, their logarithms, or names side by side; and the ticks of any logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probelab.figures import _style as style
from probelab.figures._axis import Axis, short

PAD, NUMBERS, NAMES = 26, 20, 60  # pixels: air at the sides; at most from a series to the next, at numbers and at names


@dataclass(frozen=True)
class Dial:
    """Its values in units of the axis (decades of a logarithm; 0, 1, ... for names), its ends and its pixels."""

    values: np.ndarray
    names: tuple[str, ...]  # of the values; numbers have none
    log: bool
    span: tuple[float, float]
    pixel: float  # so many units
    step: float  # pixels from a series to the next

    @classmethod
    def of(cls, values: pd.Series, log: bool, width: float, series: int) -> Dial:
        """The axis on which all values lie, so many pixels wide, with so many series side by side at each of them."""
        if not numeric(values):
            names = tuple(dict.fromkeys(values))
            step = min(NAMES, 0.8 * width / len(names) / series)
            return cls(np.arange(len(names)), names, False, (-0.5, len(names) - 0.5), len(names) / width, step)
        known = np.unique(values.to_numpy(float))
        known = np.log10(known) if log else known
        pad = PAD + NUMBERS * series / 2
        pixel = float(np.ptp(known)) / (width - 2 * pad) or 1 / width
        air = pixel * (pad if len(known) > 1 else width / 2)
        gap = float(np.diff(known).min(initial=np.inf)) / pixel
        step = min(NUMBERS, 0.6 * gap / series) if series > 1 else NUMBERS
        return cls(known, (), log, (float(known[0]) - air, float(known[-1]) + air), pixel, step)

    def place(self, values: Any, aside: float = 0.0) -> np.ndarray:
        """Where values lie, so many pixels to the right."""
        if self.names:
            return pd.Index(self.names).get_indexer(values) + aside * self.pixel
        at = np.asarray(values, float)
        return at * 10 ** (aside * self.pixel) if self.log else at + aside * self.pixel

    @property
    def ends(self) -> list[float]:
        """Where it begins and ends."""
        return [10.0**end if self.log else end for end in self.span]

    def layout(self) -> dict[str, Any]:
        """Range and ticks: every name, in lines that fit; every number, if they are few."""
        if self.names:
            labels = [style.wrapped(name, max(int(1 / self.pixel / 7.5), 4)) for name in self.names]
            return dict(range=self.span, tickvals=self.values, ticktext=labels, tickangle=0, ticks="")
        at = 10.0**self.values if self.log else self.values
        labels = [short(float(f"{v:.12g}")) for v in at]
        wide = 7.5 * max(map(len, labels)) + 12
        if wide < 50 and wide * self.pixel <= np.diff(self.values).min(initial=np.inf):
            return dict(type="log" if self.log else "linear", range=self.span, tickvals=at, ticktext=labels)
        return decades(self.span) if self.log else dict(range=self.span)


def numeric(values: pd.Series) -> bool:
    """Whether a column holds numbers; True and False are names."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def decades(span: tuple[float, float]) -> dict[str, Any]:
    """A logarithm from one power of ten to another; where no round numbers lie between them, Plotly finds ticks."""
    found = Axis("step", True, 10.0 ** span[0], 10.0 ** span[1], None).layout()
    ticks = {key: found[key] for key in ("tickvals", "ticktext", "minor")} if len(found["tickvals"]) > 1 else {}
    return dict(type="log", range=span, **ticks)


def loggable(dial: str, column: str, values: pd.Series) -> None:
    """Raise unless a logarithm can show all values."""
    if not numeric(values):
        raise ValueError(f"{dial} = True, but {column} holds names, as {values.iloc[0]!r}: leave {dial} out")
    least = values.min()
    if least <= 0:
        raise ValueError(
            f"{dial} = True, but {column} holds {least:g}, and a logarithm shows what is above 0: "
            f"leave such rows out, or {dial} = False"
        )
