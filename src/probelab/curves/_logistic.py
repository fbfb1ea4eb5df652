"""The logistic in log step: found on a grid, refined by zooming into its likelihood, polished by least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import f as fisher

from probelab.curves._ar1 import RHOS, deviance, misfit, restricted, solve, whiten


class Switch(NamedTuple):
    """Midpoint and scale in ln step, rho of the noise, and the interval of the midpoint."""

    mu: float
    s: float
    rho: float
    lo: float
    hi: float


def logistic(x: np.ndarray, mu: Any, s: Any) -> np.ndarray:
    """The shape of a switch, from 0 to 1: `[... n]` for `mu` and `s` that broadcast against `x` `[n]`."""
    return expit((x - mu) / s)


def columns(x: np.ndarray, *switches: tuple[float, float]) -> np.ndarray:
    """The linear part of a model with switches at (mu, s): a level, then the change of each, `[n 1+k]`."""
    return np.stack([np.ones_like(x), *(logistic(x, mu, s) for mu, s in switches)], 1)


def axes(x: np.ndarray, mus: int = 121, widths: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints at and between the checkpoints, and scales from a step to a change as long as the record."""
    n = len(x)
    at = np.linspace(0, n - 1, min(2 * n - 1, mus))
    return np.interp(at, np.arange(n), x), np.geomspace(np.diff(x).min() / 20, np.ptp(x) / 4, widths)


def trial(x: np.ndarray, mus: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Logistics of every midpoint and scale, `[mu s n]`."""
    return logistic(x, mus[:, None, None], widths[None, :, None])


def search(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float], dict[str, float]]:
    """The best (mu, s) on a grid, and the BIC of flat, drift and logistic up to a shared constant."""
    mus, widths = axes(x)
    score = deviance(y, trial(x, mus, widths))
    _, i, j = np.unravel_index(score.argmin(), score.shape)
    penalty = np.log(len(x))
    scores = {
        "flat": deviance(y, np.zeros_like(y)).min() + 2 * penalty,  # its level and rho
        "drift": deviance(y, x - x.mean()).min() + 3 * penalty,
        "logistic": score.min() + 5 * penalty,
    }
    return (float(mus[i]), float(widths[j])), scores


def profile(x: np.ndarray, y: np.ndarray, guess: tuple[float, float], level: float) -> Switch:
    """The best fit near a guess, and the interval of its midpoint from the profile over scale and rho."""
    df = len(x) - 4
    mus, widths = axes(x)
    low, high = float(np.log(widths[0])), float(np.log(widths[-1]))
    penalty, floor = (term[:, None, None] for term in restricted(tangent(x, *guess)))
    for _ in range(5):  # zoom until the interval spans many cells
        grid = df * np.log(misfit(y, trial(x, mus, widths)) + floor) + penalty
        k, i, j = np.unravel_index(grid.argmin(), grid.shape)
        witnesses = df * (1 - min(RHOS[k], 0.8))
        cut = grid.min() + df * np.log1p(fisher.ppf(level, 1, witnesses) / df)
        best = grid.min((0, 2))
        inside = np.flatnonzero(best <= cut)
        found = mus[i], widths[j], RHOS[k], edge(mus, best, cut, inside[0], -1), edge(mus, best, cut, inside[-1], 1)
        if inside[-1] - inside[0] >= 16:
            break
        narrow = np.flatnonzero(grid.min((0, 1)) <= cut)
        mus = np.linspace(*around(mus, inside, x[0], x[-1]), 41)
        widths = np.exp(np.linspace(*around(np.log(widths), narrow, low, high), 21))
    mu, s, rho, lo, hi = map(float, found)
    [(mu, s)] = polish(x, y, [(mu, s)], rho)
    return Switch(float(np.clip(mu, lo, hi)), s, rho, lo, hi)


def polish(x: np.ndarray, y: np.ndarray, switches: list[tuple[float, float]], rho: float) -> list[tuple[float, float]]:
    """Least squares over every (mu, s), given rho; levels are solved for at each trial (variable projection)."""

    def unpack(free: np.ndarray) -> list[tuple[float, float]]:
        return [(float(mu), float(np.exp(log_s))) for mu, log_s in free.reshape(-1, 2)]

    def residual(free: np.ndarray) -> np.ndarray:
        design = columns(x, *unpack(free))
        return whiten((y - design @ solve(y, design, rho))[:, None], rho)[:, 0]

    _, widths = axes(x)
    low, high = [x[0], np.log(widths[0])], [x[-1], np.log(widths[-1])]
    bounds = np.tile(low, len(switches)), np.tile(high, len(switches))
    start = np.clip(np.array([(mu, np.log(s)) for mu, s in switches]).ravel(), *bounds)
    return unpack(least_squares(residual, start, bounds=bounds, ftol=1e-8, xtol=1e-8, max_nfev=50).x)


def tangent(x: np.ndarray, mu: float, s: float) -> np.ndarray:
    """The directions in which the fit can move: level, change, mu and s, `[n 4]`."""
    shape = logistic(x, mu, s)
    slope = shape * (1 - shape)
    return np.stack([np.ones_like(x), shape, slope, slope * (x - mu)], 1)


def edge(mus: np.ndarray, best: np.ndarray, cut: float, i: int, side: int) -> float:
    """Where the profile crosses the cut beyond point `i`, or `i` itself at the end of the axis."""
    j = i + side
    if not 0 <= j < len(mus):
        return float(mus[i])
    return float(mus[i] + (mus[j] - mus[i]) * (cut - best[i]) / (best[j] - best[i]))


def around(axis: np.ndarray, inside: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """A window two cells wider than the points inside, within the limits."""
    first, last = max(inside[0], 1), min(inside[-1], len(axis) - 2)
    left, right = axis[first] - axis[first - 1], axis[last + 1] - axis[last]
    return max(float(axis[inside[0]] - 2 * left), low), min(float(axis[inside[-1]] + 2 * right), high)
