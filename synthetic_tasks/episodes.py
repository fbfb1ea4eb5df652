"""Drawing few-shot sequences: which classes, labels and exemplars stand where, and what becomes of them as a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from synthetic_tasks.skew import bursts, cumulative, draw_distinct, invert
from synthetic_tasks.strategies import onehot
from synthetic_tasks.task import Array, Batch, Pairs, join

if TYPE_CHECKING:
    from synthetic_tasks.classification import Classification

COMMON = 10  # classes that count as common (Chan et al. 2022)


class Drawn(NamedTuple):
    """Sequences before they become tokens: classes and labels `[batch item]`, the query last.

    `places` says which of the drawn classes stands where: 0 to bursters - 1 for those that burst, then the others.
    """

    classes: Array
    labels: Array
    bursty: Array
    places: Array = np.zeros((0, 0), np.int64)

    def where(self, mine: Array, other: Drawn) -> Drawn:
        """These sequences where `mine` `[batch]`, else the other ones."""
        classes, labels = (np.where(mine[:, None], a, b) for a, b in zip(self[:2], other[:2], strict=True))
        return Drawn(classes, labels, np.where(mine, self.bursty, other.bursty), self.places)


def trained(task: Classification, rng: np.random.Generator, n: int) -> Drawn:
    """Sequences of all sorts, in the shares that the dials name."""
    novel = rng.random(n) < task.p_novel
    bursty = novel | (rng.random(n) < task.p_bursty)
    some = in_bursts(task, rng, n, task.burst, task.bursters, task.distinct)
    if task.p_novel:
        some = some.where(~novel, renewed(task, rng, some, 0))
    if task.p_bursty < 1:
        some = some.where(bursty, independent(task, rng, n))
    return relabelled(task, rng, some, "trained") if task.reassigned else some


def independent(task: Classification, rng: np.random.Generator, n: int) -> Drawn:
    """All classes independent, each with one of its labels."""
    classes = invert(rng, task.cdf, (n, task.examples + 1))
    return Drawn(classes, one_of_its_own(task, rng, classes), np.zeros(n, np.int64))


def in_bursts(
    task: Classification, rng: np.random.Generator, n: int, copies: int, bursters: int, distinct: bool
) -> Drawn:
    """Bursts of `bursters` trained classes, `copies` each; the query's class is one of them."""
    cdf = task.cdf if task.skewed_bursts else cumulative(np.ones(task.classes))
    burst = invert(rng, cdf, (n, bursters))
    labels = one_of_its_own(task, rng, burst)
    told = burst if task.reassigned else labels  # what tells classes apart; unless they own several labels
    enough = task.reassigned or task.multiplicity == 1
    for i in range(1, bursters):
        if distinct:

            def clash(rows: Array, i: int = i) -> Array:
                again = (told[rows, :i] == told[rows, i, None]).any(axis=1)
                return again if enough else again | (burst[rows, :i] == burst[rows, i, None]).any(axis=1)

            draw_until(task, rng, clash, cdf, burst, labels, i)
        else:  # a class drawn twice keeps to one label
            same = burst[:, :i] == burst[:, i, None]
            kept = np.take_along_axis(labels, same.argmax(axis=1)[:, None], axis=1)[:, 0]
            labels[:, i] = np.where(same.any(axis=1), kept, labels[:, i])
    rest = invert(rng, task.cdf, (n, task.examples - copies * bursters))
    # slot s of an unshuffled context belongs to class s // copies of the burst, or to the rest
    whose = np.r_[np.repeat(np.arange(bursters), copies), bursters + np.arange(rest.shape[1])]
    order, asked = bursts(rng, n, (1,) * task.examples), rng.integers(bursters, size=(n, 1))
    places = np.concatenate([whose[order], asked], axis=1)
    classes = np.take_along_axis(np.concatenate([burst, rest], axis=1), places, axis=1)
    every = np.concatenate([labels, one_of_its_own(task, rng, rest)], axis=1)
    return Drawn(classes, np.take_along_axis(every, places, axis=1), np.ones(n, np.int64), places)


def draw_until(
    task: Classification,
    rng: np.random.Generator,
    again: Callable[[Array], Array],
    cdf: Array,
    classes: Array,
    labels: Array,
    column: int,
) -> None:
    """Draw one column of classes and labels again, in the rows where it must not stay as it is."""
    rows = np.arange(len(classes))
    for _ in range(10_000):
        rows = rows[again(rows)]
        if not len(rows):
            return
        classes[rows, column] = drawn = invert(rng, cdf, len(rows))
        labels[rows, column] = one_of_its_own(task, rng, drawn)
    raise ValueError(f"zipf = {task.zipf}: so steep that classes with other labels are never drawn")


def distinct(rng: np.random.Generator, total: int, n: int, k: int) -> Array:
    """`n` times `k` distinct ones of `total`, each as likely, int `[n k]` in the order drawn."""
    if total <= 16 * k:  # shuffling all is cheaper than drawing again what was drawn before
        return rng.permuted(np.tile(np.arange(total), (n, 1)), axis=1)[:, :k]
    return draw_distinct(rng, np.ones(total), n, k)


def one_of_its_own(task: Classification, rng: np.random.Generator, classes: Array) -> Array:
    """One of the labels of each class."""
    if task.multiplicity == 1:
        return classes % task.outputs
    return (classes * task.multiplicity + rng.integers(task.multiplicity, size=classes.shape)) % task.outputs


def choose_exemplars(task: Classification, rng: np.random.Generator, classes: Array) -> Array:
    """Which exemplar each item `[batch item]` is; where they are endless each is the one of its place."""
    n, most = classes.shape
    same = classes[:, :, None] == classes[:, None, :]
    exemplars = np.tile(np.arange(most), (n, 1))
    if task.exemplars is not None:  # one order for a sequence, turned by an amount of its own for each class
        enough = min(most, task.exemplars)
        order = distinct(rng, task.exemplars, n, enough)
        turns = rng.integers(task.exemplars, size=(n, most))
        before = np.tril(same, -1).sum(axis=2)  # items of its class
        own = np.take_along_axis(order, np.minimum(before, enough - 1), axis=1)
        own = (own + np.take_along_axis(turns, same.argmax(axis=2), axis=1)) % task.exemplars
        exemplars = np.where(before < enough, own, turns)
    if task.query == "identical":
        match = rng.random((n, most - 1)) * same[:, -1, :-1]
        like = exemplars[np.arange(n), match.argmax(axis=1)]
        exemplars[:, -1] = np.where(match.any(axis=1), like, exemplars[:, -1])
    return exemplars


def renewed(task: Classification, rng: np.random.Generator, drawn: Drawn, use: int) -> Drawn:
    """The same bursts with new classes; labels are drawn for the sequence. `use` 0: training, 1: the splits."""
    n, most = len(drawn.classes), task.examples
    new = np.tile(np.arange(most), (n, 1))
    if task.items == "symbols":
        new = distinct(rng, task.novel, n, most) + use * task.novel
    classes = task.classes + np.take_along_axis(new, drawn.places, axis=1)
    return relabelled(task, rng, drawn._replace(classes=classes), "")


def relabelled(task: Classification, rng: np.random.Generator, drawn: Drawn, use: str) -> Drawn:
    """Labels drawn for the sequence, those of its classes distinct as far as there are enough."""
    n, most, allowed = len(drawn.classes), task.examples, np.arange(task.outputs)[None]
    if use in task.fixed:
        allowed = rng.permuted(task.fixed[use][rng.integers(len(task.fixed[use]), size=n)], axis=1)
        fresh = np.tile(allowed, (1, most))[:, :most]
    else:
        fresh = distinct(rng, task.outputs, n, min(most, task.outputs))
        fresh = np.concatenate([fresh, rng.integers(task.outputs, size=(n, most - fresh.shape[1]))], axis=1)
    same = drawn.classes[:, :, None] == drawn.classes[:, None, :-1]
    owner = np.where(same.any(axis=2), same.argmax(axis=2), most)  # the first place with the same class
    number = np.cumsum(owner == np.arange(most + 1), axis=1) - 1  # classes counted in the order they come
    labels = np.take_along_axis(fresh, np.take_along_axis(number, owner % most, axis=1), axis=1)
    alone = np.flatnonzero(owner[:, -1] == most)  # queries that nothing in the context tells about: any label
    labels[alone, -1] = allowed[alone % len(allowed), rng.integers(allowed.shape[1], size=len(alone))]
    return drawn._replace(labels=labels)


def remembered(task: Classification, rng: np.random.Generator, n: int, split: str) -> Drawn:
    """A query whose class and labels are not in the context."""
    common = min(COMMON, task.classes // 2)
    ranges = {"iwl_common": (0, common), "iwl_rare": (common, task.classes)}
    asked = rng.integers(*ranges[split], size=n) if split in ranges else invert(rng, task.cdf, n)
    classes = np.concatenate([invert(rng, task.cdf, (n, task.examples)), asked[:, None]], axis=1)
    labels, own = one_of_its_own(task, rng, classes), task.owned(asked)
    for i in range(task.examples):
        draw_until(
            task, rng, lambda rows, i=i: (own[rows] == labels[rows, i, None]).any(1), task.cdf, classes, labels, i
        )
    if split == "ciwl":
        labels[np.arange(n), rng.integers(task.examples, size=n)] = labels[:, -1]
    return Drawn(classes, labels, np.zeros(n, np.int64))


def as_batch(task: Classification, rng: np.random.Generator, drawn: Drawn, exemplars: Array | None = None) -> Batch:
    """Tokens, vectors and facts."""
    exemplars = choose_exemplars(task, rng, drawn.classes) if exemplars is None else exemplars
    classes, labels = drawn.classes, drawn.labels
    n, where = len(classes), np.arange(0, task.context, 2)
    tokens, targets = np.full((n, task.context), -1), np.full((n, task.context), -1)
    tokens[:, 1::2], targets[:, -1] = labels[:, :-1], labels[:, -1]
    vectors = None
    if task.items == "symbols":
        tokens[:, ::2] = task.outputs + classes * (task.exemplars or 1) + exemplars
    else:
        vectors = np.zeros((n, task.context, task.dim), np.float32)
        vectors[:, ::2] = items_of(task, rng, classes, exemplars)
    item = np.full((n, task.context), -1)
    item[:, 1::2] = where[:-1]
    right = labels[:, :-1] == labels[:, -1:]
    matched = right & (classes[:, :-1] == classes[:, -1:])
    rank = (matched * 2 + right) * task.examples + np.arange(task.examples)  # its own class first, then the latest
    answer = np.full((n, task.context), -1)
    answer[:, -1] = np.where(right.any(axis=1), 2 * rank.argmax(axis=1) + 1, -1)
    known = (classes[:, -1] < task.classes) & (not task.reassigned)
    facts = {
        "classes": classes,
        "exemplars": exemplars,
        "labels": labels,
        "owned": np.where(known[:, None], task.owned(classes[:, -1]), -1),
        "bursty": drawn.bursty,
        "rank": np.where(classes[:, -1] < task.classes, classes[:, -1], -1),
        "answerable": matched.any(axis=1).astype(np.int64),
        "item": item,
        "label": answer,
    }
    return Batch(tokens, targets, vectors, facts)


def items_of(task: Classification, rng: np.random.Generator, classes: Array, exemplars: Array) -> Array:
    """Items, float32 `[batch item dim]`; equal exemplars of a class are equal."""
    code, new = classes * (task.exemplars or task.context) + exemplars, classes >= task.classes
    means = known_or_new(rng, task.fixed["means"], (classes,), new)
    if task.exemplars is not None:
        noise = known_or_new(rng, task.fixed["noise"], (classes, exemplars), new, code)
    else:
        noise = normal(rng, means.shape)
        noise = shared(noise, code) if task.query == "identical" else noise
    noise *= np.float32(task.noise)
    noise += means
    noise /= np.float32(np.sqrt(1 + task.noise**2))
    return noise


def known_or_new(
    rng: np.random.Generator, known: Array, index: tuple[Array, ...], new: Array, code: Array | None = None
) -> Array:
    """Vectors `known[index]`, but fresh ones where `new` `[batch item]`; equal codes in a sequence share one."""
    if not new.any():
        return known[index]
    values = normal(rng, (*new.shape, known.shape[-1]))
    values[~new] = known[tuple(i[~new] for i in index)]
    return shared(values, index[0] if code is None else code)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Vectors `[... dim]` of about unit length: float32 N(0, I / dim), at a third of the price of numpy's normals."""
    return quantiles(shape[-1]).take(rng.integers(65_536, size=shape, dtype=np.uint16))


@cache
def quantiles(dim: int) -> Array:
    """65,536 equally likely values of N(0, 1 / dim), float32; the variance is right within 3 in 100,000."""
    below = np.array([NormalDist().inv_cdf((i + 0.5) / 65_536) for i in range(32_768)])
    return (np.concatenate([below, -below[::-1]]) / np.sqrt(dim)).astype(np.float32)


def shared(values: Array, code: Array) -> Array:
    """`values` `[batch item dim]` of the first item of the sequence with the same code `[batch item]`."""
    n, items, dim = values.shape
    first = (code[:, :, None] == code[:, None, :]).argmax(axis=2) + items * np.arange(n)[:, None]
    return values.reshape(n * items, dim).take(first, axis=0)


def one_each(task: Classification, rng: np.random.Generator, n: int) -> tuple[Drawn, Array]:
    """Sequences of new classes with one example each, and which of their items is of the query's class, `[batch]`."""
    drawn = renewed(task, rng, in_bursts(task, rng, n, 1, task.examples, False), 1)
    return drawn, (drawn.classes[:, :-1] == drawn.classes[:, -1:]).argmax(axis=1)


def another_label(task: Classification, rng: np.random.Generator, n: int) -> Pairs:
    """Pairs that differ in the label beside the item of the query's class."""
    drawn, at = one_each(task, rng, n)
    answer, labels, rows = drawn.labels[:, -1], drawn.labels.copy(), np.arange(n)
    present = onehot(labels, task.outputs).any(axis=1)
    liking = rng.random((n, task.outputs)) - present  # rather one that is not there
    liking[rows, answer] = -2
    labels[rows, at] = labels[:, -1] = foil = liking.argmax(axis=1)
    clean = as_batch(task, rng, drawn)
    other = as_batch(task, rng, drawn._replace(labels=labels), clean.facts["exemplars"])
    corrupt = Batch(other.tokens, other.targets, clean.vectors, other.facts)
    return Pairs(clean, corrupt, np.full(n, task.context - 1), answer, foil)


def another_place(task: Classification, rng: np.random.Generator, n: int) -> Pairs:
    """Pairs in which the item of the query's class has changed places with one that has another label."""
    found: list[Pairs] = []
    for _ in range(100):
        drawn, at = one_each(task, rng, n)
        clean = as_batch(task, rng, drawn)
        free = drawn.labels[:, :-1] != drawn.labels[:, -1:]
        other = np.where(free, rng.random(free.shape), -1).argmax(axis=1)
        rows = np.flatnonzero(free.any(axis=1))
        order = np.tile(np.arange(task.examples + 1), (n, 1))
        order[rows, at[rows]], order[rows, other[rows]] = other[rows], at[rows]
        classes, exemplars = (np.take_along_axis(clean.facts[name], order, 1) for name in ("classes", "exemplars"))
        labels = np.concatenate([drawn.labels[:, :-1], drawn.labels[np.arange(n), other][:, None]], axis=1)
        moved = as_batch(task, rng, drawn._replace(classes=classes, labels=labels), exemplars)
        vectors = clean.vectors
        if vectors is not None:
            vectors = vectors.copy()
            vectors[:, ::2] = np.take_along_axis(vectors[:, ::2], order[..., None], axis=1)
        last = np.full(n, task.context - 1)
        corrupt = Batch(moved.tokens, moved.targets, vectors, moved.facts)
        found.append(Pairs(clean[rows], corrupt[rows], last[rows], drawn.labels[rows, -1], labels[rows, -1]))
        if sum(len(pairs.answer) for pairs in found) >= n:
            return join(found, n)
    raise ValueError(f"no pairs of kind 'item' at examples = {task.examples}: all items of a sequence have one label")


PAIRS = {"label": another_label, "item": another_place}
