"""What takes the place of an activation: another input's, nothing, a mean, another sequence's, noise, a direction.

Each takes what sites hold (`Sweep.hold`), `[member batch ...]` by name, and gives the same axes: a `source` of a sweep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probelab.sweep import Held
from synthetic_tasks import stream


def zero(held: Held) -> dict[str, Tensor]:
    """Nothing (zero ablation). Rarely what the rest of a model has ever met: prefer `mean` or `resample`."""
    return {name: torch.zeros_like(value) for name, value in held.items()}


def mean(held: Held) -> dict[str, Tensor]:
    """The mean over the sequences, position by position (mean ablation)."""
    return {name: value.mean(1, keepdim=True).expand_as(value) for name, value in held.items()}


def resample(held: Held, seed: int = 0) -> dict[str, Tensor]:
    """What the sites hold for another sequence: every sequence gets the next one's in a random order."""
    first = next(iter(held.values()))
    order = stream("resample", seed).permutation(first.shape[1])
    others = torch.empty(len(order), dtype=torch.int64)
    others[order] = torch.as_tensor(order).roll(1)
    return {name: value[:, others.to(value.device)] for name, value in held.items()}


def noise(held: Held, scale: float = 3.0, seed: int = 0) -> dict[str, Tensor]:
    """Gaussian noise added, `scale` standard deviations of what each entry of the site holds; the same for all members.

    Off the distribution that a model knows: Zhang & Nanda 2024 advise other inputs instead.
    """
    found = {}
    for name, value in held.items():
        drawn = stream("noise", seed, name).standard_normal(tuple(value.shape[1:]))
        spread = value.std(1, keepdim=True, correction=0)
        found[name] = value + scale * spread * torch.as_tensor(drawn).to(value)
    return found


def add(held: Held, direction: Tensor) -> dict[str, Tensor]:
    """A direction `[... d]` added (steering)."""
    return {name: value + direction.to(value) for name, value in held.items()}
