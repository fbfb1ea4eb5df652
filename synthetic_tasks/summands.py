"""Pairs of numbers to add: all alike, or balanced by length and by how often one carries (Lee et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from synthetic_tasks.chain import hashed
from synthetic_tasks.task import Array

TEST = 1 / 8  # of all pairs, by a hash of their content
TWO = 0.09  # share of sums of two digits in balanced data
ONE = 0.01  # of one digit, where there is no end of data; else there are all 100 of them, as in the paper's 10,000
BY_SUM = np.argsort([x // 10 + x % 10 for x in range(100)], kind="stable")  # two figures as tens and ones


def held(pairs: Array) -> Array:
    """Which pairs `[pair 2]` are kept for the test: in either order, and none of one digit. bool `[pair]`."""
    return (hashed(np.sort(pairs, axis=1)) < TEST) & (pairs.max(axis=1) >= 10)


def fresh(rng: np.random.Generator, n: int, digits: int, balanced: bool = False, test: bool = False) -> Array:
    """Pairs of numbers of up to so many digits, int `[n 2]`: of the test split, or of the others.

    balanced  1 % are of one digit, 9 % of two and the others of all; of these both, each number of carries is as likely
    """
    kept = np.empty((0, 2), np.int64)
    while len(kept) < n:
        m = 8 * n + 16 if test else n + n // 4 + 16
        drawn = rng.integers(10**digits, size=(m, 2))
        if balanced:
            length = rng.choice([1, 2, digits], m, p=[ONE, TWO, 1 - ONE - TWO])
            drawn[length == 1] %= 10
            for long in {2, digits}:
                rows = np.flatnonzero(length == long)
                drawn[rows] = summands(rng, long, rng.integers(long + 1, size=len(rows)))
        kept = np.concatenate([kept, drawn[held(drawn) == test]])
    return kept[:n]


def few(rng: np.random.Generator, n: int, digits: int, balanced: bool = False) -> Array:
    """Distinct pairs that are not for the test, int `[n 2]`; balanced: exactly, with all 100 pairs of one digit."""
    if not balanced:
        return _distinct(lambda m: rng.integers(10**digits, size=(m, 2)), n)
    two = 0 if digits == 2 else round(TWO * n)
    lots = [np.stack(divmod(np.arange(100), 10), axis=1)]
    for long, share in ((2, two), (digits, n - 100 - two)):
        for carries in range(long + 1):
            draw = lambda m, of=(long, carries): summands(rng, of[0], np.full(m, of[1]))  # noqa: E731
            lots.append(_distinct(draw, (share + carries) // (long + 1)))
    return np.concatenate(lots)


def summands(rng: np.random.Generator, digits: int, carries: Array) -> Array:
    """Pairs whose longer number has so many digits, by how often they carry `[pair]`: each as likely. `[pair 2]`."""
    out = np.arange(2**digits)[:, None] >> np.arange(digits) & 1  # which columns carry, from the right: all patterns
    ways = _ways(out).prod(axis=1)
    order = np.argsort(out.sum(axis=1), kind="stable")
    upto, of = np.cumsum(ways[order]), np.sort(out.sum(axis=1))
    ends = np.r_[0, upto[np.searchsorted(of, np.arange(digits + 1), side="right") - 1]]
    out = out[order[np.searchsorted(upto, rng.integers(ends[carries], ends[carries + 1]), side="right")]]
    begin = np.where(out == 1, 55 - 10 * _into(out), 0)  # those that carry come last in BY_SUM; (0, 0) is the first
    begin[:, -1] += out[:, -1] == 0
    figures = BY_SUM[begin + rng.integers(_ways(out))]
    return np.stack([figures // 10, figures % 10], axis=1) @ 10 ** np.arange(digits)


def _into(out: Array) -> Array:
    """The carry into each column, from the carry out of each, `[pattern column]`."""
    return np.pad(out, ((0, 0), (1, 0)))[:, :-1]


def _ways(out: Array) -> Array:
    """How many pairs of figures carry so, in each column; the highest are not both 0. `[pattern column]`."""
    ways = np.where(out == _into(out), 55, 45)
    ways[:, -1] -= out[:, -1] == 0
    return ways


def _distinct(draw: Callable[[int], Array], n: int) -> Array:
    """The first `n` that are distinct and not for the test."""
    found = np.empty((0, 2), np.int64)
    while len(found) < n:
        drawn = draw(2 * n + 64)
        found = np.concatenate([found, drawn[~held(drawn)]])
        _, first = np.unique(found[:, 0] * 10**9 + found[:, 1], return_index=True)
        found = found[np.sort(first)][:n]
    return found
