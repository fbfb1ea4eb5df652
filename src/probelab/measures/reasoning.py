"""What a model of a Bayesian network infers about two variables it never saw together: at once, or step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from probelab.decode import decode
from probelab.measures._chain import rate
from probelab.measures._contract import Row
from probelab.measures._walk import Walk, spoken
from probelab.subject import Model, Subject
from synthetic_tasks import Batch, BayesNet, stream
from synthetic_tasks.observations import NAMES
from synthetic_tasks.task import choose, require

Array = np.ndarray
ESTIMATORS = ("direct", "scaffolded", "forgetful", "negative", "free")


class Guess(NamedTuple):
    """An estimate of each query, `[query]`, and the variance of one sample of it (nothing was sampled: 0)."""

    p: Array
    variance: Array


@dataclass(frozen=True)
class Reasoning:
    """Mean squared errors of p(target = 1 | observed) over queries of `bayes_net`, with 95 % intervals over queries.

    Queries are all pairs of a split, both ways, both values told (Prystawski et al. 2023). The probability is that of
    the value 1 among the two values, as in their code. `estimator`:

    direct      the target's value is asked at once
    scaffolded  after the values of a minimal d-separating set, nearest to the observed variable first. The paper draws
                them from the model; here they are summed out, each combination weighted as the model does
    forgetful   the same with each step in a text of its own, that shows no more than the step before it: all the way
                from one d-separating set to the next, by direct answers about what is near. What it gains over
                scaffolded is what the evidence spoils by standing beside a target it was never seen with
    negative    as scaffolded, with as many variables drawn from those that are neither
    free        after whatever the model writes by itself; the mean over chains that end
    marginal    p(target = 1), whatever was observed: what there is without any inference

    error              to the true conditional; by `distance` (edges between the two) and over all
    error_to_marginal  to the true marginal
    With `drawn` samples instead of a sum (1: the paper's M = 1), the errors expected: of the mean plus its variance
    (scaffolded, negative, free)

    Of free chains: `ended`, share that end; `length`, variables in between; `separating`, share whose variables
    d-separate the two; `separating_chance`, the same of as many variables drawn at random.
    Of scaffolds of one variable: `effect`, the slope of the model's change of p(target), when that variable's value is
    set to 1 instead of 0, on the change in the network: 1 for a model that uses its step, 0 for one that ignores it.

    splits  pairs that were never seen together, and their controls
    chains  free chains of each query, drawn at temperature 1
    drawn   sizes of samples
    """

    splits: tuple[str, ...] = ("held", "control")
    estimators: tuple[str, ...] = ESTIMATORS
    chains: int = 50
    drawn: tuple[int, ...] = (1, 10)

    name = "reasoning"
    version = 2

    def __post_init__(self) -> None:
        for estimator in self.estimators:
            choose("estimator of reasoning", estimator, ESTIMATORS)
        for split in self.splits:
            choose("split of reasoning", split, ("held", "control"))
        require(self.chains >= 2, "chains", self.chains, "at least 2")
        require(all(size >= 1 for size in self.drawn), "drawn", self.drawn, "sizes of at least 1")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        task = subject.task
        if not isinstance(task, BayesNet):
            raise ValueError(f"reasoning asks about pairs of a bayes_net, and {task.name!r} has none: measure answers")
        lots = {split: task.queries(split) for split in self.splits}
        others = {split: self._negative(task, batch) for split, batch in lots.items()}
        walks = {split: Walk(task, batch) for split, batch in lots.items() if "forgetful" in self.estimators}
        for step, model in subject:
            for split, batch in lots.items():
                where = dict(step=step, split=split)
                guesses = {"marginal": Guess(batch.facts["marginal"], np.zeros(len(batch)))}
                scaffolds = {"direct": batch.facts["scaffold"][:, :0], "scaffolded": batch.facts["scaffold"]}
                scaffolds["negative"] = others[split]
                for name, scaffold in scaffolds.items():
                    if name in self.estimators:
                        guesses[name], changes = summed(model, batch, scaffold)
                        if name == "scaffolded":
                            yield from self._effect(where, task, batch, changes)
                if walks:
                    guesses["forgetful"] = Guess(walks[split](model), np.zeros(len(batch)))
                if "free" in self.estimators:
                    rng = stream("reasoning", task.name, task.world, subject.spec.data, split, "free")
                    guesses["free"], found = self._free(model, task, batch, rng)
                    yield from (dict(**where, estimator="free", metric=name, **told) for name, told in found.items())
                for name, guess in guesses.items():
                    yield from self._errors({**where, "estimator": name}, batch, guess)

    def _errors(self, where: Row, batch: Batch, guess: Guess) -> Iterator[Row]:
        """Errors over all queries, by distance, and of samples."""
        there, away = ~np.isnan(guess.p), batch.facts["distance"]
        bias = (guess.p - batch.facts["conditional"]) ** 2
        yield dict(**where, metric="error", **rate(bias, there))
        yield dict(**where, metric="error_to_marginal", **rate((guess.p - batch.facts["marginal"]) ** 2, there))
        for distance in np.unique(away):
            yield dict(**where, metric="error", distance=int(distance), **rate(bias, there & (away == distance)))
        for size in self.drawn if where["estimator"] not in ("direct", "forgetful", "marginal") else ():
            yield dict(**where, metric="error", drawn=size, **rate(bias + guess.variance / size, there))

    def _negative(self, task: Any, batch: Batch) -> Array:
        """As many variables as each scaffold has, neither in it nor asked about: int `[query step]`, -1 behind."""
        rng = stream("reasoning", task.name, task.world, "negative")
        rank, rows = rng.random((len(batch), task.variables)), np.arange(len(batch))[:, None]
        scaffold = batch.facts["scaffold"]
        taken = np.concatenate([scaffold, batch.facts["target"][:, None], batch.facts["observed"][:, None]], 1)
        rank[rows, taken] = np.where(taken >= 0, np.inf, rank[rows, taken])
        return np.where(scaffold >= 0, np.argsort(rank, axis=1)[:, : scaffold.shape[1]], -1)

    def _effect(self, where: Row, task: Any, batch: Batch, changes: Array) -> Iterator[Row]:
        """The model's change of p(target) by its only step, `changes [query]`, against that of the network."""
        facts, one = batch.facts, np.flatnonzero((batch.facts["scaffold"] >= 0).sum(axis=1) == 1)
        if not len(one):
            return
        target, seen = facts["target"][one], np.full((2, len(one), task.variables), -1)
        seen[:, np.arange(len(one)), facts["observed"][one]] = facts["evidence"][one]
        seen[:, np.arange(len(one)), facts["scaffold"][one, 0]] = [[0], [1]]
        truth = np.subtract(*(task.fixed.net.conditional(target, value) for value in seen[::-1]))
        if (truth**2).sum() > 0:
            slope = changes[one] @ truth / (truth @ truth)
            yield dict(**where, estimator="scaffolded", metric="effect", value=float(slope), n=len(one))

    def _free(self, model: Model, task: Any, batch: Batch, rng: np.random.Generator) -> tuple[Guess, dict[str, Row]]:
        """Estimates from chains of the model's own, and what these chains are like."""
        chain, n = task.chain, len(batch)
        rows = np.repeat(np.arange(n), self.chains)
        texts = decode(model, chain.cut(batch, 0)[rows], chain.parse, 1.0, rng)
        ended = chain.parse(texts) >= 0
        p = np.full(len(rows), np.nan)
        if ended.any():
            asked = texts[ended]
            at = (asked >= 0).sum(axis=1) - 2  # the mark, before the value
            p[ended] = spoken(model, asked[:, : at.max() + 1], at[:, None])[:, 0]
        p = p.reshape(n, self.chains)
        guess = Guess(*moments(p))
        between = written(task, texts) & ended[:, None]
        target, observed = batch.facts["target"][rows], batch.facts["observed"][rows]
        between[np.arange(len(rows)), target] = between[np.arange(len(rows)), observed] = False
        length, order = between.sum(axis=1), rng.random(between.shape)
        order[np.arange(len(rows)), target] = order[np.arange(len(rows)), observed] = np.inf
        random = np.argsort(np.argsort(order, axis=1), axis=1) < length[:, None]

        def by_query(values: Array) -> Array:
            return moments(np.where(ended, values, np.nan).reshape(n, self.chains))[0]

        shares = {"length": length, "separating": task.fixed.net.separated(observed, target, between)}
        shares["separating_chance"] = task.fixed.net.separated(observed, target, random)
        found = {name: rate(share, ~np.isnan(share)) for name, share in ((k, by_query(v)) for k, v in shares.items())}
        return guess, {"ended": rate(ended.reshape(n, -1).mean(axis=1)), **found}


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and variance of one sample, `[query]`, over samples `[query sample]`, NaN left out (NaN where none is)."""
    there = ~np.isnan(values)
    count = there.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(axis=1) / count
        spread = np.where(there, (values - mean[:, None]) ** 2, 0).sum(axis=1) / np.maximum(count - 1, 1)
    return mean, np.where(count > 0, spread, np.nan)


def summed(model: Model, batch: Batch, scaffold: Array) -> tuple[Guess, Array]:
    """p(target = 1) `[query]`, summed over the values of variables written before it, int `[query step]`, -1 behind.

    Also by how much it grows when the first of them is 1 rather than 0, whatever its probability is.
    """
    task: Any = model.task
    facts, most = batch.facts, scaffold.shape[1]
    combinations = np.array([*product((0, 1), repeat=most)], int).reshape(2**most, most)
    unused = ((combinations == 1) & (scaffold[:, None] < 0)).any(axis=2)
    row, which = np.nonzero(~unused)  # one text for each query and combination of the values that it has
    values, here = combinations[which], scaffold[row]
    state = facts["state"][row]
    at, column = np.nonzero(here >= 0)
    state[at, here[at, column]] = values[at, column]
    texts = task.query(state, np.column_stack([facts["observed"][row], here, facts["target"][row]])).tokens
    sizes = (here >= 0).sum(axis=1)
    places = np.where(here >= 0, 4 + 2 * np.arange(most), -1)  # names of the steps; the mark comes after them
    p = spoken(model, texts, np.column_stack([places, 4 + 2 * sizes]))
    steps = np.where(here < 0, 1, np.where(values == 1, p[:, :-1], 1 - p[:, :-1]))
    weight, told = steps.prod(axis=1), p[:, -1]
    mean = np.bincount(row, weight * told, len(batch))
    variance = np.bincount(row, weight * (told - mean[row]) ** 2, len(batch))
    change = np.zeros(len(batch))
    if most:
        later = steps[:, 1:].prod(axis=1) * np.where(values[:, 0] == 1, 1, -1)
        change = np.bincount(row, later * told, len(batch))
    return Guess(mean, variance), change


def written(task: Any, texts: Array) -> Array:
    """Which variables texts name, bool `[text variable]`."""
    named = texts - NAMES
    found = np.zeros((len(texts), task.variables + 1), bool)
    inside = (named >= 0) & (named < task.variables)
    found[np.arange(len(texts))[:, None], np.where(inside, named, task.variables)] = True
    return found[:, :-1]
