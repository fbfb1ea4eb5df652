"""In-context against in-weights learning: how a classifier does on splits that only one of them can answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from probelab.measures._contract import Row
from probelab.measures._estimate import pooled
from probelab.measures._read import by_model
from probelab.subject import Subject
from synthetic_tasks import Batch
from synthetic_tasks.task import require

METRICS = ("accuracy", "accuracy_in_context", "log_prob", "context_mass", "owned_accuracy")


@dataclass(frozen=True)
class Classify:
    """Scores of the last position on each split; means with 95 % intervals over sequences.

    accuracy             share of sequences whose likeliest label is the answer. Chance: 1 / L
    accuracy_in_context  the same among the labels that stand in the context (Chan's and Singh's ICL score); ties count
                         in parts. Chance on two-way splits: 1/2. Left out where the answer is never in the context
    log_prob             of the answer, in nats
    context_mass         probability of all labels in the context together (Reddy's CLA)
    owned_accuracy       share whose likeliest label is one that the query's class owns (with label multiplicity any of
                         them counts, Chan et al. 2022). Left out on splits with new classes or reassigned labels

    splits  where sequences come from; which exist depends on the task
    n       sequences of each, that training never sees
    """

    splits: tuple[str, ...] = ("train", "icl", "icl2", "swap", "flip", "iwl", "ciwl")
    n: int = 1000

    name = "classify"
    version = 1

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "at least one sequence")
        require(len(self.splits) > 0, "splits", self.splits, "at least one")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        batches = {split: subject.batch(self.n, split) for split in self.splits}
        for split, batch in batches.items():
            if "labels" not in batch.facts or "owned" not in batch.facts:
                raise ValueError(
                    f"classify needs the facts `labels` and `owned`, and {subject.task.name!r} has none on {split}: "
                    "measure loss or strategy"
                )
        for step, model in subject:
            for split, batch in batches.items():
                scores = by_model(model, batch, scored)
                for metric, column in zip(METRICS, scores.T, strict=True):
                    if not np.isnan(column).all():
                        there = ~np.isnan(column)
                        mean = pooled(np.where(there, column, 0), there)
                        yield dict(step=step, split=split, metric=metric, **mean.row())


def scored(part: Batch, logits: Tensor) -> np.ndarray:
    """The `METRICS` of every sequence, `[sequence metric]`; NaN where one does not apply."""
    said = logits[:, -1].double().log_softmax(-1).cpu().numpy()
    shown, answer, owned = part.facts["labels"][:, :-1], part.facts["labels"][:, -1], part.facts["owned"]
    rows, best = np.arange(len(said)), said.argmax(axis=1)
    within = np.full(said.shape, -np.inf)
    np.put_along_axis(within, shown, np.take_along_axis(said, shown, axis=1), axis=1)
    top = within == within.max(axis=1, keepdims=True)
    there = (shown == answer[:, None]).any(axis=1)
    return np.stack(
        [
            best == answer,
            np.where(there, top[rows, answer] / top.sum(axis=1), np.nan),
            said[rows, answer],
            np.exp(within).sum(axis=1),
            np.where(owned[:, 0] >= 0, (owned == best[:, None]).any(axis=1), np.nan),
        ],
        axis=1,
    )
