"""Parts of features `[cell n d]`: what a probe reads, what LEACE takes out, and random parts to compare with.

What a probe reads is not what lies along its weights: these also turn to features that carry nothing, to cancel noise
(Haufe et al. 2014). So parts are orthogonal where features are white. To change the part that a probe reads is then the
least change of features, as their covariance measures it, that changes what it reads; LEACE is built the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from probelab.probes import Linear


class White(NamedTuple):
    """To white features and back: `(x - mean) @ whiten @ colour` is `x - mean`, but for directions that never vary."""

    mean: Tensor  # [cell 1 d]
    whiten: Tensor  # [cell d d], symmetric: covariance^(-1/2)
    colour: Tensor  # [cell d d], symmetric: covariance^(1/2)


class Part(NamedTuple):
    """A part of features: `(x - mean) @ projects`; `x - part(x)` is without it."""

    mean: Tensor  # [cell 1 d]
    projects: Tensor  # [cell d d]

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.projects


def white(x: Tensor, there: Tensor) -> White:
    """Whitening of `x [cell n d]` over the examples that are `there [cell n]`, in float64."""
    counts = there.double()[..., None]
    n = counts.sum(1, keepdim=True).clamp(min=1)
    mean = (x * counts).sum(1, keepdim=True) / n
    z = (x - mean) * counts
    values, axes = torch.linalg.eigh(z.mT @ z / n)
    vary = values > 1e-12 * values[:, -1:]  # what rounding in float32 leaves is less
    root = torch.where(vary, values, 1.0).sqrt()[:, None]
    return White(mean, axes / root * vary[:, None] @ axes.mT, axes * root * vary[:, None] @ axes.mT)


def along(space: White, basis: Tensor) -> Part:
    """The part along an orthonormal basis `[cell dims d]` of white features."""
    return Part(space.mean, space.whiten @ basis.mT @ basis @ space.colour)


def read_by(probes: Linear, space: White, dims: int | None = None) -> Tensor:
    """A basis of what the probes of each cell's first target read of white features, `[cell dims d]`.

    That is the span of the differences of the classes' weights: classes - 1 dimensions (or d, if that is less), or the
    `dims` of them that tell most. Where weights span less, the vectors left over are 0.
    """
    weight = probes.weight[:, 0].double() @ space.colour
    return spanned(weight - weight.mean(-2, keepdim=True))[:, : min(weight.shape[1] - 1, dims or weight.shape[1])]


def told_by(x: Tensor, concept: Tensor, there: Tensor, space: White) -> Tensor:
    """A basis of all that white features tell linearly of a concept `[cell n k]`, real numbers, `[cell min(k, d) d]`.

    Without the part along it features and concept are uncorrelated over the examples that are `there [cell n]`, and no
    linear probe finds the concept: LEACE (Belrose et al. 2023, theorem 4.3). A label is one column a class.
    """
    counts = there.double()[..., None]
    n = counts.sum(1, keepdim=True).clamp(min=1)
    centred = (concept.double() - (concept * counts).sum(1, keepdim=True) / n) * counts
    return spanned(centred.mT @ (x - space.mean) / n @ space.whiten)


def random_basis(rng: np.random.Generator, cells: int, dims: int, d: int) -> Tensor:
    """An orthonormal basis of a random subspace for each cell, float64 `[cell dims d]`."""
    return torch.linalg.qr(torch.from_numpy(rng.standard_normal((cells, d, dims)))).Q.mT


def spanned(rows: Tensor) -> Tensor:
    """An orthonormal basis of what rows `[cell k d]` span, the longest extent first; 0 where they span less."""
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis * (sizes > 1e-9 * sizes[:, :1].clamp(min=1e-3))[..., None]
