"""Rise and fall: an ability that comes and goes has two dates.

              ________
    value    /        |______     level + change1 * logistic(ln t; mu1, s1) + change2 * logistic(ln t; mu2, s2)
       _____/

The two changes have opposite signs. The pair must beat one logistic, a flat line and a drift by `MARGIN` of BIC
(AR(1) noise); each switch is then dated, and gated once more, on the curve less the other one (intervals take the
other as known), the two intervals must not overlap, and the fitted curve must go up and come down by at least
`AMPLITUDE` noise SD and a `SHARE` of its range: else the pair is one switch of another shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probelab.curves._ar1 import FLOOR, RHOS, solve, whiten
from probelab.curves._logistic import axes, columns, polish, search, trial
from probelab.curves.onset import AMPLITUDE, LEAST, MARGIN, Onset, Window, fit_onset, usable

SHARE = 0.1

Switches = list[tuple[float, float]]  # (mu, s) of each


def rise_and_fall(
    steps: Sequence[float] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    between: Window = (None, None),
    level: float = 0.95,
) -> tuple[Onset, Onset]:
    """The onset and the end of a transient (or of a dip), in that order; arguments and errors as in `fit_onset`.

    Where one switch explains the curve, it comes first and the second is "flat": it has not happened by `last`.
    """
    t, y = usable(steps, values, between)
    one = fit_onset(t, y, level=level)
    never = Onset("flat" if one.switched else one.status, one.n, one.since, one.last)
    if len(t) < LEAST or not np.ptp(y) > 1e-12 * np.abs(y).max():
        return one, never
    x, scale = np.log(t), np.ptp(y)
    shape = (y - y.mean()) / scale
    guess = first_guess(x, shape)
    if guess is None:
        return one, never
    best, scores = search(x, shape)
    single, _, _ = refined(x, shape, [best])
    scored, rho, pair = refined(x, shape, guess)
    if min(single, *scores.values()) - scored < MARGIN:
        return one, never
    design = columns(x, *pair)
    parts = design * solve(shape, design, rho) * scale
    rise, fall = (fit_onset(t, y - parts[:, other], level=level) for other in (2, 1))
    if not (rise.hi < fall.lo and rise.direction != fall.direction):
        return one, never
    fitted = parts.sum(1)
    legs = np.abs(np.diff(fitted[[0, np.abs(fitted - (fitted[0] + fitted[-1]) / 2).argmax(), -1]]))
    turns = legs.min() >= max(SHARE * scale, AMPLITUDE * max(rise.noise, fall.noise))
    return (rise, fall) if turns else (one, never)


def first_guess(x: np.ndarray, y: np.ndarray) -> Switches | None:
    """The best pair of opposite switches on a coarse grid, by least squares with independent noise."""
    mus, widths = axes(x, 31, 7)
    shapes = trial(x, mus, widths).reshape(-1, len(x))
    shapes -= shapes.mean(1, keepdims=True)
    gram, along = shapes @ shapes.T, shapes @ (y - y.mean())
    own = np.diag(gram)
    det = own[:, None] * own - gram**2
    usable_pair = det > 1e-6 * own[:, None] * own
    det = np.where(usable_pair, det, 1)
    first = (along[:, None] * own - along * gram) / det
    second = first.T
    explained = first * along[:, None] + second * along
    k = np.arange(len(shapes)) // len(widths)
    allowed = usable_pair & (k[:, None] < k) & (first * second < 0)
    if not allowed.any():
        return None
    i, j = np.unravel_index(np.where(allowed, explained, -np.inf).argmax(), det.shape)
    return [(float(mus[m // len(widths)]), float(widths[m % len(widths)])) for m in (i, j)]


def refined(x: np.ndarray, y: np.ndarray, guess: Switches) -> tuple[float, float, Switches]:
    """The switches polished and in order, with their BIC on the scale of `search`, and rho."""
    _, rho = score(x, y, guess)
    switches = sorted(polish(x, y, guess, rho))
    return *score(x, y, switches), switches


def score(x: np.ndarray, y: np.ndarray, switches: Switches) -> tuple[float, float]:
    """The least BIC over rho, and that rho."""
    design, n = columns(x, *switches), len(x)
    scores = []
    for rho in RHOS:
        left = whiten((y - design @ solve(y, design, rho))[:, None], rho)
        scores.append(n * np.log((left**2).mean() + FLOOR * (1 + rho**2)) - np.log(1 - rho**2))
    return min(scores) + (2 + 3 * len(switches)) * np.log(n), float(RHOS[np.argmin(scores)])
