"""Strategy decomposition: which mixture of its task's strategies a model's answers look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from probelab.measures._contract import Row
from probelab.measures._read import Array, by_model, by_oracle
from probelab.subject import Subject
from synthetic_tasks import Batch
from synthetic_tasks.task import require

RESAMPLES = 200  # bootstrap samples of sequences behind an interval
ROUNDS = 100  # Newton steps from even weights, at most: the problem is concave, and ten are plenty
ROOM = 2**21  # entries of the largest temporary
LEAST = 1e-12  # probability of what a mixture rules out, so that no misfit is infinite


@dataclass(frozen=True)
class Mixture:
    """Weights of the convex mixture of strategies closest to the model, by KL(model || mixture) at the last position.

    Strategies are told apart where they disagree, so several splits are pooled, each weighing the same: with exchanged
    labels (flip) remembering and reading the context contradict each other; with shifted ones (swap) what is remembered
    is in the context by luck alone; where the class is absent (iwl, ciwl) there is nothing to read off but the labels.

    weight    of each `strategy` (one of the task's oracles); they add up to 1. 95 % bootstrap interval over the
              sequences of each split (one Newton step from the weights of them all)
    misfit    KL(model || mixture) in nats: what the strategies leave unexplained

    splits      pooled
    strategies  which oracles may take part
    n           sequences of each split, that training never sees
    """

    splits: tuple[str, ...] = ("flip", "swap", "iwl", "ciwl")
    strategies: tuple[str, ...] = ("icl", "iwl", "ciwl", "context", "frequency")
    n: int = 250

    name = "mixture"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 2, "n", self.n, "at least two sequences")
        require(len(self.splits) > 0, "splits", self.splits, "at least one")
        require(len(self.strategies) > 1, "strategies", self.strategies, "at least two")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        task = subject.task
        batches = [subject.batch(self.n, split) for split in self.splits]
        told = [by_oracle(task, batch, lambda part, logs: np.exp(logs[:, -1])) for batch in batches]
        for strategy in self.strategies:
            if strategy not in told[0]:
                raise ValueError(
                    f"mixture needs the strategy {strategy!r}, and {task.name!r} has {', '.join(told[0]) or 'none'}"
                )
        stacked = np.stack([np.concatenate([lot[s] for lot in told]) for s in self.strategies], axis=1)
        rng = np.random.default_rng(0)
        lots = [k * self.n + rng.integers(self.n, size=(RESAMPLES, self.n)) for k in range(len(batches))]
        counts = np.zeros((RESAMPLES, len(stacked)))
        for sample in lots:
            np.add.at(counts, (np.arange(RESAMPLES)[:, None], sample), 1.0)
        for step, model in subject:
            said = np.concatenate([by_model(model, batch, last) for batch in batches])
            weights = fitted(said, stacked)
            lo, hi = np.quantile(resampled(said, stacked, counts, weights), (0.025, 0.975), axis=0)
            here = dict(step=step, split="+".join(self.splits), n=len(said))
            for k, (strategy, weight) in enumerate(zip(self.strategies, weights, strict=True)):
                spread = dict(value=weight, lo=min(lo[k], weight), hi=max(hi[k], weight))
                yield dict(here, metric="weight", strategy=strategy, **spread)
            least = np.finfo(float).tiny
            own = (said * np.log(np.maximum(said, least))).sum()
            yield dict(here, metric="misfit", value=float(own / len(said) - likeness(said, stacked, weights)))


def last(part: Batch, logits: Tensor) -> Array:
    """What the model says at the last position, probabilities `[sequence label]`."""
    return logits[:, -1].double().softmax(-1).cpu().numpy()


def mixed(told: Array, weights: Array) -> Array:
    """A mixture of strategies, probabilities `[sequence label]`."""
    return np.maximum(np.einsum("s,nsl->nl", weights, told), LEAST)


def likeness(said: Array, told: Array, weights: Array) -> float:
    """Mean of sum_y said(y) log mixture(y); said `[sequence label]`, told `[sequence strategy label]`."""
    return float((said * np.log(mixed(told, weights))).sum() / len(said))


def fitted(said: Array, told: Array) -> Array:
    """Weights `[strategy]` of greatest likeness, by Newton's method; strategies that never differ share evenly."""
    weights = np.full(told.shape[1], 1 / told.shape[1])
    best = likeness(said, told, weights)
    for _ in range(ROUNDS):
        slope, curve = (part.sum(axis=0, keepdims=True) for part in expanded(said, told, weights))
        way, size, there = highest(slope, curve, weights)[0] - weights, 1.0, -np.inf
        while size > 1e-9 and there < best:
            trial, size = weights + size * way, size / 2
            there = likeness(said, told, trial)
        if there < best or np.abs(trial - weights).max() < 1e-10:
            break
        weights, best = trial, there
    return weights


def resampled(said: Array, told: Array, counts: Array, weights: Array) -> Array:
    """Weights `[sample strategy]` where sequences count as often as `counts` `[sample sequence]` says; one step."""
    slope, curve = expanded(said, told, weights)
    return highest(counts @ slope, np.tensordot(counts, curve, 1), weights)


def expanded(said: Array, told: Array, weights: Array) -> tuple[Array, Array]:
    """Slope `[sequence strategy]` of likeness, and its curvature `[sequence strategy strategy]`, negated."""
    step, parts = max(1, ROOM // told[0].size), []
    for rows in (slice(i, i + step) for i in range(0, len(said), step)):
        ratio = told[rows] / mixed(told[rows], weights)[:, None]
        weighed = ratio * said[rows, None]
        parts.append((weighed.sum(axis=2), weighed @ ratio.swapaxes(1, 2)))
    slope, curve = (np.concatenate(part) for part in zip(*parts, strict=True))
    return slope, curve


def highest(slope: Array, curve: Array, weights: Array) -> Array:
    """Where parabolas of this slope and curvature at `weights` are highest among mixtures, `[sample strategy]`.

    For every set of strategies that may take part the top is solved for; the highest one that is a mixture is taken.
    """
    n, many = slope.shape
    curve = curve * (1 + 1e-9 * np.eye(many))  # so that it can be solved where strategies never differ
    slope = slope + curve @ weights  # at the origin
    found, best = np.zeros((n, many)), np.full(n, -np.inf)
    for some in (list(c) for size in range(1, many + 1) for c in combinations(range(many), size)):
        system, right = np.ones((n, len(some) + 1, len(some) + 1)), np.ones((n, len(some) + 1, 1))
        system[:, :-1, :-1], system[:, -1, -1], right[:, :-1, 0] = curve[:, some][:, :, some], 0, slope[:, some]
        trial = np.zeros((n, many))
        trial[:, some] = np.linalg.solve(system, right)[:, :-1, 0]
        height = np.einsum("ns,ns->n", trial, slope) - np.einsum("ns,nst,nt->n", trial, curve, trial) / 2
        better = (trial >= 0).all(axis=1) & (height > best)
        found[better], best[better] = trial[better], height[better]
    return found
