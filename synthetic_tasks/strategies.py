"""Strategies that read the context: counts of what stood there, or of what followed, as smoothed log-probabilities."""

from __future__ import annotations

import numpy as np

from synthetic_tasks.task import Array

ROOM = 2**22  # entries of the largest temporary `[batch pos pos]`


def onehot(x: Array, size: int) -> Array:
    """float32 `[... size]`; all zeros where x is negative."""
    return (x[..., None] == np.arange(size)).astype(np.float32)


def occurrences(tokens: Array, size: int) -> Array:
    """How often each symbol stands at or before each position, float32 `[batch pos size]`."""
    return np.cumsum(onehot(tokens, size), axis=1)


def followers(context: Array, nexts: Array, size: int) -> Array:
    """How often each symbol followed the earlier occurrences of the present context, float32 `[batch pos size]`.

    context int `[batch pos]` is any code of what was just read (negative: none), nexts `[batch pos]` what came next.
    """
    n, length = context.shape
    earlier = np.tri(length, k=-1, dtype=bool)
    counts = np.empty((n, length, size), np.float32)
    step = max(1, ROOM // length**2)
    for rows in (slice(i, i + step) for i in range(0, n, step)):
        code = context[rows]
        same = (code[:, :, None] == code[:, None, :]) & earlier & (code >= 0)[:, :, None]
        counts[rows] = same.astype(np.float32) @ onehot(nexts[rows], size)
    return counts


def latest(tokens: Array) -> Array:
    """The position of the latest earlier occurrence of the present token, int `[batch pos]`, -1 where it is new."""
    n, length = tokens.shape
    order = np.argsort(tokens, axis=1, kind="stable")
    token = np.take_along_axis(tokens, order, axis=1)
    before = np.full((n, length), -1)
    before[:, 1:] = np.where(token[:, 1:] == token[:, :-1], order[:, :-1], -1)
    found = np.empty_like(before)
    np.put_along_axis(found, order, before, axis=1)
    return found


def smooth(counts: Array, prior: Array, strength: float) -> Array:
    """Log-probabilities of counts `[... size]` to which `strength` further ones were added, spread like the prior."""
    total = counts.sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.log((counts + strength * prior) / (total + strength))
