"""Linear probes of many cells at once: a cell is a place in a model (a layer, a position) at a checkpoint.

Features are `[cell n d]`, labels int `[cell target n]`: 0 to classes - 1, and -1 for examples that are left out. All
targets of a cell are fitted together, on the same examples. Features are standardised by the examples fitted on.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from synthetic_tasks.task import require

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)  # Voita & Titov 2020
LEAST = 16  # examples in the first block of an online code: fractions that hold fewer are skipped


class Linear(NamedTuple):
    """Fitted probes: `weight [cell target class d]` and `bias [cell target class]`, for features as they come."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Scores `[cell target class n]` of features `[cell n d]`."""
        scores = self.weight.flatten(1, 2) @ x.to(self.weight).mT
        return scores.unflatten(1, self.bias.shape[1:]) + self.bias[..., None]


class Standard(NamedTuple):
    """Features `z [cell n d]` of mean 0 and scale 1 over the examples that count, else 0; the former, `[cell 1 d]`."""

    z: Tensor
    mean: Tensor
    scale: Tensor

    def raw(self, weight: Tensor, bias: Tensor) -> Linear:
        """Probes of `z` as probes of the features themselves."""
        weight = weight / self.scale[:, None]
        return Linear(weight, bias - (weight * self.mean[:, None]).sum(-1))


def standard(x: Tensor, there: Tensor) -> Standard:
    """Standardise `x [cell n d]` over the examples that are `there [cell n]`; constant features are only centred."""
    counts = there.to(x)[:, None]
    n = counts.sum(-1, keepdim=True).clamp(min=1)
    mean = counts @ x / n
    z = x - mean
    if not there.all():
        z *= counts.mT
    scale = (z.square().sum(1, keepdim=True) / n).sqrt()
    constant = scale <= 100 * torch.finfo(x.dtype).eps * mean.abs()  # no more than what rounding leaves
    scale = torch.where(constant, 1.0, scale)
    return Standard(z.div_(scale), mean, scale)


def counting(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which examples count, bool `[cell n]`; refuses labels that do not belong to these features."""
    shape = tuple(labels.shape)
    require(labels.ndim == 3 and (shape[0], shape[2]) == x.shape[:2], "shape of labels", shape, "[cell target n] as x")
    require(bool((labels < classes).all()), "classes", classes, "more than the largest label")
    there = labels >= 0
    require(bool((there == there[:, :1]).all()), "labels", -1, "left out of all targets of a cell, or of none")
    return there[:, 0]


def onehot(labels: Tensor, classes: int) -> Tensor:
    """bool `[... class n]` of labels `[... n]`; -1 is of no class."""
    return labels[..., None, :] == torch.arange(classes, device=labels.device)[:, None]


def ridge(x: Tensor, labels: Tensor, classes: int, penalty: float = 1.0) -> Linear:
    """Least squares towards 1 for an example's own class and -1 for the others, plus `penalty` times |weight|^2.

    Closed form: one Gram matrix and its Cholesky factor serve all targets of a cell. Sums over examples are taken in
    the precision of `x`, and solved for in float64. Scores are those of scikit-learn's `RidgeClassifier(alpha=penalty)`
    (which of two classes keeps the second alone).
    """
    require(penalty > 0, "penalty", penalty, "more than 0")
    there, truth = counting(x, labels, classes), onehot(labels, classes)
    found = standard(x, there)
    level = 2 * truth.sum(-1).double() / there.sum(-1).clamp(min=1)[:, None, None] - 1
    wanted = truth.to(x).mul_(2).sub_(1).flatten(1, 2) @ found.z
    gram = (found.z.mT @ found.z).double()
    gram.diagonal(dim1=-2, dim2=-1).add_(penalty)
    weight = torch.cholesky_solve(wanted.double().mT, torch.linalg.cholesky(gram)).mT
    return found.raw(weight.unflatten(1, level.shape[1:]), level)


def logistic(
    x: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float = 1.0,
    start: Linear | None = None,
    tolerance: float = 1e-5,
    most: int = 1000,
) -> Linear:
    """Multinomial logistic regression: summed log-loss plus `penalty` / 2 times |weight|^2, in the precision of `x`.

    The objective is that of scikit-learn's `LogisticRegression(C=1 / penalty)`; as there, two classes share one
    direction, whose norm counts once. Classes that a cell has no example of get probability 0.

    The method: conjugate gradients (Polak & Ribiere), preconditioned by the curvature X'X / classes + penalty that the
    objective has where all classes are as likely (Boehning 1992 bounds it by X'X / 2). It never changes, so one factor
    serves all targets and iterations. A probe is done where no gradient of the mean objective exceeds `tolerance`; all
    are after `most` iterations. `start` saves iterations, and changes nothing beyond the tolerance.
    """
    require(penalty > 0, "penalty", penalty, "more than 0")
    there, truth = counting(x, labels, classes), onehot(labels, classes)
    found, seen = standard(x, there), truth.any(-1, keepdim=True)
    z = torch.cat([found.z, there.to(x)[..., None]], -1)  # the bias is the weight of a feature that is always 1
    decay = z.new_full((z.shape[-1],), penalty * (2 if classes == 2 else 1))
    decay[-1] = 0
    objective = Objective(z, truth.to(z), ~seen & seen.any(-2, keepdim=True), decay)
    curve = z.mT @ z / classes + torch.diag(decay)
    curve[:, -1, -1].clamp_(min=0.5)  # in a cell without examples
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curve))[:, None]
    enough = tolerance * there.sum(-1, keepdim=True)

    weight = begin(start, found, seen) if start else z.new_zeros(*truth.shape[:3], z.shape[-1])
    at, step = objective.at(weight, objective.scores(weight)), None
    before = uphill = weight
    for _ in range(most):
        slope = objective.slope(at)
        going = slope.abs().amax((-2, -1)) > enough
        if not going.any():
            break
        onward = slope @ inverse
        if step is None:
            step = -onward
        else:
            turn = dot(slope - before, onward) / dot(before, uphill).clamp(min=torch.finfo(z.dtype).tiny)
            step = turn.clamp(min=0) * step - onward
            step = torch.where(dot(slope, step) < 0, step, -onward)
        before, uphill = slope, onward
        at = objective.along(at, step * going[..., None, None], slope)
    weight, bias = at.weight[..., :-1], at.weight[..., -1]
    return found.raw(weight, bias.masked_fill(objective.unseen[..., 0], -math.inf))


def begin(start: Linear, found: Standard, seen: Tensor) -> Tensor:
    """The weights of fitted probes for standardised features, the bias last, `[cell target class d+1]`."""
    bias = start.bias.nan_to_num(neginf=0) + (start.weight * found.mean[:, None]).sum(-1)
    weight = torch.cat([start.weight * found.scale[:, None], bias[..., None]], -1).to(found.z) * seen
    # What all classes share changes no probability, and would fade slowly.
    return (weight - weight.sum(-2, keepdim=True) / seen.sum(-2, keepdim=True).clamp(min=1)) * seen


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last two axes, kept as axes of 1."""
    return (a * b).sum((-2, -1), keepdim=True)


class Point(NamedTuple):
    """Weights `[cell target class d+1]`, and the scores and probabilities `[cell target class n]` that they give."""

    weight: Tensor
    scores: Tensor
    p: Tensor


class Objective(NamedTuple):
    """What `logistic` makes small, of features `z [cell n d+1]` and `truth [cell target class n]`."""

    z: Tensor
    truth: Tensor
    unseen: Tensor  # classes without an example, `[cell target class 1]`
    decay: Tensor  # `[d+1]`

    def scores(self, weight: Tensor) -> Tensor:
        """`[cell target class n]`, linear in `weight [cell target class d+1]`."""
        return (weight.flatten(1, 2) @ self.z.mT).unflatten(1, weight.shape[1:3])

    def at(self, weight: Tensor, scores: Tensor) -> Point:
        return Point(weight, scores, scores.masked_fill(self.unseen, -math.inf).softmax(-2))

    def slope(self, at: Point) -> Tensor:
        """The gradient, `[cell target class d+1]`."""
        wrong = at.p - self.truth
        return (wrong.flatten(1, 2) @ self.z).unflatten(1, at.weight.shape[1:3]) + self.decay * at.weight

    def along(self, at: Point, step: Tensor, slope: Tensor) -> Point:
        """As far along `step` as Newton says, and less far where that leads uphill again."""
        moved = self.scores(step)
        mean = (at.p * moved).sum(-2, keepdim=True)
        ahead, curve = dot(slope, step), dot(at.p * moved, moved - mean) + dot(self.decay * step, step)
        length = -ahead / curve.clamp(min=torch.finfo(moved.dtype).tiny)
        for _ in range(5):
            new = self.at(at.weight + length * step, at.scores + length * moved)
            there = dot(new.p - self.truth, moved) + dot(self.decay * new.weight, step)
            over = there > -0.1 * ahead
            if not over.any():
                break
            length = torch.where(over, length * ahead / (ahead - there), length)
        return new


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """1 where the highest score `[... class n]` is that of the label `[... n]`, else 0 (also where it is -1)."""
    return (scores.argmax(-2) == labels).double()


def nats(log_probs: Tensor, labels: Tensor, fitted: Tensor) -> Tensor:
    """Loss in nats, `[... n]`, of log-probabilities `[... class n]`; 0 where a label is -1.

    What was fitted on few examples may never have seen a class. So its word is mixed with that of one example that is
    of every class alike, `(fitted * p + 1 / classes) / (fitted + 1)`: of label frequencies this is add-one smoothing,
    spread over the classes. `fitted` is the number of examples, `[... 1]`.
    """
    p = log_probs.double().gather(-2, labels.clamp(min=0)[..., None, :])[..., 0, :].exp()
    mixed = (fitted * p + 1 / log_probs.shape[-2]) / (fitted + 1)
    return torch.where(labels >= 0, -mixed.log(), 0.0)


def frequencies(labels: Tensor, classes: int) -> Tensor:
    """Log of the share of each class among labels `[... n]`, `[... class 1]`: the probe that sees no features."""
    counts = onehot(labels, classes).sum(-1, keepdim=True).double()
    return (counts / counts.sum(-2, keepdim=True).clamp(min=1)).log()


def online_code(x: Tensor, labels: Tensor, classes: int, penalty: float = 1.0) -> Tensor:
    """Bits that the labels take, given the features: prequential coding (Voita & Titov 2020), `[cell target]`.

    Examples are sent in blocks in the order given, which must be random. The first is sent with a uniform code, each
    further one with a logistic probe of all before it (`nats` says how classes not yet seen are sent). Divide
    `uniform_code` by it for the compression.
    """
    n = labels.shape[-1]
    ends = [round(share * n) for share in FRACTIONS if round(share * n) >= LEAST] or [n]
    bits, probes = uniform_code(labels[..., : ends[0]], classes), None
    for start, end in pairwise(ends):
        past = labels[..., :start]
        probes = logistic(x[:, :start], past, classes, penalty, probes)
        log_probs, fitted = probes(x[:, start:end]).log_softmax(-2), (past >= 0).sum(-1, keepdim=True)
        bits = bits + nats(log_probs, labels[..., start:end], fitted).sum(-1) / math.log(2)
    return bits


def uniform_code(labels: Tensor, classes: int) -> Tensor:
    """Bits that labels `[... n]` take where every class is as likely, `[...]`."""
    return (labels >= 0).sum(-1) * math.log2(classes)
