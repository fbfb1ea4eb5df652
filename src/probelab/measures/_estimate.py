"""Means over scored tokens with their 95 % intervals over sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Z = 1.959964  # 97.5 % quantile of the normal distribution


class Mean(NamedTuple):
    """A mean `value [...]` and how far each sequence pulls it, `influence [sequence ...]` (mean 0)."""

    value: np.ndarray
    influence: np.ndarray

    def minus(self, other: Mean) -> Mean:
        """A difference over the same sequences: what they share cancels."""
        return Mean(self.value - other.value, self.influence - other.influence)

    def scaled(self, factor: float, offset: float) -> Mean:
        """`factor * value + offset`."""
        return Mean(factor * self.value + offset, factor * self.influence)

    def row(self, *at: int) -> dict[str, Any]:
        """`value lo hi n` of one entry; the interval is NaN where there is one sequence only."""
        value, n = float(self.value[at]), len(self.influence)
        spread = self.influence[(slice(None), *at)].std(ddof=1) if n > 1 else np.nan
        half = Z * float(spread) / n**0.5
        return dict(value=value, lo=value - half, hi=value + half, n=n)


def pooled(totals: np.ndarray, counts: np.ndarray) -> Mean:
    """The sum of totals over the sum of counts, both `[sequence ...]`: every token weighs the same.

    Sequences may have different counts; the interval is that of a ratio of two means (to first order). Where nothing is
    counted the mean is NaN.
    """
    totals, counts = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    whole = counts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = totals.sum(axis=0) / whole
        return Mean(value, (totals - value * counts) * (len(totals) / whole))


def mean_where(values: np.ndarray, where: np.ndarray) -> Mean:
    """The mean of `values [sequence pos ...]` where `where [sequence pos]` holds; what lies elsewhere may be NaN."""
    mask = where.reshape(*where.shape, *[1] * (values.ndim - 2))
    return pooled(np.where(mask, values, 0.0).sum(axis=1), mask.sum(axis=1))
