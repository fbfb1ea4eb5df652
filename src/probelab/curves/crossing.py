"""A date without a model: the first sustained crossing, bracketed by checkpoints whose side is beyond doubt.

    above 0             + +  +          value  where ln-interpolation between the last below and the first above meets 0
    ----------------+--------------     hi     the first checkpoint from there on that is above 0 by `Z` noise SD
    below 0   -   -   -                 lo     the last one before that is below 0 by as much

The interval collects every time that no checkpoint contradicts: it is never narrower than the bracket of the two
checkpoints, widens over a stretch where the curves run together, and needs no shape. The noise is judged near the
crossing, from how far each of the `NEAR` checkpoints on either side lies from the line through its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probelab.curves.onset import usable

Z = 2.5  # with 2.5 the interval covers 92 % and more of planted crossings, AR(1) noise with rho .7 included
NEAR = 6
Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Crossing:
    """When a difference became positive for good: steps, NaN unless `status` is "switched".

    status  switched, never, begun (it was positive from the first checkpoint on), too few; in `phases` also skipped
    hi is infinite where the record ends before the side is beyond doubt
    """

    status: str
    n: int
    since: float
    last: float
    step: float = np.nan
    lo: float = np.nan
    hi: float = np.nan

    def row(self) -> dict[str, Any]:
        """The columns of a row: the step is its `value`."""
        fields = asdict(self)
        return {"value": fields.pop("step"), **fields}


def crossing(steps: Numbers, values: Numbers, level: float = 0.5, hold: int = 3) -> Crossing:
    """When a curve has gone `level` of its way, from the median of its first fifth to that of its last fifth."""
    t, y = usable(steps, values, zero=True)
    if len(t) < 2 * hold:
        return first_above(t, y, hold)
    fifth = max(len(t) // 5, 1)
    start, end = np.median(y[:fifth]), np.median(y[-fifth:])
    return first_above(t, (y - start - level * (end - start)) * np.sign(end - start), hold)


def overtake(steps: Numbers, a: Numbers, b: Numbers, hold: int = 3) -> Crossing:
    """When curve `a` falls below curve `b` and stays there for `hold` checkpoints."""
    return first_above(*usable(steps, np.asarray(b, float) - np.asarray(a, float), zero=True), hold)


def first_above(t: np.ndarray, d: np.ndarray, hold: int) -> Crossing:
    """When `d` `[n]`, at ordered steps `t`, is above 0 for `hold` checkpoints in a row for the first time."""
    n = len(t)
    seen = (n, float(t[0]) if n else np.nan, float(t[-1]) if n else np.nan)
    if n < 2 * hold:
        return Crossing("too few", *seen)
    held = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(d > 0, hold).all(1))
    if not len(held):
        return Crossing("never", *seen)
    i = held[0]
    if i == 0:
        return Crossing("begun", *seen)
    doubt = Z * wobble(t, d, i)
    below, above = np.flatnonzero(d[:i] < -doubt), np.flatnonzero(d[i:] > doubt)
    lo = t[below[-1]] if len(below) else t[0]
    hi = t[i + above[0]] if len(above) else np.inf
    return Crossing("switched", *seen, meet(t[i - 1 : i + 1], d[i - 1 : i + 1]), float(lo), float(hi))


def meet(t: np.ndarray, d: np.ndarray) -> float:
    """The step between two checkpoints at which the line between them (in ln step, from step 0 in steps) meets 0."""
    share = d[0] / (d[0] - d[1])
    return float(t[0] ** (1 - share) * t[1] ** share if t[0] > 0 else share * t[1])


def wobble(t: np.ndarray, d: np.ndarray, i: int) -> float:
    """The SD of the noise of `d` near checkpoint `i`, by the median distance from the line through the neighbours."""
    x = np.log(np.maximum(t, t[1] / 2))  # step 0 stands half way to the first step
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    off = d[1:-1] - (1 - share) * d[:-2] - share * d[2:]
    off /= np.sqrt(1 + share**2 + (1 - share) ** 2)
    return float(np.median(np.abs(off[max(i - 1 - NEAR, 0) : i + NEAR])) / 0.6745)
