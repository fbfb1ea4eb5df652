"""In-context learning: how much better late tokens are predicted than early ones, and copies than their originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, from_numpy

from probelab.measures._contract import Row
from probelab.measures._estimate import Mean, mean_where
from probelab.measures._read import by_model, by_oracle, nats, oracle_nats
from probelab.subject import Subject
from synthetic_tasks import Batch
from synthetic_tasks.task import require


@dataclass(frozen=True)
class InContext:
    """Differences of losses in nats, negative where the model learns in context; 95 % intervals over sequences.

    icl            loss late minus loss early (Olsson et al. 2022: token 500 minus token 50 of 512). Untrained: 0. A
                   model without induction lowers it too, by counting tokens
    copy           loss on copied tokens where they come again minus loss on the same tokens where they come first, in
                   tasks with the facts `copy` and `first`. Without induction: about 0
    copy_accuracy  how often a copied token is the likeliest answer. Chance: `task.chance()`
    icl_oracle, copy_oracle  the same of each oracle (`strategy`), constant over steps

    n            sequences that training never sees
    split        where they come from
    early, late  where along the sequence losses are compared, as shares of its length
    window       the share of the length over which each is averaged, for less noise
    """

    n: int = 1024
    split: str = "train"
    early: float = 0.1
    late: float = 0.95
    window: float = 0.1

    name = "icl"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")
        require(0 <= self.early <= 1, "early", self.early, "a share of the length, 0 to 1")
        require(self.early < self.late <= 1, "late", self.late, f"after early = {self.early}, up to 1")
        require(0 <= self.window <= 1, "window", self.window, "a share of the length, 0 to 1")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batch = subject.batch(self.n, self.split)
        compared = self._compared(batch)
        if not compared:
            raise ValueError(
                f"icl compares losses late and early in a sequence, and {subject.task.name!r} asks nothing around "
                f"early = {self.early} or late = {self.late} of it, nor has it copies: measure loss, or turn the dials"
            )
        oracles = by_oracle(subject.task, batch, oracle_nats)
        constant = [
            dict(metric=f"{metric}_oracle", strategy=name, **difference(losses, *masks).row())
            for name, losses in oracles.items()
            for metric, masks in compared.items()
        ]
        for step, model in subject:
            losses, hits = np.moveaxis(by_model(model, batch, losses_and_hits), -1, 0)
            found = [dict(metric=metric, **difference(losses, *masks).row()) for metric, masks in compared.items()]
            if "copy" in compared:
                found.append(dict(metric="copy_accuracy", **mean_where(hits, compared["copy"][0]).row()))
            yield from (dict(step=step, split=self.split, **row) for row in found + constant)

    def _compared(self, batch: Batch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each metric that applies, the two masks `[sequence pos]` whose losses are compared: later, earlier."""
        asked, length = batch.targets >= 0, batch.targets.shape[1]

        def around(share: float) -> np.ndarray:
            first = min(length - 1, max(0, round((share - self.window / 2) * length)))
            last = max(first + 1, round((share + self.window / 2) * length))
            place = np.arange(length)
            return asked & (first <= place) & (place < last)

        compared = {"icl": (around(self.late), around(self.early))}
        if {"copy", "first"} <= batch.facts.keys():
            compared["copy"] = (batch.facts["copy"] >= 0, batch.facts["first"] > 0)
        return {metric: masks for metric, masks in compared.items() if all(mask.any() for mask in masks)}


def losses_and_hits(part: Batch, logits: Tensor) -> np.ndarray:
    """Nats, and 1 on copied tokens that are the likeliest answer: `[sequence pos 2]`."""
    hits = np.zeros(part.targets.shape)
    if "copy" in part.facts:
        copied = part.facts["copy"] >= 0
        hits[copied] = logits[from_numpy(copied)].argmax(-1).cpu().numpy() == part.targets[copied]
    return np.stack([nats(part, logits), hits], axis=-1)


def difference(losses: np.ndarray, later: np.ndarray, earlier: np.ndarray) -> Mean:
    """Mean loss under one mask minus mean loss under the other."""
    return mean_where(losses, later).minus(mean_where(losses, earlier))
