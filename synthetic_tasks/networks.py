"""Bayesian networks of binary variables: random ones, exact inference by elimination, and what separates what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from synthetic_tasks.locality import distances
from synthetic_tasks.task import Array, require

Parents = tuple[tuple[int, ...], ...]
ROOM = 2**16  # entries of the largest temporary table: it stays in the cache
CERTAIN = 1e-9  # no probability is nearer to 0 or 1, so that no evidence is impossible


class Bucket(NamedTuple):
    """One step of the elimination: a table over `scope` and `variable`, a bit each, the variable's the lowest.

    table  float64 `[entry]`, the product of the network's own tables that end here
    inbox  messages that end here: the step each comes from, and int `[entry]`: its entry that each entry here meets
    """

    variable: int
    scope: tuple[int, ...]
    table: Array
    inbox: list[tuple[int, Array]]


@dataclass(frozen=True, eq=False)
class Network:
    """Variables 0, 1, ..., each 0 or 1.

    parents  of each variable, in the order of the axes of its table
    tables   p(variable = 1 | parents), float64 `[2 ... 2]`, an axis per parent

    What was seen is int `[batch variable]`, -1 where nothing was. Inference is exact; it costs about 2^(width + 1)
    numbers a row and variable, and a hundred variables with a hundred random edges have a width of 6 to 8.
    """

    parents: Parents
    tables: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def edges(self) -> Array:
        """From parent to child, bool `[variable variable]`."""
        found = np.zeros((len(self), len(self)), bool)
        for child, parents in enumerate(self.parents):
            found[list(parents), child] = True
        return found

    @cached_property
    def order(self) -> list[int]:
        """The variables, causes before effects."""
        order = sorted_causally(self.edges)
        require(len(order) == len(self), "parents", self.parents, "a graph without directed cycles")
        return order

    @cached_property
    def steps(self) -> Array:
        """Edges between variables, whichever way they point, int `[variable variable]`; -1 where no path leads."""
        return distances(self.edges | self.edges.T)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw `n` joint states, int `[n variable]`: causes first, each variable for all samples at once."""
        state, dice = np.empty((len(self), n), np.int64), rng.random((len(self), n))
        for v in self.order:
            row = np.int64(0)
            for parent in self.parents[v]:
                row = 2 * row + state[parent]
            state[v] = dice[v] < self.tables[v].reshape(-1)[row]
        return state.T

    @cached_property
    def plan(self) -> list[Bucket]:
        """In which order variables are summed out, and where each table and message goes (Dechter 1999).

        The next variable is the one with fewest neighbours in what is left of the moral graph.
        """
        near = self.moral(range(len(self)))
        scopes: dict[int, tuple[int, ...]] = {}
        while near:
            v = min(near, key=lambda v: (len(near[v]), v))
            ends = near.pop(v)
            for w in ends:
                near[w] |= ends
                near[w] -= {v, w}
            scopes[v] = tuple(sorted(ends))
        turn = {v: step for step, v in enumerate(scopes)}
        buckets = [Bucket(v, scope, np.ones(2 ** (len(scope) + 1)), []) for v, scope in scopes.items()]
        for v, parents in enumerate(self.parents):
            bucket = buckets[min(turn[w] for w in (v, *parents))]
            one = self.tables[v].reshape(-1)[_entries(bucket, parents)]
            bucket.table[:] *= np.where(_entries(bucket, (v,)), one, 1 - one)
        for step, (_, scope, _, _) in enumerate(buckets):
            if scope:
                bucket = buckets[min(turn[w] for w in scope)]
                bucket.inbox.append((step, _entries(bucket, scope)))
        return buckets

    def conditional(self, target: Array, seen: Array) -> Array:
        """p(target = 1 | what was seen of the others), float64 `[batch]`, for int `[batch]` and `[batch variable]`."""
        return self.beliefs(seen)[np.arange(len(seen)), target]

    def beliefs(self, seen: Array) -> Array:
        """p(variable = 1 | what was seen of the others), float64 `[batch variable]`, for every variable."""
        step = max(64, ROOM // max(len(bucket.table) for bucket in self.plan))
        lots = [seen[i : i + step] for i in range(0, max(len(seen), 1), step)]
        return np.concatenate([self._beliefs(np.stack([lot.T != 1, lot.T != 0], axis=1).astype(float)) for lot in lots])

    def _beliefs(self, weights: Array) -> Array:
        """The same from weights `[variable 2 batch]`, 1 where a value is still possible.

        Summing the variables out gives p(seen), which is linear in the weights of each variable. The two slopes are
        what is sought, and going back through the same sum gives them all (Darwiche 2003). Only ratios count, so that
        messages are scaled to sum to 1: no evidence is too unlikely.
        """
        tables, messages = [], []
        for variable, _, table, inbox in self.plan:
            table = table[:, None]
            for source, at in inbox:
                table = table * messages[source][at]
            tables.append(table.reshape(-1, 2, table.shape[1]))  # without the weight of the variable itself
            message = (tables[-1] * weights[variable]).sum(axis=1)
            messages.append(message / message.sum(axis=0))
        down, found = [np.ones((1, 1))] * len(self), np.empty((weights.shape[2], len(self)))
        for step in reversed(range(len(self))):
            bucket, above = self.plan[step], down[step][:, None]
            zero, one = (above * tables[step]).sum(axis=0)
            found[:, bucket.variable] = one / (zero + one)
            for source, at in bucket.inbox:
                rest = (above * bucket.table.reshape(-1, 2, 1) * weights[bucket.variable]).reshape(len(at), -1)
                for other, met in bucket.inbox:
                    rest = rest * messages[other][met] if other != source else rest
                by_entry = rest[np.argsort(at, kind="stable")].reshape(len(messages[source]), -1, rest.shape[1])
                down[source] = by_entry.sum(axis=1) / rest.sum(axis=0)
        return found

    @cached_property
    def marginals(self) -> Array:
        """p(variable = 1), float64 `[variable]`."""
        return self.beliefs(np.full((1, len(self)), -1))[0]

    @cached_property
    def given(self) -> Array:
        """p(second = 1 | first = value), float64 `[first value second]`."""
        n = len(self)
        seen = np.full((n, 2, n), -1)
        seen[np.arange(n), :, np.arange(n)] = [0, 1]
        found = self.beliefs(seen.reshape(2 * n, n)).reshape(n, 2, n)
        found[np.arange(n), :, np.arange(n)] = [0, 1]
        return found

    @cached_property
    def information(self) -> Array:
        """Mutual information of two variables in nats, float64 `[variable variable]`."""
        first = np.stack([1 - self.marginals, self.marginals], axis=1)[:, :, None]
        nats = 0.0
        for second, alone in ((self.given, self.marginals), (1 - self.given, 1 - self.marginals)):
            nats = nats + (first * second * np.log(np.maximum(second, CERTAIN**2) / alone)).sum(axis=1)
        return np.maximum(nats, 0)

    def moral(self, among: Iterable[int]) -> dict[int, set[int]]:
        """Neighbours in the moral graph of some variables and their ancestors: families are all linked together."""
        kept, todo = set(among), list(among)
        for v in todo:
            todo += [parent for parent in self.parents[v] if parent not in kept]
            kept.update(self.parents[v])
        near: dict[int, set[int]] = {v: set() for v in sorted(kept)}
        for v in near:
            family = {v, *self.parents[v]}
            for w in family:
                near[w] |= family - {w}
        return near

    def separator(self, ones: tuple[int, ...], other: int) -> tuple[int, ...] | None:
        """The smallest set that d-separates some variables from another one, nearest to them first; None: neighbours.

        It is a minimum vertex cut in the moral graph of their ancestors (Acid & de Campos 1996), found by augmenting
        paths; of several as small, the one on the side of `ones`. Empty if nothing links them.
        """
        near = self.moral((*ones, other))
        if near[other] & set(ones):
            return None
        # A variable is an arc from (v, 0) to (v, 1) that carries one path; links lead out of one into another at will.
        arcs = {(v, 0): {(v, 1)} for v in near} | {(v, 1): {(w, 0) for w in near[v]} for v in near}
        sources = [(v, 1) for v in ones]
        while True:
            came: dict[tuple[int, int], tuple[int, int]] = dict.fromkeys(sources, (-1, -1))
            todo = list(sources)
            for place in todo:
                new = sorted(arcs[place] - came.keys())
                came.update(dict.fromkeys(new, place))
                todo += new
            if (other, 0) not in came:
                break
            place = (other, 0)
            while (before := came[place]) != (-1, -1):
                if before[0] == place[0] or before[1] < place[1]:  # not a link at will
                    arcs[before].remove(place)
                arcs[place].add(before)
                place = before
        cut = [v for v in near if (v, 0) in came and (v, 1) not in came]
        away = np.where(self.steps < 0, len(self), self.steps)[list(ones)].min(axis=0)
        return tuple(sorted(cut, key=lambda v: (away[v], v)))

    def stages(self, one: int, other: int) -> tuple[tuple[int, ...], ...]:
        """Separators one behind the other: each d-separates the one before it from `other`, the last is next to it.

        Empty if the two are neighbours, or if nothing links them.
        """
        found: list[tuple[int, ...]] = []
        here = (one,)
        while here := self.separator(here, other) or ():
            found.append(here)
        return tuple(found)

    def path(self, one: int, other: int) -> tuple[int, ...]:
        """The variables of all `stages`, in their order: on a tree, those in between."""
        return tuple(chain.from_iterable(self.stages(one, other)))

    def separated(self, one: Array, other: Array, given: Array) -> Array:
        """Are two variables, int `[batch]`, d-separated by the variables in bool `[batch variable]`? bool `[batch]`.

        What is known of one rolls like a ball, up to causes and down to effects: through a variable that is not given;
        off one that is given, back up, if it comes down (the Bayes ball, Shachter 1998).
        """
        edge, rows = self.edges.astype(np.float32), np.arange(len(one))
        up = np.zeros(given.shape, bool)
        up[rows, one] = True
        down = np.zeros_like(up)
        while True:
            falls = ((up | down) & ~given).astype(np.float32) @ edge > 0
            climbs = np.where(given, down, up).astype(np.float32) @ edge.T > 0
            if not ((falls & ~down) | (climbs & ~up)).any():
                return ~(up | down)[rows, other]
            up, down = up | climbs, down | falls


def _entries(bucket: Bucket, variables: Iterable[int]) -> Array:
    """For each entry of a bucket, the number that the bits of some of its variables make, int `[entry]`."""
    place = {v: i for i, v in enumerate((bucket.variable, *reversed(bucket.scope)))}
    here, found = np.arange(len(bucket.table)), np.zeros(len(bucket.table), np.int64)
    for v in variables:
        found = 2 * found + (here >> place[v] & 1)
    return found


def sorted_causally(edges: Array) -> list[int]:
    """Variables with causes before effects; those on a directed cycle, and their effects, are left out."""
    order: list[int] = []
    causes = edges.sum(axis=0)
    while len(free := np.flatnonzero(causes == 0)):
        order += free.tolist()
        causes = causes - edges[free].sum(axis=0)
        causes[free] = -1
    return order
