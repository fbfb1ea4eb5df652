"""What samples of a Bayesian network show, as sequences: which variables are drawn, how they are written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from synthetic_tasks.chain import packed
from synthetic_tasks.locality import drop, neighbourhoods, radii
from synthetic_tasks.task import Array, Batch

if TYPE_CHECKING:
    from synthetic_tasks.bayes_net import BayesNet

NAMES = 2  # tokens: the values 0 and 1, then a name for each variable, the word "target", a filler
FARTHEST = 1000  # edges: where Zipf's law of the radii is cut off, long after it holds all


class Samples(NamedTuple):
    """Joint states, and which variables of them are shown.

    state            int `[sample variable]`; -1 where it is not known
    owner, variable  int `[shown]`: the sample, ascending, and one of its variables in the order told; the target last
    """

    state: Array
    owner: Array
    variable: Array


class Shown(NamedTuple):
    """The variables shown in texts, int `[shown]` each, from left to right and row by row.

    row, at   where the variable is named
    owner     the sample it belongs to, ascending
    variable  which one
    value     what is told of it; -1 if no value follows
    target    the target named at the head of its sample; -1 if none is
    first     1 where it is the first variable of its sample
    """

    row: Array
    at: Array
    owner: Array
    variable: Array
    value: Array
    target: Array
    first: Array


def drawn(task: BayesNet, rng: np.random.Generator, n: int) -> Samples:
    """Draw `n` samples as the dials say."""
    net, present = task.fixed.net, near(task, rng, n)
    while len(empty := np.flatnonzero(~present.any(axis=1))):
        present[empty] = near(task, rng, len(empty))
    owner, variable = np.nonzero(present)
    variable = variable[np.argsort(owner + rng.random(len(owner)))]
    sizes = present.sum(axis=1)
    if task.order == "causal":
        variable = variable[np.lexsort((np.argsort(net.order)[variable], owner))]
    if task.order == "inward":
        away = net.steps[variable, variable[np.cumsum(sizes) - 1][owner]]
        variable = variable[np.lexsort((-np.where(away < 0, task.variables, away), owner))]
    twice = np.where(sizes == 1, 2, 1)[owner]
    return Samples(net.sample(rng, n), np.repeat(owner, twice), np.repeat(variable, twice))


def near(task: BayesNet, rng: np.random.Generator, n: int) -> Array:
    """Which variables samples show, bool `[sample variable]`; perhaps none."""
    present = np.ones((n, task.variables), bool)
    if task.law != "all":
        beyond = {"zipf": FARTHEST, "fixed": int(task.scale)}.get(task.law, task.variables)
        reach = 1 + radii(rng, n, task.law, task.scale - (task.law == "fixed"), beyond)
        _, present = neighbourhoods(rng, task.fixed.wrong if task.wrong else task.fixed.net.steps, reach)
    present = drop(rng, present, task.dropout)
    for one, other in task.fixed.held if task.apart else ():
        first = rng.random(n) < 0.5
        both = present[:, one] & present[:, other]
        present[both & first, one] = present[both & ~first, other] = False
    return present


def written(task: BayesNet, samples: Samples, n: int, room: int) -> Array:
    """`n` texts of as many samples each, int `[text room+1]`: what does not fit is cut off."""
    state, owner, variable = samples
    sizes = np.bincount(owner, minlength=len(state))
    first, row = np.cumsum(sizes) - sizes, np.arange(len(state)) // (len(state) // n)
    end = np.cumsum((2 * sizes + 2).reshape(n, -1), axis=1).ravel()
    begin = end - 2 * sizes - 2
    at = begin[owner] + 2 * (np.arange(len(owner)) - first[owner]) + 2
    told = np.full((n, max(end.max(), room + 1)), -1)
    told[row, begin], told[row, begin + 1] = task.target, NAMES + variable[first + sizes - 1]
    told[row[owner], at], told[row[owner], at + 1] = NAMES + variable, state[owner, variable]
    return told[:, : room + 1]


def heads(opens: Array) -> Array:
    """Where the target named last stands, int `[batch symbol]`, -1 before there is one; opens: where samples begin."""
    place = np.full(opens.shape, -1)
    place[:, 1:] = np.where(opens[:, :-1], np.arange(1, opens.shape[1]), -1)
    return np.maximum.accumulate(place, axis=1)


def read(told: Array, variables: int) -> Shown:
    """What texts int `[batch symbol]` show; what is malformed in them is no variable."""
    opens = told == NAMES + variables
    head = heads(opens)
    name = (told >= NAMES) & (told < NAMES + variables)
    row, at = np.nonzero(name & (head != np.arange(told.shape[1])))
    owner = row * (told.shape[1] + 1) + np.cumsum(opens, axis=1)[row, at]
    value = np.pad(told, ((0, 0), (0, 1)), constant_values=-1)[row, at + 1]
    target = np.where(head[row, at] >= 0, told[row, head[row, at]] - NAMES, -1)
    return Shown(
        row,
        at,
        owner,
        variable=told[row, at] - NAMES,
        value=np.where((value == 0) | (value == 1), value, -1),
        target=np.where(target < variables, np.maximum(target, -1), -1),
        first=np.diff(owner, prepend=-1) > 0,
    )


def placed(task: BayesNet, told: Array) -> dict[str, Array]:
    """What stands where in the texts of a batch, int `[batch symbol]`: facts of all positions, so not of the last."""
    shown, opens, place = read(told, task.variables), told == task.target, np.arange(told.shape[1])
    header = np.where(opens | (told < 0), -1, heads(opens))
    variable, value, away, nearest = np.full((4, len(told), told.shape[1] + 1), -1)
    named, (row, at) = np.nonzero(header == place), shown[:2]
    variable[named], away[named] = told[named] - NAMES, 0
    variable[row, at] = variable[row, at + 1] = shown.variable
    away[row, at] = away[row, at + 1] = task.fixed.net.steps[shown.variable, shown.target]
    value[row, at] = shown.value
    nearest[row, at] = np.append(at + 1, -1)[nearer(task, shown)]
    sample = np.where(told >= 0, np.cumsum(opens, axis=1) - 1, -1)
    facts = {"sample": sample, "variable": variable, "value": value, "away": away}
    return {name: x[:, : told.shape[1] - 1] for name, x in (facts | {"nearest": nearest, "header": header}).items()}


def asked(task: BayesNet, state: Array, shown: Array) -> dict[str, Array]:
    """Facts of queries that show these variables, int `[batch place]`; where the first is -1 they are no queries."""
    world, net, rows = task.fixed, task.fixed.net, np.arange(len(shown))
    first, last, is_query = shown[:, 0], shown[:, -1], shown[:, 0] >= 0
    evidence, steps = state[rows, first], np.arange(shown.shape[1] - 1)
    cuts = np.where(steps + 2 <= (shown >= 0).sum(axis=1, keepdims=True), 4 + 2 * steps, -1)
    places = np.where(cuts[:, 1:] >= 0, cuts[:, 1:] - 1, -1)
    values = np.take_along_axis(state, packed(shown)[:, 1:-1], axis=1)
    whole = {"evidence": evidence, "held": world.kind[first, last], "distance": net.steps[first, last]}
    p = {"conditional": net.given[first, evidence, last], "marginal": net.marginals[last]}
    between = {"scaffold": world.scaffold[first, last], "path": world.path[first, last]}
    return (
        {name: np.where(is_query, fact, -1) for name, fact in whole.items()}
        | {name: np.where(is_query, fact, np.nan) for name, fact in p.items()}
        | {name: np.where(is_query[:, None], fact, -1) for name, fact in between.items()}
        | {"observed": first, "target": last, "answer": np.where(last >= 0, state[rows, last], -1)}
        | {"cuts": cuts, "places": places, "values": np.where(places >= 0, values, -1)}
        | {"state": state.astype(np.int8)}
    )


def earlier(owner: Array) -> tuple[Array, Array]:
    """All pairs of things of one owner, int `[pair]` each: the later one, and one before it. Owners ascend."""
    before = np.arange(len(owner)) - np.searchsorted(owner, owner)
    later = np.repeat(np.arange(len(owner)), before)
    back = np.arange(len(later)) - np.repeat(np.cumsum(before) - before, before)
    return later, later - 1 - back


def nearer(task: BayesNet, shown: Shown) -> Array:
    """For each variable shown, the nearest one shown before it in its sample, the latest of several; -1 if none."""
    later, before = earlier(shown.owner)
    steps = task.fixed.net.steps[shown.variable[later], shown.variable[before]]
    linked = steps >= 0
    rank = steps * (len(shown.owner) + 1) + later - before
    nearest = np.full(len(shown.owner), np.iinfo(np.int64).max)
    np.minimum.at(nearest, later[linked], rank[linked])
    return np.where(nearest < np.iinfo(np.int64).max, np.arange(len(nearest)) - nearest % (len(nearest) + 1), -1)


def seen_before(shown: Shown, variables: int) -> Array:
    """The values told in its sample before each variable shown, int `[shown variable]`, -1: none; the latest counts."""
    later, before = earlier(shown.owner)
    seen = np.full((len(shown.owner), variables), -1)
    seen[later[::-1], shown.variable[before[::-1]]] = shown.value[before[::-1]]
    return seen


def implied(task: BayesNet, told: Array) -> Array:
    """The likelier value of the target, given all that a text says of other variables, `[batch]`; -1: malformed."""
    shown, fine = well_formed(task, told)
    seen, kept = np.full((len(told), task.variables), -1), shown.value >= 0
    seen[shown.row[kept], shown.variable[kept]] = shown.value[kept]
    target = np.clip(told[:, 1] - NAMES, 0, task.variables - 1)
    likely = (task.fixed.net.conditional(target, seen) > 0.5).astype(np.int64)
    alone = kept & shown.first & (shown.variable == shown.target)  # a sample of one variable, which it shows twice
    likely[shown.row[alone]] = shown.value[alone]
    return np.where(fine, likely, -1)


def parsed(task: BayesNet, told: Array) -> Array:
    """The value written for the target, after at least one other variable, `[batch]`; -1 where none ends the text."""
    shown, fine = well_formed(task, told)
    over = (shown.variable == shown.target) & ~shown.first & (shown.value >= 0)
    row, answer = shown.row[over], np.full(len(told), -1)
    answer[row] = shown.value[over]
    ends = np.zeros(len(told), bool)
    ends[row] = shown.at[over] + 2 == (told >= 0).sum(axis=1)[row]
    return np.where(fine & ends & (np.bincount(row, minlength=len(told)) == 1), answer, -1)


def well_formed(task: BayesNet, told: Array) -> tuple[Shown, Array]:
    """What texts show, and whether each is a beginning of one sample, bool `[batch]`; fillers may stand between."""
    there, place = told >= 0, np.arange(told.shape[1])
    name = (told >= NAMES) & (told < task.target)
    asks = np.pad(name & (place >= 2), ((0, 0), (1, 0)))[:, :-1]
    fine = (told == task.target)[:, 0] & name[:, 1:2].any(axis=1) & (there[:, 1:] <= there[:, :-1]).all(axis=1)
    follows = (told != task.target) & ((told < NAMES) == asks)
    return read(told, task.variables), fine & (follows | ~there | (place < 2)).all(axis=1)


def shows(task: BayesNet, batch: Batch) -> Array:
    """Which variables each sample of a batch shows, as far as it is there, bool `[sample variable]`."""
    row, at = np.nonzero(batch.facts["value"] >= 0)
    owner = np.unique(row * batch.tokens.shape[1] + batch.facts["sample"][row, at], return_inverse=True)[1]
    present = np.zeros((owner.max() + 1, task.variables), bool)
    present[owner, batch.facts["variable"][row, at]] = True
    return present


def guesses(task: BayesNet, tokens: Array) -> dict[str, Array]:
    """Strategies of `BayesNet.oracles` by name -> p(next symbol), float64 `[batch pos outputs]`."""
    net, shown = task.fixed.net, read(tokens, task.variables)
    seen, near = seen_before(shown, task.variables), nearer(task, shown)
    known = np.where(near >= 0, shown.value[near], -1)
    again = seen[np.arange(len(seen)), shown.variable]
    marginal, truth = net.marginals[shown.variable], net.conditional(shown.variable, seen)
    one = {
        "marginal": marginal,
        "nearest": np.where(known >= 0, net.given[shown.variable[near], known, shown.variable], marginal),
        "truth": np.where(again >= 0, again, truth),
    }
    names = np.where(np.arange(task.outputs) < NAMES, 0.0, 1 / (task.outputs - NAMES))
    found = {name: np.tile(names, (*tokens.shape, 1)) for name in one}
    for name, p in one.items():
        found[name][shown.row, shown.at] = 0
        found[name][shown.row, shown.at, :NAMES] = np.stack([1 - p, p], axis=1)
    return found
