"""Least squares under noise that remembers: first-order autoregressive, AR(1), from one checkpoint to the next.

Misfit and real training noise are both autocorrelated, and intervals that ignore it are too narrow. Everything here is
closed form and vectorised over `rho`, the correlation of neighbouring checkpoints, and over thousands of trial shapes.
"""

from __future__ import annotations

import numpy as np

RHOS = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98])
FLOOR = 0.002**2  # independent noise of 0.2 % of the range is taken to be there always: no curve is exactly a logistic


def whiten(columns: np.ndarray, rho: float) -> np.ndarray:
    """Columns `[n k]` seen through the filter that turns AR(1) noise into independent noise."""
    first = np.sqrt(1 - rho**2) * columns[:1]
    return np.concatenate([first, columns[1:] - rho * columns[:-1]])


def inner(u: np.ndarray, v: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Inner products `[rho ...]` of whitened `u`, `v` `[... n]`, without whitening them once per rho."""
    rho = rho.reshape(-1, *[1] * (np.broadcast(u[..., 0], v[..., 0]).ndim))
    same = np.einsum("...i,...i->...", u, v)
    inside = np.einsum("...i,...i->...", u[..., 1:-1], v[..., 1:-1])
    beside = np.einsum("...i,...i->...", u[..., 1:], v[..., :-1]) + np.einsum("...i,...i->...", u[..., :-1], v[..., 1:])
    return same - rho * beside + rho**2 * inside


def misfit(y: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Mean whitened squared residual `[rho ...]` of `y` `[n]` around `level + size * shape` `[... n]`."""
    one = np.ones_like(y)
    pad = (-1, *[1] * (shapes.ndim - 1))
    ones, ys, yy = (inner(u, v, RHOS).reshape(pad) for u, v in [(one, one), (one, y), (y, y)])
    ff, f, fy = (inner(shapes, v, RHOS) for v in (shapes, one, y))
    spread, slope = ff - f**2 / ones, fy - f * ys / ones
    informative = spread > 1e-9 * ones  # else the shape is a constant here, and explains nothing
    explained = np.where(informative, slope**2 / np.where(informative, spread, 1), 0)
    return np.maximum(yy - ys**2 / ones - explained, 0) / len(y)


def deviance(y: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """-2 log-likelihood `[rho ...]` of `y` `[n]` (of range 1) up to a constant; level, size and noise at their best."""
    rho = RHOS.reshape(-1, *[1] * (shapes.ndim - 1))
    return len(y) * np.log(misfit(y, shapes) + FLOOR * (1 + rho**2)) - np.log(1 - rho**2)


def restricted(tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What restricted likelihood needs for each rho, given the directions `[n k]` in which a fit can move.

    First ln det of their information, less that of the noise; then what noise of variance `FLOOR` adds to `misfit`.
    """
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=0), 1e-12)
    n, k = tangent.shape
    penalty, floor = [], []
    for rho in RHOS:
        weighed = (1 + rho**2) * tangent
        weighed[[0, -1]] -= rho**2 * tangent[[0, -1]]
        weighed[1:] -= rho * tangent[:-1]
        weighed[:-1] -= rho * tangent[1:]
        information = tangent.T @ weighed + 1e-6 * np.eye(k)  # a switch sharper than the grid cannot move a little
        absorbed = np.trace(np.linalg.solve(information, weighed.T @ weighed))
        penalty.append(np.linalg.slogdet(information)[1] - np.log(1 - rho**2))
        floor.append(FLOOR * (n + rho**2 * (n - 2) - absorbed) / n)
    return np.array(penalty), np.array(floor)


def solve(y: np.ndarray, columns: np.ndarray, rho: float) -> np.ndarray:
    """Coefficients `[k]` of the generalised least squares fit of `y` `[n]` to `columns` `[n k]`."""
    return np.linalg.lstsq(whiten(columns, rho), whiten(y[:, None], rho)[:, 0], rcond=None)[0]
