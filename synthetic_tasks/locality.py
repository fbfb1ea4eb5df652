"""Locality: neighbourhoods on a graph, variables that drop out, and estimates of how local data measurably is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from synthetic_tasks.skew import draw, zipf
from synthetic_tasks.task import Array, choose, require

LAWS = ("fixed", "geometric", "zipf")


def distances(adjacency: Array) -> Array:
    """Steps along edges between all nodes, int `[node node]`, -1 where no path leads; breadth first from all at once.

    adjacency `[node node]` is read as directed: nonzero at (i, j) is an edge from i to j.
    """
    edges = (np.asarray(adjacency) != 0).astype(np.float32)
    require(edges.ndim == 2 and edges.shape[0] == edges.shape[1], "adjacency", np.shape(adjacency), "a square matrix")
    steps = np.where(np.eye(len(edges), dtype=bool), 0, -1)
    front, step = steps == 0, 0
    while front.any():
        step += 1
        front = (front.astype(np.float32) @ edges > 0) & (steps < 0)
        steps[front] = step
    return steps


def radii(rng: np.random.Generator, shape: int | tuple[int, ...], law: str, scale: float, largest: int) -> Array:
    """How far neighbourhoods reach, int `shape`, from 0 to `largest`.

    fixed: always `scale`. geometric: p(r) ~ (1 - scale) scale^r. zipf: p(r) ~ (r + 1)^-scale; both cut at `largest`.
    """
    choose("law of radii", law, LAWS)
    require(largest >= 0, "largest", largest, "0 or more steps")
    if law == "fixed":
        require(scale == int(scale) and 0 <= scale <= largest, "scale", scale, f"a whole number from 0 to {largest}")
        return np.full(shape, int(scale))
    if law == "geometric":
        require(0 <= scale < 1, "scale", scale, "the probability to go a step further, from 0 to below 1")
        return draw(rng, np.power(float(scale), np.arange(largest + 1)), shape)
    return draw(rng, zipf(largest + 1, scale), shape)


def ball(steps: Array, centres: Array, reach: Array) -> Array:
    """The nodes within `reach` steps of each centre, bool `[batch node]`; steps is what `distances` gives."""
    away = steps[centres]
    return (away >= 0) & (away <= np.asarray(reach)[..., None])


def neighbourhoods(rng: np.random.Generator, steps: Array, reach: Array) -> tuple[Array, Array]:
    """Uniform random centres `[batch]` and the nodes around them, bool `[batch node]`, for each reach `[batch]`."""
    centres = rng.integers(len(steps), size=len(reach))
    return centres, ball(steps, centres, reach)


def drop(rng: np.random.Generator, present: Array, rate: float) -> Array:
    """Variable dropout: what is present, bool `[batch node]`, each gone with probability `rate` by itself."""
    require(0 <= rate <= 1, "rate", rate, "a probability")
    return present & (rng.random(present.shape) >= rate)


def cooccurrence(present: Array, steps: Array) -> Array:
    """Share of sequences in which two nodes are both present, mean over ordered pairs by their distance, `[distance]`.

    Distance 0 is how often a node is present at all; NaN where no pair is that far apart.
    """
    seen = present.astype(np.float64)
    both = seen.T @ seen / len(seen)
    linked = steps >= 0
    pairs = np.bincount(steps[linked])
    with np.errstate(invalid="ignore"):
        return np.bincount(steps[linked], both[linked]) / pairs


def entropy(counts: Array) -> float:
    """Entropy in nats of what was counted, with the Miller-Madow correction (seen kinds - 1) / (2 sightings)."""
    counts = counts[counts > 0]
    if len(counts) == 0:
        return float("nan")
    total = counts.sum()
    p = counts / total
    return float(-(p * np.log(p)).sum() + (len(counts) - 1) / (2 * total))


def entropy_rates(tokens: Array, longest: int = 10) -> Array:
    """H(next token | the m tokens before) in nats, `[m]` from m = 0 to at most `longest`, over int `[batch pos]`.

    It is what a table of counts can reach: all places of all sequences are pooled (-1: nothing there), so what a reader
    infers about *this* sequence is not in it. m grows while blocks are seen ten times on average: beyond, the estimate
    falls by chance alone. Corrected for few samples as in `mutual_information`.
    """
    sizes = range(1, min(longest + 1, tokens.shape[1]) + 1)
    known = _block_entropies(tokens, sizes, seen=10)
    blocks = _extrapolated(lambda some: _block_entropies(some, sizes[: len(known)]), tokens)
    return np.diff(blocks, prepend=0.0)


def _block_entropies(tokens: Array, sizes: range, seen: float = 0) -> Array:
    """Entropies in nats of blocks of 1, 2, ... tokens, as long as each kind is seen so often on average."""
    base, blocks, found = int(tokens.max()) + 1, tokens, []
    for size in sizes:
        if size > 1:
            head, last = blocks[:, :-1], tokens[:, size - 1 :]
            blocks = _dense(np.where((head >= 0) & (last >= 0), head * base + last, -1))
        counts = _sightings(blocks)
        if size > 1 and counts.sum() < seen * len(counts):
            break
        found.append(entropy(counts))
    return np.array(found)


def mutual_information(tokens: Array, apart: Sequence[int]) -> Array:
    """I(token; token `apart` places on) in nats, `[apart]`, pooled over all places of int `[batch pos]` (-1: nothing).

    Few samples look like information. The Miller-Madow correction takes that away for independent places; what is left
    because places of one sequence depend on one another is extrapolated from two halves of the sequences. About 0 (also
    a little below) where there is none; not to be trusted with fewer places than kinds of pairs. Sequences that differ
    in kind, each with its own chain, share information at every distance.
    """
    allowed = f"from 1 to {tokens.shape[1] - 1} places"
    require(all(1 <= d < tokens.shape[1] for d in apart), "apart", list(apart), allowed)
    base = int(tokens.max()) + 1

    def at_each_distance(some: Array) -> Array:
        found = []
        for d in apart:
            left, right = some[:, :-d], some[:, d:]
            both = (left >= 0) & (right >= 0)
            left, right = left[both], right[both]
            pairs = entropy(_sightings(_dense(left * base + right)))
            found.append(entropy(_sightings(left)) + entropy(_sightings(right)) - pairs)
        return np.array(found)

    return _extrapolated(at_each_distance, tokens)


def _extrapolated(estimate: Callable[[Array], Array], tokens: Array) -> Array:
    """An estimate whose error shrinks like 1 / sequences, as it would be with endlessly many of them."""
    if len(tokens) < 2:
        return estimate(tokens)
    return 2 * estimate(tokens) - (estimate(tokens[::2]) + estimate(tokens[1::2])) / 2


def _dense(codes: Array) -> Array:
    """The same codes, renumbered if they run too high to be counted in a table; -1 stays."""
    if codes.max(initial=0) < 2**22:
        return codes
    kinds, dense = np.unique(codes, return_inverse=True)
    return dense.reshape(codes.shape) - int(kinds[0] < 0)


def _sightings(codes: Array) -> Array:
    """How often each code >= 0 was seen, without those never seen."""
    counts = np.bincount(codes[codes >= 0])
    return counts[counts > 0]
