"""What takes the place of an activation: another input's, nothing, a mean, another sequence's, noise, a direction.

Each takes what sites hold (`Sweep.hold`), `[member batch ...]` by name, and gives a `source` of a sweep. A source is a
fixed value: of several places along one path, the last one has the last word.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from probelab.sweep import Held
from synthetic_tasks import stream
from synthetic_tasks.task import require


def zero(held: Held) -> dict[str, Tensor]:
    """Nothing (zero ablation); the future stays masked. Rarely what a model has ever met: prefer `mean`, `resample`."""
    return {name: unmasked(value, torch.zeros_like(value)) for name, value in held.items()}


def mean(held: Held) -> dict[str, Tensor]:
    """The mean over the sequences, position by position (mean ablation): `[member 1 ...]`, for any base."""
    return {name: value.mean(1, keepdim=True) for name, value in held.items()}


def partners(n: int, seed: int = 0) -> np.ndarray:
    """For each of `n` sequences another one: the next in a random order, int `[n]`."""
    require(n >= 2, "sequences", n, "at least 2, to take another one's value")
    order = stream("resample", seed).permutation(n)
    others = np.empty(n, np.int64)
    others[order] = np.roll(order, 1)
    return others


def resample(held: Held, seed: int = 0) -> dict[str, Tensor]:
    """What the sites hold for another sequence (`partners`)."""
    others = torch.as_tensor(partners(next(iter(held.values())).shape[1], seed))
    return {name: value[:, others.to(value.device)] for name, value in held.items()}


def known(held: Held) -> dict[str, Tensor]:
    """The same with 0 where the future is masked."""
    return {name: torch.where(value == -torch.inf, 0, value) for name, value in held.items()}


def spread(held: Held) -> dict[str, Tensor]:
    """Standard deviation over the sequences of each entry, `[member 1 ...]`; 0 where the future is masked."""
    return {name: value.std(1, keepdim=True, correction=0) for name, value in known(held).items()}


def gaussian(
    held: Held, scale: float = 3.0, seed: int = 0, first: int = 0, width: Held | None = None
) -> dict[str, Tensor]:
    """Noise added, `scale` standard deviations of what each entry holds; the same for all members.

    `first` is the number of the first sequence, which has noise of its own; `width` the standard deviations, if these
    are not all the sequences. Off the distribution that a model knows: Zhang & Nanda 2024 advise other inputs instead.
    """
    require(scale >= 0, "scale", scale, "0 or more standard deviations")
    found, width = {}, spread(held) if width is None else width
    for name, value in held.items():
        shape = tuple(value.shape[2:])
        rows = [stream("noise", seed, name, first + k).standard_normal(shape) for k in range(value.shape[1])]
        found[name] = value + scale * width[name] * torch.as_tensor(np.stack(rows)).to(value)
    return found


def add(held: Held, direction: Tensor) -> dict[str, Tensor]:
    """A direction `[... d]` added (steering)."""
    return {name: value + direction.to(value) for name, value in held.items()}


def unmasked(value: Tensor, made: Tensor) -> Tensor:
    """What was made, but minus infinity where scores mask the future."""
    return torch.where(value == -torch.inf, value, made)
