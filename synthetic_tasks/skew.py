"""Skew: Zipf's law over ranks, draws with and without replacement, bursts, and estimates of how skewed tokens are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from synthetic_tasks.task import Array, require


def zipf(n: int, exponent: float) -> Array:
    """p(rank r) = r^-exponent / sum over the `n` ranks, float64 `[rank]`; exponent 0 is uniform, none overflows."""
    require(n >= 1, "n", n, "at least one rank")
    require(np.isfinite(exponent) and exponent >= 0, "zipf", exponent, "a finite exponent >= 0")
    mass = np.exp(-exponent * np.log(np.arange(1, n + 1)))
    return mass / mass.sum()


def draw(rng: np.random.Generator, p: Array, shape: int | tuple[int, ...]) -> Array:
    """Independent draws from p `[rank]` (it need not be normalised), int `shape`; what has no mass is never drawn."""
    return invert(rng, cumulative(p), shape)


def cumulative(p: Array) -> Array:
    """Cumulative probabilities `[rank]`, the last one 1."""
    cdf = np.cumsum(p)
    return cdf / cdf[-1]


def invert(rng: np.random.Generator, cdf: Array, shape: int | tuple[int, ...]) -> Array:
    """Independent draws, int `shape`, where cumulative probabilities `[rank]` are at hand."""
    return np.searchsorted(cdf, rng.random(shape), side="right")


def draw_distinct(rng: np.random.Generator, p: Array, n: int, k: int) -> Array:
    """`n` times `k` distinct ranks, int `[n k]` in the order drawn: each from p renormalised over what is left.

    Where the heaviest k - 1 ranks leave at least a tenth of the mass, what was drawn before is simply drawn again, at a
    price of n k. Else exponential clocks race, at a price of n ranks, and cannot stall (Efraimidis & Spirakis 2006).
    """
    p = np.asarray(p) / np.sum(p)
    require(0 <= k <= np.count_nonzero(p), "k", k, f"0 to the {np.count_nonzero(p)} ranks that have mass")
    if np.sort(p)[::-1][: max(k - 1, 0)].sum() > 0.9:
        with np.errstate(divide="ignore"):
            arrival = np.log(rng.standard_exponential((n, len(p)))) - np.log(p)
        return np.argsort(arrival, axis=1, kind="stable")[:, :k]
    drawn, cdf = np.full((n, k), -1), cumulative(p)
    for j in range(k):
        again = np.arange(n)
        while len(again):
            drawn[again, j] = invert(rng, cdf, len(again))
            again = again[(drawn[again, :j] == drawn[again, j, None]).any(axis=1)]
    return drawn


def bursts(rng: np.random.Generator, n: int, multiplicities: tuple[int, ...]) -> Array:
    """Which item speaks where: int `[n sum(multiplicities)]`, item i in multiplicities[i] places, shuffled.

    (B,) * (length // B) is burstiness B; (3, 3, 1, 1) is the pattern of Chan et al. 2022. Items, labels and exemplars
    follow by `np.take_along_axis(items, bursts(...), axis=1)`.
    """
    require(min(multiplicities, default=0) >= 1, "multiplicities", multiplicities, "one or more counts of at least 1")
    places = np.repeat(np.arange(len(multiplicities)), multiplicities)
    return rng.permuted(np.tile(places, (n, 1)), axis=1)


def even_bursts(length: int, burstiness: int) -> tuple[int, ...]:
    """The multiplicities of a context in which every item comes `burstiness` times."""
    fits = 1 <= burstiness <= length and length % burstiness == 0
    require(fits, "burstiness", burstiness, f"it must divide the context of {length} items")
    return (burstiness,) * (length // burstiness)


class ZipfFit(NamedTuple):
    """A fitted exponent and its standard error."""

    exponent: float
    error: float


def fit_zipf(counts: Array, error_of_mean: float | None = None) -> ZipfFit:
    """Maximum-likelihood exponent of counts by rank, `[rank]`, rank 1 first, all possible ranks included (also zeros).

    The estimate is where the model's mean log rank equals the measured one. Its error is that of the measured mean over
    the variance of the log rank (Fisher information): by default as if draws were independent; pass the mean's own
    standard error where they are not (`error_of_mean`). Ranks must be known beforehand: sorting the same counts to get
    them makes noise look like skew (the exponent of a uniform sample comes out positive).
    """
    logs, total = np.log(np.arange(1, len(counts) + 1)), np.sum(counts)
    require(total > 0 and len(counts) > 1, "counts", list(counts)[:8], "at least two ranks and one count")
    measured = float(np.dot(counts, logs) / total)
    if measured in (0.0, float(logs[-1])):
        return ZipfFit(np.inf if measured == 0 else -np.inf, np.nan)
    low, high = -1.0, 1.0
    while _mean(logs, low)[0] < measured:
        low *= 2
    while _mean(logs, high)[0] > measured:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(logs, middle)[0] > measured else (low, middle)
    variance = _mean(logs, (low + high) / 2)[1]
    error = np.sqrt(variance / total) if error_of_mean is None else error_of_mean
    return ZipfFit((low + high) / 2, float(error / variance))


def _mean(logs: Array, exponent: float) -> tuple[float, float]:
    """Mean and variance of the log rank under Zipf's law; the exponent may be negative."""
    weight = -exponent * logs
    p = np.exp(weight - weight.max())
    p /= p.sum()
    mean = float(p @ logs)
    return mean, float(p @ (logs - mean) ** 2)


class Burstiness(NamedTuple):
    """How much sequences repeat themselves; without burstiness `repeated` equals `independent` and `ratio` is 1."""

    repeated: float
    independent: float
    ratio: float


def burstiness(tokens: Array, vocab: int) -> Burstiness:
    """Measured on int `[batch pos]` (-1: nothing there).

    repeated     share of tokens that already occurred in their sequence
    independent  the same share if tokens were drawn independently from the frequencies of the whole sample
    ratio        chance that two places of one sequence hold the same token, over that for places of two sequences
    """
    there = tokens >= 0
    lengths = there.sum(axis=1)
    require((lengths > 1).sum() > 1, "tokens", tokens.shape, "at least two sequences of two tokens")
    row = np.broadcast_to(np.arange(len(tokens))[:, None], tokens.shape)
    codes, counts = np.unique((row * vocab + tokens)[there], return_counts=True)
    total = np.bincount(codes % vocab, counts, vocab)
    p = total / total.sum()
    sizes, times = np.unique(lengths, return_counts=True)
    distinct = times @ (1 - (1 - p) ** sizes[:, None]).sum(axis=1)
    within = np.sum(counts * (counts - 1.0)) / np.sum(lengths * (lengths - 1.0))
    across = (np.sum(total**2) - np.sum(counts**2.0)) / (lengths.sum() ** 2.0 - np.sum(lengths**2.0))
    return Burstiness(
        repeated=float(1 - len(codes) / lengths.sum()),
        independent=float(1 - distinct / lengths.sum()),
        ratio=float(within / across) if across > 0 else float("inf"),
    )
