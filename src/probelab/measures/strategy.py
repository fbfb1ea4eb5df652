"""How far a model is from each simple strategy of its task, and from the truth: KL divergences in nats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probelab.measures._contract import Row
from probelab.measures._estimate import Mean, pooled
from probelab.measures._read import Array, by_model, by_oracle
from probelab.subject import Subject
from synthetic_tasks import Batch
from synthetic_tasks.task import require

PLACES = 24  # positions at which distances are taken when they are asked for by position; fewer where they coincide


@dataclass(frozen=True)
class Strategy:
    """Distances at the last scored position, as in Edelman et al. 2024; means and 95 % intervals over sequences.

    kl               KL(strategy || model), one row for each `strategy` (the task's oracles); 0 where they agree
    kl_truth         KL(truth || model), in tasks that know the true distribution of the target
    kl_truth_oracle  KL(truth || strategy), constant over steps: the levels to compare `kl_truth` with

    n            sequences that training never sees
    split        where they come from
    by_position  also at positions in log spacing, in rows that have `pos`
    """

    n: int = 1024
    split: str = "train"
    by_position: bool = False

    name = "strategy"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batch = subject.batch(self.n, self.split)
        where, asked = self._places(batch)
        oracles = by_oracle(subject.task, batch, self._told)
        truth = None
        if "truth" in batch.facts:
            with np.errstate(divide="ignore"):
                truth = np.log(np.take_along_axis(batch.facts["truth"], where[..., None], axis=1))
        if not oracles and truth is None:
            raise ValueError(
                f"strategy compares a model with the oracles or the truth of its task, and {subject.task.name!r} has "
                "neither `oracles` nor a fact `truth`: measure loss, or give the task one of them"
            )

        def compared(p: Array, q: Array, **coordinates: str) -> list[Row]:
            mean = pooled(kl(p, q) * asked, asked)
            return [dict(split=self.split, **coordinates, **row) for row in rows(mean, where, asked)]

        constant = []
        if truth is not None:
            for name, told in oracles.items():
                constant += compared(truth, told, metric="kl_truth_oracle", strategy=name)
        for step, model in subject:
            said, found = by_model(model, batch, self._said), []
            for name, told in oracles.items():
                found += compared(told, said, metric="kl", strategy=name)
            if truth is not None:
                found += compared(truth, said, metric="kl_truth")
            yield from (dict(step=step, **row) for row in found + constant)

    def _places(self, batch: Batch) -> tuple[Array, Array]:
        """Positions to look at and whether something is asked there, `[sequence place]`: the last, then the others."""
        length = batch.targets.shape[1]
        where = length - 1 - (batch.targets >= 0)[:, ::-1].argmax(axis=1, keepdims=True)
        if self.by_position:
            grid = np.unique(np.geomspace(1, length, PLACES).round().astype(int)) - 1
            where = np.concatenate([where, np.broadcast_to(grid, (len(batch), len(grid)))], axis=1)
        return where, np.take_along_axis(batch.targets, where, axis=1) >= 0

    def _told(self, part: Batch, logs: Array) -> Array:
        """What an oracle says there, `[sequence place outputs]`."""
        return np.take_along_axis(logs, self._places(part)[0][..., None], axis=1)

    def _said(self, part: Batch, logits: Tensor) -> Array:
        """What the model says there, log-probabilities `[sequence place outputs]`."""
        where = torch.from_numpy(self._places(part)[0]).to(logits.device)
        chosen = logits.gather(1, where[..., None].expand(*where.shape, logits.shape[-1]))
        return chosen.double().log_softmax(-1).cpu().numpy()


def rows(mean: Mean, where: Array, asked: Array) -> Iterator[Row]:
    """The first place without a position, the others with theirs, as far as something is asked there."""
    yield mean.row(0)
    for place in range(1, where.shape[1]):
        if asked[:, place].any():
            yield dict(pos=int(where[0, place]), **mean.row(place))


def kl(p: Array, q: Array) -> Array:
    """KL(p || q) in nats over the last axis of two arrays of log-probabilities; 0 where p is undefined."""
    mass = np.exp(p)
    with np.errstate(invalid="ignore"):
        return np.where(mass > 0, mass * (p - q), 0.0).sum(axis=-1)
